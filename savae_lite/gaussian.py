"""The diagonal Gaussian q(z; λ): sampling, density, entropy and divergence.

λ is one tensor ``(..., 2D) = [mean | logvar]``; λ = 0 is the standard normal, which is the prior of every model here.
This module does not draw noise: ε is always an argument.
"""

import math

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


def pack(mean: Tensor, logvar: Tensor) -> Tensor:
    """Join mean and log-variance ``(..., D)`` into λ ``(..., 2D)``."""
    if mean.shape != logvar.shape:
        raise ValueError(
            f"mean and logvar must have one shape; got {tuple(mean.shape)} and {tuple(logvar.shape)}. "
            "Expand the smaller one first."
        )
    return torch.cat([mean, logvar], dim=-1)


def unpack(lam: Tensor) -> tuple[Tensor, Tensor]:
    """Split λ ``(..., 2D)`` into mean and log-variance, each ``(..., D)``."""
    if not isinstance(lam, Tensor) or not lam.is_floating_point():
        got = lam.dtype if isinstance(lam, Tensor) else type(lam).__name__
        raise TypeError(f"lam must be a tensor of floating point numbers; got {got}. Make one, or use lam.float().")
    if lam.dim() == 0 or lam.shape[-1] % 2:
        raise ValueError(
            f"lam must end in an even dimension 2D = [mean | logvar]; got shape {tuple(lam.shape)}. "
            "Build it with pack(mean, logvar)."
        )
    return lam.chunk(2, dim=-1)


def reparameterize(lam: Tensor, eps: Tensor) -> Tensor:
    """Samples z = μ + σ ε of q(z; λ) (Kingma & Welling 2014, eq. 4).

    lam ``(B, 2D)``, eps ``(S, B, D)`` standard normal; returns z ``(S, B, D)``.

    >>> reparameterize(torch.zeros(1, 4), torch.ones(3, 1, 2)).shape   # λ = 0: z is ε itself
    torch.Size([3, 1, 2])
    """
    mean, logvar = unpack(lam)
    _check_samples("eps", eps, lam)
    return mean + (0.5 * logvar).exp() * eps


def log_prob(lam: Tensor, z: Tensor) -> Tensor:
    """log q(z; λ) in nats.

    lam ``(B, 2D)``, z ``(S, B, D)``; returns ``(S, B)``. It is as good as z: where σ is small beside μ, a sample has
    lost its ε to rounding. `log_prob_of_noise` has not.
    """
    mean, logvar = unpack(lam)
    _check_samples("z", z, lam)
    return -0.5 * (LOG_2PI + logvar + ((z - mean) * (-0.5 * logvar).exp()).square()).sum(-1)


def log_prob_of_noise(lam: Tensor, eps: Tensor) -> Tensor:
    """log q(μ + σ ε; λ) in nats, from ε itself: the density of `reparameterize`'s samples, exact for every σ.

    lam ``(B, 2D)``, eps ``(S, B, D)``; returns ``(S, B)``.
    """
    _, logvar = unpack(lam)
    _check_samples("eps", eps, lam)
    return -0.5 * (LOG_2PI + logvar + eps.square()).sum(-1)


def log_prior(z: Tensor) -> Tensor:
    """log p(z) of the standard normal in nats; z ``(..., D)``, returns ``(...)``."""
    return -0.5 * (LOG_2PI + z.square()).sum(-1)


def entropy(lam: Tensor) -> Tensor:
    """Entropy of q(z; λ) in nats; lam ``(..., 2D)``, returns ``(...)``."""
    _, logvar = unpack(lam)
    return 0.5 * (1 + LOG_2PI + logvar).sum(-1)


def kl(lam: Tensor, other: Tensor | None = None) -> Tensor:
    """KL(q(z; λ) ‖ q(z; other)) in nats; the prior N(0, I) where ``other`` is left out (Kingma & Welling 2014, app.
    B).

    lam and other ``(..., 2D)``; returns ``(...)``.

    >>> kl(torch.zeros(2, 6)).tolist()
    [0.0, 0.0]
    """
    mean, logvar = unpack(lam)
    if other is None:
        return 0.5 * (mean.square() + _excess(logvar)).sum(-1)
    if other.shape != lam.shape:
        raise ValueError(
            f"other must have the shape of lam, {tuple(lam.shape)}; got {tuple(other.shape)}. Expand it first."
        )
    other_mean, other_logvar = unpack(other)
    distance = ((mean - other_mean) * (-0.5 * other_logvar).exp()).square()
    return 0.5 * (distance + _excess(logvar - other_logvar)).sum(-1)


def _excess(x: Tensor) -> Tensor:
    """eˣ − 1 − x ≥ 0, the part of a divergence that the variances make; eˣ − x − 1 would cancel where x is small."""
    return x.expm1() - x


def _check_samples(name: str, samples: Tensor, lam: Tensor) -> None:
    rows, latent = lam.shape[:-1], lam.shape[-1] // 2
    if samples.dim() != lam.dim() + 1 or samples.shape[1:] != (*rows, latent) or len(samples) < 1:
        wanted = ", ".join(str(n) for n in (*rows, latent))
        raise ValueError(
            f"{name} must be (S, {wanted}), S ≥ 1, to match lam {tuple(lam.shape)}; got {tuple(samples.shape)}. "
            "The first dimension counts samples: add it with [None] where there is one."
        )


def check_codes(z: Tensor, *wanted: int | str) -> None:
    """Refuse a z that is not of the wanted shape, in which "S" stands for any number of samples: raises ValueError."""
    if z.dim() != len(wanted) or any(n != m for n, m in zip(z.shape, wanted, strict=True) if m != "S"):
        shape = ", ".join(map(str, wanted))
        raise ValueError(f"z must be ({shape}) for this model and batch; got {tuple(z.shape)}. S counts samples.")
