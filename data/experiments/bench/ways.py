"""The ways that are compared. Each is made from an LSTMVAE and has ``step``, which leaves gradients, and
``gradients``, which returns them by the names of the LSTMVAE's parameters.
"""

from functools import partial

from compiled import Compiled
from libraries import Higher, TorchOpt
from published import Cleaned, Published
from torch import Tensor

from savae_lite import adjoint
from savae_lite.savae import savae_loss


class Ours:
    """`savae_loss`, differentiated the way that ``adjoint`` says; without a way, the plain VAE."""

    def __init__(self, model, adjoint=None) -> None:
        self.model, self.adjoint = model, adjoint

    def step(self, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> None:
        """Leave the gradients of −ELBO(λ_K), a mean over rows, on the model."""
        self.model.zero_grad(set_to_none=True)
        if self.adjoint is None:
            loss = savae_loss(self.model, x, eps[-1:], lr=rate)
        else:
            loss = savae_loss(self.model, x, eps, lr=rate, momentum=momentum, adjoint=self.adjoint)
        loss.mean().backward()

    def gradients(self) -> dict[str, Tensor]:
        """By name; empty parameters left out."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.numel()}


SLOW_TO_START = ("compiled",)  # left out of a quick run
OURS = ("kept", "recomputed", "difference")

WAYS = {
    "vae": Ours,
    "published": Published,
    "published, not clipped": partial(Published, clip=None),
    "cleaned": Cleaned,
    "torchopt": TorchOpt,
    "higher": Higher,
    "compiled": Compiled,
    **{name: partial(Ours, adjoint=getattr(adjoint, name)) for name in OURS},
}
