"""savae_lite.exact against the linear-Gaussian model, whose evidence, posterior and gaps have closed forms."""

import math
import warnings
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from cases import generator, noise, seeds
from hypothesis import given
from torch.distributions import Normal
from torch.testing import assert_close

from savae_lite.exact import Table, best_in_family, exact_elbo, gaps, log_evidence, moments, tabulate
from savae_lite.gaussian import kl, pack, reparameterize
from savae_lite.models import LinearGaussian, LSTMOracle

ORTHOGONAL = torch.tensor([[1.0, 0.0], [0.0, 0.8], [0.0, 0.4]], dtype=torch.float64)
CORRELATED = torch.tensor([[1.0, 0.5], [0.3, 0.9], [0.0, 0.4]], dtype=torch.float64)
X = torch.tensor([[0.5, -1.0, 0.3], [-0.2, 0.4, 1.0]], dtype=torch.float64)


def table_of(weight, points=81, **options):
    model = LinearGaussian(weight, scale=0.7)
    return tabulate(model.log_likelihood(X), len(X), 2, points=points, **options), model


def precision(weight):
    return torch.eye(2, dtype=torch.float64) + weight.T @ weight / 0.7**2


@pytest.mark.parametrize("weight", [ORTHOGONAL, CORRELATED], ids=["orthogonal", "correlated"])
def test_evidence_is_the_closed_form(weight):
    table, model = table_of(weight)
    assert_close(log_evidence(table), model.log_evidence(X), atol=1e-8, rtol=0)


def test_one_dimension():
    weight = torch.tensor([[0.9], [-0.5], [0.2]], dtype=torch.float64)
    model = LinearGaussian(weight, scale=0.7)
    table = tabulate(model.log_likelihood(X), len(X), 1)
    assert_close(log_evidence(table), model.log_evidence(X), atol=1e-8, rtol=0)
    assert_close(moments(table), model.encode(X), atol=1e-6, rtol=0)


def test_moments_and_best_in_family_are_the_exact_posterior_where_it_is_in_the_family():
    table, model = table_of(ORTHOGONAL)
    assert_close(moments(table), model.encode(X), atol=1e-6, rtol=0)
    assert_close(best_in_family(table), model.encode(X), atol=1e-3, rtol=0)


def test_best_diagonal_gaussian_of_a_correlated_posterior():
    """Its mean is the posterior's, its variances are 1/Λ_dd, and it loses ½(Σ log Λ_dd − log |Λ|), for precision Λ."""
    table, _ = table_of(CORRELATED)
    matrix = precision(CORRELATED)
    mean = X @ CORRELATED @ torch.linalg.inv(matrix) / 0.7**2
    best = pack(mean, -matrix.diag().log().expand_as(mean))
    assert_close(best_in_family(table), best, atol=1e-3, rtol=0)
    approximation, amortization = gaps(table, best)
    lost = 0.5 * (matrix.diag().log().sum() - torch.logdet(matrix))
    assert lost > 0.05
    assert_close(approximation, lost.expand(2), atol=1e-5, rtol=0)
    assert_close(amortization, torch.zeros(2, dtype=torch.float64), atol=1e-5, rtol=0)


def test_elbo_is_the_closed_form():
    """E_q of the log-likelihood is its value at the mean less ½ Σ_d σ_d² (WᵀW)_dd / scale²."""
    table, model = table_of(CORRELATED)
    lam = torch.tensor([[0.3, -0.5, -1.0, -0.7], [0.5, 0.2, -0.6, -1.5]], dtype=torch.float64)
    at_mean = model.log_likelihood(X)(reparameterize(lam, torch.zeros(1, 2, 2, dtype=torch.float64)))[0]
    spread = 0.5 * (lam[:, 2:].exp() * (CORRELATED.T @ CORRELATED).diag()).sum(1) / 0.7**2
    assert_close(exact_elbo(table, lam), at_mean - spread - kl(lam), atol=1e-6, rtol=0)


