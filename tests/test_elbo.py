"""savae_lite.elbo against the exact evidence of a linear-Gaussian model."""

from itertools import pairwise

import pytest
import torch
from cases import linear_gaussian, log_joint, noise, seeds, tensors
from hypothesis import given
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from savae_lite.elbo import elbo, elbo_mc, free_bits, iwae, nelbo, unit_kl
from savae_lite.gaussian import kl

MODEL, X = linear_gaussian()
LIKELIHOOD, JOINT = MODEL.log_likelihood(X), log_joint(MODEL, X)
EVIDENCE, POSTERIOR = MODEL.log_evidence(X), MODEL.encode(X)
lams = tensors(4, 4)


def nodes(rows, size):
    """ε of ±1 in every dimension: their average is E over N(0, I) for any quadratic function."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * size)
    return signs[:, None].expand(-1, rows, -1)


def gap(lam):
    """KL(q(z; λ) ‖ p(z|x)) by torch.distributions."""
    (mean, logvar), (mean_x, logvar_x) = lam.chunk(2, -1), POSTERIOR.chunk(2, -1)
    return kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(mean_x, (logvar_x / 2).exp())).sum(-1)


@given(seeds)
def test_at_the_exact_posterior_the_bounds_are_the_evidence_for_every_noise(seed):
    eps = noise(3, 4, 2, seed=seed)
    assert_close(elbo_mc(JOINT, POSTERIOR, eps), EVIDENCE)
    assert_close(iwae(JOINT, POSTERIOR, eps), EVIDENCE)


@given(lams)
def test_the_expected_elbo_is_the_evidence_minus_the_gap(lam):
    """log p(x, z) is quadratic in z, so the ±1 nodes give the exact expectation."""
    assert_close(elbo(LIKELIHOOD, lam, nodes(4, 2)), EVIDENCE - gap(lam))
    assert_close(elbo_mc(JOINT, lam, nodes(4, 2)), EVIDENCE - gap(lam))
    assert (elbo(LIKELIHOOD, lam, nodes(4, 2)) <= EVIDENCE + 1e-9).all()


@given(lams, seeds)
def test_one_sample_of_iwae_is_elbo_mc(lam, seed):
    eps = noise(1, 4, 2, seed=seed)
    assert_close(iwae(JOINT, lam, eps), elbo_mc(JOINT, lam, eps))


@given(lams, seeds)
def test_iwae_is_at_least_elbo_mc_of_the_same_samples(lam, seed):
    eps = noise(5, 4, 2, seed=seed)
    assert (iwae(JOINT, lam, eps) >= elbo_mc(JOINT, lam, eps) - 1e-9).all()


@given(lams, seeds)
def test_iwae_is_the_log_of_the_mean_weight(lam, seed):
    eps = noise(5, 4, 2, seed=seed)
    weights = torch.stack([elbo_mc(JOINT, lam, one[None]) for one in eps]).exp()
    assert_close(iwae(JOINT, lam, eps), weights.mean(0).log())


def test_iwae_rises_with_samples_and_stays_below_the_evidence():
    """Means of 20 000 draws, paired between S; q is off the posterior, and wider so that weights are bounded."""
    draws = 20_000
    model, x = linear_gaussian(rows=1)
    lam = (model.encode(x) + torch.tensor([[0.3, -0.3, 0.7, 0.7]])).expand(draws, -1)
    joint, eps = log_joint(model, x.expand(draws, -1)), noise(16, draws, 2, seed=3)
    bounds = [iwae(joint, lam, eps[:samples]) for samples in (1, 2, 4, 8, 16)]
    for low, high in pairwise(bounds):
        rise = high - low
        assert rise.mean() > 3 * rise.std() / draws**0.5
    assert all(bound.mean() < model.log_evidence(x) for bound in bounds)
    assert model.log_evidence(x) - bounds[-1].mean() < 0.2 * (model.log_evidence(x) - bounds[0].mean())


def test_iwae_of_far_samples_does_not_underflow():
    far = iwae(lambda z: JOINT(z) - 1e4, POSTERIOR, noise(3, 4, 2))
    assert_close(far, EVIDENCE - 1e4)


@given(lams, seeds)
def test_beta_scales_the_divergence_alone(lam, seed):
    eps = noise(2, 4, 2, seed=seed)
    mean, logvar = lam.chunk(2, -1)
    divergence = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros_like(mean), 1.0)).sum(-1)
    reconstruction = elbo(LIKELIHOOD, lam, eps, beta=0.0)
    assert_close(reconstruction, LIKELIHOOD(mean + (logvar / 2).exp() * eps).mean(0))
    for beta in (0.1, 1.0, 4.0):
        assert_close(elbo(LIKELIHOOD, lam, eps, beta=beta), reconstruction - beta * divergence)


@given(lams, seeds)
def test_nelbo_is_minus_the_elbo(lam, seed):
    eps = noise(2, 4, 2, seed=seed)
    assert_close(nelbo(LIKELIHOOD, lam, eps), -elbo(LIKELIHOOD, lam, eps), rtol=0, atol=0)
    assert_close(nelbo(LIKELIHOOD, lam, eps, beta=0.3), -elbo(LIKELIHOOD, lam, eps, beta=0.3), rtol=0, atol=0)


def test_the_gradient_vanishes_at_the_exact_posterior():
    lam = POSTERIOR.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(elbo(LIKELIHOOD, lam, nodes(4, 2)).sum(), lam)
    assert_close(gradient, torch.zeros_like(lam), atol=1e-10, rtol=0)


@pytest.mark.parametrize("bound", [elbo, nelbo, elbo_mc, iwae])
@pytest.mark.parametrize("wrong", [lambda z: z.sum((0, 2)), lambda z: z, lambda z: z.sum(-1)[:1], lambda z: z.sum()])
def test_a_likelihood_of_another_shape_is_refused(bound, wrong):
    eps = noise(2, 4, 2)
    with pytest.raises(ValueError) as error:
        bound(wrong, POSTERIOR, eps)
    assert "(2, 4)" in str(error.value) and str(tuple(wrong(eps).shape)) in str(error.value)


@pytest.mark.parametrize("bound", [elbo, nelbo, elbo_mc, iwae])
def test_noise_of_another_shape_is_refused(bound):
    with pytest.raises(ValueError, match=r"eps must be \(S, 4, 2\)"):
        bound(lambda z: z.sum(-1), POSTERIOR, noise(2, 3, 2))


@given(lams)
def test_the_kl_of_units_is_that_of_normals_and_sums_to_the_kl(lam):
    mean, logvar = lam.chunk(2, -1)
    assert_close(unit_kl(lam), kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros_like(mean), 1.0)))
    assert_close(unit_kl(lam).sum(-1), kl(lam))


@given(lams)
def test_without_a_floor_free_bits_are_the_mean_kl(lam):
    assert_close(free_bits(unit_kl(lam), 0.0), kl(lam).mean())


@given(lams)
def test_under_a_high_floor_free_bits_are_the_floors_and_nothing_is_learned(lam):
    lam = lam.clone().requires_grad_()
    loss = free_bits(unit_kl(lam), 100.0)
    assert_close(loss, torch.tensor(200.0, dtype=torch.float64), check_dtype=False)
    assert_close(*torch.broadcast_tensors(torch.autograd.grad(loss, lam)[0], torch.zeros(1, dtype=torch.float64)))


@given(lams)
def test_free_bits_charge_the_batch_and_never_less_than_the_kl(lam):
    units, floor = unit_kl(lam), 0.7
    loss = free_bits(units, floor)
    assert_close(loss, sum(max(mean, floor) for mean in units.mean(0).tolist()) + 0 * loss)
    assert kl(lam).mean() - 1e-9 <= loss <= kl(lam).mean() + 2 * floor + 1e-9


def test_a_unit_above_the_floor_has_the_gradient_of_its_kl_and_one_below_has_none():
    lam = torch.tensor([[2.0, 0.1, 0.0, 0.0], [1.0, -0.1, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    (free,) = torch.autograd.grad(free_bits(unit_kl(lam), 0.5), lam)
    (whole,) = torch.autograd.grad(kl(lam).mean(), lam)
    assert_close(free[:, [0, 2]], whole[:, [0, 2]])
    assert (free[:, [1, 3]] == 0).all()


@pytest.mark.parametrize("units, floor, message", [((3, 2), -0.1, "floor.*-0.1"), ((3,), 0.1, r"units.*\(3,\)")])
def test_free_bits_of_another_shape_or_below_zero_are_refused(units, floor, message):
    with pytest.raises(ValueError, match=message):
        free_bits(torch.ones(units), floor)
