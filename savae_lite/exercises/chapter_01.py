"""Exercises of chapter 1: the posterior of a linear-Gaussian model, and moments from a table."""

import math

import torch

from savae_lite.exercises import Exercise
from savae_lite.gaussian import unpack
from savae_lite.models import LinearGaussian


def models():
    """Observations x ``(2, 2)``, weight ``(2, 1)`` and scale of two models with one z."""
    x = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
    weights = torch.tensor([[[1.0], [0.5]], [[-2.0], [0.3]]], dtype=torch.float64)
    return [(x, weights[0], 0.7), (x, weights[1], 1.5)]


def right(x, weight, scale):
    """Mean and variance ``(B, 1)`` of p(z|x)."""
    mean, logvar = unpack(LinearGaussian(weight, scale).encode(x))
    return mean, logvar.exp()


def no_prior(x, weight, scale):
    """the prior is missing: this is the likelihood's own answer. The prior's precision of 1 adds to WᵀW / s²."""
    precision = weight.square().sum() / scale**2
    return x @ weight / scale**2 / precision, (1 / precision).expand(len(x), 1)


def deviation(x, weight, scale):
    """you return the standard deviation; the variance is asked for."""
    mean, variance = right(x, weight, scale)
    return mean, variance.sqrt()


def precision(x, weight, scale):
    """you return the precision; the variance is one over it."""
    mean, variance = right(x, weight, scale)
    return mean, 1 / variance


def mean_without_noise(x, weight, scale):
    """in the mean, Wᵀx has to be divided by s², too."""
    mean, variance = right(x, weight, scale)
    return mean * scale**2, variance


def scale_unsquared(x, weight, scale):
    """scale is a standard deviation: it is its square that divides."""
    return right(x, weight, math.sqrt(scale))


posterior = Exercise(right, models, [no_prior, deviation, precision, mean_without_noise, scale_unsquared])


def tables():
    """Grid points ``(M, D)`` and log p(x, z) ``(M, B)`` on them; the last is that of a long x."""
    axis = torch.linspace(-4, 4, 41, dtype=torch.float64)[:, None]
    plane = torch.cartesian_prod(axis[:, 0], axis[:, 0])
    centres = torch.tensor([[0.5, -1.0], [-0.3, 0.8], [1.0, 0.2]], dtype=torch.float64)
    curved = -(plane[:, None] - centres).square().sum(-1) - 0.3 * plane.prod(1, keepdim=True) - 2
    return [(axis, -0.5 * (axis - 0.5).square() / 0.4 - 3), (plane, curved), (plane, curved - 2000)]


def table_moments(z, log_joint):
    """Mean and variance ``(B, D)`` of p(z|x)."""
    weights = log_joint.softmax(0)
    mean = weights.T @ z
    return mean, weights.T @ z.square() - mean.square()


def not_normalised(z, log_joint):
    """the weights of the grid points must add up to 1 for each x: log_joint.softmax(0)."""
    weights = log_joint.exp()
    mean = weights.T @ z
    return mean, weights.T @ z.square() - mean.square()


def underflow(z, log_joint):
    """exp underflows: p(x, z) of a long x is 0 to a computer. Stay in logarithms until the weights are normalised."""
    weights = log_joint.exp() / log_joint.exp().sum(0)
    mean = weights.T @ z
    return mean, weights.T @ z.square() - mean.square()


def second_moment(z, log_joint):
    """this is the mean of z²; the variance subtracts the square of the mean."""
    return table_moments(z, log_joint)[0], log_joint.softmax(0).T @ z.square()


def deviation_of_table(z, log_joint):
    """you return the standard deviation; the variance is asked for."""
    mean, variance = table_moments(z, log_joint)
    return mean, variance.sqrt()


def normalised_over_rows(z, log_joint):
    """each column of the table is a posterior of its own: normalise over the grid, dimension 0, and not over rows."""
    weights = log_joint.softmax(1)
    mean = weights.T @ z
    return mean, weights.T @ z.square() - mean.square()


def mode(z, log_joint):
    """this is the highest point; the mean is asked for, and a posterior need not be symmetric."""
    return z[log_joint.argmax(0)], table_moments(z, log_joint)[1]


grid_moments = Exercise(
    table_moments, tables, [not_normalised, underflow, second_moment, deviation_of_table, normalised_over_rows, mode]
)
