"""Training and checkpoints: stopping and resuming changes no bit, and what fails leaves all as it was."""

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import generator, noise
from torch import nn
from torch.testing import assert_close

from savae_lite.checkpoint import load, save
from savae_lite.trainer import Epoch, descend, fit

DATA = noise(24, 3, seed=1)
TARGET = (DATA @ noise(3, 1, seed=2)).tanh()


class Run:
    """A small regression whose batches, whose noise and whose order come from one generator."""

    def __init__(self, **options):
        self.generator = generator(5)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        with torch.no_grad():
            for seed, parameter in enumerate(self.model.parameters()):
                parameter.copy_(noise(*parameter.shape, seed=seed))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.05)
        self.options = {"epochs": 5, "validate": self.validate} | options
        self.steps = []

    def batches(self):
        return torch.randperm(24, generator=self.generator).split(6)

    def loss(self, batch, step):
        self.steps.append(step)
        jitter = 0.1 * torch.randn(len(batch), 3, generator=self.generator, dtype=torch.float64)
        return (self.model(DATA[batch] + jitter) - TARGET[batch]).square().mean()

    def validate(self):
        with torch.no_grad():
            return (self.model(DATA) - TARGET).square().mean().item()

    def fit(self, **options):
        options = self.options | options
        return fit(self.loss, self.batches, self.model, self.optimizer, generator=self.generator, **options)

    def parameters(self):
        return [p.detach().clone() for p in self.model.parameters()]


class Scripted(Run):
    """A run whose validation losses are given."""

    def __init__(self, losses, **options):
        super().__init__(**options)
        self.losses, self.seen = iter(losses), []

    def validate(self):
        self.seen.append(self.parameters())
        return next(self.losses)


def timeless(epochs):
    return [replace(epoch, seconds=0.0) for epoch in epochs]


def assert_same(run, other):
    """Bit for bit: parameters, optimizer and generator."""
    assert_close(run.parameters(), other.parameters(), rtol=0, atol=0)
    assert_close(run.optimizer.state_dict(), other.optimizer.state_dict(), rtol=0, atol=0)
    assert torch.equal(run.generator.get_state(), other.generator.get_state())


# --- training ---


def test_it_trains():
    run = Run(epochs=30)
    before = run.validate()
    epochs = list(run.fit())
    assert epochs[-1].valid < 0.2 * before
    assert all(isinstance(epoch, Epoch) for epoch in epochs)


def test_an_epoch_reports_its_numbers():
    run, epochs = Run(), []
    losses = []
    plain = run.loss
    run.loss = lambda batch, step: losses.append(plain(batch, step)) or losses[-1]
    for epoch in run.fit(epochs=3):
        epochs.append(epoch)
        assert epoch.valid == run.validate(), "while the loop is suspended the model holds this epoch's parameters"
        assert epoch.train == pytest.approx(torch.stack(losses[-4:]).mean().item())
        assert epoch.seconds > 0
    assert [epoch.epoch for epoch in epochs] in ([0, 1, 2], [1, 2, 3])
    assert [epoch.step for epoch in epochs] == [4, 8, 12]
    assert run.steps == list(range(12)), "the loss is told the step of the whole training, from 0"


def test_it_is_a_plain_loop_of_descend():
    run, by_hand = Run(), Run()
    list(run.fit(epochs=2, validate=None))
    step = 0
    for _ in range(2):
        for batch in by_hand.batches():
            descend(by_hand.loss(batch, step), by_hand.optimizer)
            step += 1
    assert_same(run, by_hand)


def test_training_is_lazy():
    run = Run()
    epochs = run.fit()
    assert not run.steps
    next(epochs)
    assert len(run.steps) == 4


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_descend_clips_the_whole_gradient_and_returns_its_norm(max_norm):
    parameters = [nn.Parameter(noise(2, seed=1)), nn.Parameter(noise(3, seed=2))]
    before = torch.cat([p.detach().clone() for p in parameters])
    optimizer = torch.optim.SGD(parameters, lr=0.5)
    gradient = 4 * before**3
    for _ in range(2):  # a gradient left over from before must not count
        found = descend(sum((p**4).sum() for p in parameters), optimizer, max_norm=max_norm)
        after = torch.cat([p.detach() for p in parameters])
        expected = gradient * min(1.0, max_norm / gradient.norm().item())
        assert found == pytest.approx(gradient.norm().item())
        assert_close(after - before, -0.5 * expected, rtol=1e-4, atol=1e-9)
        before, gradient = after.clone(), 4 * after**3


