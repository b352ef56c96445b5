"""No silent wrong number: float32 against float64 over the whole range of λ, and every argument at its ends."""

import math

import pytest
import torch
from cases import generator, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from savae_lite.diagnostics import active_units, importance_weighted_nll, mutual_information, perplexity
from savae_lite.elbo import elbo, elbo_mc, free_bits, iwae, nelbo, unit_kl
from savae_lite.exact import Table, best_in_family, exact_elbo, gaps, log_evidence, tabulate
from savae_lite.gaussian import entropy, kl, log_prior, log_prob, log_prob_of_noise, pack, reparameterize, unpack
from savae_lite.grammar import grammar, log_prob_of_prefix, token_information
from savae_lite.grammar import log_prob as grammar_log_prob
from savae_lite.images import MLPVAE
from savae_lite.models import LinearGaussian, LSTMOracle
from savae_lite.records import append, provenance, rows
from savae_lite.saliency import occlusion, rank_correlation, ranks
from savae_lite.saliency import token_information as z_information
from savae_lite.schedules import constant, cyclical, linear
from savae_lite.text import LSTMVAE

often = settings(max_examples=200)
seeds = st.integers(0, 2**32)
# σ from e⁻⁸⁵ to e⁸⁵, and variances close to 1, where eˣ − x − 1 cancels
logvars = st.floats(-170, 170, width=32) | st.floats(-(2.0**-10), 2.0**-10, width=32)
means = st.floats(-1e4, 1e4, width=32) | st.floats(-(2.0**-10), 2.0**-10, width=32)


def rows_of(*columns):
    """λ ``(B, 2D)`` in float32 from hypothesis, B ≤ 3 and D = 2."""
    row = st.tuples(*columns)
    return st.lists(row, min_size=1, max_size=3).map(torch.tensor)


lams = rows_of(means, means, logvars, logvars)


def as_float32(truth):
    """The truth in float64 as float32 can hold it: what lies beyond is infinite."""
    return truth.float()


# --- cancellation and overflow ---


def test_a_variance_close_to_one_costs_what_it_costs():
    """½ (eˣ − 1 − x) = ¼ x² but for terms of third order."""
    assert_close(kl(torch.tensor([[0.0, 5e-5]])), torch.tensor([6.25e-10]), rtol=1e-2, atol=0)
    near = torch.tensor([[3.0, 5.0]]), torch.tensor([[3.0, 5.0 - 2**-14]])
    assert_close(kl(*near), torch.tensor([0.25 * 2.0**-28]), rtol=1e-2, atol=0)


@often
@given(lams)
def test_kl_is_right_over_the_whole_range(lam):
    found = kl(lam)
    assert (found >= 0).all()
    mean, logvar = unpack(lam.double())
    terms = 0.5 * (mean.square() + logvar.expm1() - logvar)
    # the sum of two numbers of size x loses what is below an ulp of x
    assert_close(found, as_float32(terms.sum(-1)), rtol=1e-5, atol=2e-7 * logvar.abs().clamp(max=1).max().item())
    assert_close(unit_kl(lam).sum(-1), found)


@often
@given(lams, lams)
def test_kl_of_two_is_right_over_the_whole_range(lam, other):
    lam, other = lam[:1], other[:1]
    (mean, logvar), (other_mean, other_logvar) = unpack(lam.double()), unpack(other.double())
    between = logvar - other_logvar
    truth = 0.5 * ((mean - other_mean).square() * (-other_logvar).exp() + between.expm1() - between).sum(-1)
    found = kl(lam, other)
    assert (found >= 0).all()
    assert_close(found, as_float32(truth), rtol=2e-4, atol=1e-6)
    assert_close(kl(lam, lam), torch.zeros(1), rtol=0, atol=0)
    assert_close(kl(lam, torch.zeros_like(lam)), kl(lam))


