"""An LSTM that can be differentiated as often as one likes, on every device.

cuDNN's LSTM has no second derivative, and a semi-amortized VAE needs one. The product of the inputs with their
weights is left to the caller: it does not depend on the state, so it is computed once, for all time steps at a time,
and shared by all inner steps of SVI.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from savae_lite import twice


def cell(gates: Tensor, recurrent: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One time step (Hochreiter & Schmidhuber 1997, with a forget gate).

    gates ``(N, 4H) = [input | forget | output | candidate]`` holds W x + b; recurrent ``(H, 4H)``; h and c
    ``(N, H)``. Returns the new h and c.
    """
    hidden = h.shape[-1]
    gates = torch.addmm(gates, h, recurrent)
    i, f, o = gates[:, : 3 * hidden].sigmoid().chunk(3, dim=-1)
    c = f * c + i * gates[:, 3 * hidden :].tanh()
    return o * c.tanh(), c


def lstm(gates: Tensor, recurrent: Tensor, h: Tensor) -> Tensor:
    """All hidden states ``(T, N, H)`` of a sequence, from c = 0.

    gates ``(T, N, 4H)`` as in `cell`, recurrent ``(H, 4H)``, first state h ``(N, H)``. One operation for all steps:
    its derivatives are written by hand, and are those of `plain_lstm`.
    """
    if gates.dim() != 3 or len(gates) < 1 or gates.shape[1:] != (len(h), recurrent.shape[1]):
        raise ValueError(
            f"gates must be (T, N, 4H) with T ≥ 1, h (N, H), recurrent (H, 4H); got {tuple(gates.shape)}, "
            f"{tuple(h.shape)}, {tuple(recurrent.shape)}. T counts time steps, N rows."
        )
    return twice.apply(LAYER, gates, h, recurrent)


def plain_lstm(gates: Tensor, h: Tensor, recurrent: Tensor) -> Tensor:
    """What `lstm` computes, as `cell` after `cell`."""
    states, c = [], torch.zeros_like(h)
    for now in gates.unbind(0):
        h, c = cell(now, recurrent, h, c)
        states.append(h)
    return torch.stack(states)


def _forward(gates: Tensor, h: Tensor, recurrent: Tensor):
    """The states, and with them all states from h on, the cells from 0 on, their tanh, and [i | f | o | g]."""
    length, rows, hidden = len(gates), *h.shape
    states, cells = gates.new_empty(length + 1, rows, hidden), gates.new_empty(length + 1, rows, hidden)
    squashed = gates.new_empty(length, rows, hidden)
    active = torch.empty_like(gates, memory_format=torch.contiguous_format)
    states[0], cells[0] = h, 0
    for t, now in enumerate(active):
        torch.addmm(gates[t], states[t], recurrent, out=now)
        now[:, : 3 * hidden].sigmoid_()
        now[:, 3 * hidden :].tanh_()
        i, f, o, g = now.chunk(4, -1)
        torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
        torch.mul(o, torch.tanh(cells[t + 1], out=squashed[t]), out=states[t + 1])
    return states[1:], (states, cells, squashed, active)


class _Slopes(NamedTuple):
    """The derivatives of one step, for all T: ∂c/∂(i, f, g) and ∂h/∂o before the activations, ∂h/∂c and ∂c/∂c."""

    gates: Tensor  # (T, N, 4, H)
    cell: Tensor  # (T, N, H)
    forget: Tensor  # (T, N, H)


def _slopes(cells: Tensor, squashed: Tensor, active: Tensor) -> tuple[_Slopes, Tensor]:
    """The slopes, and those of the activations alone ``(T, N, 4, H)``."""
    active = active.unflatten(-1, (4, -1))
    i, f, o, g = active.unbind(2)
    own = active * (1 - active)
    torch.addcmul(torch.ones((), dtype=g.dtype, device=g.device), g, g, value=-1, out=own[:, :, 3])
    gates = torch.empty_like(own)
    for k, factor in enumerate((g, cells[:-1], squashed, i)):
        torch.mul(own[:, :, k], factor, out=gates[:, :, k])
    return _Slopes(gates, o * (1 - squashed * squashed), f), own


def _backward(slopes: _Slopes, recurrent: Tensor, to_h: Tensor | None, to_c=None, to_gates=None):
    """Gradients at the gates ``(T, N, 4, H)``, h and c ``(T, N, H)``, from those that reach them from outside."""
    gates, back = torch.empty_like(slopes.gates), recurrent.T
    h, c = torch.empty_like(slopes.cell), torch.empty_like(slopes.cell)
    for t in reversed(range(len(gates))):
        if t + 1 == len(gates):
            h[t] = 0 if to_h is None else to_h[t]
            torch.mul(h[t], slopes.cell[t], out=c[t])
        else:
            after = gates[t + 1].flatten(1)
            torch.mm(after, back, out=h[t]) if to_h is None else torch.addmm(to_h[t], after, back, out=h[t])
            torch.mul(c[t + 1], slopes.forget[t + 1], out=c[t]).addcmul_(h[t], slopes.cell[t])
        if to_c is not None:
            c[t] += to_c[t]
        torch.mul(slopes.gates[t], c[t][:, None], out=gates[t])
        torch.mul(slopes.gates[t, :, 2], h[t], out=gates[t, :, 2])
        if to_gates is not None:
            gates[t] += to_gates[t]
    return gates, h, c