def test_fit_clips_too():
    run = Run(validate=None, epochs=1, max_norm=1e-3)
    run.optimizer = torch.optim.SGD(run.model.parameters(), lr=1.0)
    before = torch.cat([p.flatten() for p in run.parameters()])
    list(run.fit())
    assert 0 < (torch.cat([p.flatten() for p in run.parameters()]) - before).norm() <= 4e-3


# --- the best epoch ---


def test_the_model_ends_with_the_parameters_of_the_best_epoch():
    run = Scripted([3.0, 1.0, 2.0, 1.5, 4.0])
    assert len(list(run.fit())) == 5
    assert_close(run.parameters(), run.seen[1], rtol=0, atol=0)


def test_without_validation_the_last_epoch_is_the_best():
    run = Run(validate=None)
    *_, last = [run.parameters() for _ in run.fit()]
    assert_close(run.parameters(), last, rtol=0, atol=0)


def test_of_two_equal_epochs_the_first_is_the_best():
    run = Scripted([3.0, 1.0, 1.0, 2.0], epochs=4)
    list(run.fit())
    assert_close(run.parameters(), run.seen[1], rtol=0, atol=0)


@pytest.mark.parametrize(("patience", "count"), [(1, 3), (2, 4), (3, 8), (None, 8)])
def test_it_stops_after_patience_epochs_without_a_new_best(patience, count):
    run = Scripted([3.0, 1.0, 2.0, 1.5, 0.5, 0.4, 0.3, 0.2], epochs=8, patience=patience)
    assert [epoch.valid for epoch in run.fit()] == [3.0, 1.0, 2.0, 1.5, 0.5, 0.4, 0.3, 0.2][:count]
    assert_close(run.parameters(), run.seen[1 if count < 5 else 7], rtol=0, atol=0)


def test_a_warm_up_can_neither_be_the_best_nor_run_out_of_patience():
    run = Scripted([0.1, 0.2, 0.3, 5.0, 4.0, 6.0, 7.0, 1.0], epochs=8, select_from=3, patience=2)
    assert [epoch.valid for epoch in run.fit()] == [0.1, 0.2, 0.3, 5.0, 4.0, 6.0, 7.0]
    assert_close(run.parameters(), run.seen[4], rtol=0, atol=0)


def test_a_run_that_is_warm_up_only_is_refused_or_keeps_its_last_epoch():
    """It must not end with the parameters of before training."""
    run = Scripted([3.0, 2.0, 1.0], epochs=3, select_from=5)
    try:
        list(run.fit())
    except ValueError as error:
        assert "select_from" in str(error)
    else:
        assert_close(run.parameters(), run.seen[-1], rtol=0, atol=0)


# --- stopping and resuming ---


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_resumed_is_as_if_never_stopped(tmp_path, stop):
    straight, path = Run(), tmp_path / "run.pt"
    expected = list(straight.fit())
    head = list(islice(Run().fit(checkpoint=path), stop))
    resumed = Run()
    with torch.no_grad():
        resumed.model[0].weight.zero_()
    tail = list(resumed.fit(checkpoint=path))
    assert timeless(head + tail) == timeless(expected)
    assert resumed.steps == straight.steps[4 * stop :]
    assert_same(resumed, straight)


@pytest.mark.parametrize("when", [5, 6, 11])
def test_an_interruption_within_an_epoch_costs_that_epoch_only(tmp_path, when):
    straight, stopped, resumed, path = Run(), Run(), Run(), tmp_path / "run.pt"
    expected = list(straight.fit())
    plain = stopped.loss

    def loss(batch, step):
        if step == when:
            raise KeyboardInterrupt
        return plain(batch, step)

    stopped.loss, head = loss, []
    with pytest.raises(KeyboardInterrupt):
        for epoch in stopped.fit(checkpoint=path):
            head.append(epoch)
    tail = list(resumed.fit(checkpoint=path))
    assert timeless(head + tail) == timeless(expected)
    assert len(head) == when // 4
    assert_same(resumed, straight)