@often
@given(lams, seeds)
def test_densities_are_right_over_the_whole_range(lam, seed):
    eps = torch.randn(2, len(lam), 2, generator=generator(seed))
    z = reparameterize(lam, eps)
    mean, logvar = unpack(lam.double())
    truth = -0.5 * (math.log(2 * math.pi) + logvar + (z.double() - mean).square() * (-logvar).exp()).sum(-1)
    assert_close(log_prob(lam, z), as_float32(truth), rtol=1e-4, atol=1e-3)
    of_noise = -0.5 * (math.log(2 * math.pi) + logvar + eps.double().square()).sum(-1)
    assert_close(log_prob_of_noise(lam, eps), as_float32(of_noise), rtol=1e-5, atol=1e-4)
    assert_close(entropy(lam), as_float32(0.5 * (1 + math.log(2 * math.pi) + logvar).sum(-1)), rtol=1e-5, atol=1e-4)


def flat(z):
    return z.new_zeros(z.shape[:2])


@often
@given(rows_of(means, means, st.floats(-170, 20, width=32), st.floats(-170, 20, width=32)), seeds)
def test_bounds_by_monte_carlo_are_right_where_sigma_drowns_in_mu(lam, seed):
    """float32 keeps no ε in μ + σ ε where σ is small beside μ, so log p(x, z) is constant here."""
    eps = torch.randn(5, len(lam), 2, generator=generator(seed))
    found = elbo_mc(flat, lam, eps), iwae(flat, lam, eps), importance_weighted_nll(flat, lam, eps, chunk=2)
    _, logvar = unpack(lam.double())
    weights = 0.5 * (math.log(2 * math.pi) + logvar + eps.double().square()).sum(-1)
    bound = weights.logsumexp(0) - math.log(5)
    z = reparameterize(lam, eps)
    prior = -0.5 * (math.log(2 * math.pi) + z.double().square()).sum(-1)
    with_prior = (weights + prior).logsumexp(0) - math.log(5)
    for value, truth in zip(found, (weights.mean(0), bound, -with_prior), strict=True):
        assert_close(value, as_float32(truth), rtol=1e-5, atol=2e-4)


@often
@given(st.floats(-170, 170, width=32), st.floats(-1e4, 1e4, width=32), st.integers(2, 6), seeds)
def test_mutual_information_is_right_or_refused(logvar, scale, count, seed):
    gen = generator(seed)
    mean, eps = scale * torch.randn(count, 2, generator=gen), torch.randn(count, 2, generator=gen)
    lam = pack(mean, logvar + 3 * torch.randn(count, 2, generator=gen))
    try:
        found = mutual_information(lam, eps, chunk=3)
    except ValueError as error:
        assert "can hold" in str(error)
        assert logvar > 100 or logvar < -100
        return
    mean, logvars = unpack(lam.double())
    moved = (mean[:, None] - mean + (0.5 * logvars).exp()[:, None] * eps.double()[:, None]) * (-0.5 * logvars).exp()
    all_pairs = -0.5 * (math.log(2 * math.pi) + logvars + moved.square()).sum(-1)
    truth = (all_pairs.diagonal() - all_pairs.logsumexp(1) + math.log(count)).mean()
    assert found == pytest.approx(truth.item(), rel=1e-3, abs=1e-3)


def test_a_diverged_lambda_has_no_mutual_information():
    lam = torch.zeros(3, 4)
    for value in (math.nan, math.inf, -math.inf):
        lam[1, 3] = value
        with pytest.raises(ValueError, match="finite"):
            mutual_information(lam, torch.zeros(3, 2))


