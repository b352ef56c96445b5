"""Minibatch training as a generator of epochs, with validation, early stop, and resumption that is exact bit for bit.

It knows no model, no bound and no schedule: the loss of a batch is a function that the caller writes.
"""

import atexit
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from savae_lite.checkpoint import load, refuse_unwritable, save


@dataclass(frozen=True)
class Epoch:
    """What one epoch did."""

    epoch: int  # from 0
    step: int  # optimiser steps so far
    train: float  # mean training loss over the epoch's minibatches
    valid: float  # what validate() returned after it; nan without validation
    seconds: float  # training time so far, without validation


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, *, max_norm: float = 5.0) -> float:
    """One optimiser step on a scalar loss, with the gradient's norm clipped to ``max_norm``; returns the norm before
    clipping.

    Raises FloatingPointError, before any parameter changes, when the loss or its gradient is not finite.
    """
    if not isinstance(loss, Tensor) or loss.dim() or not loss.requires_grad:
        raise ValueError(
            f"the loss must be a scalar tensor that depends on the parameters; got {loss!r}. "
            "Average over rows with .mean(), and do not detach."
        )
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive; got {max_norm}. math.inf switches clipping off.")
    if not loss.isfinite():
        raise FloatingPointError(
            f"the loss must be finite; got {loss.item()}. Look for NaN in the data, or lower a rate."
        )
    optimizer.zero_grad()
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if all(p.grad is None for p in parameters):
        raise ValueError(
            "the loss must depend on parameters of the optimizer; none of them got a gradient. "
            "Compute it with the model that the optimizer was made for."
        )
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    if not norm.isfinite():
        optimizer.zero_grad()
        raise FloatingPointError(
            f"the gradient's norm must be finite; got {norm.item()}. Lower a rate or set svi's clip."
        )
    optimizer.step()
    return norm.item()


def fit(
    loss: Callable[[Tensor, int], Tensor],
    batches: Callable[[], Sequence[Tensor]],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    generator: torch.Generator,
    validate: Callable[[], float] | None = None,
    patience: int | None = None,
    select_from: int = 0,
    max_norm: float = 5.0,
    checkpoint: str | os.PathLike | None = None,
    stateful: Mapping[str, object] | None = None,
) -> Iterator[Epoch]:
    """Train and yield one `Epoch` after each; in the end the model holds the parameters of the best one.

    loss(batch, step) ↦ scalar; batches() ↦ the minibatches of one epoch; validate() ↦ a loss by which epochs are
    compared (without it the last is the best). Their randomness must come from ``generator``, or from generators
    made anew at each call. Epochs before ``select_from`` (a warm-up, say) cannot be the best; after ``patience`` ≥ 1
    epochs without a new best, training stops.

    With ``checkpoint`` the state is saved after every epoch, and again when the caller asks for the next one or leaves
    the loop: what its body does (a lower rate, a scheduler's step) is kept. A file that is already there is resumed:
    parameters and reports are bit for bit those of a run that was never stopped. That includes the optimiser's rates:
    those in the file win over those of the optimiser passed. Where the process was killed in the loop's body, resuming
    yields that epoch once more, without training it again, so that the body can run as if for the first time. Whatever
    else has a ``state_dict`` and changes in training, such as a scheduler, is passed by name in ``stateful``; nothing
    here steps it. A non-finite loss raises FloatingPointError and leaves the last checkpoint as it was.
    """
    stateful = _all_stateful({"model": model, "optimizer": optimizer, "generator": generator}, stateful or {})
    _check_counts(epochs, patience, select_from, validate)
    _check_before_training(model, optimizer, checkpoint)
    progress = {"epoch": 0, "step": 0, "seconds": 0.0, "unread": None}
    progress |= {"best": math.inf, "best_epoch": select_from, "best_model": _copy(model)}
    if checkpoint is not None and Path(checkpoint).exists():
        progress |= load(checkpoint, **stateful)
    if progress["unread"] is not None:
        yield from _last_report(progress, checkpoint, stateful)
    silent = True if os.environ.get("TQDM_DISABLE") else None  # None: no bar where nobody looks, such as a log file
    with tqdm(initial=progress["step"], unit="step", disable=silent) as bar:
        while progress["epoch"] < epochs and not _impatient(progress, patience):
            minibatches = list(batches())
            bar.total = epochs * len(minibatches)
            with _noting(progress, checkpoint):
                report = _epoch(loss, minibatches, optimizer, max_norm, progress, validate, bar)
            progress |= {"epoch": report.epoch + 1, "step": report.step, "seconds": report.seconds}
            # "not ≥" and not "<": a run that began without validation has nan for its best
            if validate is None or (report.epoch >= select_from and not report.valid >= progress["best"]):
                progress |= {"best": report.valid, "best_epoch": report.epoch, "best_model": _copy(model)}
            progress["unread"] = asdict(report)
            _keep(progress, checkpoint, stateful)
            yield from _last_report(progress, checkpoint, stateful)
    model.load_state_dict(progress["best_model"])


