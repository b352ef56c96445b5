"""Exercises of chapter 8: a softmax's total as a product, a paired comparison, the distance between two models, and
the parts of a bound."""

import math

import torch

from savae_lite.exercises import Exercise
from savae_lite.softmax import log_total


def normal(*shape, seed, scale=1.0):
    """Normal numbers in float64."""
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scores():
    """base ``(B, T, V)`` and shift ``(S, B, V)``; the second pair is wide, and its rows lie far apart."""
    levels = torch.tensor([800.0, -800.0, 0.0], dtype=torch.float64)
    return [
        (normal(2, 3, 5, seed=0), normal(4, 2, 5, seed=1)),
        (
            levels[:, None, None] + normal(3, 2, 4, seed=2, scale=20.0),
            levels[:, None] + normal(1, 3, 4, seed=3, scale=20.0),
        ),
    ]


def total_of(base, shift):
    """log Σ_v exp(base_v + shift_v), ``(S, B, T)``."""
    return log_total(base)(shift)


def overflowing(base, shift):
    """exp overflows where scores are large: subtract a maximum first, and add it again after the log."""
    return torch.einsum("btv,sbv->sbt", base.exp(), shift.exp()).log()


def maximum_lost(base, shift):
    """you subtracted the maxima and did not add both of them again."""
    return total_of(base, shift) - base.amax(-1)


def peak_lost(base, shift):
    """you subtracted the maximum of the shift and did not add it again."""
    return total_of(base, shift) - shift.amax(-1, keepdim=True)


def separate_sums(base, shift):
    """Σ exp(a) exp(b) is not Σ exp(a) times Σ exp(b): multiply word by word, then sum."""
    return base.logsumexp(-1) + shift.logsumexp(-1)[..., None]


def averaged(base, shift):
    """this is the mean over words: a softmax is divided by the sum."""
    return total_of(base, shift) - math.log(base.shape[-1])


total = Exercise(total_of, scores, [overflowing, maximum_lost, peak_lost, separate_sums, averaged])


def pairs():
    """Two methods' bounds ``(N,)`` on the same oracles, and the t quantile."""
    shared = normal(5, seed=0, scale=0.6)
    return [
        (20 + shared + normal(5, seed=1, scale=0.02), 20.03 + shared + normal(5, seed=2, scale=0.02), 2.776),
        (normal(8, seed=3), normal(8, seed=4), 2.365),
    ]


def paired_interval(first, second, t):
    """Mean of first − second and the half width of its interval: two scalars."""
    less = first - second
    return less.mean(), t * less.std() / math.sqrt(len(less))


def unpaired(first, second, t):
    """this is the interval of two separate samples. The oracle is the same in each pair: take differences first."""
    return (first - second).mean(), t * ((first.var() + second.var()) / len(first)).sqrt()


def spread_only(first, second, t):
    """this is the spread of the differences: that of their mean is smaller by √N."""
    return (first - second).mean(), t * (first - second).std()


def whole_width(first, second, t):
    """this is the whole width: return half of it."""
    mean, half = paired_interval(first, second, t)
    return mean, 2 * half


def other_sign(first, second, t):
    """you subtract the first from the second."""
    mean, half = paired_interval(first, second, t)
    return -mean, half


def biased(first, second, t):
    """your variance divides by N: with the mean estimated from the same differences, divide by N − 1."""
    mean, half = paired_interval(first, second, t)
    return mean, half * math.sqrt((len(first) - 1) / len(first))


paired = Exercise(paired_interval, pairs, [unpaired, spread_only, whole_width, other_sign, biased])


def evidences():
    """log p(x) ``(N,)`` under the oracle and under a model, for x drawn from the oracle."""
    return [
        (-20 + normal(30, seed=0), -22 + normal(30, seed=1, scale=2.0)),
        (-15 + normal(12, seed=2), -14.9 + normal(12, seed=3)),
    ]


def distance(of_oracle, of_model):
    """KL(oracle ‖ model) and its standard error: two scalars."""
    less = of_oracle - of_model
    return less.mean(), less.std() / math.sqrt(len(less))


def towards_the_model(of_oracle, of_model):
    """the sign: KL(p ‖ q) averages log p − log q over x from p, and here p is the oracle."""
    mean, error = distance(of_oracle, of_model)
    return -mean, error


def never_negative(of_oracle, of_model):
    """you made every term positive. KL is an average of terms of both signs; an estimate may fall below 0."""
    less = (of_oracle - of_model).abs()
    return less.mean(), less.std() / math.sqrt(len(less))


def separate_errors(of_oracle, of_model):
    """your error treats the two as independent: they belong to the same x, so take differences first."""
    return distance(of_oracle, of_model)[0], ((of_oracle.var() + of_model.var()) / len(of_oracle)).sqrt()


def weighted_again(of_oracle, of_model):
    """you weighted with p(x): the x are drawn from the oracle, which has done that already."""
    weights = of_oracle.softmax(0)
    return (weights * (of_oracle - of_model)).sum(), distance(of_oracle, of_model)[1]


def divided_by_n(of_oracle, of_model):
    """your variance divides by N: with the mean estimated from the same differences, divide by N − 1."""
    mean, error = distance(of_oracle, of_model)
    return mean, error * math.sqrt((len(of_oracle) - 1) / len(of_oracle))


def of_one_sequence(of_oracle, of_model):
    """this is the deviation of one sequence: the error of a mean is smaller by √N."""
    mean, error = distance(of_oracle, of_model)
    return mean, error * math.sqrt(len(of_oracle))


divergence = Exercise(
    distance,
    evidences,
    [towards_the_model, never_negative, separate_errors, weighted_again, divided_by_n, of_one_sequence],
)


def bounds():
    """log p(x) of the oracle, log p(x) of the model, ELBO of the best λ and of the λ there is, all ``(N,)``."""
    cases = []
    for seed in (0, 4):
        of_oracle = -20 + normal(6, seed=seed)
        of_model = of_oracle - 3 + normal(6, seed=seed + 1)
        best = of_model - 0.1 * normal(6, seed=seed + 2).exp()
        cases.append((of_oracle, of_model, best, best - normal(6, seed=seed + 3).exp()))
    return cases


def three_parts(of_oracle, of_model, best, reached):
    """Divergence, approximation gap, amortization gap: three scalars that add up to the mean of oracle − reached."""
    return (of_oracle - of_model).mean(), (of_model - best).mean(), (best - reached).mean()


def gaps_of_the_oracle(of_oracle, of_model, best, reached):
    """your approximation gap starts at the oracle's log p(x). A bound belongs to the model: start at the model's."""
    first, _, third = three_parts(of_oracle, of_model, best, reached)
    return first, (of_oracle - best).mean(), third


def whole_gap(of_oracle, of_model, best, reached):
    """your third part is the whole gap of the bound: what the best λ leaves is not the encoder's fault."""
    first, second, _ = three_parts(of_oracle, of_model, best, reached)
    return first, second, (of_model - reached).mean()


def upside_down(of_oracle, of_model, best, reached):
    """all signs are turned: a part says how much is lost, and is positive where something is."""
    return tuple(-part for part in three_parts(of_oracle, of_model, best, reached))


parts = Exercise(three_parts, bounds, [gaps_of_the_oracle, whole_gap, upside_down])
