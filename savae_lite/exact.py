"""Exact answers by quadrature where z has one or two dimensions: the ruler that other estimates are held against.

log p(x, z) is tabulated once on a grid; evidence, posterior, the ELBO of any q and the best q of the family follow from
the table. A q is given to the grid as the masses of its cells, so on the grid no ELBO exceeds the evidence, whatever
the spacing; refining the grid brings both to their limits. This module does not handle more dimensions, and draws no
noise.
"""

import math
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from savae_lite.elbo import LogDensity
from savae_lite.gaussian import log_prior, log_prob, pack, unpack


class Table(NamedTuple):
    """log p(x, z) on a grid, with the volume of a cell in it: its logsumexp over the grid is log p(x)."""

    z: Tensor  # (M, D) grid points
    log_joint: Tensor  # (M, B) log p(x, z) + log volume, in nats
    spacing: float


@torch.no_grad()
def tabulate(
    log_likelihood: LogDensity,
    rows: int,
    latent: int,
    *,
    half_width: float = 5.0,
    points: int = 81,
    chunk: int = 1000,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Table:
    """Tabulate a model with a standard normal prior on [−half_width, half_width]^D, ``points`` a dimension.

    log_likelihood: z ``(S, B, D)`` ↦ ``(S, B)``, B = ``rows``, D = ``latent`` = 1 or 2; ``chunk`` points are evaluated
    at a time, in ``dtype`` on ``device``: the model's. Warns where the grid is too coarse or too narrow for a
    posterior, and says what it needs.
    """
    if points < 3 or not 0 < half_width < math.inf:
        raise ValueError(f"a grid needs points ≥ 3 and half_width > 0; got {points} and {half_width}. Try 81 and 5.")
    if min(rows, chunk) < 1:
        raise ValueError(f"rows and chunk must each be at least 1; got {rows} and {chunk}. Pass rows = len(x).")
    if latent not in (1, 2):
        raise ValueError(
            f"quadrature needs z of 1 or 2 dimensions; got {latent}. Use diagnostics.importance_weighted_nll."
        )
    axis = torch.linspace(-half_width, half_width, points, dtype=dtype, device=device)
    z = torch.cartesian_prod(*[axis] * latent).view(-1, latent)
    values = [_values(log_likelihood, part[:, None].expand(-1, rows, -1)) for part in z.split(chunk)]
    spacing = 2 * half_width / (points - 1)
    table = Table(z, torch.cat(values) + log_prior(z)[:, None] + latent * math.log(spacing), spacing)
    _warn_where_the_grid_fails(table, half_width, points)
    return table


def log_evidence(table: Table) -> Tensor:
    """log p(x) ``(B,)`` in nats."""
    return table.log_joint.logsumexp(0)


def moments(table: Table) -> Tensor:
    """λ ``(B, 2D)`` with the mean and variances of the exact posterior; not the best λ unless the posterior is a q.

    logvar is −∞ where all of it sits in one cell of the grid.
    """
    weights = table.log_joint.softmax(0)  # (M, B)
    mean = weights.T @ table.z
    deviation = (table.z[:, None] - mean).square()  # (M, B, D)
    return pack(mean, (weights[..., None] * deviation).sum(0).log())


def exact_elbo(table: Table, lam: Tensor) -> Tensor:
    """ELBO of q(z; λ) ``(B,)`` in nats, without sampling: Σ q (log p(x, z) − log q) over cells; differentiable in λ.

    A diagonal q is a product, on the grid too, so its masses are found one dimension at a time.
    """
    latent, rows = table.z.shape[1], table.log_joint.shape[1]
    if lam.shape != (rows, 2 * latent):
        raise ValueError(
            f"lam must be ({rows}, {2 * latent}), one row for each x of the table; got {tuple(lam.shape)}. "
            "Expand it, or tabulate the rows that it is for."
        )
    points = round(len(table.z) ** (1 / latent))
    axis = table.z[:points, -1]
    masses = [log_prob(part, axis[:, None, None].expand(-1, len(lam), 1)).log_softmax(0) for part in _each_unit(lam)]
    expected = table.log_joint.view(*[points] * latent, -1)
    for log_q in masses:
        expected = (log_q.exp().view(-1, *[1] * (expected.dim() - 2), len(lam)) * expected).sum(0)
    return expected - sum((log_q.exp() * log_q).sum(0) for log_q in masses)


def best_in_family(table: Table, *, steps: int = 300, lr: float = 0.05) -> Tensor:
    """λ ``(B, 2D)`` of the diagonal Gaussian with the greatest ELBO, by Adam from three starts.

    The best end is kept for each row. Starts are the posterior's moments, its highest point with small variance, and
    the prior.
    """
    if steps < 1 or not 0 < lr < math.inf:
        raise ValueError(f"the search needs steps ≥ 1 and lr > 0; got {steps} and {lr}. Try 300 and 0.05.")
    mean, logvar = unpack(moments(table))
    logvar = logvar.clamp(min=2 * math.log(table.spacing / 10))  # a posterior in one cell has none
    peak = table.z[table.log_joint.argmax(0)]
    starts = [pack(mean, logvar), pack(peak, logvar - 2), torch.zeros_like(pack(mean, logvar))]
    found = torch.stack([_ascend(table, start, steps, lr) for start in starts])  # (3, B, 2D)
    values = torch.stack([exact_elbo(table, lam) for lam in found])
    best = values.nan_to_num(nan=-math.inf).argmax(0)
    return found[best, torch.arange(len(best), device=values.device)]


def gaps(table: Table, lam: Tensor, best: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(approximation gap, amortization gap) of λ, each ``(B,)`` in nats; they add up to log p(x) − ELBO(λ).

    The first is what the best λ of the family leaves, the second what this λ adds (Cremer et al. 2018, §3). ``best``
    saves a search where it is known.
    """
    best = best_in_family(table) if best is None else best
    ceiling = exact_elbo(table, best)
    return log_evidence(table) - ceiling, ceiling - exact_elbo(table, lam)


def _each_unit(lam: Tensor) -> list[Tensor]:
    """λ ``(B, 2)`` of every dimension of z by itself."""
    return [pack(mean, logvar) for mean, logvar in zip(*(part.split(1, -1) for part in unpack(lam)), strict=True)]


def _values(log_likelihood: LogDensity, z: Tensor) -> Tensor:
    values = log_likelihood(z)
    if values.shape != z.shape[:2] or not values.isfinite().all():
        raise ValueError(
            f"the log-likelihood must be finite, one value per sample and row, {tuple(z.shape[:2])}; "
            f"got {tuple(values.shape)}{'' if values.isfinite().all() else ' with NaN or inf'}. Look at rows and data."
        )
    return values


def _ascend(table: Table, lam: Tensor, steps: int, lr: float) -> Tensor:
    lam = lam.clone().requires_grad_()
    optimizer = torch.optim.Adam([lam], lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad()
            (-exact_elbo(table, lam).sum()).backward()
            optimizer.step()
            scheduler.step()
    return lam.detach()


def _warn_where_the_grid_fails(table: Table, half_width: float, points: int) -> None:
    _, logvar = unpack(moments(table))
    narrowest = (0.5 * logvar.min()).exp().item()
    if narrowest < table.spacing:
        # On a grid this coarse the deviation is itself a guess; where all mass sits in one cell it is 0.
        narrowest = max(narrowest, table.spacing / 10)
        needed = math.ceil(2 * half_width / narrowest) + 1
        warnings.warn(
            f"the grid must be finer than the narrowest posterior, of standard deviation {narrowest:.3g}; got a "
            f"spacing of {table.spacing:.3g}. Ask for points ≥ {needed}.",
            stacklevel=3,
        )
    border = (table.z.abs() >= half_width - table.spacing / 2).any(1)
    outside = table.log_joint.softmax(0)[border].sum(0).max().item()
    if outside > 1e-3:
        warnings.warn(
            f"the grid must hold the posteriors; {outside:.1%} of one lies on its border at ±{half_width:g}. "
            f"Ask for a half_width above {half_width:g}.",
            stacklevel=3,
        )
