"""Checkpoints: state of model, optimiser and generator in one file, written whole or not at all, read without code.

It knows nothing of training, and keeps one file a path: what it replaces is gone.
"""

import io
import os
import pickle
import struct
from pathlib import Path

import torch
from torch import Tensor

FORMAT = "savae-lite checkpoint, version 1"
# What torch.load raises on bytes that are not a checkpoint, by where they were cut or changed.
DAMAGE = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    AttributeError,
    struct.error,
    pickle.UnpicklingError,
)


def save(path: str | os.PathLike, progress: dict, **stateful) -> None:
    """Write ``progress`` (numbers, strings, tensors) and the state of every stateful object to one file, all of it
    or nothing.

    Stateful objects have ``state_dict`` or, for generators, ``get_state``. When writing fails (a full disk) the old
    file stays as it was.
    """
    path = Path(path)
    states = {name: _state(thing) for name, thing in stateful.items()}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "progress": progress, "states": states}, buffer)
        _refuse_what_load_would_refuse(buffer)
        with open(part, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        kept = "the checkpoint before it is unharmed" if path.exists() else "there was none before it"
        raise OSError(f"could not save {path}; {kept}. Free some space or choose another path. ({error})") from error
    finally:
        part.unlink(missing_ok=True)


def load(path: str | os.PathLike, **stateful) -> dict:
    """Restore the stateful objects from a file written by `save` with the same names, and return its ``progress``.

    Only tensors and plain values are read, never code. A truncated or foreign file, and one of other objects or of a
    model of other sizes, raises ValueError before any object is changed.
    """
    saved = _read(Path(path))
    states = saved["states"]
    mine = {name: _state(thing) for name, thing in stateful.items()}
    unlike = [name for name in mine.keys() | states.keys() if _sizes(mine.get(name)) != _sizes(states.get(name))]
    if unlike:
        raise ValueError(
            f"{path} must hold states of {sorted(mine)} in their sizes; it holds {sorted(states)}, and differs in "
            f"{sorted(unlike)}. Pass the objects it was saved with, or another path to start anew."
        )
    for name, thing in stateful.items():
        (thing.set_state if hasattr(thing, "set_state") else thing.load_state_dict)(states[name])
    return saved["progress"]


def _read(path: Path) -> dict:
    content = io.BytesIO(path.read_bytes())
    try:
        saved = torch.load(content, map_location="cpu", weights_only=True)
    except DAMAGE as error:
        raise ValueError(
            f"{path} must be a whole checkpoint of savae-lite; it is truncated or foreign. "
            f"Move it away to start anew. ({error})"
        ) from error
    if not isinstance(saved, dict) or saved.get("format") != FORMAT or not isinstance(saved.get("states"), dict):
        raise ValueError(f"{path} must be a '{FORMAT}'; got another kind of file. Move it away to start anew.")
    return saved


def _refuse_what_load_would_refuse(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "a checkpoint holds tensors and plain values only; got something else, such as a numpy number or a path. "
            f"Convert it with float() or str(). ({error})"
        ) from error


def _state(thing) -> dict | Tensor:
    return thing.get_state() if hasattr(thing, "get_state") else thing.state_dict()


def _sizes(state: object) -> object:
    """What must agree for a state to fit: the names in it, and the shapes and types of its tensors."""
    if isinstance(state, Tensor):
        return state.shape, state.dtype
    if isinstance(state, dict):  # an optimiser's own "state" is empty before its first step
        return {name: _sizes(value) for name, value in state.items() if name != "state"}
    return [_sizes(value) for value in state] if isinstance(state, list | tuple) else None
