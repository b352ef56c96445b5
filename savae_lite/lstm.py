"""An LSTM of plain operations, which can be differentiated as often as one likes, on every device.

cuDNN's LSTM has no second derivative, and a semi-amortized VAE needs one. The product of the inputs with their
weights is left to the caller: it does not depend on the state, so it is computed once, for all time steps at a time,
and shared by all inner steps of SVI.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


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
    """A function from a shape to a parameter drawn uniformly from ±``scale``."""

    def uniform(*shape: int, scale: float = scale) -> nn.Parameter:
        return nn.Parameter(torch.empty(shape).uniform_(-scale, scale, generator=generator))

    return uniform
