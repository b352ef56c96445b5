"""What a trained model is worth: better estimates of log p(x), and how much z says about x.

Report them together: a bound without KL hides collapse, KL without mutual information hides units that carry
nothing. All values are in nats. Nothing here trains, and noise is an argument.
"""

import math
from functools import partial

import torch
from torch import Tensor

from savae_lite.elbo import LogDensity, iwae
from savae_lite.gaussian import LOG_2PI, log_prior, log_prob_of_noise, unpack


@torch.no_grad()
def importance_weighted_nll(log_likelihood: LogDensity, lam: Tensor, eps: Tensor, *, chunk: int = 10) -> Tensor:
    """−log (1/S) Σ_s p(x, z_s) / q(z_s; λ), an upper bound on −log p(x) that falls with S (Burda et al. 2016, eq. 8).

    log_likelihood: z ``(S, B, D)`` ↦ ``(S, B)``; lam ``(B, 2D)``; eps ``(S, B, D)``; returns ``(B,)``. ``chunk``
    samples are decoded at a time.
    """
    _check_chunk(chunk)
    joint = partial(_log_joint, log_likelihood)
    bounds = [iwae(joint, lam, part) + math.log(len(part)) for part in eps.split(chunk)]
    return math.log(len(eps)) - torch.stack(bounds).logsumexp(0)


def _log_joint(log_likelihood: LogDensity, z: Tensor) -> Tensor:
    values = log_likelihood(z)
    # A wrong shape must not be broadcast by the sum; `iwae` refuses it.
    return values + log_prior(z) if values.shape == z.shape[:2] else values


def perplexity(nll: float, tokens: int) -> float:
    """exp(nll / tokens), for a total nll in nats over all sentences and the tokens that it paid for, each </s>
    counted.

    The nll of a latent variable model is its bound, divergence included: exp(reconstruction / tokens) is no
    perplexity.

    >>> round(perplexity(2 * math.log(1000), tokens=2))
    1000
    """
    if not 1 <= tokens < math.inf:
        raise ValueError(f"perplexity needs at least 1 token; got {tokens}. Count the words and one </s> a sentence.")
    if not 0 <= nll / tokens < 709:  # the log of the largest number
        raise ValueError(
            f"nll must be from 0 to 709 nats a token, the bound on −log p of all sentences; got {nll} for {tokens} "
            "tokens. Look at its sign: a sum of log-probabilities is −nll."
        )
    return math.exp(nll / tokens)


def active_units(lam: Tensor, *, threshold: float = 0.01) -> int:
    """How many dimensions of z have a posterior mean that moves with x: Var_x(μ_d) > threshold (Burda et al. 2016,
    §4).

    lam ``(N, 2D)``, one row an example, N ≥ 2.
    """
    _check_rows(lam)
    if not threshold >= 0:
        raise ValueError(f"threshold must be ≥ 0; got {threshold}. It is the least variance of a unit that moves.")
    mean, _ = unpack(lam)
    variance = (mean - mean.mean(0)).square().sum(0) / (len(mean) - 1)  # torch.var warns where D = 0
    return int((variance > threshold).sum())


@torch.no_grad()
def mutual_information(lam: Tensor, eps: Tensor, *, chunk: int = 500) -> float:
    """Mutual information in nats between z and which of the N rows it came from (He et al. 2019, eq. 5).

    (1/N) Σ_n [log q(z_n|x_n) − log (1/N) Σ_m q(z_n|x_m)], z_n = μ_n + σ_n ε_n; lam ``(N, 2D)``, eps ``(N, D)``.

    Bias: for these N rows the estimate is unbiased, but they are not the population. It can never exceed log N, it
    is in mean below I(x; z) of the population, and it grows towards it with N. One draw of ε can land below 0 when
    the truth is near 0.
    """
    _check_rows(lam)
    _check_chunk(chunk)
    mean, logvar = unpack(lam)
    if eps.shape != mean.shape:
        raise ValueError(
            f"eps must be (N, D) = {tuple(mean.shape)} to match lam {tuple(lam.shape)}; got {tuple(eps.shape)}. "
            "Draw one standard normal vector a row."
        )
    farthest = mean.abs().sum(-1).max()  # 0 for a model without z
    if not ((0.5 * logvar.abs()).exp() * (1 + farthest)).isfinite().all():
        raise ValueError(
            f"lam must have σ and 1/σ that {lam.dtype} can hold; got a logvar of {logvar.abs().max():.4g} in size. "
            "Use lam.double(), or look for the batch in which inference diverged."
        )
    own = log_prob_of_noise(lam, eps[None])[0]
    parts = zip(lam.split(chunk), eps.split(chunk), strict=True)
    aggregate = torch.cat([_log_mixture(lam, *part) for part in parts])
    return float((own - aggregate).mean())


def _log_mixture(lam: Tensor, own: Tensor, eps: Tensor) -> Tensor:
    """log (1/N) Σ_m q(z|x_m) at z = μ + σ ε of some rows ``own`` ``(M, 2D)``, for the mixture of all rows of λ
    ``(N, 2D)``; returns ``(M,)``.

    Means are subtracted before ε is added, so that a small σ survives beside a large μ.
    """
    (mean, logvar), (own_mean, own_logvar) = unpack(lam), unpack(own)
    spread = (0.5 * own_logvar).exp() * eps
    distance = (own_mean[:, None] - mean + spread[:, None]) * (-0.5 * logvar).exp()  # (M, N, D)
    densities = -0.5 * (LOG_2PI + logvar + distance.square()).sum(-1)
    return densities.logsumexp(1) - math.log(len(lam))


def _check_rows(lam: Tensor) -> None:
    if lam.dim() != 2 or len(lam) < 2:
        raise ValueError(
            f"lam must be (N, 2D) with N ≥ 2 examples; got {tuple(lam.shape)}. Concatenate the λ of all batches first."
        )
    if not lam.isfinite().all():
        raise ValueError("lam must be finite; got NaN or inf. Look for the batch in which inference diverged.")


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1; got {chunk}. It is how many are worked on at a time.")
