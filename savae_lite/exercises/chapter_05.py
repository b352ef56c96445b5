"""Exercises of chapter 5: the importance-weighted bound from log weights, and mutual information from log densities."""

import math

import torch

from savae_lite.exercises import Exercise


def log_weights():
    """Log weights ``(S, B)``: two of moderate size, and one so low that its exponential is 0."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [(draw(5, 3) - 10,), (2 * draw(20, 2) - 6,), (draw(4, 3) - 2000,)]


def bound(log_weights):
    """log (1/S) Σ_s w_s, ``(B,)``."""
    return log_weights.logsumexp(0) - math.log(len(log_weights))


def underflow(log_weights):
    """the formula is right and the arithmetic is not: exp(−2000) is 0 to a computer. Use logsumexp."""
    return log_weights.exp().mean(0).log()


def mean_of_logs(log_weights):
    """the mean of the logarithms is the ELBO. Here the mean is taken first, then the logarithm."""
    return log_weights.mean(0)


def sum_of_weights(log_weights):
    """you take the sum of the weights where the mean belongs: log S is missing."""
    return log_weights.logsumexp(0)


def over_rows(log_weights):
    """each x has a bound of its own: average over the samples, dimension 0, and not over rows as well."""
    return bound(log_weights).mean()


def along_rows(log_weights):
    """you average over rows, dimension 1. The samples are dimension 0."""
    return bound(log_weights.T)


def largest(log_weights):
    """this is the largest log weight. It dominates the sum, and still the others count."""
    return log_weights.amax(0)


iwae = Exercise(bound, log_weights, [underflow, mean_of_logs, sum_of_weights, over_rows, along_rows, largest])


def densities():
    """Log densities own ``(N,)`` and pair ``(N, N)``, pair[n, m] = log q(z_n|x_m), of Gaussians in one dimension."""
    generator = torch.Generator().manual_seed(1)
    cases = []
    for rows, spread in ((4, 1.0), (9, 2.0)):
        mean, noise = (torch.randn(rows, generator=generator, dtype=torch.float64) for _ in range(2))
        scale = 0.4 + torch.rand(rows, generator=generator, dtype=torch.float64)
        z = spread * mean + scale * noise
        pair = torch.distributions.Normal(spread * mean, scale).log_prob(z[:, None])
        cases.append((pair.diagonal(), pair))
    return cases


def mixture(own, pair):
    """(1/N) Σ_n [log q(z_n|x_n) − log (1/N) Σ_m q(z_n|x_m)]."""
    return (own - pair.logsumexp(1)).mean() + math.log(len(own))


def no_count(own, pair):
    """the mixture is a mean over N densities, and you took their sum: log N is missing. So it can never be positive."""
    return (own - pair.logsumexp(1)).mean()


def without_own(own, pair):
    """the mixture leaves out the row that z came from. That row is one of the N."""
    others = pair.masked_fill(torch.eye(len(own), dtype=torch.bool), -math.inf)
    return (own - others.logsumexp(1)).mean() + math.log(len(own) - 1)


def without_own_of_all(own, pair):
    """the mixture leaves out the row that z came from, and yet divides by N. That row is one of the N."""
    return without_own(own, pair) + math.log(len(own) / (len(own) - 1))


def wrong_axis(own, pair):
    """the sum is over m, the rows that z could have come from, which is dimension 1; you summed over z."""
    return (own - pair.logsumexp(0)).mean() + math.log(len(own))


def reversed_sign(own, pair):
    """the sign is reversed: own density less that of the mixture."""
    return -mixture(own, pair)


def mean_of_log_densities(own, pair):
    """the logarithm stands outside the mean over m: average densities, not their logarithms."""
    return (own - pair.mean(1)).mean()


information = Exercise(
    mixture, densities, [no_count, without_own, without_own_of_all, wrong_axis, reversed_sign, mean_of_log_densities]
)
