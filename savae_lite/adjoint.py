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
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from savae_lite.svi import Loss, clip_rows, last, svi


class Step(NamedTuple):
    """The settings of one step of `svi`."""

    lr: float
    momentum: float = 0.0
    clip: float | None = None


Adjoint = Callable[[Sequence[Loss], Tensor, Sequence[Tensor], Step], Tensor]


def kept(losses: Sequence[Loss], lam: Tensor, parameters: Sequence[Tensor], step: Step) -> Tensor:
    """λ_K with the graph of every step kept."""
    return last(svi(losses, lam, **step._asdict(), differentiable=True))


def detached(losses: Sequence[Loss], lam: Tensor, parameters: Sequence[Tensor], step: Step) -> Tensor:
    """λ_K as a constant."""
    return last(svi(losses, lam, **step._asdict())).detach()


def recomputed(losses: Sequence[Loss], lam: Tensor, parameters: Sequence[Tensor], step: Step) -> Tensor:
    """λ_K whose reverse pass computes each step again, exactly; once differentiable."""
    return _Refine.apply(_exact_product, losses, step, lam, *parameters)


def difference(losses: Sequence[Loss], lam: Tensor, parameters: Sequence[Tensor], step: Step) -> Tensor:
    """λ_K whose reverse pass needs first derivatives only, by central differences; once differentiable."""
    return _Refine.apply(_difference_product, losses, step, lam, *parameters)


def refine(
    losses: Iterable[Loss],
    lam: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    clip: float | None = None,
    adjoint: Adjoint = kept,
    parameters: Iterable[Tensor] | None = None,
) -> Tensor:
    """λ_K ``(B, P)`` after K steps of `svi` from lam ``(B, P)``, differentiable the way ``adjoint`` says.

    With w_k the pull-back of v̄ through the clip, the reverse pass is (Kim et al. 2018, algorithm 1)

        v̄ ← v̄ + lr λ̄,   λ̄ ← λ̄ − ∇²_λλ f_k w_k,   θ̄ ← θ̄ − ∇²_θλ f_k w_k,   v̄ ← momentum v̄.

    losses, lr, momentum and clip as in `svi`; momentum and clipping are part of what is differentiated. ``parameters``
    are the tensors inside the losses that get a gradient from `recomputed` and `difference`. Left out, they are the
    leaves that the first loss depends on, at the price of evaluating it once more. A product that all steps share can
    be named instead of what it is made of, and is then not differentiated K times. Raises ValueError where a loss holds
    a tensor that is not reached by those named. K = 0 returns lam.
    """
    losses, parameters = list(losses), None if parameters is None else tuple(parameters)
    if not losses:
        return lam
    if adjoint in (recomputed, difference) and torch.is_grad_enabled():
        found = _leaves(losses[0], lam, parameters or ())
        parameters = found if parameters is None else _all_named(parameters, found)
    return adjoint(losses, lam, parameters or (), Step(lr, momentum, clip))


class _Refine(torch.autograd.Function):
    """K steps forward without a graph; backward, one product with the second derivatives a step."""

    @staticmethod
    def forward(ctx, product, losses, step, lam, *parameters):
        path = torch.stack(list(svi(losses, lam, **step._asdict())))
        ctx.product, ctx.losses, ctx.step = product, losses, step
        device = lam.device.type
        ctx.autocast = dict(
            device_type=device,
            enabled=torch.is_autocast_enabled(device),
            dtype=torch.get_autocast_dtype(device),
        )
        ctx.save_for_backward(path[:-1], *parameters)
        return path[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx, lam_bar):
        path, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[4:]
        wanted = [p for p, need in zip(parameters, needed, strict=True) if need]
        theta_bar = [torch.zeros_like(p) for p in wanted]
        v_bar = torch.zeros_like(lam_bar)
        with torch.autocast(**ctx.autocast):
            for loss, lam in zip(reversed(ctx.losses), path.flip(0), strict=True):
                v_bar = v_bar + ctx.step.lr * lam_bar
                to_lam, *to_theta = ctx.product(loss, lam, wanted, v_bar, ctx.step.clip)
                lam_bar = lam_bar - to_lam
                theta_bar = [total - part for total, part in zip(theta_bar, to_theta, strict=True)]
                v_bar = ctx.step.momentum * v_bar
        found = iter(theta_bar)
        return None, None, None, lam_bar, *(next(found) if need else None for need in needed)


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
    """The same from two gradients, at λ ± r w, with the step r of each row scaled to its ‖w‖."""
    lam = lam.detach().requires_grad_()
    if clip is not None:
        with torch.enable_grad():
            gradient = _gradient(loss, [lam])[0].requires_grad_()
            (v,) = torch.autograd.grad(clip_rows(gradient, clip), gradient, v)
    length = v.norm(dim=-1, keepdim=True)
    r = torch.finfo(v.dtype).eps ** (1 / 3) / length.where(length > 0, 1)
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


def _leaves(loss: Loss, lam: Tensor, stops: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The leaves under a loss that need a gradient, without λ and without what lies behind ``stops``."""
    with torch.enable_grad():
        lam = lam.detach().requires_grad_()
        values = loss(lam)
    closed = {tensor.grad_fn for tensor in stops if tensor.grad_fn is not None}
    ahead, seen, leaves = [values.grad_fn], set(), []
    while ahead:
        node = ahead.pop()
        if node is None or node in seen or node in closed:
            continue
        seen.add(node)
        if hasattr(node, "variable") and node.variable is not lam:
            leaves.append(node.variable)
        ahead.extend(parent for parent, _ in node.next_functions)
    return tuple(leaves)


def _all_named(parameters: tuple[Tensor, ...], found: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    missing = [leaf for leaf in found if not any(leaf is tensor for tensor in parameters)]
    if missing:
        raise ValueError(
            f"parameters must reach every tensor inside the losses that needs a gradient; got {len(parameters)}, and "
            f"{len(missing)} not reached, one of shape {tuple(missing[0].shape)}. Add them, or leave parameters out."
        )
    return parameters