def test_stopping_after_every_epoch_changes_nothing(tmp_path):
    straight = Run()
    expected = timeless(straight.fit())
    pieces = []
    for _ in range(5):
        run = Run()
        pieces += islice(run.fit(checkpoint=tmp_path / "run.pt"), 1)
    list(run.fit(checkpoint=tmp_path / "run.pt"))
    assert timeless(pieces) == expected
    assert_close(run.parameters(), straight.parameters(), rtol=0, atol=0)


def test_a_finished_run_may_be_prolonged(tmp_path):
    """The best epoch's parameters are what the model ends with, but training goes on from the last one's."""
    losses = [3.0, 1.0, 2.0, 1.5, 0.5, 0.7]
    straight = Scripted(losses)
    expected = list(straight.fit(epochs=6))
    first, second = Scripted(losses[:3]), Scripted(losses[3:])
    head = list(first.fit(epochs=3, checkpoint=tmp_path / "run.pt"))
    assert_close(first.parameters(), straight.seen[1], rtol=0, atol=0)
    tail = list(second.fit(epochs=6, checkpoint=tmp_path / "run.pt"))
    assert timeless(head + tail) == timeless(expected)
    assert_same(second, straight)


def test_the_best_epoch_and_the_patience_survive_a_stop(tmp_path):
    losses = [3.0, 1.0, 2.0, 1.5, 1.4]
    straight = Scripted(losses, patience=3)
    expected = list(straight.fit())
    assert len(expected) == 5
    head = list(islice(Scripted(losses, patience=3).fit(checkpoint=tmp_path / "run.pt"), 3))
    resumed = Scripted(losses[3:], patience=3)
    assert timeless(head + list(resumed.fit(checkpoint=tmp_path / "run.pt"))) == timeless(expected)
    assert_close(resumed.parameters(), straight.seen[1], rtol=0, atol=0)


def test_a_run_that_stopped_early_stays_stopped(tmp_path):
    path = tmp_path / "run.pt"
    first = Scripted([1.0, 2.0, 3.0], patience=1)
    assert len(list(first.fit(checkpoint=path))) == 2
    again = Scripted([0.1], patience=1)
    assert list(again.fit(checkpoint=path)) == []
    assert_close(again.parameters(), first.parameters(), rtol=0, atol=0)


def test_a_finished_run_is_only_loaded(tmp_path):
    first, again = Run(), Run()
    list(first.fit(checkpoint=tmp_path / "run.pt"))
    assert list(again.fit(checkpoint=tmp_path / "run.pt")) == [] and not again.steps
    assert_close(again.parameters(), first.parameters(), rtol=0, atol=0)


def test_nothing_global_changes(tmp_path):
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), torch.is_grad_enabled()

    run = Run()
    before = state()
    for _ in run.fit(checkpoint=tmp_path / "run.pt"):
        assert state() == before
    assert state() == before


# --- what is not finite ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_loss_that_is_not_finite_changes_no_parameter(bad):
    run = Run()
    before = run.parameters()
    with pytest.raises(FloatingPointError, match=str(bad)):
        descend(run.loss(torch.arange(6), 0) + bad, run.optimizer)
    assert_close(run.parameters(), before, rtol=0, atol=0)
    assert not run.optimizer.state


def test_a_gradient_that_is_not_finite_changes_no_parameter():
    """√0 is finite and its derivative is not."""
    run = Run()
    before = run.parameters()
    with pytest.raises(FloatingPointError, match="gradient"):
        descend((0 * run.model[0].weight).sum().sqrt() + run.loss(torch.arange(6), 0), run.optimizer)
    assert_close(run.parameters(), before, rtol=0, atol=0)
    assert not run.optimizer.state


