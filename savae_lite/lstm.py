"""An LSTM of plain operations, which can be differentiated as often as one likes, on every device.

cuDNN's LSTM has no second derivative, and a semi-amortized VAE needs one. The product of the inputs with their
weights is left to the caller: it does not depend on the state, so it is computed once, for all time steps at a time,
and shared by all inner steps of SVI.
"""

import torch
from torch import Tensor


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

    gates ``(T, N, 4H)`` as in `cell`, recurrent ``(H, 4H)``, first state h ``(N, H)``.
    """
    states, c = [], torch.zeros_like(h)
    for now in gates.unbind(0):
        h, c = cell(now, recurrent, h, c)
        states.append(h)
    return torch.stack(states)
