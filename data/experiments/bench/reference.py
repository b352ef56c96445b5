"""What every gradient is compared with: the inner loop unrolled by hand in float64, on torch's own LSTM.

Nothing of the ways that are measured is used here but the model's own formula.
"""

from typing import NamedTuple

import torch
from stock import Stock, twice_differentiable
from torch import Tensor


class Reference(NamedTuple):
    """The gradients by name, and by how much the reverse pass amplifies: ‖λ̄₀‖ / ‖λ̄_K‖."""

    gradients: dict[str, Tensor]
    growth: float


def reference(model, x: Tensor, eps: Tensor, *, rate: float, momentum: float) -> Reference:
    """The exact gradients of the mean over rows of −ELBO(λ_K)."""
    stock, eps = Stock(model).double(), eps.double()
    with twice_differentiable():
        lam_0 = lam = stock.encode(x)
        velocity = torch.zeros_like(lam)
        for e in eps[:-1]:
            (gradient,) = torch.autograd.grad(stock.nelbo(x, lam, e).sum(), lam, create_graph=True)
            velocity = momentum * velocity - gradient
            lam = lam + rate * velocity
        lam_0.retain_grad()
        stock.nelbo(x, lam, eps[-1]).mean().backward()
        # λ_K's own share: λ₀'s gradient runs through all steps, this one through none
        end = lam.detach().requires_grad_()
        (lam_bar,) = torch.autograd.grad(stock.nelbo(x, end, eps[-1]).mean(), end)
    return Reference(stock.gradients(), (lam_0.grad.norm() / lam_bar.norm()).item())
