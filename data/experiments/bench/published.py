"""The published way (Kim et al. 2018, algorithm 1 and its released program), told again in our own words.

Both Hessian products of a step come from one more gradient, at λ + r v with r = 1e-5. Four properties of the program
that cost time, memory or accuracy are kept: the loss is a batch mean, summed over time steps one by one; the decoder's
gradient is stored for every step; gradients are clipped before they are subtracted, and the stored ones of the decoder
not at all. Nothing that the program spends beside the scheme, such as a bound for its log, is charged to it.
"""

import torch
import torch.nn.functional as F
from stock import Stock
from torch import Tensor

from savae_lite.gaussian import kl, reparameterize

R = 1e-5
CLIP = 5.0


class Published:
    """One training step's gradients, the published way."""

    def __init__(self, model, clip: float | None = CLIP, r: float = R) -> None:
        self.model, self.clip, self.r = Stock(model), clip, r
        self.theta = self.model.decoder()
        self.stored: list[Tensor] = []

    def step(self, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> None:
        """Leave the gradients of −ELBO(λ_K), a mean over rows, on the model. ``rate`` is one row's."""
        self.model.zero_grad(set_to_none=True)
        lam_0 = self.model.encode(x)
        rate = rate * len(x)  # of a mean
        path, gradients = self._forward(x, lam_0.detach(), eps[:-1], rate, momentum)
        lam_k = path[-1].requires_grad_()
        self._loss(x, lam_k, eps[-1]).backward()
        lam_bar = self._reverse(x, path, gradients, eps[:-1], lam_k.grad, rate, momentum)
        lam_0.backward(lam_bar)

    def gradients(self) -> dict[str, Tensor]:
        """By the names of the LSTMVAE."""
        return self.model.gradients()

    def _loss(self, x: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        z = reparameterize(lam, eps)[0]
        log_p = self.model.logits(x, z).log_softmax(-1)
        return sum(F.nll_loss(log_p[:, t], x[:, t + 1]) for t in range(log_p.shape[1])) + kl(lam).mean()

    def _forward(self, x, lam, eps, rate, momentum):
        self._reserve(len(eps))
        path, gradients, velocity = [lam], [], torch.zeros_like(lam)
        for k, e in enumerate(eps):
            gradient, *to_theta = self._gradient(x, lam, e)
            for half in gradient.chunk(2, -1):
                self._clip([half])
            self._store(k, to_theta)
            gradients.append(gradient)
            velocity = momentum * velocity - gradient
            lam = lam + rate * velocity
            path.append(lam)
        return path, gradients

    def _reverse(self, x, path, gradients, eps, lam_bar, rate, momentum):
        v_bar = torch.zeros_like(lam_bar)
        for k in reversed(range(len(eps))):
            v_bar = v_bar + rate * lam_bar
            moved, *to_theta = parts = self._gradient(x, path[k] + self.r * v_bar, eps[k])
            self._clip(parts)
            self._subtract(k, to_theta)
            lam_bar = lam_bar - (moved - gradients[k]) / self.r
            self._clip(list(lam_bar.chunk(2, -1)))
            v_bar = momentum * v_bar
        return lam_bar

    def _gradient(self, x: Tensor, lam: Tensor, eps: Tensor) -> list[Tensor]:
        lam = lam.detach().requires_grad_()
        return list(torch.autograd.grad(self._loss(x, lam, eps), [lam, *self.theta]))

    def _clip(self, parts: list[Tensor]) -> None:
        """Scale the parts, in place, to at most the norm ``clip`` all together."""
        if self.clip is not None:
            length = torch.stack([part.norm() for part in parts]).norm()
            factor = (self.clip / (length + 1e-6)).clamp(max=1.0)
            for part in parts:
                part.mul_(factor)

    def _reserve(self, steps: int) -> None:
        if not self.stored or len(self.stored[0]) != steps:
            self.stored = [p.new_zeros(steps, *p.shape) for p in self.theta]

    def _store(self, k: int, to_theta: list[Tensor]) -> None:
        for kept, gradient in zip(self.stored, to_theta, strict=True):
            kept[k].copy_(gradient)

    def _subtract(self, k: int, to_theta: list[Tensor]) -> None:
        products = [(moved - kept[k]) / self.r for moved, kept in zip(to_theta, self.stored, strict=True)]
        self._clip(products)
        for p, product in zip(self.theta, products, strict=True):
            p.grad -= product


class Cleaned(Published):
    """The same differences, unclipped, with one buffer for the decoder and one call for the loss."""

    def __init__(self, model, r: float = R) -> None:
        super().__init__(model, None, r)

    def _loss(self, x: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        return self.model.nelbo(x, lam, eps).mean()

    def _reserve(self, steps: int) -> None:
        self.stored = [torch.zeros_like(p) for p in self.theta]

    def _store(self, k: int, to_theta: list[Tensor]) -> None:
        torch._foreach_add_(self.stored, to_theta)

    def _subtract(self, k: int, to_theta: list[Tensor]) -> None:
        torch._foreach_sub_(self.stored, to_theta)

    def _reverse(self, *arguments):
        lam_bar = super()._reverse(*arguments)
        torch._foreach_add_([p.grad for p in self.theta], self.stored, alpha=1 / self.r)
        self.stored = []
        return lam_bar
