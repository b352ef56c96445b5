"""Exercises of chapter 9: a perplexity that pays for everything, and an importance-weighted bound of a corpus."""

import math

import torch

from savae_lite.exercises import Exercise


def sentences():
    """Reconstruction and KL in nats of N sentences, and how many ids each has with <s> and </s>, all ``(N,)``."""
    short = [(12.0, 0.5, 6), (30.0, 2.0, 12), (41.0, 1.0, 14), (9.0, 0.0, 4)]
    long = [(310.0, 7.0, 81), (150.0, 9.5, 40), (700.0, 3.0, 180)]
    return [tuple(torch.tensor(corpus, dtype=torch.float64).T) for corpus in (short, long)]


def perplexity(reconstruction, divergence, ids):
    """exp(nats / tokens): all nats of the corpus, over all tokens that were predicted."""
    return ((reconstruction + divergence).sum() / (ids - 1).sum()).exp()


def without_kl(reconstruction, divergence, ids):
    """you left the KL out. Without it z could hold the whole sentence free of charge; the bound is reconstruction plus
    KL."""
    return (reconstruction.sum() / (ids - 1).sum()).exp()


def start_counted(reconstruction, divergence, ids):
    """you count <s>. It is given, not predicted: a sentence of n ids pays for n − 1."""
    return ((reconstruction + divergence).sum() / ids.sum()).exp()


def end_not_counted(reconstruction, divergence, ids):
    """you left </s> out of the tokens. The model predicts it and pays for it: a sentence of n ids pays for n − 1."""
    return ((reconstruction + divergence).sum() / (ids - 2).sum()).exp()


def mean_of_perplexities(reconstruction, divergence, ids):
    """you average perplexities of sentences. exp is convex: sum the nats and the tokens of the corpus first."""
    return ((reconstruction + divergence) / (ids - 1)).exp().mean()


def mean_of_rates(reconstruction, divergence, ids):
    """you average nats per token over sentences. Then a word of a short sentence weighs more than one of a long
    sentence: divide sum by sum."""
    return ((reconstruction + divergence) / (ids - 1)).mean().exp()


corpus_perplexity = Exercise(
    perplexity, sentences, [without_kl, start_counted, end_not_counted, mean_of_perplexities, mean_of_rates]
)


def weights():
    """log p(x, z) − log q(z) of S samples of z for N sentences, ``(S, N)``, in nats."""
    generator = torch.Generator().manual_seed(9)
    means = torch.tensor([-20.0, -31.0, -28.0, -400.0], dtype=torch.float64)
    return [
        (means[:3] + torch.randn(5, 3, generator=generator).double(),),
        (means + 3 * torch.randn(500, 4, generator=generator).double(),),
    ]


def importance_weighted(log_weights):
    """The mean over sentences of −log of the mean weight."""
    return (math.log(len(log_weights)) - log_weights.logsumexp(0)).mean()


def mean_of_logs(log_weights):
    """you average the logarithms. That is the ordinary bound, and more samples do not tighten it."""
    return -log_weights.mean()


def not_divided(log_weights):
    """you sum the weights. Their mean is what estimates p(x): subtract log S."""
    return -log_weights.logsumexp(0).mean()


def all_in_one(log_weights):
    """you average the weights of all sentences together. One likely sentence then hides the others: average over
    samples inside the logarithm, over sentences outside."""
    return math.log(log_weights.numel()) - log_weights.flatten().logsumexp(0)


def sign_reversed(log_weights):
    """your sign is that of log p(x). A bound on −log p(x) is positive here."""
    return -importance_weighted(log_weights)


weighted_bound = Exercise(importance_weighted, weights, [mean_of_logs, not_divided, all_in_one, sign_reversed])