@pytest.mark.parametrize("points", [5, 9, 21, 81])
def test_no_elbo_exceeds_the_evidence_however_coarse_the_grid(points):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table, _ = table_of(CORRELATED, points=points)
    lam = 2 * torch.randn(50, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for one in [*lam, moments(table).nan_to_num(neginf=-20.0)]:
        assert (exact_elbo(table, one) <= log_evidence(table) + 1e-12).all()


def test_refining_the_grid_shrinks_the_error():
    errors = []
    for points in (9, 13, 21, 41):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table, model = table_of(CORRELATED, points=points)
        errors.append((log_evidence(table) - model.log_evidence(X)).abs().max().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3 > 1e-6 > errors[-1]


def test_gaps_add_up_to_the_whole():
    table, model = table_of(CORRELATED)
    lam = torch.zeros(2, 4, dtype=torch.float64)
    approximation, amortization = gaps(table, lam)
    assert_close(approximation + amortization, model.log_evidence(X) - exact_elbo(table, lam), atol=1e-6, rtol=0)
    assert (approximation > 0).all() and (amortization > 0).all()


def test_elbo_is_differentiable_in_lam():
    table, _ = table_of(ORTHOGONAL, points=31)
    lam = (0.3 * torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda value: exact_elbo(table, value), (lam,))


def test_the_best_of_two_modes_is_found_from_either_side():
    """Two narrow modes of unequal mass: the optimum sits on the heavier one, and no start may end on the lighter."""
    z = torch.linspace(-5, 5, 401, dtype=torch.float64)[:, None]
    modes = torch.stack([-50 * (z[:, 0] - 2) ** 2, -50 * (z[:, 0] + 2) ** 2 - 1.0]).logsumexp(0)
    mirrored = modes.flip(0)
    table = Table(z, torch.stack([modes, mirrored], 1) + math.log(0.025), 0.025)
    assert_close(best_in_family(table)[:, 0], torch.tensor([2.0, -2.0], dtype=torch.float64), atol=1e-2, rtol=0)


def test_a_coarse_grid_says_what_it_needs():
    with pytest.warns(UserWarning, match=r"points ≥ (\d+)") as caught:
        table_of(ORTHOGONAL, points=11)
    needed = int(str(caught[0].message).rsplit(" ", 1)[1].rstrip("."))
    table_of(ORTHOGONAL, points=needed)


def test_a_narrow_grid_says_so():
    with pytest.warns(UserWarning, match="half_width above 1"):
        table_of(ORTHOGONAL, half_width=1.0)


def test_three_dimensions_are_refused():
    with pytest.raises(ValueError, match="1 or 2 dimensions; got 3"):
        tabulate(lambda z: z.sum(-1), 1, 3)


# --- the oracle, whose posterior is neither Gaussian nor known ---

SEQUENCES = torch.tensor(list(product(range(3), repeat=3)))
layers = pytest.mark.parametrize("layer", [0, 4])


def oracle(layer=0, z_scale=2.0, seed=0):
    return LSTMOracle(
        3, length=3, embedding=2, hidden=3, layer=layer, z_scale=z_scale, generator=generator(seed)
    ).double()


def oracle_table(rows=SEQUENCES, layer=0, z_scale=2.0, seed=0, *, points=61, half_width=6.0, **options):
    model = oracle(layer, z_scale, seed)
    return tabulate(model.log_likelihood(rows), len(rows), 2, points=points, half_width=half_width, **options)


FIVE = SEQUENCES[::6]
TABLE = oracle_table(FIVE, layer=4)


def by_force(table, lam):
    """The ELBO of the normal density at the grid's points, scaled to sum to 1 there."""
    mean, logvar = lam.chunk(2, -1)
    log_q = Normal(mean, (0.5 * logvar).exp()).log_prob(table.z[:, None]).sum(-1).log_softmax(0)
    return (log_q.exp() * (table.log_joint - log_q)).sum(0)


def shapes(lam):
    """λ spread from well inside to far outside the grid, from narrower than a cell to wider than all of it."""
    mean, logvar = lam.chunk(2, -1)
    return pack(3 * mean, 4 * logvar - 2)


@layers
@pytest.mark.parametrize("z_scale", [1.0, 5.0])
def test_the_evidences_of_everything_sum_to_one(layer, z_scale):
    mass = log_evidence(oracle_table(layer=layer, z_scale=z_scale, points=97)).exp().sum()
    assert mass.item() == pytest.approx(1.0, abs=1e-7)


@layers
def test_evidence_is_the_expectation_under_the_prior_by_another_quadrature(layer):
    """Gauss and Hermite's nodes, for every one of the 27 sequences."""
    nodes, weights = (torch.from_numpy(value) for value in np.polynomial.hermite_e.hermegauss(100))
    z = torch.cartesian_prod(nodes, nodes)
    weight = torch.cartesian_prod(weights, weights).prod(1) / (2 * math.pi)
    likelihood = oracle(layer, z_scale=1.0).log_likelihood(SEQUENCES)(z[:, None].expand(-1, 27, -1))
    expected = (weight[:, None] * likelihood.exp()).sum(0)
    assert_close(log_evidence(oracle_table(layer=layer, z_scale=1.0)).exp(), expected, atol=1e-8, rtol=1e-6)


def test_evidence_is_the_frequency_of_a_sequence():
    rows, p = 20_000, log_evidence(oracle_table()).exp()
    x, _ = oracle().sample(rows, generator=generator(3))
    count = (x[None] == SEQUENCES[:, None]).all(-1).sum(1)
    assert ((count - rows * p).abs() / (rows * p * (1 - p)).sqrt()).max() < 4.5


@pytest.mark.parametrize("chunk", [1, 7, 100_000])
def test_chunks_do_not_change_the_table(chunk):
    weight = CORRELATED
    whole, parts = table_of(weight, points=31)[0], table_of(weight, points=31, chunk=chunk)[0]
    assert_close(parts.log_joint, whole.log_joint, rtol=1e-12, atol=1e-12)
    assert torch.equal(parts.z, whole.z) and parts.spacing == whole.spacing


@given(seeds)
def test_no_elbo_exceeds_the_evidence_of_an_oracle(seed):
    """8 λ for each of 5 sequences in each example: 1000 in all."""
    for lam in shapes(noise(8, len(FIVE), 4, seed=seed)):
        elbo = exact_elbo(TABLE, lam)
        assert elbo.isfinite().all() and (elbo <= log_evidence(TABLE) + 1e-12).all()


@layers
def test_the_best_is_stationary_and_nothing_beside_it_is_better(layer):
    table = oracle_table(FIVE, layer, 5.0)
    best = best_in_family(table).requires_grad_()
    height = exact_elbo(table, best)
    (gradient,) = torch.autograd.grad(height.sum(), best)
    assert gradient.norm(dim=1).max() < 1e-4
    assert (height <= log_evidence(table)).all()
    for size in (1e-3, 1e-2, 0.1, 1.0):
        for step in size * noise(50, len(FIVE), 4, seed=4):
            assert (exact_elbo(table, best.detach() + step) <= height + 1e-9).all()


@pytest.mark.parametrize("layer,left", [(0, 1e-6), (4, 5e-3)])
def test_refining_brings_evidence_and_best_elbo_to_their_limits(layer, left):
    """Slower with a layer: its posteriors have edges much steeper than their standard deviations."""
    evidences, bests = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for points in (21, 41, 81, 161):
            table = oracle_table(FIVE[1:3], layer, 5.0, points=points, half_width=5.0)
            evidences.append(log_evidence(table))
            bests.append(exact_elbo(table, best_in_family(table, steps=200)))
    for values in (evidences, bests):
        changes = [(b - a).abs().max().item() for a, b in pairwise(values)]
        assert changes[0] > 1e-4, "or the coarse grid would show nothing"
        assert changes[1] < changes[0] / 2 and changes[2] < min(left, changes[1] / 2)


@pytest.mark.parametrize("layer,z_scale,seed", [(0, 5.0, 1), (4, 2.0, 2), (4, 5.0, 3)])
def test_the_gaps_of_an_oracle_add_up_to_the_whole(layer, z_scale, seed):
    table = oracle_table(FIVE, layer, z_scale, seed)
    best = best_in_family(table)
    for lam in (torch.zeros(len(FIVE), 4, dtype=torch.float64), moments(table), noise(len(FIVE), 4, seed=seed), best):
        whole = log_evidence(table) - exact_elbo(table, lam)
        approximation, amortization = gaps(table, lam, best)
        assert_close(approximation + amortization, whole, atol=1e-6, rtol=0)
        assert (approximation > 1e-3).all() and (amortization > -1e-6).all()
    assert amortization.abs().max() < 1e-6
    assert_close(gaps(table, moments(table)), gaps(table, moments(table), best), atol=1e-6, rtol=0)


@layers
def test_the_elbo_is_that_of_samples(layer):
    samples, model = 20_000, oracle(layer)
    lam = 0.5 * noise(len(FIVE), 4, seed=5) - torch.tensor([0.0, 0.0, 0.5, 0.5], dtype=torch.float64)
    mean, logvar = lam.chunk(2, -1)
    q, prior = Normal(mean, (0.5 * logvar).exp()), Normal(torch.zeros_like(mean), 1.0)
    z = mean + q.stddev * noise(samples, len(FIVE), 2, seed=6)
    values = model.log_likelihood(FIVE)(z) + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
    difference = values.mean(0) - exact_elbo(oracle_table(FIVE, layer), lam)
    assert (difference.abs() * samples**0.5 / values.std(0)).max() < 4.5


@given(seeds)
def test_the_elbo_is_that_of_brute_force_in_two_dimensions(seed):
    lam = shapes(noise(len(FIVE), 4, seed=seed))
    assert_close(exact_elbo(TABLE, lam), by_force(TABLE, lam), atol=1e-9, rtol=1e-9)


@given(seeds)
def test_the_elbo_is_that_of_brute_force_in_one_dimension(seed):
    def log_likelihood(z):
        return torch.stack([(3 * z[:, 0, 0]).sin(), -z[:, 1, 0].square().square()], 1)

    table, lam = tabulate(log_likelihood, 2, 1), shapes(noise(2, 2, seed=seed))
    assert_close(exact_elbo(table, lam), by_force(table, lam), atol=1e-9, rtol=1e-9)


def test_the_elbo_of_an_oracle_is_differentiable():
    table = oracle_table(FIVE[:2], 4, points=41)
    assert torch.autograd.gradcheck(lambda lam: exact_elbo(table, lam), (0.5 * noise(2, 4).requires_grad_(),))


@pytest.mark.parametrize("layer,z_scale,seed", [(0, 5.0, 0), (4, 5.0, 1), (4, 8.0, 2)])
def test_the_advice_about_a_coarse_grid_silences_it(layer, z_scale, seed):
    """Warnings are errors here, so the second table must be silent."""
    with pytest.warns(UserWarning, match=r"points ≥ \d+") as caught:
        oracle_table(layer=layer, z_scale=z_scale, seed=seed, points=15)
    assert len(caught) == 1
    needed = int(str(caught[0].message).rsplit(" ", 1)[1].rstrip("."))
    assert 15 < needed < 200
    oracle_table(layer=layer, z_scale=z_scale, seed=seed, points=needed)


@pytest.mark.parametrize("latent", [0, 3, 4])
def test_other_dimensions_are_refused_before_the_model_is_asked(latent):
    def never(z):
        raise AssertionError

    with pytest.raises(ValueError, match=f"1 or 2 dimensions; got {latent}"):
        tabulate(never, 1, latent)


@pytest.mark.parametrize("shape", [(2, 2), (1, 4), (3, 4), (4,)])
def test_a_lam_for_other_rows_is_refused(shape):
    table, _ = table_of(ORTHOGONAL, points=21, half_width=3.0)
    with pytest.raises(ValueError, match=r"lam must be \(2, 4\)"):
        exact_elbo(table, torch.zeros(shape, dtype=torch.float64))
