"""Checkpoints: state of model, optimiser and generator in one file, written whole or not at all, read without code.

A file ends in the sha256 of what is before it. This module knows nothing of training, and keeps one file a path: what
it replaces is gone.
"""

import copy
import hashlib
import io
import os
import pickle
import re
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from savae_lite.unfinished import sweep, unfinished

FORMAT = "savae-lite checkpoint, version 2"
SEAL = b"\nsha256 "
DIGITS = 64


def save(path: str | os.PathLike, progress: dict, **stateful) -> None:
    """Write ``progress`` (numbers, strings, tensors) and the state of every stateful object to one file, all of it
    or nothing.

    Stateful objects have ``state_dict`` or, for generators, ``get_state``. When writing fails (a full disk) the old
    file stays as it was. Threads and processes may save to one path: each file there is whole, the last one stays.
    Where the path is a link, the file that it leads to is replaced.
    """
    states = {name: _state(thing) for name, thing in stateful.items()}
    try:
        buffer = io.BytesIO()
        torch.save({"format": FORMAT, "progress": progress, "states": states}, buffer)
        _refuse_what_load_would_refuse(buffer)
        with buffer.getbuffer() as content:
            seal = SEAL + _digest(content)
        buffer.seek(0, io.SEEK_END)
        buffer.write(seal)
        _publish(_target(path), buffer)
    except OSError as error:
        kept = "the checkpoint before it is unharmed" if Path(path).exists() else "there was none before it"
        raise OSError(f"could not save {path}; {kept}. Free some space or choose another path. ({error})") from error


def load(path: str | os.PathLike, **stateful) -> dict:
    """Restore the stateful objects from a file written by `save` with the same names, and return its ``progress``.

    Only tensors and plain values are read, never code. A file that was truncated or changed by as little as a bit, a
    foreign one, and one of other objects or of a model of other sizes, raises ValueError and leaves every object as
    it was. So does one of version 1, which has no checksum and could hold anything; whoever trusts it finds the states
    with ``torch.load(path, weights_only=True)``.
    """
    saved = _read(Path(path))
    states = saved["states"]
    mine = {name: _state(thing) for name, thing in stateful.items()}
    of_fixed_size = {name for name, thing in stateful.items() if isinstance(thing, FIXED)}
    unlike = mine.keys() ^ states.keys()
    unlike |= {name for name in of_fixed_size - unlike if _sizes(mine[name]) != _sizes(states[name])}
    if unlike:
        raise ValueError(
            f"{path} must hold states of {sorted(mine)} in their sizes; it holds {sorted(states)}, and differs in "
            f"{sorted(unlike)}. Pass the objects it was saved with, or another path to start anew."
        )
    before = copy.deepcopy(mine)
    try:
        _restore(stateful, states)
    except Exception as error:
        for name, thing in stateful.items():
            with suppress(Exception):  # one that refuses even what it held has not changed
                _restore({name: thing}, before)
        raise ValueError(
            f"{path} must hold states that its objects accept; one was refused ({error!r}), and all objects are as "
            "they were. Pass the objects it was saved with, or another path to start anew."
        ) from error
    return saved["progress"]


def refuse_unwritable(path: str | os.PathLike) -> None:
    """Raise OSError where a checkpoint could not be written, before there is anything to lose."""
    part = unfinished(_target(path))
    try:
        open(part, "xb").close()
    except OSError as error:
        raise OSError(
            f"the checkpoint's folder must be writable; {part.parent} is not. Choose another path. ({error})"
        ) from error
    part.unlink()


def _target(path: str | os.PathLike) -> Path:
    """The file itself: a link stays a link."""
    return Path(os.path.realpath(path))


def _publish(path: Path, content: io.BytesIO) -> None:
    sweep(path)
    part = unfinished(path)
    try:
        with open(part, "xb") as file:  # x: never through a link that lies there
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    content = path.read_bytes()
    payload, seal = content[: -len(SEAL) - DIGITS], content[-len(SEAL) - DIGITS :]
    whole = seal == SEAL + _digest(payload)
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if whole else None
    except Exception:  # whatever torch says of it: its advice is to run the code in it
        saved = None
    if not isinstance(saved, dict) or saved.get("format") != FORMAT or not isinstance(saved.get("states"), dict):
        raise ValueError(
            f"{path} must be a whole '{FORMAT}', of tensors and plain values, and end in its checksum; "
            "it is truncated, damaged, foreign or of an earlier version. Move it away to start anew."
        )
    return saved


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


def _refuse_what_load_would_refuse(buffer: io.BytesIO) -> None:
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise ValueError(
            "a checkpoint holds tensors and plain values only; got something else, such as a numpy number or a path"
            f"{f' ({found[1]})' if found else ''}. Convert it with float() or str()."
        ) from None


FIXED = (nn.Module, torch.optim.Optimizer, torch.Generator)  # other states, such as a history, may grow


def _state(thing) -> dict | Tensor:
    return thing.get_state() if hasattr(thing, "get_state") else thing.state_dict()


def _restore(stateful: dict, states: dict) -> None:
    for name, thing in stateful.items():
        (thing.set_state if hasattr(thing, "set_state") else thing.load_state_dict)(states[name])


def _sizes(state: object) -> object:
    """What must agree for a state to fit: the names in it, and the shapes and types of its tensors."""
    if isinstance(state, Tensor):
        return state.shape, state.dtype
    if isinstance(state, dict):  # an optimiser's own "state" is empty before its first step
        return {name: _sizes(value) for name, value in state.items() if name != "state"}
    return [_sizes(value) for value in state] if isinstance(state, list | tuple) else None
