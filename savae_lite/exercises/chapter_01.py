"""Exercises of chapter 1: the posterior of a linear-Gaussian model, and an evidence from a grid."""

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
    """log p(x, z) on two grids ``(M, 2)``, and the size of a cell."""
    axis = torch.linspace(-4, 4, 41, dtype=torch.float64)
    curves = torch.stack([-0.5 * (axis - shift).square() / width - 3 for shift, width in ((0.5, 0.4), (-1.0, 0.9))], 1)
    return [(curves, 0.2), (curves[::2], 0.4)]


def integral(log_joint, cell):
    """log p(x) ``(B,)``."""
    return log_joint.logsumexp(0) + math.log(cell)


def no_cell(log_joint, cell):
    """a sum over cells becomes an integral only when it is multiplied by the size of a cell."""
    return log_joint.logsumexp(0)


def mean_of_cells(log_joint, cell):
    """you take the mean over the grid where the sum belongs."""
    return integral(log_joint, cell) - math.log(len(log_joint))


def sum_of_logs(log_joint, cell):
    """the logarithm of a sum is not the sum of logarithms: add probabilities, not their logarithms."""
    return log_joint.sum(0) + math.log(cell)


def no_log(log_joint, cell):
    """this is p(x); its logarithm is asked for."""
    return integral(log_joint, cell).exp()


def cell_without_log(log_joint, cell):
    """the size of a cell enters by its logarithm, like everything else here."""
    return log_joint.logsumexp(0) + cell


def over_rows_too(log_joint, cell):
    """each x has an evidence of its own: sum over the grid, dimension 0, and not over rows."""
    return log_joint.logsumexp((0, 1)) + math.log(cell)


evidence = Exercise(
    integral, tables, [no_cell, mean_of_cells, sum_of_logs, no_log, cell_without_log, over_rows_too]
)  # fmt: skip
