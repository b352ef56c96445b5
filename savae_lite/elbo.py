"""Lower bounds on log p(x), one value per example, in nats.

What is maximised is called ``elbo``; what is minimised, ``nelbo``. Nothing here draws noise, averages over rows or
knows a model: a likelihood is a function from z ``(S, B, D)`` to ``(S, B)``.
"""

import math
from collections.abc import Callable

from torch import Tensor

from savae_lite.gaussian import kl, log_prob, reparameterize

LogDensity = Callable[[Tensor], Tensor]


def elbo(log_likelihood: LogDensity, lam: Tensor, eps: Tensor, *, beta: float = 1.0) -> Tensor:
    """ELBO(λ) = E_q[log p(x|z)] − β KL(q(z; λ) ‖ p(z)), the divergence in closed form (Kim et al. 2018, eq. 2).

    log_likelihood: z ``(S, B, D)`` ↦ ``(S, B)``; lam ``(B, 2D)``; eps ``(S, B, D)``; returns ``(B,)``.
    β = 1 is the bound; any other β is an annealed objective and bounds nothing.
    """
    z = reparameterize(lam, eps)
    return _check_values(log_likelihood(z), z).mean(0) - beta * kl(lam)


def nelbo(log_likelihood: LogDensity, lam: Tensor, eps: Tensor, *, beta: float = 1.0) -> Tensor:
    """−ELBO(λ), the loss; arguments and shapes as in `elbo`."""
    return -elbo(log_likelihood, lam, eps, beta=beta)


def elbo_mc(log_joint: LogDensity, lam: Tensor, eps: Tensor) -> Tensor:
    """E_q[log p(x, z) − log q(z; λ)], all of it by Monte Carlo (Kingma & Welling 2014, eq. 6).

    At the exact posterior it equals log p(x) for every ε. Shapes as in `elbo`; returns ``(B,)``.
    """
    return _log_weights(log_joint, lam, eps).mean(0)


def iwae(log_joint: LogDensity, lam: Tensor, eps: Tensor) -> Tensor:
    """log (1/S) Σ_s p(x, z_s) / q(z_s; λ), a bound that rises to log p(x) with S (Burda et al. 2016, eq. 8).

    Shapes as in `elbo`; returns ``(B,)``. S = 1 is `elbo_mc`.
    """
    return _log_weights(log_joint, lam, eps).logsumexp(0) - math.log(len(eps))


def _log_weights(log_joint: LogDensity, lam: Tensor, eps: Tensor) -> Tensor:
    z = reparameterize(lam, eps)
    return _check_values(log_joint(z), z) - log_prob(lam, z)


def _check_values(values: Tensor, z: Tensor) -> Tensor:
    if values.shape != z.shape[:2]:
        raise ValueError(
            f"the log-density must return one value per sample and row, {tuple(z.shape[:2])} for z {tuple(z.shape)}; "
            f"got {tuple(values.shape)}. Sum over tokens or pixels, not over rows."
        )
    return values
