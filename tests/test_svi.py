"""savae_lite.svi against closed forms on a quadratic and a reverse pass written by hand."""

from itertools import islice, repeat

import numpy as np
import pytest
import torch
from cases import noise, quadratic, seeds
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian
from torch.testing import assert_close

from savae_lite.svi import check_loss, clip_rows, last, svi

A, LOSS = quadratic()
EYE = torch.eye(3, dtype=torch.float64)
steps = st.integers(0, 6)
rates = st.floats(0.01, 0.5)
momenta = st.floats(0.0, 0.95)


def power(matrix, k):
    return torch.linalg.matrix_power(matrix, k)


def curved(weight, shift):
    """A loss that is not quadratic, with parameters inside and a different one for every shift."""
    return lambda lam: (torch.cosh(lam @ weight + shift).log() + 0.05 * lam**4).sum(-1) + (lam @ weight).prod(-1)


@given(seeds, steps, rates)
def test_on_a_quadratic_the_path_is_a_matrix_power(seed, k, lr):
    start = noise(2, 3, seed=seed)
    for step, lam in enumerate(svi([LOSS] * k, start, lr=lr)):
        assert_close(lam, start @ power(EYE - lr * A, step))


@given(seeds, steps, rates, momenta)
def test_with_momentum_the_path_is_a_power_of_the_block_matrix(seed, k, lr, momentum):
    """(λ, v) ↦ (λ + α(γv − Aλ), γv − Aλ)."""
    start = noise(2, 3, seed=seed)
    block = torch.cat([torch.cat([EYE - lr * A, lr * momentum * EYE], 1), torch.cat([-A, momentum * EYE], 1)])
    state = torch.cat([start, torch.zeros_like(start)], 1)
    for step, lam in enumerate(svi([LOSS] * k, start, lr=lr, momentum=momentum)):
        assert_close(lam, (state @ power(block, step).T)[:, :3])


@given(steps, rates)
def test_the_jacobian_of_the_last_by_the_first_is_a_matrix_power(k, lr):
    final = jacobian(lambda lam: last(svi([LOSS] * k, lam[None], lr=lr, differentiable=True))[0], noise(3))
    assert_close(final, power(EYE - lr * A, k))


@given(steps, rates, momenta)
def test_the_jacobian_with_momentum_is_a_power_of_the_block_matrix(k, lr, momentum):
    options = {"lr": lr, "momentum": momentum, "differentiable": True}
    final = jacobian(lambda lam: last(svi([LOSS] * k, lam[None], **options))[0], noise(3))
    block = torch.cat([torch.cat([EYE - lr * A, lr * momentum * EYE], 1), torch.cat([-A, momentum * EYE], 1)])
    assert_close(final, power(block, k)[:3, :3])


