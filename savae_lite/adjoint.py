"""Differentiating through SVI: a gradient at λ_K reaches λ₀ and the parameters inside the losses.

How λ_K is found is the business of `svi`, and never depends on how it is differentiated. That is one argument of
`refine`, a function:

* `kept`: autograd's own unroll. The graph of every step is kept, so memory grows with K; any derivative can follow.
* `recomputed`: the reverse pass of Kim et al. (2018, algorithm 1), each step computed again: memory constant in K.
* `difference`: the same with Hessian-vector products by central differences, for a model that has no second derivative.
* `detached`: none. λ_K is a constant, as in SVI.

This module does not know a model or a bound, and draws no noise: a loss that is called twice must return the same. It
does not see that a Python autograd function marked ``once_differentiable`` has no second derivative, for autograd takes
it for a constant; use `difference` there.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

from savae_lite.graph import leaves_under, refuse_cudnn, refuse_hooks, warn_of_growth
from savae_lite.svi import Loss, check_loss, clip_rows, last, svi


class Step(NamedTuple):
    """The settings of one step of `svi`."""

    lr: float
    momentum: float = 0.0
    clip: float | None = None


Adjoint = Callable[[Sequence[Loss], Tensor, Step], Tensor]


def kept(losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
    """λ_K with the graph of every step kept; differentiable as often as the losses are."""
    if not torch.is_grad_enabled():
        return detached(losses, lam, step)
    path = svi(losses, lam, **step._asdict(), differentiable=True)
    next(path)
    first = next(path)
    refuse_cudnn(first)
    return last(chain([first], path))


def detached(losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
    """λ_K as a constant."""
    return last(svi(losses, lam, **step._asdict())).detach()


def recomputed(losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
    """λ_K whose reverse pass computes each step again, exactly; once differentiable."""
    return _reversed(_exact_product, losses, lam, step)


def difference(losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
    """λ_K whose reverse pass needs first derivatives only, by central differences; once differentiable."""
    return _reversed(_difference_product, losses, lam, step)


def refine(
    losses: Iterable[Loss],
    lam: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    clip: float | None = None,
    adjoint: Adjoint = kept,
) -> Tensor:
    """λ_K ``(B, P)`` after K steps of `svi` from lam ``(B, P)``, differentiable the way ``adjoint`` says.

    With w_k the pull-back of v̄ through the clip, the reverse pass is (Kim et al. 2018, algorithm 1)

        v̄ ← v̄ + lr λ̄,   λ̄ ← λ̄ − ∇²_λλ f_k w_k,   θ̄ ← θ̄ − ∇²_θλ f_k w_k,   v̄ ← momentum v̄.

    losses, lr, momentum and clip as in `svi`; momentum and clipping are part of what is differentiated. The parameters
    θ are the leaves under the losses that want a gradient; they are found by themselves. K = 0 returns lam.

    `recomputed` and `difference` bring gradients to λ₀ and to leaves only. A tensor in between gets its steps' share
    with `kept` alone: ask for the leaves' gradients, or detach it, make it a leaf, and go on from its ``.grad``.

    Warns (RuntimeWarning) where the reverse pass grows more than a thousandfold, ‖λ̄₀‖ > 1000 ‖λ̄_K‖: the steps are
    too large for the curvature, and no way is exact in float32 then. `recomputed` and `difference` raise RuntimeError
    in the backward pass where `check_loss` refuses the first loss, and for one further derivative; at once where a
    leaf has a hook, which would see every step's share.
    """
    if callable(losses) or not callable(adjoint):
        raise TypeError(
            f"refine takes a list of losses and a function adjoint; got {type(losses).__name__} and {adjoint!r}. "
            "Write [loss] * K, and adjoint=kept, recomputed, difference or detached."
        )
    losses = list(losses)
    if not losses:
        return lam
    start = lam.view_as(lam)  # a place of its own for the gradient that comes through the steps
    end = adjoint(losses, start, Step(lr, momentum, clip))
    warn_of_growth(start, end, len(losses))
    return end


class _Refine(torch.autograd.Function):
    """λ_K as the path says; backward, one product with the second derivatives a step."""

    @staticmethod
    def forward(ctx, product, losses, path, values, step, lam, *parameters):
        ctx.product, ctx.losses, ctx.first_values, ctx.step = product, losses, values, step
        device = lam.device.type
        ctx.autocast = dict(
            device_type=device,
            enabled=torch.is_autocast_enabled(device),
            dtype=torch.get_autocast_dtype(device),
        )
        ctx.save_for_backward(torch.stack(path[:-1]), *parameters)
        return path[-1].clone()

    @staticmethod
    def backward(ctx, lam_bar):
        if torch.is_grad_enabled():
            raise RuntimeError(
                "adjoint=recomputed and adjoint=difference are once differentiable; got create_graph=True. "
                "Use adjoint=kept for a further derivative."
            )
        path, *parameters = ctx.saved_tensors
        theta_bar = [torch.zeros_like(p) for p in parameters]
        v_bar = torch.zeros_like(lam_bar)
        with torch.autocast(**ctx.autocast):
            check_loss(ctx.losses[0], path[0], ctx.first_values)
        # Differences of what bfloat16 rounds are mostly rounding.
        exactly = ctx.autocast | dict(enabled=ctx.autocast["enabled"] and ctx.product is not _difference_product)
        with torch.autocast(**exactly):
            for loss, lam in zip(reversed(ctx.losses), path.flip(0), strict=True):
                v_bar = v_bar + ctx.step.lr * lam_bar
                to_lam, *to_theta = ctx.product(loss, lam, parameters, v_bar, ctx.step.clip)
                lam_bar = lam_bar - to_lam
                for total, part in zip(theta_bar, to_theta, strict=True):
                    total -= part
                v_bar = ctx.step.momentum * v_bar
        return None, None, None, None, None, lam_bar, *theta_bar


def _reversed(product: Callable, losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
    """Find λ_K first, noting which leaves lie under the losses; then hang the reverse pass on it."""
    if not torch.is_grad_enabled():
        return detached(losses, lam, step)
    if any(torch.is_tensor(setting) and setting.requires_grad for setting in step):
        raise ValueError("lr, momentum and clip must be numbers here; got one that wants a gradient. Use adjoint=kept.")
    leaves, first_values = {}, []

    def watched(loss: Loss) -> Loss:
        def evaluate(value: Tensor) -> Tensor:
            values = loss(value)
            leaves.update((id(leaf), leaf) for leaf in leaves_under(values) if leaf is not value)
            if not first_values:
                first_values.append(values.detach())
            return values

        return evaluate

    path = list(svi(map(watched, losses), lam.detach(), **step._asdict()))
    refuse_hooks(leaves.values())
    return _Refine.apply(product, losses, path, *first_values, step, lam, *leaves.values())


def _exact_product(loss: Loss, lam: Tensor, parameters: list[Tensor], v: Tensor, clip: float | None) -> list[Tensor]:
    """The pull-back of v through λ, θ ↦ clip(∇_λ loss), by differentiating the gradient once more."""
    with torch.enable_grad():
        lam = lam.detach().requires_grad_()
        values = loss(lam)
        (gradient,) = _grad(values, [lam], torch.ones_like(values), create_graph=True)
        gradient = gradient if clip is None else clip_rows(gradient, clip)
    if not gradient.requires_grad:  # the loss is linear in λ
        return [torch.zeros_like(t) for t in (lam, *parameters)]
    try:
        return _grad(gradient, [lam, *parameters], v)
    except (RuntimeError, NotImplementedError) as error:
        error.add_note("The loss must have a second derivative for adjoint=recomputed; use adjoint=difference.")
        raise


def _difference_product(
    loss: Loss, lam: Tensor, parameters: list[Tensor], v: Tensor, clip: float | None
) -> list[Tensor]:
    """The same from two gradients, at λ ± r w, with the step r of each row scaled to its ‖w‖ and ‖λ‖."""
    lam = lam.detach().requires_grad_()
    if clip is not None:
        with torch.enable_grad():
            gradient = _gradient(loss, [lam])[0].requires_grad_()
            (v,) = torch.autograd.grad(clip_rows(gradient, clip), gradient, v)
    length = v.double().norm(dim=-1, keepdim=True)
    far = torch.finfo(v.dtype).eps ** (1 / 3) * lam.detach().norm(dim=-1, keepdim=True).clamp_min(1)
    r = (far / length.where(length > 0, 1)).to(v)
    apart = []
    for sign in (1, -1):
        moved = (lam + sign * r * v).detach().requires_grad_()
        apart.append(_gradient(loss, [moved, *parameters], 0.5 / r[:, 0]))
    return [plus - minus for plus, minus in zip(*apart, strict=True)]


def _gradient(loss: Loss, inputs: list[Tensor], weight: Tensor | None = None) -> list[Tensor]:
    with torch.enable_grad():
        values = loss(inputs[0])
    return _grad(values, inputs, torch.ones_like(values) if weight is None else weight.to(values))


def _grad(outputs: Tensor, inputs: list[Tensor], v: Tensor, create_graph: bool = False) -> list[Tensor]:
    # The graph above a loss, such as a product that all steps share, must survive this step.
    return list(
        torch.autograd.grad(outputs, inputs, v, retain_graph=True, create_graph=create_graph, materialize_grads=True)
    )
