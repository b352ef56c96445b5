"""Build the book: run every chapter, several side by side, then make the pages; what went wrong is said at the end.

A chapter is run again when it, the library, the data or the environment has changed. The book is always built whole: a
claim that does not hold here is marked on its page, and a cell that raises ends its own chapter only. With STRICT=1
either fails the command, as does any warning about the pages. JOBS=1 runs one chapter at a time.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path

import nbformat
import yaml
from execute import CLAIMS, ROOT, Failure, apart, code_cells, failures, mark
from machine import cores, jobs
from nbformat import NotebookNode
from pages import BUILD, INDEX, LOG, SOURCE, digest, make_pages, place

EXECUTED, LOGS = BUILD / "executed", BUILD / "log"
STRICT = os.environ.get("STRICT", "") not in ("", "0")
MOST_SHOWN = 3
ISSUES = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"] + "/issues"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        build()
    except KeyboardInterrupt:
        print("\nStopped. What is finished is kept: the same command goes on from there.")
        sys.exit(130)


def build() -> None:
    for folder in (SOURCE, EXECUTED, LOGS):
        folder.mkdir(parents=True, exist_ok=True)
    with alone():
        found = asyncio.run(run_chapters(sorted((ROOT / "chapters").glob("*.ipynb"))))
        warned = make_pages()
    print(f"The book is at {INDEX}")
    wrong = any(found.values())
    if wrong:
        print(told(found))
    if warned:
        print(f"The pages were built with warnings. All of them: {shown(LOG)}")
    if STRICT and (warned or wrong):
        sys.exit("STRICT=1: the command fails.")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One build in a folder at a time; what a killed build has left running holds the lock until it ends."""
    with open(BUILD / ".lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another build in this folder to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


async def run_chapters(chapters: list[Path]) -> dict[str, list[Failure]]:
    """Run those that have changed, the longest first, and say what went wrong in each."""
    base = digest_of_inputs()
    kept = {chapter: EXECUTED / f"{chapter.stem}-{digest(base, chapter.read_bytes())}.ipynb" for chapter in chapters}
    for old in set(EXECUTED.glob("*.ipynb")) - set(kept.values()):
        old.unlink()
    waiting = [chapter for chapter in chapters if not kept[chapter].exists()]
    if waiting:
        await run_side_by_side(waiting, kept)
    found = {}
    for chapter, output in kept.items():
        notebook = nbformat.read(output, as_version=4)
        found[chapter.stem] = failures(notebook)
        place(nbformat.writes(for_pages(notebook)).encode(), SOURCE / "chapters" / chapter.name)
        if any(not one.claim for one in found[chapter.stem]):
            output.unlink()  # what raised is tried again next time
    return found


def for_pages(notebook: NotebookNode) -> NotebookNode:
    """Without what only this program reads."""
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        output.get("data", {}).pop(CLAIMS, None)
    return notebook


async def run_side_by_side(chapters: list[Path], kept: dict[Path, Path]) -> None:
    several = min(len(chapters), jobs())
    threads = max(1, cores() // several)
    how = f", {several} side by side" if several > 1 else ""
    print(f"Running {len(chapters)} chapters{how} (what kernels say goes to {shown(LOGS)})", flush=True)
    room, done = asyncio.Semaphore(several), []

    async def run(chapter: Path) -> None:
        async with room:
            started = time.monotonic()
            await run_one(chapter, kept[chapter], threads)
            done.append(chapter)
            note = outcome(failures(nbformat.read(kept[chapter], as_version=4)))
            seconds = time.monotonic() - started
            print(f"[{len(done)}/{len(chapters)}] {chapter.stem} … {seconds:.0f} s{note}", flush=True)

    async with asyncio.TaskGroup() as group:
        for chapter in sorted(chapters, key=lambda chapter: -chapter.stat().st_size):
            group.create_task(run(chapter))


def outcome(wrong: list[Failure]) -> str:
    if not wrong:
        return ""
    return "  does not hold here" if all(one.claim for one in wrong) else "  raised an error"


async def run_one(chapter: Path, output: Path, threads: int) -> None:
    part, log = output.with_suffix(".part"), LOGS / f"{chapter.stem}.log"
    environment = apart(BUILD / "home") | {"OMP_NUM_THREADS": str(threads)}
    process = await asyncio.create_subprocess_exec(
        sys.executable, Path(__file__).with_name("execute.py"), chapter, part, log,
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, close_fds=False,
    )  # fmt: skip
    try:
        said = await process.stderr.read()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode or not part.exists():
        notebook = nbformat.read(chapter, as_version=4)
        mark(code_cells(notebook)[0], ChildProcessError(f"it ended with {process.returncode}. {said.decode()[-2000:]}"))
        nbformat.write(notebook, part)
    part.replace(output)


def digest_of_inputs() -> bytes:
    """What a chapter's outputs depend on beside itself: library, data, how it is run, Python and its packages."""
    patterns = ("savae_lite/**/*", "data/results/*", "data/experiments/*.py", "book/execute.py")
    inputs = [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.suffix != ".pyc"]
    packages = sorted(f"{one.name}=={one.version}" for one in distributions())
    contents = [path.read_bytes() for path in inputs if path.is_file()]
    return digest(sys.version.encode(), "\n".join(packages).encode(), *contents).encode()


def shown(path: Path) -> Path:
    return path.relative_to(ROOT)


def told(found: dict[str, list[Failure]]) -> str:
    """What went wrong, in at most ten lines; all of it is in a file of its own."""
    lines = [line(chapter, one) for chapter, several in found.items() for one in several]
    everything = LOGS / "failures.txt"
    everything.write_text("\n".join(lines) + "\n", encoding="utf-8")
    more = [f"… and {len(lines) - MOST_SHOWN} more"] if len(lines) > MOST_SHOWN else []
    return "\n".join([
        f"Otherwise than the book says, {len(lines)} in all:",
        *(shortened[:300] for shortened in lines[:MOST_SHOWN]),
        *more,
        "The rest of the book is built. After an error, make clean and try again. A claim that fails here is news",
        f"to us: please send {shown(everything)} to {ISSUES}",
    ])  # fmt: skip


def line(chapter: str, one: Failure) -> str:
    where = "marked on its page" if one.claim else f"the whole traceback: {shown(LOGS / f'{chapter}.log')}"
    return f"  {chapter}, {one.section}: {one.what}\n    {where}"


if __name__ == "__main__":
    main()
