"""What the reader builds in chapter 3 agrees with closed forms and the library, on other inputs."""

from functools import partial
from pathlib import Path

import pytest
import torch
from cases import linear_gaussian, noise, quadratic
from torch.testing import assert_close

from savae_lite import svi as library
from savae_lite.elbo import nelbo
from savae_lite.notebook import built


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(Path(__file__).parent.parent / "chapters" / "03_svi.ipynb")
    torch.set_num_threads(threads)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_the_loop_is_the_librarys(chapter, clip):
    model, x = linear_gaussian()
    losses = [partial(nelbo, model.log_likelihood(x), eps=e) for e in noise(6, 2, 4, 2, seed=30)]
    how = dict(lr=0.1, momentum=0.7, clip=clip)
    mine = torch.stack(list(chapter.svi(losses, 0.3 * noise(4, 4, seed=31), **how)))
    theirs = torch.stack(list(library.svi(losses, 0.3 * noise(4, 4, seed=31), **how)))
    assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_steepest_direction_of_a_quadratic(chapter):
    hessian, loss = quadratic()
    assert chapter.steepest(loss, noise(3, seed=32)) == pytest.approx(torch.linalg.eigvalsh(hessian)[-1].item())


@pytest.mark.parametrize("part", [0.8, 1.2])
def test_the_gap_of_a_quadratic_changes_as_its_eigenvalues_say(chapter, part):
    """k steps multiply the error along an eigenvector of h by (1 − αh)ᵏ, and its share of the gap by the square."""
    hessian, loss = quadratic()
    values, vectors = torch.linalg.eigh(hessian)
    lr = part * 2 / values[-1].item()
    start = vectors.T @ torch.full((3,), 1e-3, dtype=torch.float64)
    expected = (values * (start * (1 - lr * values) ** 30) ** 2).sum() / (values * start**2).sum()
    assert chapter.grows(loss, torch.zeros(3).double(), lr, 0.0, steps=30) == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("part, ends", [(0.9, "near"), (1.1, "far")])
def test_momentum_moves_the_limit_by_one_plus_gamma(chapter, part, ends):
    hessian, loss = quadratic()
    limit = 2 * (1 + 0.5) / torch.linalg.eigvalsh(hessian)[-1].item()
    factor = chapter.grows(loss, torch.zeros(3).double(), part * limit, 0.5, steps=300)
    assert (factor < 1) if ends == "near" else (factor > 10)


def test_a_problem_knows_its_best(chapter):
    problem = chapter.Problem(5, rows=3)
    assert_close(problem.gap(problem.best), torch.zeros(3).double(), atol=1e-9, rtol=0)
    for seed in range(20):
        assert (problem.gap(problem.best + 0.1 * noise(3, 4, seed=seed)) > -1e-6).all()
    assert (chapter.gaps_along(problem, 0.01, 3, torch.zeros(3, 4).double())[-1] > 0).all()
