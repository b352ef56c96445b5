"""Run a chapter as a reader's Jupyter would, and read from it what was claimed and what went wrong.

A cell that raises ends its chapter and nothing else: the outputs so far stay, with the traceback in its place.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_output

CLAIMS = "application/vnd.savae-lite.claims+json"
# A notebook server's own variables would make a chapter believe that somebody has it open.
SERVERS = ("JPY_", "JUPYTER_", "IPYTHON", "COLAB_")


@dataclass(frozen=True)
class Failure:
    """A claim that does not hold, or an exception: the section it stands in and one line on what happened."""

    section: str
    what: str
    claim: bool


async def execute(
    chapter: Path, *, log: Path, env: dict[str, str], preamble: str = "", timeout: int = 900
) -> NotebookNode:
    """The chapter with its outputs; what its kernel prints about itself goes to ``log``.

    env: variables beside those of this process; preamble: code that runs first and is not kept.
    """
    notebook = nbformat.read(chapter, as_version=4)
    notebook.cells.insert(0, new_code_cell(preamble))
    client = NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(chapter.parent)}})
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith(SERVERS)}
    with open(log, "w", encoding="utf-8") as file:
        try:
            await client.async_execute(env=surroundings | env, stdout=file, stderr=file)
        except CellExecutionError:
            pass  # its traceback is the cell's output
        except (CellTimeoutError, DeadKernelError) as error:
            _current(notebook).outputs.append(
                new_output("error", ename=type(error).__name__, evalue=str(error), traceback=[str(error)])
            )
    notebook.cells.pop(0)
    return notebook


def stated(notebook: NotebookNode) -> list[tuple[str, dict]]:
    """All claims of an executed chapter, each with the section that makes it."""
    return [
        (section, claim) for section, output in _outputs(notebook) for claim in output.get("data", {}).get(CLAIMS, [])
    ]


def failures(notebook: NotebookNode) -> list[Failure]:
    """What went wrong in an executed chapter, in order."""
    found = []
    for section, output in _outputs(notebook):
        if output.output_type == "error":
            found.append(Failure(section, f"{output.ename}: {output.evalue}".strip(), claim=False))
        for claim in output.get("data", {}).get(CLAIMS, []):
            if not claim["holds"]:
                said = f"«{claim['sentence']}» expected {claim['expected']}, got {claim['here']} ({claim['run']})"
                found.append(Failure(section, said, claim=True))
    return found


def _outputs(notebook: NotebookNode):
    section = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            titles = [line.lstrip("# ") for line in cell.source.splitlines() if line.startswith("#")]
            section = titles[-1] if titles else section
        else:
            yield from ((section, output) for output in cell.get("outputs", []))


def _current(notebook: NotebookNode) -> NotebookNode:
    """The cell that was running: the last that has begun."""
    begun = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.metadata.get("execution")]
    return begun[-1]
