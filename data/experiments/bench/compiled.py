"""The same gradient by `torch.compile`: the inner gradient of plain operations, fused by the compiler, and unrolled.

It needs a C++ compiler and compiles anew for every shape, about a minute each; that minute is not in the times.
"""

from functools import cache

import torch
from torch import Tensor

from savae_lite.gaussian import kl, reparameterize
from savae_lite.lstm import plain_lstm
from savae_lite.softmax import plain_log_probability


def nelbo(lam: Tensor, eps: Tensor, targets: Tensor, gates: Tensor, *decoder: Tensor) -> Tensor:
    """−ELBO, the sum over rows; the decoder is (z_input, z_state, z_state_bias, recurrent, output, output_bias)."""
    z_input, z_state, z_state_bias, recurrent, output, output_bias = decoder
    z = reparameterize(lam, eps)[0]
    states = plain_lstm(gates + z @ z_input, z @ z_state + z_state_bias, recurrent)
    return kl(lam).sum() - plain_log_probability(states.flatten(0, 1), output, output_bias, targets).sum()


@cache
def gradient():
    """The compiled gradient in λ, one for all instances."""
    return torch.compile(torch.func.grad(nelbo), dynamic=False)


class Compiled:
    """One training step's gradients, for a decoder without skip and dropout."""

    def __init__(self, model) -> None:
        self.model, self.gradient = model, gradient()

    def step(self, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> None:
        """Leave the gradients of −ELBO(λ_K), a mean over rows, on the model."""
        model = self.model
        model.zero_grad(set_to_none=True)
        gates = model.words[x[:, :-1].T] @ model.input + model.bias
        fixed = (x[:, 1:].T.flatten(), gates, model.z_input, model.z_state, model.z_state_bias, model.recurrent,
                 model.output, model.output_bias)  # fmt: skip
        lam = model.encode(x)
        velocity = torch.zeros_like(lam)
        for e in eps[:-1]:
            velocity = momentum * velocity - self.gradient(lam, e, *fixed)
            lam = lam + rate * velocity
        (nelbo(lam, eps[-1], *fixed) / len(x)).backward()

    def gradients(self) -> dict[str, Tensor]:
        """By name; empty parameters left out."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.numel()}
