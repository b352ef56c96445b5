"""What the reader builds in chapter 5 agrees with the library or a closed form, on inputs of the tests' own."""

from pathlib import Path

import pytest
import torch

from savae_lite.elbo import elbo_mc, iwae
from savae_lite.exact import best_in_family, exact_elbo, gaps, log_evidence, moments, tabulate
from savae_lite.gaussian import log_prior
from savae_lite.models import LinearGaussian
from savae_lite.notebook import built

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(ROOT / "chapters" / "05_gaps.ipynb")
    torch.set_num_threads(threads)


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=[0, 8], ids=["affine", "tanh"])
def problem(request, chapter):
    """An oracle that the chapter does not use, three sequences, and a coarse table of them."""
    oracle = chapter.new_oracle(request.param, seed=11)
    oracle.z_output *= 0.4  # wide posteriors, for a coarse grid
    x, _ = chapter.draw(oracle, 3, seed=12)
    return oracle, x, tabulate(oracle.log_likelihood(x), 3, 2, points=41)


def test_elbo_of_a_table(chapter, problem):
    _, _, table = problem
    lam = 0.5 * normal(3, 4, seed=0)
    torch.testing.assert_close(chapter.table_elbo(table, lam), exact_elbo(table, lam), rtol=1e-10, atol=1e-10)


def test_the_best_gaussian_and_the_gaps(chapter, problem):
    _, _, table = problem
    lam, library = 0.5 * normal(3, 4, seed=1), best_in_family(table)
    mine = chapter.best_gaussian(table, [torch.zeros_like(lam), moments(table)])
    torch.testing.assert_close(exact_elbo(table, mine), exact_elbo(table, library), rtol=0, atol=1e-3)
    torch.testing.assert_close(chapter.two_gaps(table, lam, library), gaps(table, lam, library))
    total = log_evidence(table) - exact_elbo(table, lam)
    torch.testing.assert_close(sum(chapter.two_gaps(table, lam, mine)), total, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_the_approximation_gap_of_correlated_columns_has_a_closed_form(chapter, seed):
    weight = 0.7 * normal(4, 2, seed=seed)
    model, x = LinearGaussian(weight, scale=0.9), normal(2, 4, seed=10 + seed)
    table = tabulate(model.log_likelihood(x), 2, 2)
    best = chapter.best_gaussian(table, [moments(table)])
    precision = torch.eye(2).double() + weight.T @ weight / 0.9**2
    closed = 0.5 * (precision.diag().log().sum() - precision.logdet())
    approximation, rest = chapter.two_gaps(table, best, best)
    torch.testing.assert_close(approximation, closed.expand(2), rtol=0, atol=1e-3)
    assert not rest.any()


@pytest.mark.parametrize("samples", [1, 7])
def test_importance_bound(chapter, problem, samples):
    oracle, x, _ = problem
    given = oracle.log_likelihood(x)

    def log_joint(z):
        return given(z) + log_prior(z)

    args = log_joint, 0.5 * normal(3, 4, seed=2), normal(samples, 3, 2, seed=3)
    log_w = chapter.log_weights(*args)
    torch.testing.assert_close(chapter.importance_bound(log_w), iwae(*args))
    torch.testing.assert_close(log_w.mean(0), elbo_mc(*args))


def test_at_the_exact_posterior_every_weight_is_the_evidence(chapter):
    weight = torch.tensor([[1.0, 0.0], [0.0, -0.5]]).double()
    model, x = LinearGaussian(weight, scale=0.8), normal(3, 2, seed=4)
    given = model.log_likelihood(x)
    log_w = chapter.log_weights(lambda z: given(z) + log_prior(z), model.encode(x), normal(6, 3, 2, seed=5))
    torch.testing.assert_close(log_w, model.log_evidence(x).expand(6, 3))


def test_an_encoder_learns_and_is_left_frozen(chapter, problem):
    oracle, x, table = problem
    before, after = (chapter.train_encoder(oracle, x, hidden=8, seed=0, steps=steps, batch=20) for steps in (0, 80))
    assert exact_elbo(table, after(x)).mean() > exact_elbo(table, before(x)).mean() + 0.1
    assert not any(parameter.requires_grad for parameter in after.parameters())