@pytest.mark.parametrize("what", ["loss", "gradient", "validation"])
def test_what_is_not_finite_leaves_the_checkpoint_as_it_was(tmp_path, what):
    run, path = Run(), tmp_path / "run.pt"
    plain_loss, plain_validate, epochs, contents = run.loss, run.validate, [], []

    def loss(batch, step):
        if step == 8:
            contents.append(path.read_bytes())
        value = plain_loss(batch, step)
        if step < 9:
            return value
        return value * {"loss": float("nan")}.get(what, 1.0) + {"gradient": (0 * value).sqrt()}.get(what, 0.0)

    def validate():
        return float("nan") if what == "validation" and len(epochs) == 2 else plain_validate()

    run.loss = loss
    with pytest.raises(FloatingPointError):
        for epoch in run.fit(checkpoint=path, validate=validate):
            epochs.append(epoch)
    assert len(epochs) == 2 and [path.read_bytes()] == contents
    assert list(tmp_path.iterdir()) == [path]


# --- files ---


def test_load_restores_what_was_saved(tmp_path):
    run, other, path = Run(), Run(), tmp_path / "run.pt"
    list(run.fit(epochs=2))
    progress = {"step": 7, "name": "a", "best": [1.5, None], "kept": noise(3)}
    save(path, progress, model=run.model, optimizer=run.optimizer, generator=run.generator)
    found = load(path, model=other.model, optimizer=other.optimizer, generator=other.generator)
    assert_close(found.pop("kept"), progress.pop("kept"), rtol=0, atol=0)
    assert found == progress
    assert_same(other, run)


@pytest.fixture
def checkpoint(tmp_path):
    run = Run()
    save(tmp_path / "run.pt", {"step": 1}, model=run.model, optimizer=run.optimizer, generator=run.generator)
    return tmp_path / "run.pt"


def refused(path, **others):
    """Loading raises ValueError and touches none of the objects."""
    run, untouched = Run(), Run()
    with torch.no_grad():
        for parameter in (*run.model.parameters(), *untouched.model.parameters()):
            parameter.mul_(3)
    with pytest.raises(ValueError) as error:
        load(path, **({"model": run.model, "optimizer": run.optimizer, "generator": run.generator} | others))
    assert_same(run, untouched)
    return str(error.value)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_checkpoint_is_refused(checkpoint, share):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(share * len(content))])
    assert "run.pt" in refused(checkpoint)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("write", ["pickle", "torch", "inside"])
def test_code_in_a_file_is_refused_and_does_not_run(checkpoint, write):
    trap = checkpoint.with_name("trap")
    if write == "pickle":
        checkpoint.write_bytes(pickle.dumps(Evil(trap), protocol=2))
    elif write == "torch":
        torch.save(Evil(trap), checkpoint)
    else:
        torch.save(torch.load(checkpoint, weights_only=True) | {"progress": Evil(trap)}, checkpoint)
    refused(checkpoint)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Evil(trap)))
    assert trap.exists(), "the trap itself must work"


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], 3, {"format": "another"}])
def test_a_foreign_file_is_refused(checkpoint, content):
    torch.save(content, checkpoint)
    refused(checkpoint)


def test_other_names_are_refused(checkpoint):
    assert "model_b" in refused(checkpoint, model_b=Run().model)
    with pytest.raises(ValueError, match=r"'generator', 'model'\]"):
        load(checkpoint, model=Run().model, generator=generator())


def test_another_model_is_refused_before_anything_changes(checkpoint):
    run, untouched = Run(), Run()
    run.optimizer.param_groups[0]["lr"] = untouched.optimizer.param_groups[0]["lr"] = 0.7
    with pytest.raises((ValueError, RuntimeError)):
        load(checkpoint, model=nn.Linear(2, 2).double(), optimizer=run.optimizer, generator=run.generator)
    assert_same(run, untouched)


def test_no_file_is_not_a_bad_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.pt", model=Run().model)


def test_fit_refuses_a_file_that_is_not_its_own_and_leaves_it(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my only copy")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        list(Run().fit(checkpoint=path))
    assert path.read_text() == "my only copy"


@pytest.mark.parametrize("function", ["os.fsync", "torch.save", "os.replace"])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_litter(checkpoint, monkeypatch, function):
    content = checkpoint.read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(function, full)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoint, {"step": 2}, model=Run().model)
    assert checkpoint.read_bytes() == content
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