@given(seeds, steps, st.floats(0.05, 3.0), momenta)
def test_with_clipping_the_path_is_that_of_a_slow_loop(seed, k, clip, momentum):
    """Each row by itself, in numpy: γv − g · min(1, clip/‖g‖)."""
    start = 2 * noise(4, 3, seed=seed)
    final = last(svi([LOSS] * k, start, lr=0.3, momentum=momentum, clip=clip))
    for row, expected in zip(start.numpy(), final.numpy(), strict=True):
        lam, velocity = row.copy(), np.zeros(3)
        for _ in range(k):
            gradient = A.numpy() @ lam
            velocity = momentum * velocity - gradient * min(1.0, clip / np.linalg.norm(gradient))
            lam = lam + 0.3 * velocity
        np.testing.assert_allclose(lam, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("differentiable", [False, True])
def test_the_reverse_pass_is_that_of_algorithm_1(momentum, differentiable):
    """Gradients by λ₀ and by θ against dense Hessians; without differentiation only the direct term is left."""
    lr, shifts = 0.1, [0.0, 0.4, -0.3, 0.2]
    theta, start = noise(3, 3, seed=1).requires_grad_(), noise(2, 3, seed=2).requires_grad_()

    losses = [curved(theta, shift) for shift in shifts]
    final = last(svi(losses[:-1], start, lr=lr, momentum=momentum, differentiable=differentiable))
    total = losses[-1](final).sum()
    by_start, by_theta = torch.autograd.grad(total, (start, theta), allow_unused=True)

    def scalar(shift):
        return lambda flat, weight: curved(weight, shift)(flat.reshape(2, 3)).sum()

    weight, path, velocity = theta.detach(), [start.detach().flatten()], torch.zeros(6, dtype=torch.float64)
    for shift in shifts[:-1]:
        velocity = momentum * velocity - torch.func.grad(scalar(shift))(path[-1], weight)
        path.append(path[-1] + lr * velocity)
    lam_bar, theta_bar = torch.func.grad(scalar(shifts[-1]), (0, 1))(path[-1], weight)
    v_bar = torch.zeros_like(lam_bar)
    for k in reversed(range(3)) if differentiable else ():
        v_bar = v_bar + lr * lam_bar
        by_lam = torch.func.jacrev(torch.func.grad(scalar(shifts[k])))(path[k], weight)
        by_weight = torch.func.jacrev(torch.func.grad(scalar(shifts[k])), 1)(path[k], weight)
        lam_bar = lam_bar - by_lam @ v_bar
        theta_bar = theta_bar - torch.tensordot(v_bar, by_weight, 1)
        v_bar = momentum * v_bar

    assert_close(final.detach().flatten(), path[-1], rtol=1e-12, atol=1e-12)
    assert_close(by_theta, theta_bar, rtol=1e-10, atol=1e-10)
    if differentiable:
        assert_close(by_start.flatten(), lam_bar, rtol=1e-10, atol=1e-10)
    else:
        assert by_start is None


def test_gradcheck_with_momentum_and_clipping():
    theta, start = noise(3, 3, seed=1).requires_grad_(), noise(2, 3, seed=2).requires_grad_()
    options = {"lr": 0.2, "momentum": 0.5, "clip": 1.0, "differentiable": True}
    losses = [curved(theta, 0.3), curved(theta, -0.2)]
    norms = torch.autograd.grad(losses[0](start).sum(), start)[0].norm(dim=1)
    assert norms.max() > 1.0, "or the clip would not bite"
    assert torch.autograd.gradcheck(
        lambda lam, w: last(svi([curved(w, 0.3), curved(w, -0.2)], lam, **options)), (start, theta)
    )


@given(seeds)
def test_rows_do_not_know_of_each_other(seed):
    start = 3 * noise(5, 3, seed=seed)
    options = {"lr": 0.3, "momentum": 0.5, "clip": 0.7}
    losses = [curved(noise(3, 3, seed=1), shift) for shift in (0.1, 0.2, 0.3)]
    together = last(svi(losses, start, **options))
    for row in range(5):
        alone = last(svi(losses, start[row : row + 1], **options))
        assert_close(together[row : row + 1], alone, rtol=1e-12, atol=1e-12)


def test_clipping_is_differentiated_where_it_is_active():
    """One step of 0.5 ‖λ‖² with every gradient clipped: λ ↦ λ − α c λ/‖λ‖, whose Jacobian is known."""
    lam = 3 * noise(3, seed=4)
    final = jacobian(
        lambda lam: last(svi([lambda v: 0.5 * v.square().sum(-1)], lam[None], lr=0.5, clip=0.2, differentiable=True))[
            0
        ],
        lam,
    )
    length = lam.norm()
    assert length > 0.2
    assert_close(final, EYE - 0.1 * (EYE / length - torch.outer(lam, lam) / length**3))


@pytest.mark.parametrize("differentiable", [False, True])
def test_no_step_yields_the_start(differentiable):
    start = noise(2, 3)
    path = list(svi([], start, lr=0.1, differentiable=differentiable))
    assert len(path) == 1 and torch.equal(path[0], start)


@pytest.mark.parametrize("differentiable", [False, True])
def test_the_two_ways_walk_one_path(differentiable):
    start, losses = noise(2, 3), [curved(noise(3, 3, seed=1), shift) for shift in (0.1, 0.2)]
    path = list(svi(losses, start, lr=0.1, momentum=0.9, differentiable=differentiable))
    assert_close(path, list(svi(losses, start, lr=0.1, momentum=0.9)), rtol=0, atol=0)
    assert len(path) == 3


def test_the_path_is_lazy():
    calls = []
    path = svi((lambda lam: calls.append(1) or LOSS(lam) for _ in repeat(None)), noise(2, 3), lr=0.1)
    assert not calls
    assert len(list(islice(path, 1))) == 1 and not calls
    assert len(list(islice(path, 5))) == 5 and len(calls) == 5


def test_the_start_is_not_written_to():
    start = noise(2, 3)
    kept = start.clone()
    list(svi([LOSS] * 3, start, lr=0.1))
    assert torch.equal(start, kept)


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("mode", [False, True])
def test_the_callers_grad_mode_is_left_alone_between_steps(mode, differentiable):
    with torch.set_grad_enabled(mode):
        for _ in svi([LOSS] * 3, noise(2, 3), lr=0.1, differentiable=differentiable):
            assert torch.is_grad_enabled() == mode
    assert torch.is_grad_enabled()


def test_it_descends_under_no_grad_as_well():
    expected = last(svi([LOSS] * 3, noise(2, 3), lr=0.1))
    with torch.no_grad():
        assert_close(last(svi([LOSS] * 3, noise(2, 3), lr=0.1)), expected, rtol=0, atol=0)


def test_without_differentiation_the_refined_are_constants():
    weight = noise(3, 3, seed=1).requires_grad_()
    _, *refined = svi([curved(weight, 0.1)] * 3, noise(2, 3).requires_grad_(), lr=0.1)
    assert [lam.requires_grad for lam in refined] == [False] * 3
    assert all(lam.grad_fn is None for lam in refined) and weight.grad is None


def test_the_start_keeps_its_graph():
    """A caller who teaches the encoder from λ₀ needs it."""
    lam = noise(2, 3).requires_grad_() * 2
    assert next(svi([LOSS], lam, lr=0.1)).requires_grad


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("lr", 0.0),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("momentum", -0.1),
        ("momentum", 1.0),
        ("momentum", float("nan")),
        ("clip", 0.0),
        ("clip", -1.0),
        ("clip", float("nan")),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option, value):
    with pytest.raises(ValueError, match=rf"(?s){option}.*{value}"):
        list(svi([LOSS], noise(2, 3), **{"lr": 0.1, option: value}))


