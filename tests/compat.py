"""Run library tests and chapters on the versions that the package promises: compat.py [--python PATH]… [--only NAME]…

An environment is a Python with the lower bounds of pyproject.toml, or with the newest of everything. One that cannot be
had is named with the reason. What was run is kept in _build/compat, so that an interrupted run goes on where it was.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from savae_lite.records import append, rows

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "_build" / "compat"
RESULTS = FOLDER / "results.jsonl"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SHOWN = ("torch", "numpy", "pandas", "matplotlib", "ipywidgets")
VERSIONS = f"from importlib.metadata import version as v; print(*map(v, {SHOWN}))"
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
NBVAL = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=3600", "--nbval-kernel-startup-timeout=600"]
# The built pages need the versions of requirements.txt, so their tests stay out.
LIBRARY = ["tests", "savae_lite", "--ignore=tests/test_built_book.py", "--ignore=tests/test_browser.py"]
# A warning that a chapter's own code earns is a fault; others belong to the packages.
STRICT = "error::FutureWarning:__main__,error::DeprecationWarning:__main__"


def lower_bounds():
    """The promise of pyproject.toml as pins: torch>=2.6 is torch==2.6.*"""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for name in extras if name != "test" for line in extras[name])]
    return [re.sub(r">=(.*)", r"==\1.*", line) for line in asked if ">=" in line]


def interpreters(named):
    """The Pythons that are here, by version: those on the path, and those named."""
    found = {}
    for path in [*filter(None, (shutil.which(f"python{version}") for version in PYTHONS)), sys.executable, *named]:
        said = subprocess.run([path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], **CAPTURED)
        if not said.returncode:
            found[said.stdout.strip()] = path
    return found


CAPTURED = {"capture_output": True, "text": True, "check": False}


def prepare(python, pins, folder):
    """Set up an environment by the project's own extras, unless it stands, and return the versions in it."""
    asked = ["-e", f"{ROOT}[test]", *pins]
    ready = folder / "ready"
    if not ready.exists() or ready.read_text(encoding="utf-8") != state(ROOT / "pyproject.toml"):
        uv = [sys.executable, "-m", "uv"]
        subprocess.run([*uv, "venv", "-q", "--clear", "--python", python, folder], **CAPTURED | {"check": True})
        install = [*uv, "pip", "install", "-q", "--python", folder / "bin" / "python", *asked]
        subprocess.run(install, **CAPTURED | {"check": True})
        ready.write_text(state(ROOT / "pyproject.toml"), encoding="utf-8")
    return subprocess.run([folder / "bin" / "python", "-c", VERSIONS], **CAPTURED | {"check": True}).stdout.split()


def state(*paths):
    """A checksum of files, and of those in folders."""
    files = [file for path in paths for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    kept = (file for file in files if file.suffix in {".py", ".js", ".ipynb", ".jsonl", ".toml"})
    return hashlib.sha256(b"".join(file.read_bytes() for file in kept)).hexdigest()[:16]


def parts():
    """What is run, by name: arguments of pytest, and the state of what they depend on."""
    library = [ROOT / "savae_lite", ROOT / "data" / "results"]
    yield "library", LIBRARY, state(*library, ROOT / "tests", ROOT / "chapters")
    for path in CHAPTERS:
        yield path.stem, [str(path.relative_to(ROOT)), *NBVAL], state(*library, path)


def run(environment, part, arguments):
    """Run one part; the tests that failed in it."""
    log = FOLDER / environment / f"{part}.log"
    with open(log, "w", encoding="utf-8") as file:
        python = FOLDER / environment / "bin" / "python"
        command = [python, "-m", "pytest", *arguments, "-q", "-p", "no:cacheprovider"]
        variables = os.environ | {"OMP_NUM_THREADS": "1", "SAVAE_LITE_CLAIMS": "raise", "PYTHONWARNINGS": STRICT}
        variables |= {"TQDM_DISABLE": "1"}  # nbval loses the end of a cell that prints too fast
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=file, stderr=file, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", log.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return failed or ([f"see {log.relative_to(ROOT)}"] if done.returncode else [])


def tried(environment, versions):
    """Run what has not been run in this state, and return what failed, by part."""
    known = {(row["environment"], row["part"], row["state"], *row["versions"]): row["failed"] for row in rows(RESULTS)}
    failed = {}
    for part, arguments, now in parts():
        if (environment, part, now, *versions) not in known:
            started = time.monotonic()
            found = run(environment, part, arguments)
            print(f"  {part} … {time.monotonic() - started:.0f} s, {len(found)} failed", flush=True)
            row = {"environment": environment, "part": part, "state": now, "versions": versions, "failed": found}
            append(RESULTS, row | {"date": time.strftime("%Y-%m-%d")})
            known[environment, part, now, *versions] = found
        failed[part] = known[environment, part, now, *versions]
    return failed


def line(environment, versions, failed):
    """One row of the table."""
    chapters = sum(not failed[path.stem] for path in CHAPTERS)
    library = "passed" if not failed["library"] else f"{len(failed['library'])} failed"
    what = ", ".join(name for part in failed.values() for name in part) or "nothing"
    return [environment, *versions, library, f"{chapters} of {len(CHAPTERS)}", what]


def main():
    """Set up and run every environment that can be had, and print what came of it."""
    options = argparse.ArgumentParser(description=__doc__.split(":")[0])
    options.add_argument("--python", action="append", default=[], help="an interpreter beside those on the path")
    options.add_argument("--only", action="append", help="an environment, such as 3.11-oldest")
    chosen = options.parse_args()
    here, table = interpreters(chosen.python), [["environment", *SHOWN, "library", "chapters", "what failed"]]
    for environment in chosen.only or [f"{python}-{age}" for python in PYTHONS for age in ("oldest", "newest")]:
        python, _, age = environment.partition("-")
        print(environment, flush=True)
        try:
            pins = lower_bounds() if age == "oldest" else []
            versions = prepare(here[python], pins, FOLDER / environment)
        except KeyError:
            table.append([environment, f"SKIPPED: no Python {python} here; name one with --python"])
        except subprocess.CalledProcessError as error:
            table.append([environment, f"SKIPPED: {' '.join(error.stderr.split())[:300]}"])
        else:
            table.append(line(environment, versions, tried(environment, versions)))
    print("\n".join(" | ".join(row) for row in table))
    ran = [row for row in table[1:] if len(row) == len(table[0])]
    sys.exit(not ran or any(row[-1] != "nothing" for row in ran))


if __name__ == "__main__":
    main()
