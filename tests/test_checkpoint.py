"""Checkpoint files: what is damaged is refused, what is unfinished is cleaned up, and no object changes by half."""

import hashlib
import io
import os
import pickle
import stat
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import generator, noise
from torch import nn

from savae_lite.checkpoint import FORMAT, SEAL, load, refuse_unwritable, save
from savae_lite.unfinished import DAY, sweep, unfinished

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


def objects(seed=0):
    """A small model with an optimiser that has made a step, and a generator."""
    model = nn.Linear(3, 2).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(noise(*parameter.shape, seed=seed))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1 + seed)
    model(noise(4, 3, seed=seed)).square().mean().backward()
    optimizer.step()
    return {"model": model, "optimizer": optimizer, "generator": generator(seed)}


def bits(things):
    """All that the objects hold, as plain values that can be compared."""
    return plain({n: t.get_state() if hasattr(t, "get_state") else t.state_dict() for n, t in things.items()})


def plain(state):
    if isinstance(state, torch.Tensor):
        return str(state.dtype), state.tolist()
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items()}
    return [plain(value) for value in state] if isinstance(state, list | tuple) else state


@pytest.fixture
def path(tmp_path):
    save(tmp_path / "run.pt", {"step": 7, "best": 0.0516}, **objects())
    return tmp_path / "run.pt"


def seal(content, path):
    """Write to a file what ends in a right checksum, as anybody can."""
    path.write_bytes(content + SEAL + hashlib.sha256(content).hexdigest().encode())


# --- damage ---


def test_a_thousand_flipped_bits_and_a_thousand_truncations_are_refused(path):
    content, mine = path.read_bytes(), objects(5)
    untouched = bits(mine)
    flips = [bytearray(content) for _ in range(1000)]
    for flip, bit in zip(flips, torch.randint(8 * len(content), (1000,), generator=generator(1)).tolist(), strict=True):
        flip[bit // 8] ^= 1 << bit % 8
    cuts = [content[:length] for length in torch.randint(len(content), (1000,), generator=generator(2)).tolist()]
    for damaged in flips + cuts:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="truncated, damaged"):
            load(path, **mine)
    assert bits(mine) == untouched
    path.write_bytes(content)
    assert load(path, **mine) == {"step": 7, "best": 0.0516}
    assert bits(mine) == bits(objects())


