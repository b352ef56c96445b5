"""Exercises of chapter 11: a mean before a norm, what z has told in nats, and ranks of values that are equal."""

import math

import torch

from savae_lite.exercises import Exercise
from savae_lite.saliency import rank_correlation


def draw(*shape, seed):
    """Standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients():
    """Gradients ``(S, B, T, D)`` of two models."""
    return [(draw(4, 2, 3, 2, seed=0),), (0.2 * draw(3, 1, 5, 4, seed=1) + 1,)]


def mean_then_norm(gradients):
    """‖(1/S) Σ_s g_s‖₂, ``(B, T)``."""
    return gradients.mean(0).norm(dim=-1)


def norm_then_mean(gradients):
    """you take the norm of each sample and then average. The expectation stands inside the norm: pulls in opposite
    directions cancel.
    """
    return gradients.norm(dim=-1).mean(0)


def sum_of_samples(gradients):
    """you add samples up, so more samples make a larger saliency. Average them."""
    return gradients.sum(0).norm(dim=-1)


def squared(gradients):
    """this is the squared norm: take the root."""
    return gradients.mean(0).square().sum(-1)


def absolute(gradients):
    """this is the sum of absolute values. The norm is Euclidean."""
    return gradients.mean(0).abs().sum(-1)


def sum_of_slopes(gradients):
    """you add up the components of the gradient, and they may cancel. Take the length of the vector."""
    return gradients.mean(0).sum(-1)


def over_tokens(gradients):
    """you have merged the tokens: each keeps a saliency of its own, so the norm runs over the last dimension only."""
    return gradients.mean(0).flatten(1).norm(dim=-1)


pull = Exercise(
    mean_then_norm, gradients, [norm_then_mean, sum_of_samples, squared, absolute, sum_of_slopes, over_tokens]
)


def token_log_likelihoods():
    """Log-likelihoods of tokens: given ``(S, B, T)`` under q, others ``(M, B, T)`` under the prior."""
    cases = []
    for seed, (samples, count, rows, length) in enumerate([(3, 6, 2, 4), (2, 9, 1, 6)]):
        given = -0.5 * draw(samples, rows, length, seed=10 + seed).abs()
        others = -draw(count, rows, length, seed=20 + seed).abs() * (3 if seed else 1)
        cases.append((given, others))
    return cases


def told(given, others):
    """E_q log p(x_t|x_<t, z) − log p(x_t|x_<t), ``(B, T)``."""
    begin = others.cumsum(-1).logsumexp(0)
    before = torch.cat([torch.full_like(begin[:, :1], math.log(len(others))), begin[:, :-1]], 1)
    return given.mean(0) - (begin - before)


def words_forgotten(given, others):
    """every token is compared with an average over the prior, as if no word had come before. The words so far say
    which z are likely: p(x_≤t) / p(x_<t), with a cumulative sum over tokens.
    """
    return given.mean(0) - (others.logsumexp(0) - math.log(len(others)))


def mean_of_logs(given, others):
    """you average log-probabilities over the prior. Average probabilities: logsumexp."""
    return given.mean(0) - others.mean(0)


def prefix_only(given, others):
    """this subtracts log p(x_≤t), the whole beginning of the sentence. Divide by p(x_<t) as well."""
    return given.mean(0) - (others.cumsum(-1).logsumexp(0) - math.log(len(others)))


def first_token(given, others):
    """the first token is off by log M: before it, p(x_<1) = 1, and the sum over M samples must be their mean."""
    wrong = told(given, others)
    return torch.cat([wrong[:, :1] - math.log(len(others)), wrong[:, 1:]], 1)


def first_token_the_other_way(given, others):
    """the sign is reversed: what the model says with z, less what it says without."""
    return -told(given, others)


def log_of_mean(given, others):
    """under q the mean is of log-probabilities, as in the bound; you took the log of their mean."""
    return told(given, others) - given.mean(0) + given.logsumexp(0) - math.log(len(given))


nats = Exercise(
    told,
    token_log_likelihoods,
    [words_forgotten, mean_of_logs, prefix_only, first_token, first_token_the_other_way, log_of_mean],
)


def with_ties():
    """Pairs of values ``(N,)``, many of them equal, as exact information is."""
    a = torch.tensor([0.0, 0.0, 1.61, 0.0, 1.1, 0.0, 1.39, 0.0], dtype=torch.float64)
    b = torch.tensor([0.3, 0.1, 0.2, 0.15, 0.9, 0.05, 0.8, 0.1], dtype=torch.float64)
    c = draw(12, seed=30)
    return [(a, b), (c.round(), (c + draw(12, seed=31)).exp())]


def spearman(a, b):
    """The correlation of ranks in which equal values share a rank."""
    return torch.tensor(rank_correlation(a, b), dtype=torch.float64)


def _correlation(a, b):
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def _by_order(values, **how):
    return values.argsort(stable=True, **how).argsort().double()


def ties_by_order(a, b):
    """your ranks tell equal values apart, by where they stand in the list. Give them the mean of their ranks."""
    return _correlation(_by_order(a), _by_order(b))


def values(a, b):
    """this is the correlation of the values. Take their ranks first."""
    return _correlation(a, b)


def squared_differences(a, b):
    """the formula 1 − 6 Σ d² / (N³ − N) holds where no values are equal. Correlate the ranks."""
    d = _mean_rank(a) - _mean_rank(b)
    return 1 - 6 * d.square().sum() / (len(a) ** 3 - len(a))


def _mean_rank(values):
    below = (values[:, None] > values).sum(1)
    return below + ((values[:, None] == values).sum(1) + 1) / 2


def lowest(a, b):
    """equal values share the lowest of their ranks with you; they should share the mean."""
    return _correlation(*((v[:, None] > v).sum(1).double() for v in (a, b)))


def dense(a, b):
    """your ranks count different values, so a hundred equal ones take up as much room as one."""
    return _correlation(*(v.unique(return_inverse=True)[1].double() for v in (a, b)))


ranking = Exercise(spearman, with_ties, [ties_by_order, values, squared_differences, lowest, dense])