@often
@given(st.floats(-9, 2), seeds, st.integers(1, 5), st.integers(1, 3))
def test_the_evidence_in_closed_form_is_right_in_float32_however_small_the_noise(log10_scale, seed, pixels, latent):
    """The oracle is the density of x in float64, from torch.distributions where the noise is not too small for it."""
    weight = torch.randn(pixels, latent, generator=generator(seed))
    scale, x = 10**log10_scale, torch.randn(4, pixels, generator=generator(seed + 1))
    found = LinearGaussian(weight, scale).log_evidence(x)
    left, values, _ = torch.linalg.svd(weight.double(), full_matrices=True)
    variances = torch.full((pixels,), scale**2, dtype=torch.float64)
    variances[: len(values)] += values.square()
    turned = x.double() @ left
    truth = -0.5 * (turned.square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)
    if scale > 0.01:
        covariance = weight.double() @ weight.double().T + scale**2 * torch.eye(pixels).double()
        law = torch.distributions.MultivariateNormal(torch.zeros(pixels).double(), covariance)
        assert_close(truth, law.log_prob(x.double()), rtol=1e-6, atol=1e-6)
    assert_close(found.double(), truth, rtol=2e-3, atol=1e-2)


# --- the grid ---


def cell_table(place, points=21):
    """A posterior that sits in one cell of the grid, in one dimension."""
    z = torch.linspace(-5, 5, points, dtype=torch.float64)[:, None]
    spacing = 10 / (points - 1)
    return Table(z, -1e6 * (z - z[place]).square() + math.log(spacing), spacing)


@often
@given(st.integers(0, 20), st.integers(0, 20))
def test_a_posterior_in_one_cell_has_a_best_gaussian(place, other):
    one, two = cell_table(place), cell_table(other)
    table = Table(one.z, torch.cat([one.log_joint, two.log_joint], 1), one.spacing)
    best = best_in_family(table, steps=3)
    assert best.isfinite().all()
    assert_close(exact_elbo(table, best), log_evidence(table), atol=1e-3, rtol=0)
    for gap in gaps(table, best, best):
        assert_close(gap, torch.zeros_like(gap), atol=1e-3, rtol=0)


def test_a_nan_end_never_wins():
    """One of three starts ends in nan; the best of the finite ones is kept."""
    table, calls = cell_table(7), []

    def ascend(table, start, steps, lr):
        calls.append(start)
        return start * math.nan if len(calls) == 1 else start

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("savae_lite.exact._ascend", ascend)
        assert best_in_family(table).isfinite().all()
    assert len(calls) == 3


# --- schedules ---

steps = st.integers(0, 10**6)


@often
@given(st.floats(-1e20, 1e20), st.floats(-1e20, 1e20), st.integers(1, 10**5), steps)
def test_a_ramp_ends_where_it_says_and_stays_between(start, stop, count, step):
    beta = linear(start, stop, count)
    assert beta(0) == start and beta(count) == beta(count + step) == stop
    slack = 1e-15 * (abs(start) + abs(stop))
    assert min(start, stop) - slack <= beta(step) <= max(start, stop) + slack


@often
@given(st.integers(2, 10**5), st.floats(0.01, 1), steps)
def test_a_cycle_starts_at_0_and_reaches_1(period, ramp, step):
    beta = cyclical(period, ramp=ramp)
    assert beta(0) == beta(period) == 0 and 0 <= beta(step) <= 1
    assert beta(step) == pytest.approx(beta(step + period))
    assert beta(period - 1) == pytest.approx(min(1, (period - 1) / (ramp * period)))
    assert beta(period - 1) > 0


# --- arguments at their ends, shapes and types: what is asked for, what comes, how it is refused ---

WORD = torch.tensor([[0, 3, 1]])
EPS, LAM = torch.zeros(3, 5, 2), torch.zeros(5, 4)
ORACLE = {"embedding": 2, "hidden": 2, "generator": generator()}


def oracle():
    return LSTMOracle(4, length=2, **ORACLE)


def text_model():
    return LSTMVAE(5, embedding=2, hidden=2, latent=2, generator=generator())


def image_model():
    return MLPVAE(3, 2, 2, generator=generator())


def linear_model():
    return LinearGaussian(torch.eye(3)[:, :2], 1.0)