@pytest.mark.parametrize("shape", [(3,), (2, 2, 3), ()])
def test_lam_of_another_dimension_is_refused(shape):
    with pytest.raises(ValueError) as error:
        list(svi([LOSS], torch.zeros(shape), lr=0.1))
    assert "lam must be (rows, parameters)" in str(error.value) and str(shape) in str(error.value)


@pytest.mark.parametrize("wrong", [lambda lam: lam.sum(), lambda lam: lam, lambda lam: lam.sum(-1, keepdim=True)])
def test_a_loss_of_another_shape_is_refused(wrong):
    with pytest.raises(ValueError) as error:
        list(svi([wrong], noise(2, 3), lr=0.1))
    assert "(2,)" in str(error.value) and str(tuple(wrong(noise(2, 3)).shape)) in str(error.value)


def test_a_gradient_that_is_not_finite_names_its_step_and_rows():
    mask = torch.tensor([[1.0], [float("nan")], [1.0], [float("inf")]])
    broken = lambda lam: LOSS(lam) + (mask * lam).sum(-1)  # noqa: E731
    path = svi([LOSS, LOSS, broken], noise(4, 3), lr=0.1)
    assert len(list(islice(path, 3))) == 3
    with pytest.raises(FloatingPointError, match=r"step 2.*\[1, 3\]"):
        next(path)


@given(seeds, st.floats(0.1, 3.0))
def test_clip_rows_scales_each_row_to_at_most_the_norm(seed, norm):
    gradient = 2 * noise(4, 3, seed=seed)
    gradient[1] = 0
    expected = torch.stack([row * min(1.0, norm / float(row.norm())) if row.any() else row for row in gradient])
    assert_close(clip_rows(gradient, norm), expected)


def test_a_row_of_zeros_has_a_finite_gradient():
    gradient = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    clip_rows(gradient, 1.0).sum().backward()
    assert_close(gradient.grad, torch.ones_like(gradient))


def test_gradcheck_of_clip_rows_on_both_sides_of_the_norm():
    gradient = torch.tensor([[3.0, -4.0], [0.3, 0.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: clip_rows(g, 1.0), gradient)


def test_last_is_the_last():
    assert last(iter("abc")) == "c"


@pytest.mark.parametrize("bad, match", [
    (lambda lam: lam.square().mean(), "one value per row"),
    (lambda lam: lam[:, :1], "one value per row"),
    (lambda lam: 1.0, "got float"),
    (lambda lam: torch.zeros(len(lam)), "must depend on lam"),
])  # fmt: skip
def test_what_is_no_loss_of_rows_is_refused(bad, match):
    for call in (lambda: list(svi([bad], noise(3, 2), lr=0.1)), lambda: check_loss(bad, noise(3, 2))):
        with pytest.raises(ValueError, match=match):
            call()


def test_whole_numbers_are_refused():
    with pytest.raises(ValueError, match="floating-point"):
        list(svi([lambda lam: lam.sum(-1)], torch.ones(2, 2, dtype=torch.int64), lr=0.1))


def test_a_loss_is_checked_by_calling_it_again():
    check_loss(lambda lam: lam.square().sum(-1), noise(3, 2))
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="drawn once"):
        check_loss(lambda lam: lam.sum(-1) + torch.randn(len(lam), generator=generator), noise(1, 2))
    with pytest.raises(RuntimeError, match="mix rows"):
        check_loss(lambda lam: (lam - lam[1:].mean(0)).square().sum(-1), noise(4, 2))
