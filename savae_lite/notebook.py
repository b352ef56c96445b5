"""What a chapter builds, as Python: the cells of a notebook that carry a tag, run in order.

Tests compare these definitions with the library's, and recorded runs use them, so a long run is of the very code
that the reader saw. Reads trusted notebooks only: their cells are executed.
"""

import json
from pathlib import Path
from types import SimpleNamespace


def sources(path: str | Path, tag: str) -> list[str]:
    """The code of all cells of a notebook that carry ``tag``, in order."""
    cells = json.loads(Path(path).read_text(encoding="utf-8"))["cells"]
    tagged = (cell for cell in cells if cell["cell_type"] == "code" and tag in cell["metadata"].get("tags", []))
    return ["".join(cell["source"]) for cell in tagged]


def built(path: str | Path) -> SimpleNamespace:
    """Run the cells tagged ``build`` and return the names that they define.

    Raises ValueError for a notebook without such cells.
    """
    cells = sources(path, "build")
    if not cells:
        raise ValueError(f"{path} must have cells tagged 'build'; got none. Tag those that define what others use.")
    names: dict = {}
    for number, source in enumerate(cells):
        exec(compile(source, f"{path}, build cell {number}", "exec"), names)
    return SimpleNamespace(**{name: value for name, value in names.items() if not name.startswith("__")})
