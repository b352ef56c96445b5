"""Exercises of chapter 7: the loss of a launch pad, its gradient with the inner gradient detached, an honest score."""

import torch

from savae_lite.adjoint import refine
from savae_lite.exercises import Exercise


def pads():
    """c, m ``(N,)``, h ``(N,)``, lr and the number of steps."""
    m = torch.tensor([-1.0, 1.5, 0.5], dtype=torch.float64)
    h = torch.tensor([1.0, 6.0, 2.5], dtype=torch.float64)
    starts = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.3, -0.8)]
    return [(starts[0], m, h, 0.1, 3), (starts[1], m[:2], h[:2], 0.05, 5)]


def after_steps(c, m, h, lr, steps):
    """Mean of ½ h (λ_K − m)², a scalar."""

    def loss(lam):
        return 0.5 * h * (lam[:, 0] - m).square()

    start = c.expand(len(m))[:, None]
    return loss(refine([loss] * steps, start, lr=lr)).mean()


def at_the_start(c, m, h, lr, steps):
    """you score λ₀: this is the loss of a VAE. Take the steps, and score where they end."""
    return after_steps(c, m, h, lr, 0)


def one_step_more(c, m, h, lr, steps):
    """you take one step too many: the last loss scores, it does not refine."""
    return after_steps(c, m, h, lr, steps + 1)


def one_step_less(c, m, h, lr, steps):
    """you take one step too few: K losses refine, and one more scores."""
    return after_steps(c, m, h, lr, steps - 1)


def mean_in_the_steps(c, m, h, lr, steps):
    """your inner gradient is that of the mean over n, so its rate is lr / N. Each λ is a problem of its own: sum."""
    return after_steps(c, m, h, lr / len(m), steps)


def sum_at_the_end(c, m, h, lr, steps):
    """you sum over n in the end: the outer loss is a mean, or the encoder's rate depends on the size of the batch."""
    return len(m) * after_steps(c, m, h, lr, steps)


def uphill(c, m, h, lr, steps):
    """your steps ascend: subtract lr times the gradient."""
    return 0.5 * (h * ((1 + lr * h) ** steps * (c - m)).square()).mean()


def shared_steps(c, m, h, lr, steps):
    """you refine one λ for all n: c is where each n starts, and each goes its own way from there."""
    for _ in range(steps):
        c = c - lr * (h * (c - m)).sum()
    return after_steps(c, m, h, lr, 0)


pad = Exercise(
    after_steps,
    pads,
    [at_the_start, one_step_more, one_step_less, mean_in_the_steps, sum_at_the_end, uphill, shared_steps],
)


def numbers():
    """The cases of `pads`, without a graph."""
    return [(c.detach(), *rest) for c, *rest in pads()]


def both_gradients(c, m, h, lr, steps):
    """d/dc of the mean of f(λ_K), through the steps and with every inner gradient held constant: two scalars."""
    shrunk = (1 - lr * h) ** steps
    return (h * shrunk**2 * (c - m)).mean(), (h * shrunk * (c - m)).mean()


def swapped(c, m, h, lr, steps):
    """these are the two, in the other order: through the steps first."""
    return both_gradients(c, m, h, lr, steps)[::-1]


def nothing_left(c, m, h, lr, steps):
    """you detach λ_K itself, so nothing reaches c. Detach the gradient only: λ_{k+1} = λ_k − lr · constant."""
    first, second = both_gradients(c, m, h, lr, steps)
    return first, 0 * second


def gradient_at_the_start(c, m, h, lr, steps):
    """your second is the gradient at λ₀, a VAE's. Take it at λ_K; only the way back to c is skipped."""
    return both_gradients(c, m, h, lr, steps)[0], (h * (c - m)).mean()


def not_detached(c, m, h, lr, steps):
    """your two are equal: the inner gradient of the second still depends on λ. Detach it in every step."""
    first, _ = both_gradients(c, m, h, lr, steps)
    return first, first.clone()


def detached_twice(c, m, h, lr, steps):
    """your first does not go through the steps: it is the second as well. Pass create_graph=True, and do not detach."""
    _, second = both_gradients(c, m, h, lr, steps)
    return second, second.clone()


gradients = Exercise(
    both_gradients, numbers, [swapped, nothing_left, gradient_at_the_start, not_detached, detached_twice]
)


def noisy(lam, eps):
    """A stand-in for a noisy −ELBO: λ ``(B, P)``, ε ``(B, P)`` ↦ ``(B,)``."""
    return 3 + (0.5 * lam.square() + 0.7 * eps * lam + 0.2 * (lam - 1).pow(4)).sum(-1)


def scored():
    """The noisy loss, λ₀, noise of K + 1 losses and the rate."""
    generator = torch.Generator().manual_seed(6)
    shapes = ((4, 3, 2), (6, 2, 1))
    noises = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    starts = [torch.randn(shape[1:], generator=generator, dtype=torch.float64) for shape in shapes]
    return [(noisy, lam, eps, 0.1) for lam, eps in zip(starts, noises, strict=True)]


def _scored_with(f, lam, eps, lr, scoring):
    return -f(refine([lambda lam, e=e: f(lam, e) for e in eps], lam, lr=lr), scoring).detach()


def fresh_score(f, lam, eps, lr):
    """ELBO of λ_K by noise that no step has seen, ``(B,)``."""
    return _scored_with(f, lam, eps[:-1], lr, eps[-1])


def noise_of_the_last_step(f, lam, eps, lr):
    """you score with the noise of the last step. λ_K has been fitted to it, so the score is too good: use eps[-1]."""
    return _scored_with(f, lam, eps[:-1], lr, eps[-2])


def noise_of_the_first_step(f, lam, eps, lr):
    """you score with eps[0], which the first step has seen. Keep the last noise for the score."""
    return _scored_with(f, lam, eps[:-1], lr, eps[0])


def step_on_the_scoring_noise(f, lam, eps, lr):
    """you take a step with eps[-1], too, and then score with it: eps holds K noises to refine and one to score."""
    return _scored_with(f, lam, eps, lr, eps[-1])


def score_as_a_loss(f, lam, eps, lr):
    """the sign is reversed: f is −ELBO, and the ELBO was asked for."""
    return -fresh_score(f, lam, eps, lr)


def averaged_steps(f, lam, eps, lr):
    """your inner gradient is that of f(…).mean(), so its rate is lr / B. Each row is a problem of its own: .sum()."""
    return _scored_with(f, lam, eps[:-1], lr / len(lam), eps[-1])


def unrefined_score(f, lam, eps, lr):
    """this is the ELBO at λ₀: no step was taken."""
    return _scored_with(f, lam, eps[:0], lr, eps[-1])


def score_over_the_batch(f, lam, eps, lr):
    """you average over rows; each x has a bound of its own, so return (B,)."""
    return fresh_score(f, lam, eps, lr).mean()


score = Exercise(
    fresh_score,
    scored,
    [
        noise_of_the_last_step,
        noise_of_the_first_step,
        step_on_the_scoring_noise,
        score_as_a_loss,
        averaged_steps,
        unrefined_score,
        score_over_the_batch,
    ],
)
