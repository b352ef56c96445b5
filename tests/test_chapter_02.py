"""What the reader builds in chapter 2 agrees with closed forms and the library, on other inputs."""

from pathlib import Path

import pytest
import torch
from cases import linear_gaussian, log_joint, noise
from torch.distributions import Normal, kl_divergence
from torch.testing import assert_close

from savae_lite import elbo as library
from savae_lite import gaussian
from savae_lite.exact import log_evidence, tabulate
from savae_lite.notebook import built

LAM = 0.4 * noise(4, 4, seed=20)


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(Path(__file__).parent.parent / "chapters" / "02_bound.ipynb")
    torch.set_num_threads(threads)


def exact_elbo(model, x, lam):
    """E_q log p(x|z) − KL, the first in closed form: its value at the mean less ½ Σ_d σ_d² (WᵀW)_dd / s²."""
    mean, logvar = gaussian.unpack(lam)
    spread = 0.5 * (logvar.exp() * (model.weight.T @ model.weight).diag()).sum(-1) / model.scale**2
    return model.log_likelihood(x)(mean[None])[0] - spread - gaussian.kl(lam)


def test_kl_to_prior(chapter):
    mean, logvar = LAM.chunk(2, -1)
    expected = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(torch.zeros(2).double(), 1.0)).sum(-1)
    assert_close(chapter.kl_to_prior(LAM), expected)


def test_four_ways_are_the_closed_form(chapter):
    model, x = linear_gaussian()
    for value in chapter.four_ways(model.log_likelihood(x), LAM).values():
        assert_close(value, exact_elbo(model, x, LAM), atol=1e-6, rtol=0)


def test_elbo_and_its_samples(chapter):
    model, x = linear_gaussian()
    eps = noise(7, 4, 2, seed=21)
    assert_close(chapter.reparameterize(LAM, eps), gaussian.reparameterize(LAM, eps))
    assert_close(chapter.elbo(model.log_likelihood(x), LAM, eps), library.elbo(model.log_likelihood(x), LAM, eps))


def test_the_free_function_climbs_to_the_evidence(chapter):
    model, x = linear_gaussian()
    table = tabulate(model.log_likelihood(x), 4, 2, points=61)
    *_, end = chapter.free_form(table.log_joint)
    assert (end <= log_evidence(table) + 1e-9).all()
    assert_close(end, log_evidence(table), atol=1e-2, rtol=0)


@pytest.mark.parametrize("name", ["pathwise", "score_function"])
def test_both_estimators_have_the_exact_gradient_for_mean(chapter, name):
    model, x = linear_gaussian()
    lam = LAM.clone().requires_grad_()
    (expected,) = torch.autograd.grad(exact_elbo(model, x, lam).sum(), lam)
    gradients = getattr(chapter, name)(log_joint(model, x), LAM, noise(40_000, 4, 2, seed=22))
    error = (gradients.var(0) / len(gradients)).sqrt()
    assert ((gradients.mean(0) - expected).abs() < 5 * error).all()


def test_a_baseline_moves_single_samples_by_baseline_times_score(chapter):
    model, x = linear_gaussian()
    eps, joint = noise(3, 4, 2, seed=23), log_joint(model, x)
    lam = LAM.expand(3, 4, 4).clone().requires_grad_()
    z = gaussian.reparameterize(LAM, eps)
    mean, logvar = lam.chunk(2, -1)
    (score,) = torch.autograd.grad(Normal(mean, (logvar / 2).exp()).log_prob(z).sum(), lam)
    moved = chapter.score_function(joint, LAM, eps) - chapter.score_function(joint, LAM, eps, baseline=2.0)
    assert_close(moved, 2.0 * score)