def _last_report(progress: dict, checkpoint, stateful: dict) -> Iterator[Epoch]:
    """Hand out the report that nobody has read, and save what the caller did until it came back or left."""

    def settle():
        if progress["unread"] is not None:
            progress["unread"] = None
            _keep(progress, checkpoint, stateful)

    atexit.register(settle)  # a loop that was left by its name may live as long as the interpreter
    try:
        yield Epoch(**progress["unread"])
    finally:
        atexit.unregister(settle)
        settle()


def _keep(progress: dict, checkpoint, stateful: dict) -> None:
    if checkpoint is not None:
        save(checkpoint, progress, **stateful)


def _all_stateful(own: dict, others: Mapping[str, object]) -> dict:
    taken = sorted(own.keys() & others.keys())
    silent = sorted(name for name, thing in others.items() if not hasattr(thing, "load_state_dict"))
    if taken or silent:
        raise ValueError(
            f"stateful must hold objects with state_dict and load_state_dict under names other than {sorted(own)}; got "
            f"{taken + silent}. Pass, for instance, stateful={{'scheduler': scheduler}}."
        )
    return own | dict(others)


def _check_counts(epochs: int, patience: int | None, select_from: int, validate) -> None:
    least = {
        "epochs": (epochs, 1),
        "patience": (1 if patience is None else patience, 1),
        "select_from": (select_from, 0),
    }
    for name, (value, low) in least.items():
        if not isinstance(value, Integral) or value < low:
            raise ValueError(f"{name} must be a whole number, at least {low}; got {value}. It counts epochs.")
    if validate is not None and select_from >= epochs:
        raise ValueError(
            f"select_from must be below epochs = {epochs}, or no epoch can be the best; got {select_from}. "
            "Train longer, or shorten the warm-up."
        )


def _check_before_training(model: nn.Module, optimizer: torch.optim.Optimizer, checkpoint) -> None:
    mine = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in mine for group in optimizer.param_groups for parameter in group["params"]):
        raise ValueError("the optimizer must hold parameters of the model; got none. Make it after the model.")
    if checkpoint is None:
        return
    if not Path(checkpoint).absolute().parent.is_dir():
        raise FileNotFoundError(f"the folder of the checkpoint must exist; {checkpoint} has none. Make it first.")
    refuse_unwritable(checkpoint)


def _epoch(loss, minibatches, optimizer, max_norm, progress, validate, bar) -> Epoch:
    if not minibatches:
        raise ValueError("batches() must return at least one minibatch an epoch; got none. Look at the training data.")
    started, total = time.perf_counter(), 0.0
    for step, batch in enumerate(minibatches, start=progress["step"]):
        value = loss(batch, step)
        descend(value, optimizer, max_norm=max_norm)
        total += value.item()
        bar.update()
    seconds = progress["seconds"] + time.perf_counter() - started
    valid = math.nan if validate is None else float(validate())
    if validate is not None and not math.isfinite(valid):
        raise FloatingPointError(
            f"the validation loss must be finite; got {valid}. Lower a rate, or look for NaN in the data."
        )
    bar.set_postfix(train=f"{total / len(minibatches):.2f}", valid=f"{valid:.2f}")
    return Epoch(progress["epoch"], progress["step"] + len(minibatches), total / len(minibatches), valid, seconds)


@contextmanager
def _noting(progress: dict, checkpoint: str | os.PathLike | None) -> Iterator[None]:
    """Say in a FloatingPointError where training stood and what is left of it."""
    try:
        yield
    except FloatingPointError as error:
        there = checkpoint is not None and Path(checkpoint).exists()
        kept = f"The last good checkpoint is {checkpoint}; it keeps its rates." if there else "There is no checkpoint."
        error.add_note(f"Training stopped in epoch {progress['epoch']}. {kept}")
        raise


def _impatient(progress: dict, patience: int | None) -> bool:
    return patience is not None and progress["epoch"] - progress["best_epoch"] > patience


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
