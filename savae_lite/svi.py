"""Stochastic variational inference of local parameters: gradient descent on a stream of losses of λ.

Whatever varies by step (noise, a minibatch, an annealing weight) rides in the stream, so ``[loss] * 20`` is
deterministic descent and K noisy −ELBOs are the inner loop of a semi-amortized VAE. This module knows no model and
no bound, and draws no noise.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

Loss = Callable[[Tensor], Tensor]
T = TypeVar("T")


def svi(
    losses: Iterable[Loss],
    lam: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    clip: float | None = None,
    differentiable: bool = False,
) -> Iterator[Tensor]:
    """Yield λ₀ … λ_K, each one step of descent with momentum on the next loss (Kim et al. 2018, algorithm 1).

    v ← momentum · v − ∇loss(λ),  λ ← λ + lr · v. Every row of λ is a problem of its own: rows never mix, ``clip``
    bounds the norm of each row's gradient, and lr does not depend on the number of rows.

    losses: K functions λ ``(B, P)`` ↦ ``(B,)``; lam ``(B, P)``. ``differentiable`` keeps the graph, so that a
    gradient at λ_K reaches λ₀ and the parameters inside the losses; without it λ₁ … λ_K are constants.
    Raises FloatingPointError when a gradient is not finite.

    >>> loss = lambda lam: 0.5 * lam.square().sum(-1)
    >>> [float(lam) for lam in svi([loss] * 3, torch.ones(1, 1), lr=0.5)]
    [1.0, 0.5, 0.25, 0.125]
    """
    _check_settings(lam, lr, momentum, clip)
    if torch.is_inference_mode_enabled():
        raise RuntimeError("svi needs gradients; got torch.inference_mode(). Use torch.no_grad() around it instead.")
    velocity = torch.zeros_like(lam)
    yield lam
    for step, loss in enumerate(losses):
        gradient = _gradient(loss, lam, differentiable, step)
        if clip is not None:
            gradient = clip_rows(gradient, clip)
        velocity = momentum * velocity - gradient
        lam = (lam if differentiable else lam.detach()) + lr * velocity
        yield lam


def last(items: Iterable[T]) -> T:
    """The last item of an iterable; ``last(svi(…))`` is λ_K."""
    return deque(items, maxlen=1).pop()


def check_loss(loss: Loss, lam: Tensor, values: Tensor | None = None) -> None:
    """Call a loss of λ ``(B, P)`` again while every other row moves: those that stay must return the same.

    values ``(B,)`` is what it returned before; left out, it is computed. Raises RuntimeError where they differ, for the
    loss then draws noise of its own or mixes rows, and ValueError where it does not return one value per row.
    """
    stay = slice(min(len(lam) - 1, 1), None, 2)  # a single row is its own witness
    moved = lam.detach().clone()
    if len(lam) > 1:
        moved[::2] += 1
    values = _values(loss, lam.detach().requires_grad_()).detach() if values is None else values
    again, near = _values(loss, moved.requires_grad_()).detach(), torch.finfo(values.dtype).eps ** 0.5
    if not torch.allclose(again[stay], values[stay], rtol=near, atol=near):
        off = (again - values)[stay].abs().max().item()
        raise RuntimeError(
            "an inner loss must return the same for a row whenever it is called, whatever the other rows are; got "
            f"values that differ by up to {off:.2g}. Pass noise and dropout masks as arguments, drawn once, and let "
            "no operation (such as batch normalisation) mix rows."
        )


def clip_rows(gradient: Tensor, norm: float) -> Tensor:
    """Each row g of ``(B, P)`` scaled to at most the given Euclidean norm: g · min(1, norm / ‖g‖). Differentiable."""
    # In units of ``norm`` and of the largest entry no square overflows. The square root of 0 has no derivative, so the
    # sum of squares is bounded from below, where the clip is not active.
    scaled = gradient / norm
    largest = scaled.detach().abs().amax(-1, keepdim=True).clamp_min(1.0)
    length = (scaled / largest).square().sum(-1, keepdim=True).clamp_min(largest**-2).sqrt() * largest
    return gradient / length


def _gradient(loss: Loss, lam: Tensor, differentiable: bool, step: int) -> Tensor:
    with torch.enable_grad():
        if not (differentiable and lam.requires_grad):
            lam = lam.detach().requires_grad_()
        values = _values(loss, lam)
        # Where the weight wants a gradient itself, a loss without a second derivative says so instead of giving none.
        weight = torch.ones_like(values).requires_grad_(differentiable)
        (gradient,) = torch.autograd.grad(values, lam, weight, create_graph=differentiable)
    bad = ~gradient.isfinite().all(-1)
    if bad.any():
        rows = bad.nonzero().flatten().tolist()
        raise FloatingPointError(
            f"the gradient of inner step {step} must be finite; got NaN or inf in row(s) {rows[:5]} of {len(lam)}. "
            "Lower lr, set clip, or look for NaN in the data and the parameters."
        )
    return gradient


def _values(loss: Loss, lam: Tensor) -> Tensor:
    with torch.enable_grad():
        values = loss(lam)
    if not torch.is_tensor(values) or values.shape != lam.shape[:1]:
        got = tuple(values.shape) if torch.is_tensor(values) else type(values).__name__
        raise ValueError(
            f"an inner loss must return one value per row, ({len(lam)},) for lam {tuple(lam.shape)}; "
            f"got {got}. Sum over samples and dimensions, not over rows."
        )
    if not values.requires_grad:
        raise ValueError(
            "an inner loss must depend on lam; got values without a graph. Compute them from its argument."
        )
    return values


def _check_settings(lam: Tensor, lr: float, momentum: float, clip: float | None) -> None:
    if not lam.is_floating_point():
        raise ValueError(f"lam must hold floating-point numbers; got {lam.dtype}. Use lam.float().")
    if lam.dim() != 2:
        raise ValueError(f"lam must be (rows, parameters); got shape {tuple(lam.shape)}. Add the row with lam[None].")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr must be positive and finite; got {lr}. For no refinement pass no losses (K = 0).")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1); got {momentum}. 0 is plain gradient descent.")
    if clip is not None and not 0 < clip < math.inf:
        raise ValueError(f"clip must be positive and finite, or None; got {clip}. None switches clipping off.")
