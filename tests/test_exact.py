"""savae_lite.exact against the linear-Gaussian model, whose evidence, posterior and gaps have closed forms."""

import math
import warnings

import pytest
import torch
from torch.testing import assert_close

from savae_lite.exact import Table, best_in_family, exact_elbo, gaps, log_evidence, moments, tabulate
from savae_lite.gaussian import kl, pack, reparameterize
from savae_lite.models import LinearGaussian

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
