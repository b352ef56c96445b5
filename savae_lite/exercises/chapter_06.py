"""Exercises of chapter 6: a step of the reverse pass, a central difference, and the derivative of a clip."""

import torch

from savae_lite.exercises import Exercise


def _normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps_back():
    """λ̄ and v̄ ``(B, P)``, symmetric Hessians ``(B, P, P)``, rate and momentum."""
    (lam_bar, v_bar), root = _normal(2, 4, 3, seed=0), _normal(4, 3, 3, seed=1)
    hessian = root + root.mT
    return [(lam_bar, v_bar, hessian, 0.1, 0.5), (lam_bar[:1], v_bar[:1], hessian[:1], 0.7, 0.9)]


def back(lam_bar, v_bar, hessian, lr, momentum):
    """The next λ̄ and v̄."""
    v_bar = v_bar + lr * lam_bar
    return lam_bar - _times(hessian, v_bar), momentum * v_bar


def _times(hessian, v):
    return torch.einsum("bij,bj->bi", hessian, v)


def added(lam_bar, v_bar, hessian, lr, momentum):
    """the sign of the product is wrong: the step is along −∇f, so λ̄ loses the product."""
    v_bar = v_bar + lr * lam_bar
    return lam_bar + _times(hessian, v_bar), momentum * v_bar


def without_rate(lam_bar, v_bar, hessian, lr, momentum):
    """the rate is missing: λ moved by lr · v, so v̄ gains lr · λ̄."""
    return back(lam_bar, v_bar, hessian, 1.0, momentum)


def without_memory(lam_bar, v_bar, hessian, lr, momentum):
    """v̄ is forgotten: it gains lr · λ̄, on top of what later steps have left in it."""
    return back(lam_bar, torch.zeros_like(v_bar), hessian, lr, momentum)


def old_velocity(lam_bar, v_bar, hessian, lr, momentum):
    """the product is with v̄ after it has gained lr · λ̄, not before."""
    return lam_bar - _times(hessian, v_bar), momentum * (v_bar + lr * lam_bar)


def momentum_first(lam_bar, v_bar, hessian, lr, momentum):
    """momentum comes last: read the two lines of the step from the last to the first."""
    v_bar = momentum * v_bar + lr * lam_bar
    return lam_bar - _times(hessian, v_bar), v_bar


def momentum_too_soon(lam_bar, v_bar, hessian, lr, momentum):
    """momentum shrinks v̄ after the product: ∇f entered the velocity with weight 1, not γ."""
    v_bar = momentum * (v_bar + lr * lam_bar)
    return lam_bar - _times(hessian, v_bar), v_bar


def no_momentum(lam_bar, v_bar, hessian, lr, momentum):
    """v̄ must leave the step multiplied by the momentum: the old velocity entered with that factor."""
    return back(lam_bar, v_bar, hessian, lr, 1.0)


def new_lam_bar(lam_bar, v_bar, hessian, lr, momentum):
    """v̄ gains the λ̄ of the later step: update v̄ first, and λ̄ with it."""
    lam_bar = lam_bar - _times(hessian, v_bar)
    return lam_bar, momentum * (v_bar + lr * lam_bar)


def rate_twice(lam_bar, v_bar, hessian, lr, momentum):
    """the rate enters twice: v̄ has it already, the product with H does not need it again."""
    v_bar = v_bar + lr * lam_bar
    return lam_bar - lr * _times(hessian, v_bar), momentum * v_bar


def swapped(lam_bar, v_bar, hessian, lr, momentum):
    """λ̄ comes first, v̄ second."""
    return back(lam_bar, v_bar, hessian, lr, momentum)[::-1]


reverse_step = Exercise(
    back,
    steps_back,
    [added, without_rate, without_memory, old_velocity, momentum_first, momentum_too_soon, no_momentum, new_lam_bar,
     rate_twice, swapped],
)  # fmt: skip


def _sines(lam):
    """∇f of f(λ) = Σ −cos λ + ½ (Σ λ)²."""
    return lam.sin() + lam.sum(-1, keepdim=True)


def _cubes(lam):
    """∇f of f(λ) = Σ λ⁴ / 4."""
    return lam**3


def gradients():
    """A gradient, λ and v ``(B, P)`` with rows of very different length, and a displacement."""
    (lam, v), length = _normal(2, 3, 4, seed=2), torch.tensor([[0.1], [1.0], [20.0]], dtype=torch.float64)
    return [(_sines, lam, length * v, 0.2), (_cubes, lam[:1], length[:1] * v[:1], 0.1)]


def central(gradient, lam, v, eps):
    """(∇f(λ + r v) − ∇f(λ − r v)) / 2r, r = ε / ‖v‖."""
    return _central(gradient, lam, v, eps / v.norm(dim=-1, keepdim=True))


