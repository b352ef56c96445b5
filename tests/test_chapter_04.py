"""What the reader builds in chapter 4 agrees with the library, on inputs that the chapter does not use."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import generator, noise
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from savae_lite.exact import exact_elbo
from savae_lite.images import MLPVAE
from savae_lite.lstm import LSTMEncoder
from savae_lite.models import LinearGaussian
from savae_lite.notebook import built
from savae_lite.savae import savae_loss

ROOT = Path(__file__).parent.parent
x = torch.tensor([[3, 0, 10], [7, 7, 1], [2, 9, 4], [5, 6, 8]])


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(ROOT / "chapters" / "04_amortization.ipynb")
    torch.set_num_threads(threads)


def lstm_encoder():
    return LSTMEncoder(11, embedding=3, hidden=4, latent=2, generator=generator(5), scale=0.8).double()


def linear_gaussian():
    """A model with one z whose posterior is exact, observations, and log p(x)."""
    model = LinearGaussian(torch.tensor([[1.0], [-0.5]], dtype=torch.float64), 0.8)
    seen = noise(5, 2, seed=3)
    return model, seen, model.log_evidence(seen)


def test_encoder(chapter):
    encoder = lstm_encoder()
    assert_close(chapter.encode(encoder, x), encoder(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("samples", [1, 6])
def test_loss_and_its_gradient_are_the_librarys(chapter, samples):
    model = MLPVAE(6, 5, 3, generator=generator(2)).double()
    seen, eps = (noise(4, 6) > 0).double(), noise(1, samples, 4, 3, seed=1)
    mine, library = chapter.amortized_loss(model, seen, eps[0]), savae_loss(model, seen, eps, lr=1.0).mean()
    assert_close(mine, library, rtol=1e-12, atol=1e-12)
    weights = list(model.parameters())
    assert_close(torch.autograd.grad(mine, weights), torch.autograd.grad(library, weights), rtol=1e-9, atol=1e-12)


def test_divergence_in_the_loss_is_that_of_torch_distributions(chapter):
    lam, eps = noise(4, 6), noise(2, 4, 3, seed=1)
    model = SimpleNamespace(encode=lambda _: lam, log_likelihood=lambda _: lambda z: z.new_zeros(z.shape[:2]))
    mean, logvar = lam.chunk(2, -1)
    q, prior = (Independent(Normal(m, s), 1) for m, s in ((mean, (logvar / 2).exp()), (0 * mean, 1 + 0 * mean)))
    assert_close(chapter.amortized_loss(model, x, eps), kl_divergence(q, prior).mean())


def test_at_the_exact_posterior_the_loss_is_the_evidence(chapter):
    model, seen, evidence = linear_gaussian()
    eps = noise(40_000, 5, 1)
    assert chapter.amortized_loss(model, seen, eps).item() == pytest.approx(-evidence.mean().item(), abs=0.02)


def test_ruler_finds_the_best_of_the_family(chapter):
    oracle = chapter.new_oracle(7)
    seen, _ = oracle.sample(3, generator=generator(1))
    table, best = chapter.ruler(oracle.log_likelihood(seen), 3)
    for shift in noise(20, *best.shape, seed=2) * 0.1:
        assert (exact_elbo(table, best + shift) <= exact_elbo(table, best) + 1e-3).all()


def test_svi_gaps_start_at_the_prior_and_fall(chapter):
    oracle = chapter.new_oracle(7)
    seen, _ = oracle.sample(4, generator=generator(1))
    log_likelihood = oracle.log_likelihood(seen)
    table, best = chapter.ruler(log_likelihood, 4)
    left, seconds = chapter.svi_gaps(log_likelihood, table, best, 0.05)
    assert left.shape == (len(chapter.MARKS), 4) and seconds > 0
    assert_close(left[0], exact_elbo(table, best) - exact_elbo(table, torch.zeros_like(best)))
    assert left[-1].mean() < 0.2 * left[0].mean()


def test_training_lowers_the_gap_and_depends_on_its_seed_alone(chapter):
    oracle = chapter.new_oracle(7)
    seen, _ = oracle.sample(100, generator=generator(1))
    first, again = (chapter.train(oracle, seen, 3, steps=60)(seen) for _ in range(2))
    assert torch.equal(first, again)
    table, best = chapter.ruler(oracle.log_likelihood(seen[:10]), 10)
    left, prior = (exact_elbo(table, best - 0) - exact_elbo(table, lam) for lam in (first[:10], torch.zeros_like(best)))
    assert left.mean() < 0.5 * prior.mean()


def test_refinement_starts_at_the_encoder(chapter):
    model = MLPVAE(6, 5, 2, generator=generator(2))
    seen = (noise(4, 6) > 0).float()
    assert_close(chapter.refined(model, seen, 0.01, steps=0), model.encode(seen))


def test_rank_correlation_sees_order_only(chapter):
    a = noise(30)
    assert chapter.rank_correlation(a, a.exp()) == pytest.approx(1)
    assert chapter.rank_correlation(a, -(a**3)) == pytest.approx(-1)


def test_digits_are_binary_and_whole(chapter):
    images, labels = chapter.digits()
    assert images.shape == (1797, 64) and set(images.unique().tolist()) == {0.0, 1.0}
    assert len(labels) == 1797 and set(labels.tolist()) == set(range(10))
