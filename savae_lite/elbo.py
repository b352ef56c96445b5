"""Lower bounds on log p(x), one value per example, in nats.

What is maximised is called ``elbo``; what is minimised, ``nelbo``. Nothing here draws noise or knows a model: a
likelihood is a function from z ``(S, B, D)`` to ``(S, B)``. Nothing averages over rows, but for `free_bits`, which
is no bound.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from savae_lite.gaussian import kl, log_prob_of_noise, pack, reparameterize, unpack

LogDensity = Callable[[Tensor], Tensor]


def elbo(log_likelihood: LogDensity, lam: Tensor, eps: Tensor, *, beta: float | Tensor = 1.0) -> Tensor:
    """ELBO(λ) = E_q[log p(x|z)] − β KL(q(z; λ) ‖ p(z)), the divergence in closed form (Kim et al. 2018, eq. 2).

    log_likelihood: z ``(S, B, D)`` ↦ ``(S, B)``; lam ``(B, 2D)``; eps ``(S, B, D)``; returns ``(B,)``.
    β = 1 is the bound; any other β is an annealed objective and bounds nothing. It is a number, or one a row ``(B,)``.
    """
    z = reparameterize(lam, eps)
    _check_weight(beta, lam)
    return _check_values(log_likelihood(z), z).mean(0) - beta * kl(lam)


def nelbo(log_likelihood: LogDensity, lam: Tensor, eps: Tensor, *, beta: float | Tensor = 1.0) -> Tensor:
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


def unit_kl(lam: Tensor) -> Tensor:
    """KL(q(z_d; λ) ‖ p(z_d)) of each unit by itself, in nats; lam ``(B, 2D)``, returns ``(B, D)``; they sum to `kl`."""
    mean, logvar = unpack(lam)
    return kl(pack(mean[..., None], logvar[..., None]))


def free_bits(units: Tensor, floor: float) -> Tensor:
    """Σ_d max(floor, (1/B) Σ_b KL_bd): stands where the mean KL stands in a loss (Kingma et al. 2016).

    units ``(B, D)`` from `unit_kl`; floor in nats, so the first ``floor`` nats of each unit are free; returns a scalar.
    A unit whose mean over the batch lies below the floor gets no gradient. The loss is then the bound of nothing: it
    charges at least D · floor whatever z says, so report the bound with the KL itself.

    >>> free_bits(Tensor([[0.0, 1.0], [0.2, 3.0]]), floor=0.5).item()  # of 0.1, nothing; of 2, all
    2.5
    """
    if not 0 <= floor < math.inf:
        raise ValueError(f"floor must be ≥ 0 nats a unit; got {floor}. At 0 this is the mean KL.")
    if units.dim() != 2 or len(units) < 1:
        raise ValueError(f"units must be (B, D), B ≥ 1; got {tuple(units.shape)}. Take them from unit_kl(lam).")
    return units.mean(0).clamp(min=floor).sum()


def _log_weights(log_joint: LogDensity, lam: Tensor, eps: Tensor) -> Tensor:
    z = reparameterize(lam, eps)
    return _check_values(log_joint(z), z) - log_prob_of_noise(lam, eps)


def _check_weight(beta: float | Tensor, lam: Tensor) -> None:
    if callable(beta) or (isinstance(beta, str | bytes)):
        raise TypeError(f"beta must be a number; got {beta!r}. Ask the schedule for its value at a step: beta(step).")
    if isinstance(beta, Tensor) and beta.shape not in (torch.Size(), lam.shape[:-1]):
        raise ValueError(
            f"beta must be a number or one a row, {tuple(lam.shape[:-1])}; got shape {tuple(beta.shape)}. "
            "Anything else would mix rows."
        )


def _check_values(values: Tensor, z: Tensor) -> Tensor:
    if values.shape != z.shape[:2]:
        raise ValueError(
            f"the log-density must return one value per sample and row, {tuple(z.shape[:2])} for z {tuple(z.shape)}; "
            f"got {tuple(values.shape)}. Sum over tokens or pixels, not over rows."
        )
    return values
