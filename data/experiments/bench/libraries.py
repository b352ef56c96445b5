"""The same gradient by the unrolls of two libraries, on torch's own LSTM and cross-entropy.

The libraries are imported where they are used: what only measures our own ways does not need them.
"""

import torch
from stock import Stock, twice_differentiable
from torch import Tensor, nn


class TorchOpt:
    """`torchopt.sgd`, whose updates are differentiable, with λ as its one parameter."""

    def __init__(self, model) -> None:
        import torchopt

        self.library, self.model = torchopt, Stock(model)

    def step(self, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> None:
        """Leave the gradients of −ELBO(λ_K), a mean over rows, on the model."""
        self.model.zero_grad(set_to_none=True)
        *inner, outer = eps
        optimiser = self.library.sgd(rate, momentum=momentum, moment_requires_grad=True)
        with twice_differentiable():
            lam = (self.model.encode(x),)
            state = optimiser.init(lam)
            for e in inner:
                loss = self.model.nelbo(x, lam[0], e).sum()
                gradient = torch.autograd.grad(loss, lam, create_graph=True)
                updates, state = optimiser.update(gradient, state, inplace=False)
                lam = self.library.apply_updates(lam, updates, inplace=False)
            self.model.nelbo(x, lam[0], outer).mean().backward()

    def gradients(self) -> dict[str, Tensor]:
        """By the names of the LSTMVAE."""
        return self.model.gradients()


class Higher:
    """`higher.innerloop_ctx` on a module whose one parameter is λ."""

    def __init__(self, model) -> None:
        import higher

        self.library, self.model = higher, Stock(model)

    def step(self, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> None:
        """Leave the gradients of −ELBO(λ_K), a mean over rows, on the model."""
        self.model.zero_grad(set_to_none=True)
        *inner, outer = eps
        with twice_differentiable():
            lam_0 = self.model.encode(x)
            start = _Lambda(lam_0)
            optimiser = torch.optim.SGD(start.parameters(), lr=rate, momentum=momentum)
            with self.library.innerloop_ctx(start, optimiser, copy_initial_weights=False) as (now, differentiable):
                for e in inner:
                    differentiable.step(self.model.nelbo(x, now(), e).sum())
                self.model.nelbo(x, now(), outer).mean().backward()
            lam_0.backward(start.lam.grad)

    def gradients(self) -> dict[str, Tensor]:
        """By the names of the LSTMVAE."""
        return self.model.gradients()


class _Lambda(nn.Module):
    def __init__(self, lam: Tensor) -> None:
        super().__init__()
        self.lam = nn.Parameter(lam.detach().clone())

    def forward(self) -> Tensor:
        return self.lam