def test_saving_twice_keeps_one_file(checkpoint):
    run = Run()
    save(checkpoint, {"step": 2}, model=run.model, optimizer=run.optimizer, generator=run.generator)
    assert load(checkpoint, model=run.model, optimizer=run.optimizer, generator=run.generator) == {"step": 2}
    assert list(checkpoint.parent.iterdir()) == [checkpoint]


# --- what the caller does between epochs ---

SCHEDULERS = {
    "step": lambda steps: torch.optim.lr_scheduler.StepLR(steps, 1, gamma=0.7),
    "plateau": lambda steps: torch.optim.lr_scheduler.ReduceLROnPlateau(steps, patience=0, factor=0.3),
    "milestones": lambda steps: torch.optim.lr_scheduler.MultiStepLR(steps, [1, 3]),
    "restarts": lambda steps: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(steps, 2),
    "chain": lambda steps: torch.optim.lr_scheduler.SequentialLR(
        steps,
        [torch.optim.lr_scheduler.ConstantLR(steps, 0.5, 1), torch.optim.lr_scheduler.ExponentialLR(steps, 0.8)],
        [2],
    ),
}


class Tended(Run):
    """A run whose caller lowers a rate, steps a scheduler, keeps a history and moves a weight in the loop's body."""

    def __init__(self, scheduler="step", **options):
        super().__init__(**options)
        self.scheduler, self.history = SCHEDULERS[scheduler](self.optimizer), History()
        self.options["stateful"] = {"scheduler": self.scheduler, "history": self.history}

    def body(self, epoch):
        if epoch.epoch == 2:
            self.optimizer.param_groups[0]["lr"] /= 10
        self.scheduler.step(*[epoch.valid] * isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau))
        self.history.valid.append(epoch.valid)
        with torch.no_grad():
            self.model[2].bias += 0.1 * torch.rand(1, generator=self.generator, dtype=torch.float64)


class History:
    def __init__(self):
        self.valid = []

    def state_dict(self):
        return {"valid": list(self.valid)}

    def load_state_dict(self, state):
        self.valid = list(state["valid"])


@pytest.mark.parametrize("stop", [0, 2, 3])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_resumed_is_as_if_never_stopped_whatever_the_body_does(tmp_path, scheduler, stop):
    straight, stopped, resumed = (Tended(scheduler) for _ in range(3))
    expected = []
    for epoch in straight.fit():
        straight.body(epoch)
        expected.append(epoch)
    found = []
    for run in (stopped, resumed):
        for epoch in run.fit(checkpoint=tmp_path / "run.pt"):
            run.body(epoch)
            found.append(epoch)
            if run is stopped and epoch.epoch == stop:
                break
    assert timeless(found) == timeless(expected)
    assert_same(resumed, straight)
    assert resumed.scheduler.state_dict() == straight.scheduler.state_dict()
    assert resumed.history.valid == straight.history.valid


def test_the_rate_lowered_before_a_break_stays_lowered(tmp_path):
    straight, stopped, resumed = Run(), Run(), Run()
    for run, options in (
        (straight, {}),
        (stopped, {"checkpoint": tmp_path / "a"}),
        (resumed, {"checkpoint": tmp_path / "a"}),
    ):
        for epoch in run.fit(**options):
            if epoch.epoch == 2:
                run.optimizer.param_groups[0]["lr"] /= 10
                if run is stopped:
                    break
    assert_same(resumed, straight)


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from test_trainer import Tended

run, deadline = Tended(), int(sys.argv[2])
acts = 0
def act():
    global acts
    acts += 1
    if acts == deadline:
        os.kill(os.getpid(), 9)

