"""savae_lite.diagnostics against exact evidence, constructed codes and a Gaussian channel."""

import math

import pytest
import torch
from cases import linear_gaussian, log_joint, noise, seeds, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close

from savae_lite.diagnostics import active_units, importance_weighted_nll, mutual_information, perplexity
from savae_lite.elbo import iwae

MODEL, X = linear_gaussian()
POSTERIOR, EVIDENCE = MODEL.encode(X), MODEL.log_evidence(X)


def codes(mean, logvar=-12.0):
    """λ with these means and one log-variance."""
    return torch.cat([mean, torch.full_like(mean, logvar)], -1)


# --- importance-weighted NLL ---


@given(seeds, st.integers(1, 12), st.integers(1, 15))
def test_at_the_exact_posterior_it_is_the_evidence_for_any_samples_and_chunk(seed, samples, chunk):
    eps = noise(samples, 4, 2, seed=seed)
    found = importance_weighted_nll(MODEL.log_likelihood(X), POSTERIOR, eps, chunk=chunk)
    assert_close(found, -EVIDENCE)


@given(tensors(4, 4), seeds, st.integers(1, 15))
def test_it_is_minus_iwae_whatever_the_chunk(lam, seed, chunk):
    eps = noise(12, 4, 2, seed=seed)
    found = importance_weighted_nll(MODEL.log_likelihood(X), lam, eps, chunk=chunk)
    assert_close(found, -iwae(log_joint(MODEL, X), lam, eps))


def test_no_more_than_a_chunk_is_decoded_at_a_time():
    sizes = []
    likelihood = MODEL.log_likelihood(X)
    importance_weighted_nll(lambda z: sizes.append(len(z)) or likelihood(z), POSTERIOR, noise(11, 4, 2), chunk=4)
    assert sizes == [4, 4, 3]


def test_it_keeps_no_graph():
    lam = POSTERIOR.clone().requires_grad_()
    assert not importance_weighted_nll(MODEL.log_likelihood(X), lam, noise(3, 4, 2)).requires_grad


@pytest.mark.parametrize("chunk", [0, -1])
def test_a_chunk_below_one_is_refused(chunk):
    with pytest.raises((ValueError, RuntimeError)):
        importance_weighted_nll(MODEL.log_likelihood(X), POSTERIOR, noise(3, 4, 2), chunk=chunk)
    with pytest.raises((ValueError, RuntimeError)):
        mutual_information(POSTERIOR, noise(4, 2), chunk=chunk)


@pytest.mark.parametrize("shape", [(4, 2), (3, 5, 2), (3, 4, 1)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="eps must be"):
        importance_weighted_nll(MODEL.log_likelihood(X), POSTERIOR, noise(*shape))


# --- perplexity ---


@given(st.floats(0.0, 500.0), st.integers(1, 500))
def test_perplexity_is_the_exponential_of_nats_per_token(nll, tokens):
    assert math.log(perplexity(nll, tokens)) == pytest.approx(nll / tokens, abs=1e-12)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    assert perplexity(7 * math.log(50), 7) == pytest.approx(50)


@pytest.mark.parametrize("tokens", [0, -3])
def test_perplexity_without_tokens_is_refused(tokens):
    with pytest.raises(ValueError, match=f"tokens?.*{tokens}"):
        perplexity(1.0, tokens)


# --- active units ---


@given(seeds, st.integers(0, 6))
def test_the_units_that_move_are_counted(seed, moving):
    """Means of ±1 move, means of ±1e-3 and constants do not, whatever the variances are."""
    mean = torch.cat([torch.ones(1, moving), torch.full((1, 5), 1e-3), torch.zeros(1, 2)], 1).double()
    mean = torch.cat([mean, -mean]).repeat(5, 1) + noise(1, moving + 7, seed=seed)
    logvar = 3 * noise(10, moving + 7, seed=seed + 1)
    assert active_units(torch.cat([mean, logvar], -1)) == moving


def test_the_threshold_is_on_the_unbiased_variance_of_the_mean():
    lam = codes(torch.tensor([[-1.0], [1.0]]))  # sum of squares 2, divided by N − 1 = 1
    assert active_units(lam, threshold=1.99) == 1 and active_units(lam, threshold=2.01) == 0


def test_a_collapsed_posterior_has_no_active_unit():
    assert active_units(torch.zeros(10, 6)) == 0
    assert isinstance(active_units(torch.zeros(10, 6)), int)


def test_one_row_has_no_variance():
    with pytest.raises(ValueError, match=r"\(1, 4\)"):
        active_units(torch.zeros(1, 4))


# --- mutual information ---


@pytest.mark.parametrize("rows", [2, 7, 30])
def test_codes_far_apart_carry_log_n(rows):
    mean = torch.arange(rows, dtype=torch.float64)[:, None] * torch.ones(1, 2)
    assert mutual_information(codes(mean), noise(rows, 2)) == pytest.approx(math.log(rows), abs=1e-6)


@given(seeds)
def test_equal_codes_carry_nothing(seed):
    lam = noise(1, 4, seed=seed).expand(9, -1)
    assert mutual_information(lam, noise(9, 2, seed=seed + 1)) == pytest.approx(0.0, abs=1e-10)


@given(st.tuples(st.integers(2, 8), st.integers(1, 3)).flatmap(lambda n: tensors(n[0], 2 * n[1])), seeds)
def test_it_is_at_most_log_n(lam, seed):
    assert mutual_information(lam, noise(len(lam), lam.shape[1] // 2, seed=seed)) <= math.log(len(lam)) + 1e-9


@given(tensors(6, 4), seeds, st.integers(1, 8))
def test_it_is_the_log_ratio_to_the_mixture_whatever_the_chunk(lam, seed, chunk):
    eps = noise(6, 2, seed=seed)
    mean, sd = lam[:, :2], (lam[:, 2:] / 2).exp()
    rows = Independent(Normal(mean, sd), 1)
    z = mean + sd * eps
    expected = (rows.log_prob(z) - MixtureSameFamily(Categorical(torch.ones(6).double()), rows).log_prob(z)).mean()
    assert mutual_information(lam, eps, chunk=chunk) == pytest.approx(expected.item(), abs=1e-9)


def test_a_gaussian_channel_carries_half_log_one_plus_its_signal_to_noise():
    """μ ~ N(0, s²), σ = 1: I = 0.5 log(1 + s²). The tolerance is about 4 standard errors of 2000 rows."""
    for s in (0.5, 2.0):
        lam = codes(s * noise(2000, 1, seed=1), logvar=0.0)
        assert mutual_information(lam, noise(2000, 1, seed=2)) == pytest.approx(0.5 * math.log(1 + s * s), abs=0.05)


@pytest.mark.parametrize("shape", [(5, 2), (4, 1), (1, 4, 2)])
def test_noise_that_does_not_match_the_rows_is_refused(shape):
    with pytest.raises(ValueError) as error:
        mutual_information(torch.zeros(4, 4), torch.zeros(shape))
    assert "(4, 2)" in str(error.value) and str(shape) in str(error.value)


def test_a_model_without_z_holds_no_information_and_no_units():
    nothing = torch.zeros(5, 0)
    assert mutual_information(nothing, nothing) == 0
    assert active_units(nothing) == 0
