"""Exercises of chapter 2: the divergence of two normals, the sign of a gap, a baseline from the other samples."""

import torch

from savae_lite import gaussian
from savae_lite.exercises import Exercise
from savae_lite.gaussian import unpack


def _numbers(*shape: int, seed: int):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pairs():
    """Two λ ``(B, 2D)`` of D = 2 and of D = 3."""
    return [(_numbers(4, 4, seed=0), _numbers(4, 4, seed=1)), (_numbers(2, 6, seed=2), _numbers(2, 6, seed=3))]


def reversed_order(lam, other):
    """this is KL(q_other ‖ q_lam): the first argument is the one that is averaged under."""
    return gaussian.kl(other, lam)


def no_half(lam, other):
    """a factor ½ is missing in front of the sum."""
    return 2 * gaussian.kl(lam, other)


def negative(lam, other):
    """the sign is reversed: a divergence is never negative."""
    return -gaussian.kl(lam, other)


def mean_over_units(lam, other):
    """you take the mean over dimensions where the sum belongs: independent units add their divergences."""
    return 2 * gaussian.kl(lam, other) / lam.shape[-1]


def no_minus_one(lam, other):
    """the −1 of each dimension is missing: for equal normals the result must be 0."""
    return gaussian.kl(lam, other) + lam.shape[-1] / 4


def to_the_prior(lam, other):
    """this is the divergence from the prior: ``other`` plays no part in it."""
    return gaussian.kl(lam)


def over_rows(lam, other):
    """one value a row, (B,): sum over dimensions and not over rows."""
    return gaussian.kl(lam, other).sum()


def log_deviation(lam, other):
    """λ holds the logarithm of the variance, not of the standard deviation."""
    doubled = [torch.cat([mean, 2 * logvar], -1) for mean, logvar in map(unpack, (lam, other))]
    return gaussian.kl(*doubled)


kl = Exercise(
    gaussian.kl,
    pairs,
    [reversed_order, no_half, negative, mean_over_units, no_minus_one, to_the_prior, over_rows, log_deviation],
)


def terms():
    """E_q log p(x, z), E_q log q(z) and log p(x), each ``(B,)``, with a positive gap."""
    log_evidence = torch.tensor([-7.0, -9.5, -12.0], dtype=torch.float64)
    negentropy = torch.tensor([-1.0, 0.3, 1.2], dtype=torch.float64)
    return [(log_evidence + negentropy - torch.tensor([0.2, 1.0, 3.0]).double(), negentropy, log_evidence)]


def as_published(energy, negentropy, log_evidence):
    """this is the formula as it circulates. Insert log p(z|x) = log p(x, z) − log p(x) into the KL, with q first."""
    return energy - negentropy + log_evidence


def gap_negative(energy, negentropy, log_evidence):
    """everything has its sign reversed: this is −KL, and it is negative."""
    return energy - negentropy - log_evidence


def bound_itself(energy, negentropy, log_evidence):
    """this is the ELBO; the gap is what is missing from it to log p(x)."""
    return energy - negentropy


def entropy_sign(energy, negentropy, log_evidence):
    """E_q log q enters with a plus: it is the negative of the entropy."""
    return log_evidence - energy - negentropy


gap = Exercise(
    lambda energy, negentropy, log_evidence: log_evidence - energy + negentropy,
    terms,
    [as_published, gap_negative, bound_itself, entropy_sign],
)


def samples():
    """f ``(S,)`` and scores ``(S, P)`` of two sizes."""
    return [(_numbers(5, seed=4) + 3, _numbers(5, 2, seed=5)), (_numbers(2, seed=6) - 1, _numbers(2, 3, seed=7))]


def others_baseline(f, score):
    """The estimate ``(P,)``."""
    return ((f - (f.sum() - f) / (len(f) - 1))[:, None] * score).mean(0)


def own_included(f, score):
    """the baseline contains the sample's own f, which shrinks the estimate by (S − 1)/S: leave it out."""
    return ((f - f.mean())[:, None] * score).mean(0)


def no_baseline(f, score):
    """this has no baseline: right in mean, and noisy."""
    return (f[:, None] * score).mean(0)


def summed(f, score):
    """you take the sum over samples where the mean belongs."""
    return len(f) * others_baseline(f, score)


def added(f, score):
    """the baseline is subtracted from f, not added."""
    return ((f + (f.sum() - f) / (len(f) - 1))[:, None] * score).mean(0)


def divided_by_all(f, score):
    """the other samples number S − 1: divide their sum by that, not by S."""
    return ((f - (f.sum() - f) / len(f))[:, None] * score).mean(0)


leave_one_out = Exercise(others_baseline, samples, [own_included, no_baseline, summed, added, divided_by_all])