REFUSED = {
    "lam of whole numbers": lambda: kl(LAM.long()),
    "lam a list": lambda: kl([[0.0, 0.0]]),
    "lam of odd width": lambda: kl(torch.zeros(2, 3)),
    "other of another shape": lambda: kl(LAM, LAM[:1]),
    "one row of eps for five of lam": lambda: reparameterize(LAM, EPS[:, :1]),
    "one row of z for five of lam": lambda: log_prob(LAM, EPS[:, :1]),
    "one row of noise for five of lam": lambda: log_prob_of_noise(LAM, EPS[:, :1]),
    "no sample": lambda: reparameterize(LAM, EPS[:0]),
    "mean and logvar that broadcast": lambda: pack(torch.zeros(2, 3), torch.zeros(1, 3)),
    "beta that broadcasts": lambda: elbo(flat, LAM, EPS, beta=torch.ones(3, 1)),
    "beta of one entry": lambda: nelbo(flat, LAM, EPS, beta=torch.ones(1)),
    "beta uncalled": lambda: elbo(flat, LAM, EPS, beta=linear(0, 1, 5)),
    "likelihood of one row": lambda: iwae(lambda z: z.sum(-1)[:, :1], LAM, EPS),
    "floor nan": lambda: free_bits(torch.ones(2, 2), math.nan),
    "floor inf": lambda: free_bits(torch.ones(2, 2), math.inf),
    "units of one dimension": lambda: free_bits(torch.ones(2), 0.1),
    "nll of the wrong sign": lambda: perplexity(-21.7, 6),
    "nll nan": lambda: perplexity(math.nan, 6),
    "nll beyond numbers": lambda: perplexity(1e6, 6),
    "no token": lambda: perplexity(3.0, 0),
    "tokens nan": lambda: perplexity(3.0, math.nan),
    "threshold below 0": lambda: active_units(LAM, threshold=-1),
    "threshold nan": lambda: active_units(LAM, threshold=math.nan),
    "one example": lambda: active_units(LAM[:1]),
    "samples for one z a row": lambda: mutual_information(LAM, EPS),
    "no chunk": lambda: mutual_information(LAM, EPS[0], chunk=0),
    "no chunk of samples": lambda: importance_weighted_nll(flat, LAM, EPS, chunk=0),
    "grid without end": lambda: tabulate(flat, 5, 2, half_width=math.inf),
    "grid of no row": lambda: tabulate(flat, 0, 2),
    "grid of no chunk": lambda: tabulate(flat, 5, 2, chunk=0),
    "search of no step": lambda: best_in_family(cell_table(3), steps=0),
    "search at no rate": lambda: best_in_family(cell_table(3), lr=math.nan),
    "lam of one row for a table of two": lambda: exact_elbo(cell_table(3), torch.zeros(2, 2).double()),
    "cycle of one step": lambda: cyclical(1),
    "cycle of nan": lambda: cyclical(math.nan),
    "ramp of 0": lambda: cyclical(5, ramp=0),
    "ramp of no step": lambda: linear(0, 1, 0),
    "ramp without end": lambda: linear(0, 1, math.inf),
    "ramp to nan": lambda: linear(0, math.nan, 5),
    "weight nan": lambda: constant(math.nan),
    "step before the first": lambda: linear(0, 1, 5)(-1),
    "cycle before the first": lambda: cyclical(5)(-1),
    "text for words": lambda: grammar_log_prob("what is it ?"),
    "text for a prefix": lambda: log_prob_of_prefix("what"),
    "unknown factor": lambda: log_prob_of_prefix([], {"topik": 1}),
    "value below 0": lambda: log_prob_of_prefix([], {"topic": -1}),
    "value beyond": lambda: token_information(grammar(1, generator())[0][0], {"topic": 4}),
    "no sentence": lambda: grammar(0, generator()),
    "ranks of nan": lambda: ranks(torch.tensor([1.0, math.nan])),
    "ranks of a table": lambda: ranks(torch.ones(2, 2)),
    "correlation with nan": lambda: rank_correlation(torch.tensor([1.0, math.nan, 2.0]), torch.arange(3.0)),
    "hidden by no word": lambda: occlusion(lambda x: torch.zeros(len(x), 4), WORD, -1),
    "no sentence to hide in": lambda: occlusion(lambda x: torch.zeros(len(x), 4), WORD[:0], 2),
    "prior of rows": lambda: z_information(flat, LAM, EPS, EPS),
    "prior of another width": lambda: z_information(flat, LAM, EPS, torch.zeros(4, 3)),
    "no sample of the prior": lambda: z_information(flat, LAM, EPS, torch.zeros(0, 2)),
    "scale 0": lambda: LinearGaussian(torch.eye(2), 0.0),
    "scale inf": lambda: LinearGaussian(torch.eye(2), math.inf),
    "weight of one dimension": lambda: LinearGaussian(torch.ones(2), 1.0),
    "x that broadcasts over rows": lambda: linear_model().log_likelihood(torch.zeros(1, 3))(EPS),
    "z that broadcasts over rows": lambda: linear_model().log_likelihood(torch.zeros(5, 3))(EPS[:, :1]),
    "x of one number": lambda: linear_model().log_likelihood(torch.zeros(5, 1)),
    "x of another width": lambda: linear_model().encode(torch.zeros(5, 2)),
    "evidence of another width": lambda: linear_model().log_evidence(torch.zeros(5, 1)),
    "no row of the oracle": lambda: oracle().sample(0, generator=generator()),
    "oracle of no length": lambda: LSTMOracle(4, length=0, **ORACLE),
    "oracle of no word": lambda: LSTMOracle(0, length=2, **ORACLE),
    "a sentence of no token": lambda: text_model().generate(torch.zeros(1, 2), steps=0),
    "images of one row for five of z": lambda: MLPVAE(3, 2, 2, generator=generator()).log_likelihood(torch.ones(1, 3))(
        EPS
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_what_is_wanted_and_what_came(what):
    with pytest.raises((ValueError, TypeError), match=r"got .*\. ") as error:
        REFUSED[what]()
    assert error.traceback[-1].path.parent.name == "savae_lite", "torch said it, and not the library"


EMPTY = {
    "kl": lambda lam, eps: kl(lam),
    "kl of two": lambda lam, eps: kl(lam, lam),
    "entropy": lambda lam, eps: entropy(lam),
    "elbo": lambda lam, eps: elbo(flat, lam, eps),
    "iwae": lambda lam, eps: iwae(flat, lam, eps),
    "nll": lambda lam, eps: importance_weighted_nll(flat, lam, eps),
    "prior": lambda lam, eps: log_prior(eps[0]),
}


@pytest.mark.parametrize("what", EMPTY)
def test_no_rows_give_no_values(what):
    assert EMPTY[what](torch.zeros(0, 4), torch.zeros(3, 0, 2)).shape == (0,)


@pytest.mark.parametrize("beta", [0.5, torch.tensor(0.5), torch.full((5,), 0.5)])
def test_beta_is_a_number_or_one_a_row(beta):
    lam = noise(5, 4).float()
    assert_close(elbo(flat, lam, EPS, beta=beta), -0.5 * kl(lam))


@often
@given(st.integers(2, 40), seeds)
def test_a_correlation_stays_between_its_ends(count, seed):
    values = torch.rand(count, generator=generator(seed))
    for other in (values, -values, torch.rand(count, generator=generator(seed + 1))):
        assert -1 <= rank_correlation(values, other) <= 1


# --- records ---


def test_a_row_that_is_no_json_leaves_no_file(tmp_path):
    with pytest.raises(TypeError):
        append(tmp_path / "a.jsonl", {"loss": torch.tensor(1.0)})
    assert not list(tmp_path.iterdir())


def test_a_row_is_not_cut_at_a_separator_inside_a_string(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "x\u2028y\x85"}\n{"a": 1}\n', encoding="utf-8")
    assert rows(tmp_path / "a.jsonl") == [{"a": "x\u2028y\x85"}, {"a": 1}]


def test_without_git_the_commit_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance("make")["commit"] == "unknown"