@pytest.mark.parametrize("place", [-1, -64, -65, -72, -73, 0])
def test_each_part_of_the_file_is_covered(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated, damaged"):
        load(path, **objects())


def test_files_of_version_1_are_refused_and_left(path):
    torch.save(torch.load(path, weights_only=True) | {"format": "savae-lite checkpoint, version 1"}, path)
    content = path.read_bytes()
    with pytest.raises(ValueError, match=r"of an earlier version\. Move it away"):
        load(path, **objects())
    assert path.read_bytes() == content
    assert torch.load(path, weights_only=True)["states"]["model"]["weight"].shape == (2, 3)


def test_the_file_can_be_read_with_torch_alone(path):
    assert torch.load(path, weights_only=True)["progress"]["step"] == 7


class Evil:
    def __reduce__(self):
        return Path.touch, (Path("trap"),)


@pytest.mark.parametrize("write", [torch.save, pickle.dump])
def test_code_in_a_sealed_file_is_refused_without_advice_to_run_it(path, write, monkeypatch):
    monkeypatch.chdir(path.parent)
    buffer = io.BytesIO()
    write({"format": FORMAT, "states": Evil()}, buffer)
    seal(buffer.getvalue(), path)
    with pytest.raises(ValueError, match="tensors and plain values") as error:
        load(path, **objects())
    told, cause = "", error.value
    while cause is not None:  # what a traceback shows
        told, cause = told + str(cause), cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    assert "weights_only" not in told and "safe_globals" not in told
    assert not Path("trap").exists()


def test_the_refusal_to_save_names_what_it_found_and_nothing_unsafe(path):
    with pytest.raises(ValueError, match=r"plain values only; .*multiarray") as error:
        save(path, {"x": np.float64(1)}, **objects())
    assert "weights_only" not in str(error.value) and error.value.__suppress_context__


# --- all or nothing ---


class Picky:
    """Refuses the state that it is given."""

    def state_dict(self):
        return {"a": 1}

    def load_state_dict(self, state):
        raise KeyError("exp_avg")


@pytest.mark.parametrize("what", ["optimizer", "generator", "last"])
def test_a_state_that_is_refused_late_changes_nothing(path, what):
    mine = objects(5)
    if what == "last":
        save(path, {}, **objects(), last=Picky())
        mine["last"] = Picky()
    else:
        saved = torch.load(path, weights_only=True)
        if what == "optimizer":
            del saved["states"]["optimizer"]["state"]
        else:
            saved["states"]["generator"].fill_(255)
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        seal(buffer.getvalue(), path)
    before = bits({name: mine[name] for name in objects()})
    with pytest.raises(ValueError, match="all objects are as they were"):
        load(path, **mine)
    assert bits({name: mine[name] for name in objects()}) == before


# --- unfinished files ---


def left_by(path, process, machine=None):
    part = unfinished(path)
    name = part.name.replace(f"-{os.getpid()}-", f"-{process}-")
    part = part.with_name(name if machine is None else f"{path.name}.{machine}{name.removeprefix(path.name)[9:]}")
    part.write_bytes(b"half")
    return part


def a_dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@posix
def test_what_dead_processes_left_is_removed_and_nothing_else(path):
    dead = [left_by(path, a_dead_process()) for _ in range(3)]
    folder = unfinished(path).with_name(left_by(path, a_dead_process()).name)
    folder.unlink()
    (folder / "inner").mkdir(parents=True)
    old = left_by(path, 1, machine="0" * 8)
    os.utime(old, (0, time.time() - DAY - 60))
    others = [
        left_by(path, os.getpid()),  # a thread of ours
        left_by(path, os.getppid()),  # a process that lives
        left_by(path, a_dead_process(), machine="0" * 8),  # of another machine: nobody can know
        left_by(path.with_name("run.pt2"), a_dead_process()),  # of another checkpoint
        path.with_name("run.pt.part"),
        path.with_name("run.pt.12.part"),
        path.with_name(f"run.pt.backup-12-{uuid.uuid4().hex[:16]}.part"),
    ]
    for other in others:
        other.write_bytes(b"mine")
    save(path, {}, **objects())
    assert not any(part.exists() for part in [*dead, folder, old])
    assert {other for other in others if other.exists()} == set(others)


KILLED = """
import os, sys, torch
from savae_lite.checkpoint import save
model = torch.nn.Linear(2, 2)
os.fsync = lambda file: os.kill(os.getpid(), 9)
save(sys.argv[1], {}, model=model)
"""


@posix
def test_kills_inside_a_save_leave_nothing_behind_the_next(path):
    content = path.read_bytes()
    for _ in range(2):
        subprocess.run([sys.executable, "-c", KILLED, path], check=False)
        assert path.read_bytes() == content
    assert len(list(path.parent.iterdir())) == 2, "each save removes what the one before left"
    save(path, {}, **objects())
    assert list(path.parent.iterdir()) == [path]


def test_no_two_names_are_alike(tmp_path):
    names = set()
    threads = [
        threading.Thread(target=lambda: names.update(unfinished(tmp_path / "a") for _ in range(50))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 400


@posix
@pytest.mark.parametrize("what", ["save", "sweep"])
def test_a_link_at_the_parts_name_is_not_followed(path, monkeypatch, what):
    precious = path.with_name("precious")
    precious.write_text("my only copy", encoding="utf-8")
    part = left_by(path, a_dead_process())
    part.unlink()
    part.symlink_to(precious)
    if what == "save":
        monkeypatch.setattr("savae_lite.checkpoint.unfinished", lambda target: part)
        monkeypatch.setattr("savae_lite.checkpoint.sweep", lambda target: None)
        with pytest.raises(OSError, match="could not save"):
            save(path, {}, **objects())
    else:
        sweep(path)
        assert not part.is_symlink()
    assert precious.read_text(encoding="utf-8") == "my only copy"


@posix
@pytest.mark.parametrize("there", [True, False])
def test_a_linked_checkpoint_stays_a_link(path, tmp_path, there):
    disk = tmp_path / "disk"
    disk.mkdir()
    link = tmp_path / "link.pt"
    link.symlink_to(disk / "real.pt")
    if there:
        path.rename(disk / "real.pt")
    save(link, {"step": 8}, **objects())
    assert stat.S_ISLNK(link.lstat().st_mode) and not (disk / "real.pt").is_symlink()
    assert load(disk / "real.pt", **objects())["step"] == 8
    assert [file.name for file in disk.iterdir()] == ["real.pt"]


# --- many at once ---

LARGE = nn.Linear(300, 300)


def test_threads_that_save_to_one_path_publish_only_whole_files(tmp_path):
    path, problems, start = tmp_path / "run.pt", [], threading.Barrier(5)
    save(path, {"step": 0}, model=LARGE)

    def work(number):
        start.wait()
        try:
            for step in range(8):
                save(path, {"step": 100 * number + step}, model=LARGE)
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    start.wait()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        seen.add(load(path, model=nn.Linear(300, 300))["step"])
    assert not problems
    assert load(path, model=nn.Linear(300, 300))["step"] % 100 == 7
    assert list(tmp_path.iterdir()) == [path]


SAVING = """
import sys, torch
from savae_lite.checkpoint import save
model = torch.nn.Linear(300, 300)
for step in range(15):
    save(sys.argv[1], {"step": step}, model=model)
"""


def test_processes_that_save_to_one_path_publish_only_whole_files(tmp_path):
    path = tmp_path / "run.pt"
    save(path, {"step": 14}, model=LARGE)
    workers = [subprocess.Popen([sys.executable, "-c", SAVING, path]) for _ in range(2)]
    while any(worker.poll() is None for worker in workers):
        load(path, model=nn.Linear(300, 300))
    assert [worker.returncode for worker in workers] == [0, 0]
    assert load(path, model=nn.Linear(300, 300))["step"] == 14
    assert list(tmp_path.iterdir()) == [path]


# --- before training ---


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")
def test_an_unwritable_path_is_refused_before_training():
    from test_trainer import Run

    run = Run(checkpoint="/proc/self/run.pt")
    with pytest.raises(OSError, match="folder must be writable"):
        next(run.fit())
    assert not run.steps


def test_looking_whether_a_path_can_be_written_leaves_nothing(path):
    content = path.read_bytes()
    refuse_unwritable(path)
    assert path.read_bytes() == content and list(path.parent.iterdir()) == [path]
