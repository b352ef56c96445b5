"""Recorded runs: rows of numbers with the command, seed, commit, device, versions and seconds behind them.

A record file holds one JSON object a line, so a run that was interrupted is continued by appending. Nothing here
computes a result.
"""

import contextlib
import json
import platform
import subprocess
from importlib.resources import files
from pathlib import Path

import torch


def provenance(command: str) -> dict[str, str | int]:
    """Where a number comes from: the command, the commit ("-dirty" when files differ from it), device, versions."""
    gpu = torch.cuda.is_available()
    return {
        "command": command,
        "commit": _commit(),
        "device": torch.cuda.get_device_name() if gpu else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def append(path: str | Path, row: dict) -> None:
    """Add one flat row to a record file, which is made where it does not exist."""
    path, line = Path(path), json.dumps(row)
    cut_short = path.exists() and not path.read_bytes().endswith(b"\n")
    with open(path, "a", encoding="utf-8") as file:
        file.write("\n" * cut_short + line + "\n")


def rows(path: str | Path) -> list[dict]:
    """All rows of a record file; none where there is no file. A line cut short by an interruption is left out."""
    path = Path(path)
    return _parse(path.read_text(encoding="utf-8")) if path.exists() else []


def recorded(name: str) -> list[dict]:
    """The rows of a run that the project recorded, by the name of its file under ``data/results``.

    Raises FileNotFoundError, naming those there are, for a name that is not among them.
    """
    folder = files("savae_lite.recorded")
    path = folder / f"{name}.jsonl"
    known = sorted(Path(file.name).stem for file in folder.iterdir() if file.name.endswith(".jsonl"))
    if name not in known:
        raise FileNotFoundError(
            f"name must be one of {known}; got {name!r}. They are made by the scripts in data/experiments."
        )
    return _parse(path.read_text(encoding="utf-8"))


def _parse(text: str) -> list[dict]:
    found = []
    for line in text.split("\n"):  # and not at what else separates lines: that may stand inside a string
        with contextlib.suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


def _commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:  # no git
        return "unknown"
    return described.stdout.strip() or "unknown"
