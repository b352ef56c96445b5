"""The pages: executed chapters and prose, gathered in one folder and given to Jupyter Book where any has changed."""

import hashlib
import shutil
import subprocess
import sys
import time
from importlib.metadata import distribution
from pathlib import Path

from execute import ROOT, apart

BUILD = ROOT / "_build"
SOURCE = BUILD / "source"
LOG = BUILD / "log" / "pages.log"
INDEX = BUILD / "html" / "index.html"
BUILT = BUILD / ".built"  # holds what the pages were made of; absent while they are made, and after warnings
PROSE = {".md", ".bib", ".css", ".js", ".png", ".svg", ".ico"}
MATHJAX = "static/mathjax/tex-svg-full.js"  # one local file, so that pages show their equations with no network
# jupyter-book's own command, without the script whose first line breaks when the folder is moved
COMMAND = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(SOURCE)]


def make_pages() -> bool:
    """Make the pages anew where something changed; True where there were warnings."""
    gather()
    files = [path for path in sorted(SOURCE.rglob("*")) if path.is_file()]
    made_of = digest(*(part for path in files for part in (str(path).encode(), path.read_bytes())))
    if INDEX.exists() and BUILT.exists() and BUILT.read_text() == made_of:
        return False
    if not BUILT.exists():  # what an interrupted or failed build remembers is not to be trusted
        shutil.rmtree(BUILD / ".doctrees", ignore_errors=True)
    BUILT.unlink(missing_ok=True)
    warned = run_sphinx()
    if not warned:
        BUILT.write_text(made_of)
    return warned


def digest(*parts: bytes) -> str:
    """A short name for contents: other contents, another name."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:16]


def gather() -> None:
    """Settings, prose and MathJax beside the chapters that lie there already; what is no longer a page is removed."""
    wanted = {SOURCE / "chapters" / path.name for path in (ROOT / "chapters").glob("*.ipynb")}
    prose = [path for path in (ROOT / "book").rglob("*") if path.suffix in PROSE]
    for path in [ROOT / "_config.yml", ROOT / "_toc.yml", *prose]:
        wanted.add(place(path.read_bytes(), SOURCE / path.relative_to(ROOT)))
    mathjax = distribution("sphinx-mathjax-offline").locate_file(f"sphinx-mathjax-offline/{MATHJAX}")
    wanted.add(place(Path(mathjax).read_bytes(), SOURCE / "book" / "_static" / mathjax.name))
    for path in SOURCE.rglob("*"):
        if path.is_file() and path not in wanted:
            path.unlink()


def place(content: bytes, target: Path) -> Path:
    """Write a file where it differs, so that unchanged pages are not made again."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_bytes() != content:
        target.write_bytes(content)
    return target


def run_sphinx() -> bool:
    print("Building the pages …", end=" ", flush=True)
    started = time.monotonic()
    INDEX.unlink(missing_ok=True)
    with open(LOG, "w", encoding="utf-8") as file:
        # It inherits the lock of the build, which a killed build thus holds until it has ended.
        command, pipes = [*COMMAND, "--path-output", str(ROOT), "-q"], dict(stdout=file, stderr=file)
        subprocess.run(command, stdin=subprocess.DEVNULL, **pipes, env=apart(BUILD / "home"), close_fds=False)
    said = LOG.read_text(encoding="utf-8", errors="replace")
    if not INDEX.exists():
        last = "\n".join(said.splitlines()[-6:])
        sys.exit(f"failed.\n{last}\nAll that was said: {LOG.relative_to(ROOT)}. Try make clean, then make book.")
    print(f"{time.monotonic() - started:.0f} s", flush=True)
    return "WARNING" in said
