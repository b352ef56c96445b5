"""savae_lite.adjoint: every way of differentiating against autograd's unroll, a closed form and finite differences."""

from functools import partial

import pytest
import torch
from cases import noise, quadratic, sentences, tiny_lstmvae
from torch.testing import assert_close

from savae_lite.adjoint import detached, difference, kept, recomputed, refine
from savae_lite.elbo import nelbo
from savae_lite.savae import savae_loss
from savae_lite.svi import last, svi

SETTINGS = [dict(lr=0.1), dict(lr=0.1, momentum=0.5), dict(lr=0.3, momentum=0.5, clip=0.4)]
every_setting = pytest.mark.parametrize("how", SETTINGS, ids=["plain", "momentum", "clip"])
every_way = pytest.mark.parametrize("adjoint", [kept, recomputed, difference, detached])


def problem(steps=4):
    """Refining losses and a scoring loss of a sentence VAE, its λ₀ and its parameters."""
    model, x = tiny_lstmvae(), sentences()
    log_likelihood = model.log_likelihood(x)
    *inner, outer = (partial(nelbo, log_likelihood, eps=e) for e in noise(steps + 1, 2, len(x), 2, seed=40))
    return inner, outer, model.encode(x), list(model.parameters())


def gradients(adjoint, how, steps=4):
    inner, outer, lam, parameters = problem(steps)
    loss = outer(refine(inner, lam, adjoint=adjoint, **how)).mean()
    return torch.autograd.grad(loss, parameters, materialize_grads=True)


@every_setting
@every_way
def test_finding_does_not_know_how_it_is_differentiated(adjoint, how):
    inner, _, lam, _ = problem()
    found = refine(inner, lam, adjoint=adjoint, **how)
    assert_close(found.detach(), last(svi(inner, lam, **how)).detach(), rtol=0, atol=0)


@every_setting
@pytest.mark.parametrize("steps", [1, 4])
def test_recomputed_is_the_unroll(how, steps):
    for mine, theirs in zip(gradients(recomputed, how, steps), gradients(kept, how, steps), strict=True):
        assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@every_setting