plain = run.loss
run.loss = lambda batch, step: (act(), plain(batch, step))[1]
for epoch in run.fit(checkpoint=sys.argv[1]):
    act()                      # before the body has done anything
    run.body(epoch)
    act()                      # after all of it
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.filterwarnings(
    "ignore:Detected call of .lr_scheduler.step"
)  # in this process nothing has been trained yet
def test_killed_anywhere_even_in_the_loops_body_it_resumes_bit_for_bit(tmp_path):
    """Three processes kill themselves: in training, before the body, after it; the fourth life runs to the end."""
    path, script = tmp_path / "run.pt", KILLED.format(tests=str(Path(__file__).parent))
    for deadline in (3, 5, 2):
        done = subprocess.run([sys.executable, "-c", script, path, str(deadline)], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    straight, resumed, yielded = Tended(), Tended(), []
    for epoch in straight.fit():
        straight.body(epoch)
    for epoch in resumed.fit(checkpoint=path):
        resumed.body(epoch)
        yielded.append(epoch.epoch)
    assert yielded == [0, 1, 2, 3, 4] and len(resumed.steps) == 16, "the first epoch is read again, not trained again"
    assert_same(resumed, straight)
    assert resumed.history.valid == straight.history.valid
    assert list(tmp_path.iterdir()) == [path]


LEFT = """
import sys
sys.path.insert(0, {tests!r})
from test_trainer import Tended

run = Tended()
epochs = run.fit(checkpoint=sys.argv[1])
for epoch in epochs:
    run.body(epoch)
    if epoch.epoch == 2:
        break
"""


def test_a_loop_that_was_left_by_its_name_is_saved_when_the_process_ends(tmp_path):
    path, script = tmp_path / "run.pt", LEFT.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, check=True)
    assert done.stderr == b""
    straight, resumed = Tended(), Tended()
    for epoch in straight.fit():
        straight.body(epoch)
    for epoch in resumed.fit(checkpoint=path):
        resumed.body(epoch)
    assert resumed.steps == straight.steps[12:]
    assert_same(resumed, straight)


def test_an_epoch_whose_reader_was_killed_is_yielded_again_and_not_trained_again(tmp_path):
    run, path, copies = Run(), tmp_path / "run.pt", []
    for _ in run.fit(checkpoint=path, epochs=2):
        copies.append(path.read_bytes())  # what a kill in the body would leave
    path.write_bytes(copies[1])
    again = Run()
    assert [epoch.epoch for epoch in again.fit(checkpoint=path, epochs=2)] == [1]
    assert not again.steps
    assert_same(again, run)
    assert list(Run().fit(checkpoint=path, epochs=2)) == []


def test_another_set_of_stateful_objects_is_refused(tmp_path):
    run = Tended()
    list(islice(run.fit(checkpoint=tmp_path / "run.pt"), 1))
    with pytest.raises(ValueError, match="scheduler"):
        list(Run().fit(checkpoint=tmp_path / "run.pt"))


@pytest.mark.parametrize("others", [{"model": History()}, {"scheduler": 3}, {"rate": 0.1}])
def test_what_holds_no_state_is_not_stateful(others):
    with pytest.raises(ValueError, match=r"stateful=\{'scheduler': scheduler\}"):
        next(Run().fit(stateful=others))


# --- arguments ---


@pytest.mark.parametrize(
    "wrong", [{"patience": 0}, {"patience": -1}, {"epochs": -1}, {"epochs": 0}, {"epochs": 2.5}, {"select_from": -1}]
)
def test_counts_that_would_train_nothing_are_refused(wrong):
    run = Run(**wrong)
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be a whole number, at least"):
        next(run.fit())
    assert not run.steps


def test_a_loss_that_does_not_touch_the_model_is_refused():
    run, other = Run(), Run()
    run.loss = other.loss
    before = run.parameters()
    with pytest.raises(ValueError, match="none of them got a gradient"):
        next(run.fit())
    assert_close(run.parameters(), before, rtol=0, atol=0)


BAR = """
import sys
sys.path.insert(0, {tests!r})
import os
os.environ.pop("TQDM_DISABLE", None)
from cases import generator
import torch
from savae_lite.trainer import fit
model = torch.nn.Linear(2, 1)
data = torch.ones(4, 2)
list(fit(lambda x, step: model(x).square().mean(), lambda: [data], model, torch.optim.SGD(model.parameters(), 0.1),
         epochs=3, generator=generator()))
"""


def test_a_log_file_gets_no_progress_bar():
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    script = BAR.format(tests=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=environment)
    assert done.stdout == done.stderr == b""