def _gradient(inputs, saved, bar, asked):
    (_, _, recurrent), (states, *rest) = inputs, saved
    slopes, _ = _slopes(*rest)
    gates, h, c = _backward(slopes, recurrent, bar)
    flat = gates.flatten(2)
    to_recurrent = states[:-1].flatten(0, 1).T @ flat.flatten(0, 1) if asked[2] else None
    return (flat, flat[0] @ recurrent.T, to_recurrent), (flat, h, c)


def _tangent(slopes: _Slopes, recurrent: Tensor, gates: Tensor | None, h: Tensor | None):
    """How gates ``(T, N, 4, H)``, h and c ``(T + 1, N, H)`` move when the inputs move by ``gates`` and ``h``."""
    length, rows, _, hidden = slopes.gates.shape
    moved = torch.zeros_like(slopes.gates) if gates is None else gates.unflatten(-1, (4, -1)).clone()
    states, cells = slopes.cell.new_zeros(2, length + 1, rows, hidden)
    if h is not None:
        states[0] = h
    for t in range(length):
        moved[t].flatten(1).addmm_(states[t], recurrent)
        parts = moved[t] * slopes.gates[t]
        torch.mul(slopes.forget[t], cells[t], out=cells[t + 1]).add_(parts[:, :2].sum(1)).add_(parts[:, 3])
        torch.addcmul(parts[:, 2], slopes.cell[t], cells[t + 1], out=states[t + 1])
    return moved, states, cells


def _moved_slopes(own: Tensor, saved, moved: Tensor, cells_moved: Tensor):
    """How the slopes move with the gates and the cells."""
    _, cells, squashed, active = saved
    active = active.unflatten(-1, (4, -1))
    i, _, o, g = active.unbind(2)
    active_moved = own * moved
    i_moved, f_moved, o_moved, g_moved = active_moved.unbind(2)
    squashed_moved = (1 - squashed * squashed) * cells_moved[1:]
    # own moves by (1 − 2a) ȧ for a sigmoid, −2a ȧ for tanh
    gates = (active * active_moved).mul_(-2)
    gates[:, :, :3] += active_moved[:, :, :3]
    factors, factors_moved = (g, cells[:-1], squashed, i), (g_moved, cells_moved[:-1], squashed_moved, i_moved)
    for k, (factor, factor_moved) in enumerate(zip(factors, factors_moved, strict=True)):
        gates[:, :, k].mul_(factor).addcmul_(own[:, :, k], factor_moved)
    return _Slopes(gates, o_moved * (1 - squashed * squashed) - 2 * o * squashed * squashed_moved, f_moved)


def _product(inputs, saved, bar, more, directions, asked):
    """Pearlmutter's R-operator: the tangent pass, then the backward pass of what it moved."""
    (_, _, recurrent), (states, *rest), (gates, h, c) = inputs, saved, more
    slopes, own = _slopes(*rest)
    moved, states_moved, cells_moved = _tangent(slopes, recurrent, *directions)
    bent = _moved_slopes(own, saved, moved, cells_moved)
    to_gates = bent.gates * c[:, :, None]
    torch.mul(bent.gates[:, :, 2], h, out=to_gates[:, :, 2])
    to_c = h * bent.cell
    to_c[:-1] += c[1:] * bent.forget[1:]
    back = _backward(slopes, recurrent, None, to_c, to_gates)[0].flatten(2)
    to_recurrent = None
    if asked[2]:
        to_recurrent = states_moved[:-1].flatten(0, 1).T @ gates.flatten(0, 1)
        to_recurrent.addmm_(states[:-1].flatten(0, 1).T, back.flatten(0, 1))
    return states_moved[1:], (back, back[0] @ recurrent.T, to_recurrent)


LAYER = twice.Layer(plain_lstm, _forward, _gradient, _product, data=2)


class LSTMEncoder(nn.Module):
    """Token ids x ``(B, T)`` ↦ λ ``(B, 2D)``: an affine map of the last state of an LSTM that read them (Kim et al.
    2018, §5.2).

    Weights start uniform in ±``scale``. Ids are not checked here: the model whose tokens they are knows its vocabulary.
    """

    def __init__(
        self, vocabulary: int, *, embedding: int, hidden: int, latent: int, generator: torch.Generator, scale=0.1
    ) -> None:
        super().__init__()
        uniform = uniform_parameters(scale, generator)
        self.words, self.bias = uniform(vocabulary, embedding), uniform(4 * hidden)
        self.input, self.recurrent = uniform(embedding, 4 * hidden), uniform(hidden, 4 * hidden)
        self.output, self.output_bias = uniform(hidden, 2 * latent), uniform(2 * latent)

    def forward(self, x: Tensor) -> Tensor:
        """λ ``(B, 2D)`` of token ids x ``(B, T)``."""
        gates = self.words[x.T] @ self.input + self.bias
        state = lstm(gates, self.recurrent, gates.new_zeros(len(x), len(self.recurrent)))[-1]
        return state @ self.output + self.output_bias


def uniform_parameters(scale: float, generator: torch.Generator) -> Callable[..., nn.Parameter]:
    """A function from a shape to a parameter drawn uniformly from ±``scale``, on the generator's device."""

    def uniform(*shape: int, scale: float = scale) -> nn.Parameter:
        empty = torch.empty(shape, device=generator.device)
        return nn.Parameter(empty.uniform_(-scale, scale, generator=generator))

    return uniform
