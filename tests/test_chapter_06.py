"""What the reader builds in chapter 6 agrees with dense Hessians, closed forms and the library, on other inputs."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import noise, quadratic, sentences, tiny_lstmvae
from torch.testing import assert_close

from savae_lite.adjoint import kept, recomputed, refine
from savae_lite.elbo import nelbo
from savae_lite.notebook import built
from savae_lite.svi import clip_rows, svi


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(Path(__file__).parent.parent / "chapters" / "06_adjoint.ipynb")
    torch.set_num_threads(threads)


@pytest.fixture
def problem():
    """A sentence VAE, its decoder's parameters, four refining losses and a scoring one."""
    model, x = tiny_lstmvae(), sentences()
    *inner, outer = (partial(nelbo, model.log_likelihood(x), eps=e) for e in noise(5, 2, len(x), 2, seed=60))
    theta = [p for name, p in model.named_parameters() if not name.startswith("encoder") and p.numel()]
    return SimpleNamespace(inner=inner, outer=outer, theta=theta, lam_0=0.5 * noise(len(x), 4, seed=61))


def by_the_library(problem, adjoint=kept, **how):
    lam_0 = problem.lam_0.clone().requires_grad_()
    loss = problem.outer(refine(problem.inner, lam_0, adjoint=adjoint, **how)).mean()
    return list(torch.autograd.grad(loss, [lam_0, *problem.theta], retain_graph=True))


def dense_hessian(loss, lam):
    """One matrix (P, P) a row."""
    whole = torch.autograd.functional.hessian(lambda lam: loss(lam).sum(), lam)
    return torch.stack([whole[row, :, row] for row in range(len(lam))])


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_sensitivity_of_a_bowl(chapter, momentum):
    lam_0 = torch.tensor([[0.8]], dtype=torch.float64, requires_grad=True)
    lam_k = chapter.unroll([lambda lam: 1.5 * lam.square().sum(-1)] * 6, lam_0, 0.2, momentum)
    (slope,) = torch.autograd.grad(lam_k.sum(), lam_0)
    assert chapter.sensitivity(0.6, 6, momentum) == pytest.approx(slope.item(), rel=1e-12)


def test_without_momentum_it_is_a_power(chapter):
    assert chapter.sensitivity(2.7, 9) == pytest.approx((1 - 2.7) ** 9)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_unrolled_by_hand_and_by_the_library(chapter, problem, momentum):
    expected = by_the_library(problem, lr=0.1, momentum=momentum)
    for found in (
        chapter.by_autograd(problem, 0.1, momentum, steps=4),
        chapter.by_hand(problem, 0.1, momentum, steps=4),
        by_the_library(problem, recomputed, lr=0.1, momentum=momentum),
    ):
        assert_close(list(found), expected, rtol=1e-11, atol=1e-12)


def test_the_plain_reverse_pass(chapter, problem):
    *path, lam_k = (lam.detach() for lam in svi(problem.inner, problem.lam_0, lr=0.1))
    found = chapter.reverse_plain(problem.inner, path, chapter.at_the_end(problem, lam_k)[0], 0.1)
    assert_close(found, by_the_library(problem, lr=0.1)[0], rtol=1e-11, atol=1e-12)


def test_the_reverse_pass_of_a_quadratic_is_a_power(chapter):
    hessian, loss = quadratic()
    lam, lam_bar = noise(2, 3, seed=62), noise(2, 3, seed=63)
    *path, _ = (lam.detach() for lam in svi([loss] * 5, lam, lr=0.2))
    power = torch.linalg.matrix_power(torch.eye(3).double() - 0.2 * hessian, 5)
    assert_close(chapter.reverse([loss] * 5, path, lam_bar, [], 0.2)[0], lam_bar @ power)


def test_products_with_a_dense_hessian(chapter, problem):
    loss, v = problem.inner[0], noise(3, 4, seed=64)
    expected = torch.einsum("bij,bj->bi", dense_hessian(loss, problem.lam_0), v)
    assert_close(chapter.products(loss, problem.lam_0, [], v)[0], expected)
    assert_close(chapter.differences(1e-4, True)(loss, problem.lam_0, [], v)[0], expected, rtol=1e-5, atol=1e-6)
    assert_close(chapter.differences(1e-7, False)(loss, problem.lam_0, [], v)[0], expected, rtol=1e-4, atol=1e-4)
    assert_close(chapter.fixed_step(1e-7)(loss, problem.lam_0, [], v)[0], expected, rtol=1e-4, atol=1e-4)


def test_differences_give_the_mixed_products_too(chapter, problem):
    arguments = problem.inner[0], problem.lam_0, problem.theta, noise(3, 4, seed=65)
    exact = chapter.products(*arguments)
    for found, wanted in zip(chapter.differences(1e-4, True)(*arguments), exact, strict=True):
        assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("central, order", [(False, 1), (True, 2)])
