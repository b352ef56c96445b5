"""What the reader builds in chapter 1 agrees with closed forms and the library, on other inputs."""

from pathlib import Path

import pytest
import torch
from cases import noise
from torch.distributions import Normal
from torch.testing import assert_close

from savae_lite.exact import Table
from savae_lite.models import LinearGaussian
from savae_lite.notebook import built


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(Path(__file__).parent.parent / "chapters" / "01_posterior.ipynb")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("latent", [1, 2])
def test_grid_evidence_is_the_closed_form(chapter, latent):
    model, x = LinearGaussian(noise(4, latent, seed=1), 0.9), noise(5, 4, seed=2)
    log_joint = chapter.joint_of(model.log_likelihood(x), 5)
    assert_close(chapter.grid_evidence(log_joint, latent), model.log_evidence(x), atol=1e-6, rtol=0)


def test_prior_sampling_is_the_mean_likelihood(chapter):
    model, x, z = LinearGaussian(noise(3, 2, seed=3), 1.1), noise(4, 3, seed=4), noise(6, 4, 2, seed=5)
    expected = model.log_likelihood(x)(z).exp().mean(0).log()
    assert_close(chapter.prior_sampling(model.log_likelihood(x), z), expected)


def test_the_sequence_model_is_the_oracle(chapter):
    oracle = chapter.make_oracle(3)
    x, _ = oracle.sample(9, generator=torch.Generator().manual_seed(4))
    z = noise(5, 9, 2, seed=6)
    assert_close(chapter.sequence_log_likelihood(oracle, x, z), oracle.log_likelihood(x)(z), atol=1e-10, rtol=0)


def test_the_mass_within_a_normal_is_known(chapter):
    """For a normal posterior the mass nearer to the mean than z is 2 Φ(|z − μ| / σ) − 1."""
    axis = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    means, deviation = torch.tensor([0.3, -1.0], dtype=torch.float64), 0.7
    log_joint = Normal(means, deviation).log_prob(axis[:, None]) - 4.0
    z = torch.tensor([[1.0], [-1.4]], dtype=torch.float64)
    distance = (z[:, 0] - means).abs() / deviation
    masses = chapter.mass_within(Table(axis[:, None], log_joint, 0.005), z)
    assert_close(masses, 2 * Normal(0.0, 1.0).cdf(distance) - 1, atol=5e-3, rtol=0)
