"""Run one chapter as a reader's Jupyter would, and read from it what was claimed and what went wrong.

A cell that raises ends its chapter and nothing else: the outputs so far stay, with the traceback in its place. As a
program (``execute.py CHAPTER OUTPUT LOG``) it ends when its standard input does, and so never outlives who started it.
"""

import asyncio
import contextlib
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = "application/vnd.savae-lite.claims+json"
LONGEST_CELL = 1800  # seconds, on the slowest machine that is still at work

# What surrounds the build must not reach into it: variables of a notebook server that started it, of other Pythons, and
# the settings in the home of whoever builds.
FOREIGN = re.compile(r"JPY_|JUPYTER|IPYTHON|COLAB|PYTHON|MPL|MATPLOTLIB|SAVAE_LITE_CLAIMS|TQDM_")
HERE = f"""
import pathlib, savae_lite
library = pathlib.Path(savae_lite.__file__).resolve().parent.parent
if library != pathlib.Path({str(ROOT)!r}):
    raise ImportError(f"a chapter must run with the library beside it; got that of {{library}}. Run make clean.")
"""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Failure:
    """A claim that does not hold, or an exception: the section it stands in and one line on what happened."""

    section: str
    what: str
    claim: bool


async def execute(chapter: Path, *, log: Path, env: Mapping[str, str], preamble: str = "") -> NotebookNode:
    """The chapter with its outputs; what its kernel prints about itself goes to ``log``.

    env: all variables of the kernel; preamble: code that runs first and is not kept.
    """
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.insert(0, new_code_cell(preamble))
    place = {"metadata": {"path": str(chapter.parent)}}
    client = NotebookClient(notebook, timeout=LONGEST_CELL, startup_timeout=LONGEST_CELL, resources=place)
    with open(log, "w", encoding="utf-8") as file:
        try:
            await client.async_execute(env=dict(env), stdout=file, stderr=file)
        except CellExecutionError:
            pass  # its traceback is the cell's output
        except (CellTimeoutError, DeadKernelError) as error:
            mark([cell for cell in notebook.cells if cell.metadata.get("execution")][-1], error)
    first = notebook.cells.pop(0)
    code_cells(notebook)[0].outputs.extend(output for output in first.outputs if output.output_type == "error")
    return notebook


def mark(cell: NotebookNode, error: Exception) -> None:
    """Put an error that no kernel reported where a traceback would stand."""
    name, text = type(error).__name__, str(error)
    cell.outputs.append(new_output("error", ename=name, evalue=text, traceback=[f"{name}: {text}"]))


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def apart(home: Path) -> dict[str, str]:
    """Variables for a program that the surroundings do not reach; ``home`` takes what programs like to remember."""
    kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
    places = {name: str(home) for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "MPLCONFIGDIR")}
    return kept | places | {"MPLBACKEND": "agg", "TQDM_DISABLE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}


def stated(notebook: NotebookNode) -> list[tuple[str, dict]]:
    """All claims of an executed chapter, each with the section that makes it."""
    return [
        (section, claim) for section, output in _outputs(notebook) for claim in output.get("data", {}).get(CLAIMS, [])
    ]


def failures(notebook: NotebookNode) -> list[Failure]:
    """What went wrong in an executed chapter: its claims that do not hold, then what it raised."""
    claims = [
        Failure(
            section, f"«{one['sentence']}» expected {one['expected']}, got {one['here']} ({one['run']})", claim=True
        )
        for section, one in stated(notebook)
        if not one["holds"]
    ]
    raised = [
        Failure(section, COLOUR.sub("", f"{output.ename}: {output.evalue}").strip().splitlines()[0], claim=False)
        for section, output in _outputs(notebook)
        if output.output_type == "error"
    ]
    return claims + raised


def tracebacks(notebook: NotebookNode) -> str:
    """The whole tracebacks of an executed chapter, without the colours of a terminal."""
    errors = [output for _, output in _outputs(notebook) if output.output_type == "error"]
    return COLOUR.sub("", "\n".join(line for error in errors for line in error.traceback))


def _outputs(notebook: NotebookNode) -> Iterator[tuple[str, NotebookNode]]:
    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            section = titles[-1] if titles else section
        else:
            yield from ((section, output) for output in cell.get("outputs", []))


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)  # the kernel looks for its parent every second, and follows


def main(chapter: Path, output: Path, log: Path) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    notebook = asyncio.run(execute(chapter, log=log, env=os.environ, preamble=HERE))
    with open(log, "a", encoding="utf-8") as file:
        file.write("\n".join([one.what for one in failures(notebook)] + [tracebacks(notebook), ""]))
    nbformat.write(notebook, output)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*map(Path, sys.argv[1:]))
