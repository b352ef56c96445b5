"""Unfinished files: names that no other thread or process uses, and removal of those that dead processes left.

It writes nothing itself, and touches nothing whose name is not of its own pattern.
"""

import os
import re
import shutil
import socket
import time
import uuid
import zlib
from contextlib import suppress
from pathlib import Path

PATTERN = re.compile(r"\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{16}\.part")  # machine, process, a random number
DAY = 86_400.0  # seconds


def unfinished(path: Path) -> Path:
    """A name beside ``path`` that nobody else uses, for what shall be moved there once it is whole."""
    return path.with_name(f"{path.name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:16]}.part")


def sweep(path: Path) -> None:
    """Remove what was left unfinished beside ``path``: by dead processes of this machine, and by any a day ago."""
    for left in path.parent.iterdir():
        name = PATTERN.fullmatch(left.name.removeprefix(path.name)) if left.name.startswith(path.name) else None
        with suppress(OSError):  # another process was faster, or may not
            if name and (_is_dead(name[1], int(name[2])) or time.time() - left.lstat().st_mtime > DAY):
                remove(left)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it leads to) or a folder; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _is_dead(machine: str, process: int) -> bool:
    """Whether a process has ended; only a system with POSIX signals can tell, and only of its own processes."""
    if os.name != "posix" or machine != _machine():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass
    return False
