"""Exercises of chapter 3: one step of SVI, and the longest step that is stable."""

import torch

from savae_lite.exercises import Exercise


def steps():
    """λ, velocity and gradient ``(B, P)``, rate and momentum."""
    generator = torch.Generator().manual_seed(0)
    lam, velocity, gradient = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    return [(lam, velocity, gradient, 0.1, 0.5), (lam[:1], velocity[:1], gradient[:1], 2.0, 0.9)]


def descend(lam, velocity, gradient, lr, momentum):
    """The next λ and velocity."""
    velocity = momentum * velocity - gradient
    return lam + lr * velocity, velocity


def ascend(lam, velocity, gradient, lr, momentum):
    """the sign is reversed: the loss is −ELBO, so λ moves against its gradient."""
    return descend(lam, velocity, -gradient, lr, momentum)


def old_velocity(lam, velocity, gradient, lr, momentum):
    """λ moves by the new velocity, not by the old one."""
    return lam + lr * velocity, momentum * velocity - gradient


def no_momentum(lam, velocity, gradient, lr, momentum):
    """the old velocity is forgotten: it enters with the factor momentum."""
    return descend(lam, velocity, gradient, lr, 0.0)


def rate_inside(lam, velocity, gradient, lr, momentum):
    """the rate multiplies the whole velocity once, in the step of λ: here it is inside the velocity."""
    velocity = momentum * velocity - lr * gradient
    return lam + velocity, velocity


def rate_twice(lam, velocity, gradient, lr, momentum):
    """the rate enters twice: in the velocity, and again in the step."""
    velocity = momentum * velocity - lr * gradient
    return lam + lr * velocity, velocity


def averaged(lam, velocity, gradient, lr, momentum):
    """this averages old and new by (1 − momentum): the gradient enters with weight 1."""
    return descend(lam, velocity, (1 - momentum) * gradient, lr, momentum)


def torch_convention(lam, velocity, gradient, lr, momentum):
    """this is PyTorch's convention, with the minus in the step of λ: here the velocity carries it."""
    velocity = momentum * velocity + gradient
    return lam - lr * velocity, velocity


def swapped(lam, velocity, gradient, lr, momentum):
    """λ comes first, the velocity second."""
    return descend(lam, velocity, gradient, lr, momentum)[::-1]


step = Exercise(
    descend, steps, [ascend, old_velocity, no_momentum, rate_inside, rate_twice, averaged, torch_convention, swapped]
)  # fmt: skip


def hessians():
    """Two positive definite matrices, and momenta."""
    root = torch.randn(3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [
        (root @ root.T + torch.eye(3, dtype=torch.float64), 0.5),
        (torch.tensor([[3.0, 1.0], [1.0, 2.0]], dtype=torch.float64), 0.0),
    ]


def largest_rate(hessian, momentum):
    """2 (1 + γ) / h_max."""
    return 2 * (1 + momentum) / torch.linalg.eigvalsh(hessian).max()


def flattest(hessian, momentum):
    """the steepest direction sets the limit: take the largest eigenvalue, not the smallest."""
    return 2 * (1 + momentum) / torch.linalg.eigvalsh(hessian).min()


def newton(hessian, momentum):
    """1 / h lands at the optimum in one step; the limit is twice as far, where the step lands just as far beyond it."""
    return largest_rate(hessian, momentum) / 2


def plain_newton(hessian, momentum):
    """1 / h lands at the optimum in one step, without momentum; the limit is 2 (1 + γ) times as far."""
    return 1 / torch.linalg.eigvalsh(hessian).max()


def without_momentum(hessian, momentum):
    """momentum moves the limit: a factor 1 + γ is missing."""
    return largest_rate(hessian, 0.0)


def slower(hessian, momentum):
    """momentum moves the limit up, by 1 + γ, not down: against oscillation it is a brake."""
    return 2 * (1 - momentum) / torch.linalg.eigvalsh(hessian).max()


def trace(hessian, momentum):
    """this is the trace or a diagonal entry; the largest eigenvalue is asked for."""
    return 2 * (1 + momentum) / hessian.trace()


limit = Exercise(largest_rate, hessians, [flattest, newton, plain_newton, without_momentum, slower, trace])