def test_differences_are_near_the_unroll(how):
    for mine, theirs in zip(gradients(difference, how), gradients(kept, how), strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_the_clip_of_these_settings_is_active():
    (first, *_), _, lam, _ = problem()
    (gradient,) = torch.autograd.grad(first(lam).sum(), lam)
    assert (gradient.norm(dim=-1) > 0.4).any()


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_the_jacobian_on_a_quadratic_is_a_power(adjoint):
    """λ_K = (I − αA)ᴷ λ₀."""
    hessian, loss = quadratic()
    lam = noise(1, 3, seed=41)
    power = torch.linalg.matrix_power(torch.eye(3).double() - 0.2 * hessian, 5)
    jacobian = torch.autograd.functional.jacobian(
        lambda start: refine([loss] * 5, start, lr=0.2, adjoint=adjoint)[0], lam
    )[:, 0]
    assert_close(jacobian, power, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_the_gradient_is_that_of_finite_differences(adjoint):
    scale = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    def refined(lam, scale):
        def loss(value):
            return (scale * value.sin().square()).sum(-1) + 0.1 * value.prod(-1)

        how = dict(lr=0.2, momentum=0.5, clip=0.8)
        return refine([loss] * 3, lam, adjoint=adjoint, **how)

    lam = noise(2, 3, seed=42).requires_grad_()
    assert torch.autograd.gradcheck(refined, (lam, scale), atol=1e-6)


def test_detached_is_a_constant():
    inner, _, lam, _ = problem()
    assert not refine(inner, lam, lr=0.1, adjoint=detached).requires_grad


@every_way
def test_no_losses_give_lam_itself(adjoint):
    lam = noise(2, 4).requires_grad_()
    assert refine([], lam, lr=0.1, adjoint=adjoint) is lam


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_the_loss_of_a_semi_amortized_vae_takes_every_way(adjoint):
    """Dropout masks are drawn once for all steps, so every step can be computed again."""
    model, x = tiny_lstmvae(dropout=0.4), sentences()
    eps, parameters = noise(4, 2, len(x), 2, seed=48), list(model.parameters())

    def gradient(adjoint):
        how = dict(lr=0.2, momentum=0.5, clip=1.0, adjoint=adjoint, generator=torch.Generator().manual_seed(0))
        return torch.autograd.grad(savae_loss(model, x, eps, **how).mean(), parameters)

    for mine, theirs in zip(gradient(adjoint), gradient(kept), strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_product_that_all_steps_share_keeps_its_graph(adjoint):
    """The gradient goes on through it to what it was made of."""
    weight = noise(3, 3, seed=43).requires_grad_()
    start, x = noise(2, 3, seed=44), noise(2, 3, seed=45)

    def total(adjoint):
        shared = (x @ weight).tanh()
        loss = lambda lam: (lam - shared).square().sum(-1) + (lam * shared).sin().sum(-1)  # noqa: E731
        return torch.autograd.grad(refine([loss] * 3, start, lr=0.1, adjoint=adjoint).square().sum(), weight)[0]

    assert_close(total(adjoint), total(kept), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_parameter_under_one_loss_alone_is_found(adjoint):
    first, second = (noise(1, 3, seed=seed).requires_grad_() for seed in (43, 45))
    start = noise(2, 3, seed=44)

    def total(adjoint):
        losses = [lambda lam, w=w: (lam - w).square().sum(-1) for w in (first, second)]
        return torch.autograd.grad(refine(losses, start, lr=0.1, adjoint=adjoint).square().sum(), [first, second])

    for mine, theirs in zip(total(adjoint), total(kept), strict=True):
        assert_close(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_test_time_needs_no_parameters(adjoint):
    inner, _, lam, _ = problem()
    with torch.no_grad():
        assert not refine(inner, lam, lr=0.1, adjoint=adjoint).requires_grad


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_only_the_parameters_that_want_a_gradient_get_one(adjoint):
    inner, outer, lam, parameters = problem()
    parameters[-1].requires_grad_(False)
    outer(refine(inner, lam, lr=0.1, adjoint=adjoint)).sum().backward()
    assert parameters[-1].grad is None and parameters[0].grad is not None


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_further_derivative_is_refused(adjoint):
    _, loss = quadratic()
    lam = noise(1, 3, seed=46).requires_grad_()
    value = refine([loss] * 2, lam, lr=0.1, adjoint=adjoint).square().sum()
    with pytest.raises(RuntimeError, match="Use adjoint=kept"):
        torch.autograd.grad(value, lam, create_graph=True)


class NoSecond(torch.autograd.Function):
    """x² with a first derivative only."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


def test_a_loss_without_a_second_derivative_is_no_linear_loss():
    """Autograd would take the graph's end for a constant gradient, and return zeros."""
    lam = noise(2, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        refine([lambda value: NoSecond.apply(value).sum(-1)] * 2, lam, lr=0.1).sum().backward()


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_a_linear_loss_moves_lam_and_leaves_its_gradient_alone(adjoint):
    lam = noise(2, 3).requires_grad_()
    found = refine([lambda value: value.sum(-1)] * 3, lam, lr=0.1, adjoint=adjoint)
    assert_close(found, lam - 0.3)
    (gradient,) = torch.autograd.grad(found.sum(), lam)
    assert_close(gradient, torch.ones_like(lam), rtol=1e-9, atol=1e-9)


class Fused(torch.autograd.Function):
    """x², as a fused kernel has it: the first derivative is there, the second raises."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, grad):
        return FusedBackward.apply(ctx.saved_tensors[0], grad)


class FusedBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, grad):
        return 2 * x * grad

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("the derivative for 'fused_backward' is not implemented")


def test_without_a_second_derivative_there_are_differences_and_a_remedy():
    loss, lam = lambda value: Fused.apply(value).sum(-1), noise(2, 3).requires_grad_()
    with pytest.raises(NotImplementedError) as caught:
        refine([loss] * 2, lam, lr=0.1, adjoint=recomputed).sum().backward()
    assert "adjoint=difference" in "".join(caught.value.__notes__)


class CudnnRnn(Fused):
    """The same, under the name that a recurrent layer of cuDNN gives its graph."""

    @staticmethod
    def backward(ctx, grad):
        return CudnnRnnBackward.apply(ctx.saved_tensors[0], grad)


class CudnnRnnBackward(FusedBackward):
    pass


def test_a_recurrent_layer_of_cudnn_is_refused_with_a_remedy():
    loss, lam = lambda value: CudnnRnn.apply(value).sum(-1), noise(2, 3).requires_grad_()
    with pytest.raises(RuntimeError, match="Use adjoint=difference, or another layer"):
        refine([loss] * 2, lam, lr=0.1)
    refine([loss] * 2, lam, lr=0.1, adjoint=difference).sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN needs a GPU")
def test_a_real_layer_of_cudnn_is_refused_with_a_remedy():
    layer = torch.nn.LSTM(3, 4).cuda()
    lam = noise(2, 3).float().cuda().requires_grad_()
    with pytest.raises(RuntimeError, match="Use adjoint=difference"):
        refine([lambda value: layer(value[None])[0].sum((0, 2))], lam, lr=0.1)


def test_differences_ask_for_first_derivatives_only():
    loss, lam = lambda value: Fused.apply(value).sum(-1), noise(2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(refine([loss] * 2, lam, lr=0.1, adjoint=difference).sum(), lam)
    assert_close(gradient, torch.full_like(lam, 0.8**2), rtol=1e-6, atol=0)


def test_single_precision_differences_are_good_to_a_thousandth():
    model, x = tiny_lstmvae().float(), sentences()
    eps = noise(6, 2, len(x), 2, seed=47).float()

    def gradient(adjoint):
        *inner, outer = (partial(nelbo, model.log_likelihood(x), eps=e) for e in eps)
        parameters = list(model.parameters())
        loss = outer(refine(inner, model.encode(x), lr=0.1, momentum=0.5, adjoint=adjoint)).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    exact = gradient(kept)
    assert (gradient(difference) - exact).norm() < 1e-3 * exact.norm()
    assert (gradient(recomputed) - exact).norm() < 1e-5 * exact.norm()


def test_the_reverse_pass_runs_under_the_autocast_of_the_forward_pass():
    """What a loss sees when it is computed again is what it saw at first, though backward is called outside."""
    weight, lam, seen = noise(3, 3).float().requires_grad_(), noise(2, 3).float().requires_grad_(), set()

    def loss(value):
        product = value @ weight
        seen.add(product.dtype)
        return product.float().square().sum(-1) + value.sin().sum(-1)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = refine([loss] * 2, lam, lr=0.05, adjoint=recomputed)
    found.square().sum().backward()
    assert seen == {torch.bfloat16}
    assert weight.grad.isfinite().all() and weight.grad.dtype == torch.float32


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_loss_that_draws_its_own_noise_is_found_out(adjoint):
    generator, lam = torch.Generator().manual_seed(0), noise(3, 2).requires_grad_()

    def loss(value):
        return (value - torch.randn(value.shape, generator=generator)).square().sum(-1)

    found = refine([loss] * 2, lam, lr=0.1, adjoint=adjoint)
    with pytest.raises(RuntimeError, match="Pass noise and dropout masks as arguments"):
        found.sum().backward()


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_loss_that_mixes_rows_is_found_out(adjoint):
    lam = noise(3, 2).requires_grad_()
    found = refine([lambda value: (value - value.mean(0)).square().sum(-1)] * 2, lam, lr=0.1, adjoint=adjoint)
    with pytest.raises(RuntimeError, match="whatever the other rows are"):
        found.sum().backward()


@every_way
def test_a_loss_of_the_wrong_shape_is_refused(adjoint):
    with pytest.raises(ValueError, match="one value per row"):
        refine([lambda value: value.square().sum()], noise(3, 2).requires_grad_(), lr=0.1, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_an_unstable_inner_loop_warns(adjoint):
    """(1 − 5)⁶ = 4096 beyond the limit of a thousand, (1 − 5)⁴ = 256 within it."""
    lam, loss = noise(2, 3).requires_grad_(), lambda value: 0.5 * value.square().sum(-1)
    refine([loss] * 4, lam, lr=5.0, adjoint=adjoint).sum().backward()
    with pytest.warns(RuntimeWarning, match=r"grew 4\.1e\+03-fold"):
        refine([loss] * 6, lam, lr=5.0, adjoint=adjoint).sum().backward()


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_a_reverse_pass_without_a_gradient_does_not_warn(adjoint):
    lam, loss = noise(2, 3).requires_grad_(), lambda value: value.square().sum(-1)
    (0 * refine([loss] * 2, lam, lr=0.1, adjoint=adjoint)).sum().backward()
    assert (lam.grad == 0).all()


def third_derivative(value, lam):
    for _ in range(3):
        (value,) = torch.autograd.grad(value.sum(), lam, create_graph=True)
    return value


def test_kept_graphs_give_a_third_derivative():
    """d³/dλ₀³ of λ₁⁴ with λ₁ = λ₀ − α λ₀³, against autograd of the polynomial itself."""
    lam = noise(1, 1, seed=49).requires_grad_()
    end = refine([lambda value: 0.25 * value.pow(4).sum(-1)], lam, lr=0.1)
    assert_close(third_derivative(end.pow(4), lam), third_derivative((lam - 0.1 * lam**3).pow(4), lam))


def test_differences_are_not_taken_of_rounded_numbers():
    """Under autocast the loss is computed in bfloat16, but its differences in float32."""
    model, x = tiny_lstmvae().float(), sentences()
    eps, parameters = noise(4, 2, len(x), 2, seed=47).float(), list(model.parameters())

    def gradient(adjoint):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = savae_loss(model, x, eps, lr=0.1, momentum=0.5, adjoint=adjoint).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])

    exact = gradient(kept)
    assert (gradient(difference) - exact).norm() < 0.03 * exact.norm()
    assert (gradient(recomputed) - exact).norm() < 0.03 * exact.norm()


def test_differences_at_a_far_place_and_of_a_tiny_gradient():
    """The step grows with λ, and a row's gradient may be far below the smallest square."""
    for scale, far in ((1.0, 1e4), (1e-30, 1.0), (1e30, 1.0)):
        lam = torch.full((2, 3), far).requires_grad_()
        found = refine([lambda value: 0.5 * value.square().sum(-1)] * 3, lam, lr=0.1, adjoint=difference)
        (gradient,) = torch.autograd.grad(found, lam, torch.full_like(found, scale))
        assert_close(gradient / scale, torch.full_like(lam, 0.9**3), rtol=1e-3, atol=0)


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_hook_on_a_parameter_is_refused(adjoint):
    weight, lam = noise(3, seed=43).requires_grad_(), noise(2, 3).requires_grad_()
    weight.register_hook(lambda gradient: gradient.clamp(-0.1, 0.1))
    with pytest.raises(RuntimeError, match="or use adjoint=kept"):
        refine([lambda value: (weight * value).square().sum(-1)], lam, lr=0.1, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", [recomputed, difference])
def test_a_learned_rate_needs_kept_graphs(adjoint):
    rate, lam = torch.tensor(0.1, dtype=torch.float64, requires_grad=True), noise(2, 3).requires_grad_()
    loss = lambda value: 0.5 * value.square().sum(-1)  # noqa: E731
    with pytest.raises(ValueError, match="Use adjoint=kept"):
        refine([loss] * 2, lam, lr=rate, adjoint=adjoint)
    (slope,) = torch.autograd.grad(refine([loss] * 2, lam, lr=rate).sum(), rate)
    assert_close(slope, -2 * 0.9 * lam.detach().sum())


@every_way
def test_test_time_is_the_same_for_every_way(adjoint):
    inner, _, lam, _ = problem()
    with torch.no_grad():
        found = refine(inner, lam, lr=0.1, adjoint=adjoint)
    assert_close(found, last(svi(inner, lam, lr=0.1)).detach(), rtol=0, atol=0)


@pytest.mark.parametrize("wrong", [dict(losses=lambda lam: lam.sum(-1)), dict(adjoint="kept")])
def test_a_loss_for_a_list_and_a_name_for_a_function_are_refused(wrong):
    with pytest.raises(TypeError, match=r"\[loss\] \* K"):
        refine(**dict(losses=[], lam=noise(2, 3), lr=0.1) | wrong)


def test_a_loss_that_differentiates_inside_can_be_computed_again():
    """The check, too, leaves gradients enabled."""

    def loss(value):
        (slope,) = torch.autograd.grad(value.pow(3).sum(), value, create_graph=True)
        return 0.1 * slope.sum(-1)

    lam = noise(2, 3).requires_grad_()
    (expected,) = torch.autograd.grad(refine([loss] * 2, lam, lr=0.1).sum(), lam)
    (found,) = torch.autograd.grad(refine([loss] * 2, lam, lr=0.1, adjoint=recomputed).sum(), lam)
    assert_close(found, expected)