def test_the_error_of_differences_has_its_order(chapter, central, order):
    loss, lam, v = lambda lam: lam.exp().sum(-1), noise(3, 4, seed=66), noise(3, 4, seed=67)
    exact = lam.exp() * v
    far, near = (chapter.off(chapter.differences(e, central)(loss, lam, [], v)[0], exact) for e in (1e-2, 1e-3))
    assert far / near == pytest.approx(10**order, rel=0.05)


def test_softmax_products(chapter):
    z, v, weight, bias = noise(4, 2, seed=68), noise(4, 2, seed=69), noise(2, 6, seed=70), noise(6, seed=71)
    word = torch.tensor([5, 0, 2, 2])

    def loss(z):
        return torch.nn.functional.cross_entropy(z @ weight + bias, word, reduction="none")

    gradient, product = chapter.softmax_products(z, v, weight, bias, word)
    assert_close(gradient, torch.func.grad(lambda z: loss(z).sum())(z))
    assert_close(product, torch.einsum("bij,bj->bi", dense_hessian(loss, z), v))


def test_through_the_clip(chapter):
    gradient, v = torch.tensor([[0.3], [1.0], [9.0]]).double() * noise(3, 4, seed=72), noise(3, 4, seed=73)
    expected = torch.autograd.functional.vjp(lambda g: clip_rows(g, 1.5), gradient, v)[1]
    assert_close(chapter.through_clip(gradient, v, 1.5), expected)


def test_the_reverse_pass_of_a_loop_that_clips(chapter, problem):
    how = dict(lr=0.2, momentum=0.5)
    *path, lam_k = (lam.detach() for lam in svi(problem.inner, problem.lam_0, clip=0.6, **how))
    lam_bar, *direct = chapter.at_the_end(problem, lam_k)
    product = chapter.clipped_products(0.6)
    lam_bar, theta_bar = chapter.reverse(problem.inner, path, lam_bar, problem.theta, **how, product=product)
    found = [lam_bar, *(a + b for a, b in zip(direct, theta_bar, strict=True))]
    assert_close(found, by_the_library(problem, clip=0.6, **how), rtol=1e-10, atol=1e-12)
    assert chapter.off(found[0], by_the_library(problem, **how)[0]) > 0.01  # the clip is active


def test_clip_then_difference(chapter):
    """Far below the clip it is Hv; far above, with H = I, it is (η/‖g‖ − 1) g / r and nearly nothing else."""
    lam, v = noise(2, 3, seed=74), noise(2, 3, seed=75)

    def loss(lam):
        return 0.5 * lam.square().sum(-1)

    assert_close(chapter.clip_then_difference(loss, lam, v, 100.0), v, rtol=1e-5, atol=1e-6)
    found = chapter.clip_then_difference(loss, lam, v, 0.1)
    assert_close(1e-5 * found, (0.1 / lam.norm(dim=-1, keepdim=True) - 1) * lam, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("norm", [0.5, 50.0])
def test_bounded(chapter, norm):
    parts = [noise(3, seed=76), noise(2, 2, seed=77)]
    found = torch.cat([part.flatten() for part in chapter.bounded(parts, norm)])
    whole = torch.cat([part.flatten() for part in parts])
    assert_close(found, whole * min(1, norm / whole.norm().item()))


def test_bounded_products(chapter, problem):
    arguments = problem.inner[0], problem.lam_0, problem.theta, noise(3, 4, seed=78)
    for found, exact in zip(chapter.bounded_products(1e9)(*arguments), chapter.products(*arguments), strict=True):
        assert_close(found, exact)
    to_lam, *to_theta = chapter.bounded_products(0.01)(*arguments)
    assert to_lam.norm().item() == pytest.approx(0.01)
    assert torch.cat([part.flatten() for part in to_theta]).norm().item() == pytest.approx(0.01)


def test_no_steps_back_leave_the_gradient_at_the_end(chapter, problem):
    found = chapter.by_hand(problem, 0.1, 0.5, steps=4, only=0)
    lam_k = list(svi(problem.inner, problem.lam_0, lr=0.1, momentum=0.5))[-1]
    assert_close(found, list(chapter.at_the_end(problem, lam_k)))


def test_saved_bytes(chapter):
    """The square of x saves x, a sum saves nothing."""
    x = noise(50, seed=79).requires_grad_()
    assert chapter.saved_bytes(lambda: x.square()) == 50 * 8
    assert chapter.saved_bytes(lambda: x.sum()) == 0


def test_both_precisions_are_one_problem(chapter):
    double, single = (chapter.Problem(7, dtype, steps=2, rows=3) for dtype in (torch.float64, torch.float32))
    assert_close(single.lam_0.double(), double.lam_0, rtol=0, atol=0)
    assert_close(single.eps.double(), double.eps, rtol=0, atol=0)
    for a, b in zip(single.theta, double.theta, strict=True):
        assert_close(a.double(), b, rtol=0, atol=0)
