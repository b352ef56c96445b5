"""The output layer of a language model: an affine map, a softmax, and the log-probability of the token that came.

The array with a value for every token of the vocabulary is by far the largest of the model. It is made once, turned
into probabilities in place, and is all that the derivatives keep. `log_total` does not even make it once a step.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from savae_lite import twice

BLOCK = 2**20  # numbers


def log_probability(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """log softmax(states · weight + bias) at the targets: ``(M,)`` in nats.

    states ``(M, H)``, weight ``(H, V)``, bias ``(V,)``, targets ``(M,)`` int64 ids below V, which are not checked here.
    One operation with derivatives written by hand; they are those of `plain_log_probability`.
    """
    if states.dim() != 2 or targets.shape != states.shape[:1]:
        raise ValueError(
            f"states must be (M, H) and targets (M,); got {tuple(states.shape)} and {tuple(targets.shape)}. "
            "Flatten time, samples and rows to one dimension."
        )
    return twice.apply(LAYER, states, weight, bias, targets)


def plain_log_probability(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """What `log_probability` computes, of ordinary operations."""
    return torch.addmm(bias, states, weight).log_softmax(-1).gather(-1, targets[:, None])[:, 0]


def log_total(base: Tensor) -> Callable[[Tensor], Tensor]:
    """The function shift ``(S, B, V)`` ↦ log Σ_v exp(base_v + shift_v) ``(S, B, T)``, for base ``(B, T, V)``.

    Scores that only shift as z moves need few exponentials: Σ exp(base) exp(shift) is a product, whose first factor is
    computed here, once. A shift of one row, B = 1, serves all rows. Where base is so wide that the product could
    underflow, beyond 40 in float32, the sum is taken as it stands.
    """
    if base.dim() != 3:
        raise ValueError(f"base must be (B, T, V); got {tuple(base.shape)}. T counts time steps, B rows.")
    wide = -math.log(torch.finfo(base.dtype).tiny) / 2.2  # leaves room for 1 / total²
    if (base.detach().amax(-1) - base.detach().amin(-1)).max() > wide:
        return lambda shift: (base + _check_shift(shift, base)[:, :, None]).logsumexp(-1)
    top = base.detach().amax(-1, keepdim=True)
    share = (base - top).exp()

    def given(shift: Tensor) -> Tensor:
        _check_shift(shift, base)
        peak = shift.detach().amax(-1, keepdim=True)
        total = torch.einsum("btv,sbv->sbt", share, (shift - peak).exp())
        return total.log() + top[..., 0] + peak

    return given


def _check_shift(shift: Tensor, base: Tensor) -> Tensor:
    if shift.dim() != 3 or shift.shape[1] not in (1, len(base)) or shift.shape[2] != base.shape[2]:
        raise ValueError(
            f"shift must be (S, B, V) with B = {len(base)} or 1 and V = {base.shape[2]} to match base; "
            f"got {tuple(shift.shape)}. S counts samples."
        )
    return shift


def _forward(states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor):
    scores = torch.addmm(bias, states, weight)
    scores -= scores.amax(-1, keepdim=True)
    of_targets = scores.gather(-1, targets[:, None])[:, 0]
    total = scores.exp_().sum(-1)
    return of_targets - total.log(), (scores.div_(total[:, None]),)


def _gradient(inputs, saved, bar, asked):
    """With p the probabilities and y the target as an indicator, the gradient at the scores is bar (y − p)."""
    (states, weight, _, targets), (p,) = inputs, saved
    to_states = (weight.T[targets] - p @ weight.T).mul_(bar[:, None])
    weighted = bar[:, None] * states
    to_weight = _towards(weighted, targets, weighted.T @ p) if asked[1] else None
    to_bias = (-(bar @ p)).index_add_(0, targets, bar) if asked[2] else None
    return (to_states, to_weight, to_bias, None), ()


def _product(inputs, saved, bar, more, directions, asked):
    """When states move along v the scores move by s = v · weight, and p by p (s − ⟨p, s⟩).

    On a CPU what moves is made in blocks that fit its cache, and never lies in memory as a whole.
    """
    (states, weight, bias, targets), (p,), (v,) = inputs, saved, directions
    weighted, to_bar, to_states = bar[:, None] * states, torch.empty_like(bar), torch.empty_like(states)
    expected, to_bias = (weight.new_zeros(*weight.shape) if asked[1] else None), torch.zeros_like(bias)
    blocks = _blocks(len(bar), len(bias)) if p.device.type == "cpu" else [slice(None)]
    for block in blocks:
        moved = v[block] @ weight
        mean = torch.linalg.vecdot(p[block], moved)
        to_bar[block] = moved.gather(-1, targets[block, None])[:, 0] - mean
        p_moved = moved.sub_(mean[:, None]).mul_(p[block])
        torch.mm(p_moved, weight.T, out=to_states[block]).mul_(-bar[block, None])
        to_bias.addmv_(p_moved.T, bar[block], alpha=-1)
        if asked[1]:
            expected.addmm_(weighted[block].T, p_moved)
    to_weight = _towards(bar[:, None] * v, targets, expected.addmm_((bar[:, None] * v).T, p)) if asked[1] else None
    return to_bar, (to_states, to_weight, to_bias, None)


def _blocks(rows: int, columns: int) -> list[slice]:
    """Nearly equal parts of the rows, each of at most about ``BLOCK`` numbers."""
    ends = torch.linspace(0, rows, 1 + -(-rows * columns // BLOCK)).long().tolist()
    return [slice(start, end) for start, end in pairwise(ends)]


def _towards(rows: Tensor, targets: Tensor, expected: Tensor) -> Tensor:
    """Σ_m rows_m ⊗ y_m − expected, ``(H, V)``, in the memory of ``expected``."""
    return expected.neg_().index_add_(1, targets, rows.T)


LAYER = twice.Layer(plain_log_probability, _forward, _gradient, _product, data=1)