def _central(gradient, lam, v, r):
    return (gradient(lam + r * v) - gradient(lam - r * v)) / (2 * r)


def one_sided(gradient, lam, v, eps):
    """this is the one-sided difference: its error goes as ε. Take a step to either side."""
    r = eps / v.norm(dim=-1, keepdim=True)
    return (gradient(lam + r * v) - gradient(lam)) / r


def one_sided_back(gradient, lam, v, eps):
    """this is the one-sided difference, backwards: its error goes as ε. Take a step to either side."""
    r = eps / v.norm(dim=-1, keepdim=True)
    return (gradient(lam) - gradient(lam - r * v)) / r


def unscaled(gradient, lam, v, eps):
    """λ is displaced by ε ‖v‖: divide ε by the length of each row of v."""
    return _central(gradient, lam, v, eps)


def whole_norm(gradient, lam, v, eps):
    """‖v‖ is taken over all rows together: each row is displaced by ε by itself."""
    return _central(gradient, lam, v, eps / v.norm())


def unit(gradient, lam, v, eps):
    """this is H v / ‖v‖: divide by 2 r, not by 2 ε."""
    return central(gradient, lam, v, eps) / v.norm(dim=-1, keepdim=True)


def twice(gradient, lam, v, eps):
    """the two places lie 2 r apart, not r."""
    return 2 * central(gradient, lam, v, eps)


def half(gradient, lam, v, eps):
    """every row is displaced by ε to either side, not by ε / 2."""
    return central(gradient, lam, v, eps / 2)


def backwards(gradient, lam, v, eps):
    """the sign is reversed: the gradient at λ + r v comes first."""
    return -central(gradient, lam, v, eps)


central_product = Exercise(
    central, gradients, [one_sided, one_sided_back, unscaled, whole_norm, unit, twice, half, backwards]
)


def clips():
    """Gradients and v ``(B, P)``, some rows inside the norm and some outside, and the norm."""
    (gradient, v), length = _normal(2, 4, 3, seed=3), torch.tensor([[0.2], [1.0], [5.0], [30.0]], dtype=torch.float64)
    return [(length * gradient, v, 2.0), (3 * gradient[:2], v[:2], 0.5)]


def through(gradient, v, norm):
    """v inside; outside the part of v across g, times η / ‖g‖."""
    length = gradient.norm(dim=-1, keepdim=True)
    return v.where(length <= norm, norm / length * _across(gradient, v))


def _across(gradient, v):
    unit = gradient / gradient.norm(dim=-1, keepdim=True)
    return v - (unit * v).sum(-1, keepdim=True) * unit


def constant_scale(gradient, v, norm):
    """the factor η / ‖g‖ is no constant: it shrinks as g grows, so the part of v along g vanishes."""
    return v * (norm / gradient.norm(dim=-1, keepdim=True)).clamp(max=1)


def untouched(gradient, v, norm):
    """v goes through unchanged only where ‖g‖ ≤ η; elsewhere the clip has a Jacobian."""
    return v.clone()


def unscaled_projection(gradient, v, norm):
    """the part of v across g is right, but the clip also scales it, by η / ‖g‖."""
    return v.where(gradient.norm(dim=-1, keepdim=True) <= norm, _across(gradient, v))


def everywhere(gradient, v, norm):
    """where ‖g‖ ≤ η nothing is clipped, and v goes through unchanged."""
    return norm / gradient.norm(dim=-1, keepdim=True) * _across(gradient, v)


def along_only(gradient, v, norm):
    """this keeps the part of v along g: that is the one that vanishes."""
    length = gradient.norm(dim=-1, keepdim=True)
    return v.where(length <= norm, norm / length * (v - _across(gradient, v)))


def clipped_v(gradient, v, norm):
    """this clips v itself: the clip acts on g, and v is only carried through its derivative."""
    return v * (norm / v.norm(dim=-1, keepdim=True)).clamp(max=1)


def length_once(gradient, v, norm):
    """g gᵀ must be divided by ‖g‖², so that it projects: here it is divided by ‖g‖."""
    length = gradient.norm(dim=-1, keepdim=True)
    along = (gradient * v).sum(-1, keepdim=True) / length
    return v.where(length <= norm, norm / length * (v - along * gradient))


def all_rows(gradient, v, norm):
    """the norm is taken over all rows together: each row is clipped by itself."""
    length = gradient.norm()
    along = (gradient * v).sum() / length**2
    return v.where(length <= norm, norm / length * (v - along * gradient))


clip_product = Exercise(
    through,
    clips,
    [constant_scale, untouched, unscaled_projection, everywhere, along_only, clipped_v, length_once, all_rows],
)
