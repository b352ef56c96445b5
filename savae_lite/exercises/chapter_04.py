"""Exercises of chapter 4: the divergence from the prior, the sample, and the loss of a minibatch."""

import torch

from savae_lite.elbo import nelbo
from savae_lite.exercises import Exercise
from savae_lite.gaussian import kl, reparameterize, unpack


def lams():
    """λ ``(3, 4)`` and ``(2, 6)``, one case each."""
    first = [[0.5, -1.0, 0.2, -0.7], [0.0, 2.0, -1.5, 0.4], [0.3, 0.1, 0.6, -2.0]]
    second = [[1.0, 0.2, -0.4, -0.3, 0.5, -1.1], [-0.6, 0.0, 0.9, 0.8, -0.2, 0.1]]
    return [(torch.tensor(first, dtype=torch.float64),), (torch.tensor(second, dtype=torch.float64),)]


def to_prior(lam):
    """KL(q(z; λ) ‖ p(z)) ``(B,)``."""
    return kl(lam)


def mean_over_dimensions(lam):
    """you take the mean over the dimensions of z. Divergences of independent dimensions add up: sum them."""
    return kl(lam) / (lam.shape[-1] // 2)


def deviation_for_variance(lam):
    """you take logvar for log σ: σ² is exp(logvar), not exp(2 · logvar)."""
    mean, logvar = unpack(lam)
    return 0.5 * (mean.square() + (2 * logvar).exp() - 2 * logvar - 1).sum(-1)


def exponent_only(lam):
    """the variance in your KL is exp(2 · logvar); logvar is log σ² already, so σ² is exp(logvar)."""
    mean, logvar = unpack(lam)
    return 0.5 * (mean.square() + (2 * logvar).exp() - logvar - 1).sum(-1)


def reversed_sign(lam):
    """the sign is reversed: a KL is never negative. Kingma & Welling print −KL, the term that is added to the ELBO."""
    return -kl(lam)


def over_the_batch(lam):
    """you sum over the rows, too. Each x has a divergence of its own: sum over the last dimension only."""
    return kl(lam).sum()


def no_half(lam):
    """the factor 1/2 is missing."""
    return 2 * kl(lam)


divergence = Exercise(
    to_prior,
    lams,
    [mean_over_dimensions, deviation_for_variance, exponent_only, reversed_sign, over_the_batch, no_half],
)


def draws():
    """λ ``(B, 2D)`` and ε ``(2, B, D)`` that goes with it."""
    generator = torch.Generator().manual_seed(4)
    shapes = ((2, len(lam), lam.shape[-1] // 2) for (lam,) in lams())
    noises = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [(lam.requires_grad_(), eps) for (lam,), eps in zip(lams(), noises, strict=True)]


def sampled(lam, eps):
    """z ``(S, B, D)``."""
    return reparameterize(lam, eps)


def variance_for_deviation(lam, eps):
    """the noise is multiplied by the variance; its scale is the standard deviation, exp(logvar / 2)."""
    mean, logvar = unpack(lam)
    return mean + logvar.exp() * eps


def unscaled(lam, eps):
    """the noise is added as it is: multiply it by σ, or every q has variance 1."""
    mean, _ = unpack(lam)
    return mean + eps


def scaled_by_logarithm(lam, eps):
    """the noise is multiplied by logvar itself, which may be negative; σ is exp(logvar / 2)."""
    mean, logvar = unpack(lam)
    return mean + logvar * eps


def no_noise(lam, eps):
    """this is the mean, whatever ε is: nothing is sampled."""
    mean, _ = unpack(lam)
    return mean.expand_as(eps)


sample = Exercise(sampled, draws, [variance_for_deviation, unscaled, scaled_by_logarithm, no_noise])


def quadratic(z):
    """A stand-in for log p(x|z): z ``(S, B, D)`` ↦ ``(S, B)``."""
    return -1.5 - (z - torch.arange(z.shape[1], dtype=z.dtype)[:, None]).square().sum(-1)


def minibatches():
    """The likelihood, λ and ε of two minibatches."""
    return [(quadratic, lam, eps) for lam, eps in draws()]


def mean_of_rows(log_likelihood, lam, eps):
    """−ELBO of a minibatch, a scalar."""
    return nelbo(log_likelihood, lam, eps).mean()


def sum_of_rows(log_likelihood, lam, eps):
    """you sum over the rows, so the gradient grows with the size of the minibatch. Take the mean."""
    return nelbo(log_likelihood, lam, eps).sum()


def one_value_a_row(log_likelihood, lam, eps):
    """you return one value a row; an optimiser step needs a scalar, the mean over the rows."""
    return nelbo(log_likelihood, lam, eps)


def sum_of_samples(log_likelihood, lam, eps):
    """you sum over the samples of z. They estimate an expectation: take their mean, over dimension 0."""
    return (kl(lam) - log_likelihood(reparameterize(lam, eps)).sum(0)).mean()


def likelihood_only(log_likelihood, lam, eps):
    """the KL is missing: this is the loss of an autoencoder, and its q shrinks to a point."""
    return -log_likelihood(reparameterize(lam, eps)).mean()


def ascending(log_likelihood, lam, eps):
    """this is the ELBO; a loss is minimised, so it is −ELBO."""
    return -mean_of_rows(log_likelihood, lam, eps)


def divergence_subtracted(log_likelihood, lam, eps):
    """in −ELBO the KL is added and log p(x|z) is subtracted; your KL has the sign that it has in the ELBO."""
    return (-kl(lam) - log_likelihood(reparameterize(lam, eps)).mean(0)).mean()


def mean_divergence(log_likelihood, lam, eps):
    """your KL is averaged over the dimensions of z: that is a β of 1 / D. Sum it over them."""
    return (kl(lam) / eps.shape[-1] - log_likelihood(reparameterize(lam, eps)).mean(0)).mean()


minibatch = Exercise(
    mean_of_rows,
    minibatches,
    [
        sum_of_rows,
        one_value_a_row,
        sum_of_samples,
        likelihood_only,
        ascending,
        divergence_subtracted,
        mean_divergence,
    ],
)
