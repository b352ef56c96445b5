"""savae_lite.optim_n2n: against an unroll written here, the library's own loss, and the published reverse pass."""

import re
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from cases import generator, halves, noise, sentences, tiny_lstmvae
from torch.testing import assert_close

from savae_lite.adjoint import detached, difference, kept, recomputed, refine
from savae_lite.elbo import nelbo
from savae_lite.gaussian import pack
from savae_lite.optim_n2n import OptimN2N
from savae_lite.savae import savae_loss

PAGE = (Path(__file__).parent.parent / "book" / "porting.md").read_text(encoding="utf-8")
STEPS, ROWS, LATENT, SEED = 4, 3, 2, 60
SETTINGS = {
    "plain": dict(lr=[0.4, 0.4], momentum=0.0),
    "momentum": dict(lr=[0.4, 0.4], momentum=0.5),
    "two rates": dict(lr=[0.5, 0.2], momentum=0.5),
    "one rate is zero": dict(lr=[0.5, 0.0], momentum=0.5),
    "clip": dict(lr=[0.4, 0.4], momentum=0.5, max_grad_norm=0.05),
    "two rates, clip": dict(lr=[0.9, 0.2], momentum=0.5, max_grad_norm=0.05),
}
every_setting = pytest.mark.parametrize("how", SETTINGS.values(), ids=SETTINGS)
once = pytest.mark.parametrize("adjoint", [recomputed, difference])


def batch_loss(inputs, x, model, z):
    """−ELBO as scripts of that shape have it: one sample, the mean over the batch."""
    return nelbo(model.log_likelihood(x), pack(*inputs), z[None]).mean()


def optimiser(model, how, *, loss_fn=batch_loss, **more):
    return OptimN2N(loss_fn, model, halves(model)[1].values(), iters=STEPS, generator=generator(SEED), **how, **more)


def noises():
    """What generator(SEED) gives K steps, and noise for the loss at the end."""
    return noise(STEPS, ROWS, LATENT, seed=SEED), noise(ROWS, LATENT, seed=61)


def script(model, x, meta):
    """One training step in the published order of calls; returns what each parameter got."""
    model.zero_grad()
    mean, logvar = model.encode(x).chunk(2, -1)
    start = torch.cat([mean, logvar], 1)
    leaves = [mean.detach().requires_grad_(), logvar.detach().requires_grad_()]
    refined = meta.forward(leaves, x, False)
    batch_loss(refined, x, model, noises()[1]).backward(retain_graph=True)
    start.backward(torch.cat(meta.backward([part.grad for part in refined], False), 1))
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def clipped(gradient, norm):
    return gradient * (norm / gradient.norm()).clamp(max=1) if norm else gradient


def unroll(at, lam, zs, *, lr, momentum, max_grad_norm=0):
    """K steps by autograd alone, each input clipped over the batch."""
    velocity = [0] * len(lam)
    for z in zs:
        gradient = torch.autograd.grad(at(lam, z), lam, create_graph=True)
        velocity = [momentum * v - clipped(g, max_grad_norm) for v, g in zip(velocity, gradient, strict=True)]
        lam = [x + rate * v for x, rate, v in zip(lam, lr, velocity, strict=True)]
    return lam


def unrolled_gradients(model, x, how):
    model.zero_grad()
    zs, last = noises()
    lam = unroll(lambda lam, z: batch_loss(lam, x, model, z), model.encode(x).chunk(2, -1), zs, **how)
    batch_loss(lam, x, model, last).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_same(mine, theirs, **tolerance):
    assert mine.keys() == theirs.keys()
    for name in mine:
        assert_close(mine[name], theirs[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@every_setting
@pytest.mark.parametrize("adjoint", [kept, recomputed])
def test_a_script_in_the_published_order_gets_the_total_derivative(adjoint, how):
    model, x = tiny_lstmvae(), sentences()
    found = script(model, x, optimiser(model, how, adjoint=adjoint))
    assert_same(found, unrolled_gradients(model, x, how), rtol=1e-10, atol=1e-12)


@every_setting
def test_differences_are_near_the_total_derivative(how):
    model, x = tiny_lstmvae(), sentences()
    found = script(model, x, optimiser(model, how, adjoint=difference))
    assert_same(found, unrolled_gradients(model, x, how), rtol=1e-5, atol=1e-7)


def test_the_clip_of_these_settings_is_active_for_both_inputs():
    model, x = tiny_lstmvae(), sentences()
    lam = model.encode(x).chunk(2, -1)
    assert all(g.norm() > 0.05 for g in torch.autograd.grad(batch_loss(lam, x, model, noises()[0][0]), lam))


def test_a_rate_on_the_mean_is_the_rate_over_the_batch_size_on_a_row():
    """The translation of the page: lr here is lr / B of `savae_loss`."""
    model, x = tiny_lstmvae(), sentences()
    found = script(model, x, optimiser(model, SETTINGS["momentum"]))
    model.zero_grad()
    zs, last = noises()
    eps = torch.cat([zs, last[None]])[:, None]
    savae_loss(model, x, eps, lr=0.4 / ROWS, momentum=0.5).mean().backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert_same(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adjoint", [kept, recomputed])
def test_without_a_bound_and_with_one_rate_it_is_refine(adjoint):
    model, x = tiny_lstmvae(), sentences()
    lam, bar = model.encode(x).detach(), noise(ROWS, 2 * LATENT, seed=62)
    meta = optimiser(model, SETTINGS["momentum"], adjoint=adjoint)
    refined = meta.forward(lam.chunk(2, -1), x)
    mine = torch.cat(meta.backward(bar.chunk(2, -1)), -1)

    start = lam.clone().requires_grad_()
    losses = [lambda lam, z=z: nelbo(model.log_likelihood(x), lam, z[None]) for z in noises()[0]]
    end = refine(losses, start, lr=0.4 / ROWS, momentum=0.5, adjoint=adjoint)
    assert_close(torch.cat(refined, -1), end, rtol=1e-12, atol=1e-12)
    assert_close(mine, torch.autograd.grad(end, start, bar)[0], rtol=1e-10, atol=1e-12)


def joint_clip(tensors, norm):
    total = torch.stack([tensor.norm() for tensor in tensors]).norm()
    return [tensor * (norm / total).clamp(max=1) if norm else tensor for tensor in tensors]


def published(at, lam, theta, bar, zs, *, lr, momentum, max_grad_norm=0, r=1e-5):
    """The published scheme: one-sided differences, a bound that acts before them and on all that follows."""
    n, path, velocity = len(lam), [], [torch.zeros_like(x) for x in lam]
    for z in zs:
        lam = [x.detach().requires_grad_() for x in lam]
        gradient = torch.autograd.grad(at(lam, z), [*lam, *theta], materialize_grads=True)
        gradient = [*(clipped(g, max_grad_norm) for g in gradient[:n]), *gradient[n:]]
        path.append((lam, gradient, z))
        velocity = [momentum * v - g for v, g in zip(velocity, gradient, strict=False)]
        lam = [x + rate * v for x, rate, v in zip(lam, lr, velocity, strict=True)]
    end, v_bar, theta_bar = lam, [torch.zeros_like(x) for x in lam], [torch.zeros_like(p) for p in theta]
    for lam, before, z in reversed(path):
        v_bar = [v + rate * x for v, rate, x in zip(v_bar, lr, bar, strict=True)]
        moved = [(x + r * v).detach().requires_grad_() for x, v in zip(lam, v_bar, strict=True)]
        after = torch.autograd.grad(at(moved, z), [*moved, *theta], materialize_grads=True)
        product = [(b - a) / r for a, b in zip(before, joint_clip(after, max_grad_norm), strict=True)]
        theta_bar = [t - h for t, h in zip(theta_bar, joint_clip(product[n:], max_grad_norm), strict=True)]
        bar = joint_clip([x - h for x, h in zip(bar, product, strict=False)], max_grad_norm)
        v_bar = [momentum * v for v in v_bar]
    return end, [*bar, *theta_bar]


def side_by_side(how, *, dtype=torch.float64, scale=1.0):
    """λ_K and the gradients through the steps: ours, the published, and the exact ones in float64."""

    def problem(dtype):
        model, x = tiny_lstmvae().to(dtype), sentences()
        theta = list(halves(model)[1].values())
        lam = [part.detach().clone().requires_grad_() for part in model.encode(x).chunk(2, -1)]
        bar = (scale * noise(2, ROWS, LATENT, seed=63)).to(dtype).unbind()
        return model, x, theta, lam, bar, noises()[0].to(dtype)

    model, x, theta, lam, bar, zs = problem(torch.float64)
    end = unroll(lambda lam, z: batch_loss(lam, x, model, z), lam, zs, **how)
    exact = end, torch.autograd.grad(end, [*lam, *theta], bar, materialize_grads=True)

    model, x, theta, lam, bar, zs = problem(dtype)
    theirs = published(lambda lam, z: batch_loss(lam, x, model, z), lam, theta, bar, zs, **how)
    meta = optimiser(model, how)
    meta._noise = lambda like: zs  # a generator gives float32 other numbers than float64
    refined = meta.forward(lam, x)
    grads = meta.backward(bar)
    ours = refined, [*grads, *(torch.zeros_like(p) if p.grad is None else p.grad for p in theta)]
    return ours, theirs, exact


def off(found, exact):
    """The relative error of a list of tensors."""
    found, exact = (torch.cat([t.detach().double().flatten() for t in tensors]) for tensors in (found, exact))
    return ((found - exact).norm() / exact.norm()).item()


@pytest.mark.parametrize("name", ["plain", "momentum", "two rates"])
def test_without_a_bound_the_published_scheme_agrees(name):
    ours, theirs, exact = side_by_side(SETTINGS[name])
    assert off(ours[0], theirs[0]) < 1e-12
    assert off(ours[1], theirs[1]) < 1e-4 and off(ours[1], exact[1]) < 1e-10


@pytest.mark.parametrize("name", ["clip", "two rates, clip"])
def test_where_the_bound_acts_the_steps_agree_and_the_gradients_do_not(name):
    ours, theirs, exact = side_by_side(SETTINGS[name])
    assert off(ours[0], theirs[0]) < 1e-12
    assert off(ours[1], exact[1]) < 1e-10 and off(theirs[1], exact[1]) > 0.2


def test_in_single_precision_only_ours_keeps_its_digits():
    """A loss that is a batch mean has small gradients, here 0.01 an entry."""
    ours, theirs, exact = side_by_side(SETTINGS["momentum"], dtype=torch.float32, scale=0.01)
    assert off(ours[1], exact[1]) < 1e-5 and off(theirs[1], exact[1]) > 0.5


def test_inputs_may_differ_in_number_and_shape():
    weight, lam = noise(4, seed=64).requires_grad_(), [noise(2, 3, seed=65), noise(4, seed=66), noise(1, seed=67)]
    how = dict(lr=[0.3, 0.1, 0.2], momentum=0.4, max_grad_norm=0.5)

    def loss_fn(inputs, y, model, z):
        a, b, c = inputs
        return ((a + z).sin().square().sum() * c.cos() + (weight * b).square().sum() + b.sum() * a.sum()).squeeze()

    meta = OptimN2N(loss_fn, None, [weight], iters=3, num_inputs=3, generator=generator(1), **how)
    refined = meta.forward(lam, None)
    bars = [part.cos().detach() for part in refined]
    found = [*meta.backward(bars), weight.grad]

    starts = [x.clone().requires_grad_() for x in lam]
    end = unroll(lambda lam, z: loss_fn(lam, None, None, z), starts, noise(3, 2, 3, seed=1), **how)
    for mine, theirs in zip(found, torch.autograd.grad(end, [*starts, weight], bars), strict=True):
        assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def one_pass(model, meta):
    x = sentences()
    refined = meta.forward(model.encode(x).chunk(2, -1), x)
    return meta.backward([torch.ones_like(part) for part in refined])


def test_what_comes_through_the_steps_is_added():
    model = tiny_lstmvae()
    one_pass(model, optimiser(model, SETTINGS["clip"]))
    through = {name: p.grad.clone() for name, p in halves(model)[1].items() if p.grad is not None}
    assert len(through) > 5 and all(p.grad is None for p in halves(model)[0].values())
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0)
    one_pass(model, optimiser(model, SETTINGS["clip"]))
    for name, p in model.named_parameters():
        assert_close(p.grad, 2 + through.get(name, torch.zeros_like(p)))


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_parameters_can_be_left_out_or_frozen(adjoint):
    model = tiny_lstmvae()
    grads = one_pass(model, optimiser(model, SETTINGS["clip"], adjoint=adjoint, acc_param_grads=False))
    assert all(p.grad is None for p in model.parameters()) and all(g.any() for g in grads)
    model.recurrent.requires_grad_(False)
    one_pass(model, optimiser(model, SETTINGS["clip"], adjoint=adjoint))
    assert model.recurrent.grad is None and model.input.grad.any()


def test_the_inputs_are_left_alone():
    model, x = tiny_lstmvae(), sentences()
    mean, logvar = model.encode(x).chunk(2, -1)
    before = mean.clone()
    mean.retain_grad()
    meta = optimiser(model, SETTINGS["momentum"])
    refined = meta.forward([mean, logvar], x)
    meta.backward([torch.ones_like(part) for part in refined])
    assert mean.grad is None and torch.equal(mean, before)
    assert all(part.is_leaf and part.requires_grad for part in refined)


def test_no_steps_hand_the_gradient_through():
    model, x = tiny_lstmvae(), sentences()
    meta = OptimN2N(batch_loss, model, model.parameters(), iters=0)
    lam = model.encode(x).chunk(2, -1)
    assert all(torch.equal(a, b) for a, b in zip(meta.forward(lam, x), lam, strict=True))
    bars = [noise(ROWS, LATENT, seed=s) for s in (1, 2)]
    assert all(torch.equal(a, b) for a, b in zip(meta.backward(bars), bars, strict=True))


@pytest.mark.parametrize("when", ["train", "eval", "no_grad", "detached", "recomputed"])
def test_only_training_keeps_the_steps_and_only_until_backward(when):
    model, x, alive = tiny_lstmvae(), sentences(), []

    def watched(inputs, y, model, z):
        curved = inputs[1].exp()  # what a second derivative needs
        hook = partial(lambda node, *gradients: None, "lives as long as the node")
        if curved.requires_grad:
            curved.grad_fn.register_hook(hook)
            alive.append(weakref.ref(hook))
        return batch_loss(inputs, y, model, z) + 0 * curved.sum()

    adjoint = dict(detached=detached, recomputed=recomputed).get(when, kept)
    meta = optimiser(model.train(when != "eval"), SETTINGS["clip"], loss_fn=watched, adjoint=adjoint)
    with torch.set_grad_enabled(when != "no_grad"):
        refined = meta.forward(model.encode(x).chunk(2, -1), x)
    expected = unroll(
        lambda lam, z: batch_loss(lam, x, model, z), model.encode(x).chunk(2, -1), noises()[0], **SETTINGS["clip"]
    )
    assert_close(refined, expected, rtol=1e-12, atol=1e-12)
    assert len(alive) == STEPS and sum(ref() is not None for ref in alive) == (STEPS if when == "train" else 0)
    if when in ("train", "recomputed"):
        meta.backward([torch.ones_like(part) for part in refined])
        assert not any(ref() for ref in alive)
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        meta.backward([torch.ones_like(part) for part in refined])


def masks_from(stream, log=None):
    """The batch loss with a dropout mask on z that is drawn anew whenever it is called."""

    def loss_fn(inputs, y, model, z):
        mask = (torch.rand(z.shape, generator=stream) > 0.3).to(z)
        if log is not None:
            log.append(mask)
        return batch_loss(inputs, y, model, z * mask)

    return loss_fn


def test_dropout_inside_the_loss_is_frozen_with_the_steps_that_are_kept():
    model, x, masks = tiny_lstmvae(), sentences(), []
    meta = optimiser(model, SETTINGS["clip"], loss_fn=masks_from(generator(7), masks))
    found = script(model, x, meta)
    assert len(masks) == STEPS and not torch.equal(masks[0], masks[1])
    model.zero_grad()
    zs, last = noises()
    lam = unroll(
        lambda lam, z: batch_loss(lam, x, model, z),
        model.encode(x).chunk(2, -1),
        zs * torch.stack(masks),
        **SETTINGS["clip"],
    )
    batch_loss(lam, x, model, last).backward()
    assert_same(found, {name: p.grad for name, p in model.named_parameters()}, rtol=1e-10, atol=1e-12)


@once
def test_dropout_inside_the_loss_is_refused_where_steps_are_computed_again(adjoint):
    model = tiny_lstmvae()
    meta = optimiser(model, SETTINGS["clip"], loss_fn=masks_from(generator(7)), adjoint=adjoint)
    with pytest.raises(RuntimeError, match="dropout masks as arguments"):
        one_pass(model, meta)


@once
def test_a_mask_drawn_once_an_outer_step_is_welcome(adjoint):
    """The remedy of the page: y is the likelihood with its mask, so every step meets the same one."""
    model, x = tiny_lstmvae(dropout=0.4), sentences()

    def loss_fn(inputs, y, model, z):
        return nelbo(y, pack(*inputs), z[None]).mean()

    def gradients(adjoint):
        model.zero_grad()
        y = model.log_likelihood(x, generator=generator(8))
        meta = optimiser(model, SETTINGS["clip"], loss_fn=loss_fn, adjoint=adjoint)
        refined = meta.forward(model.encode(x).chunk(2, -1), y)
        loss_fn(refined, y, model, noises()[1]).backward(retain_graph=True)
        meta.backward([part.grad for part in refined])
        return {name: p.grad for name, p in halves(model)[1].items() if p.grad is not None}

    assert_same(gradients(adjoint), gradients(kept), rtol=1e-5, atol=1e-7)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    model = tiny_lstmvae()
    one_pass(model, OptimN2N(batch_loss, model, model.parameters(), iters=2))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_noise_follows_the_seed_of_the_script(monkeypatch):
    def drawn(seed):
        monkeypatch.setattr(torch, "initial_seed", lambda: seed)
        meta = OptimN2N(batch_loss, None, [], iters=2)
        return meta._noise(noise(3, 2)), meta._noise(noise(3, 2))

    first, second = drawn(5)
    again, _ = drawn(5)
    assert torch.equal(first, again) and not torch.equal(first, second) and not torch.equal(first, drawn(6)[0])
    assert not torch.equal(first, noise(2, 3, 2, seed=5))  # a stream of its own, not the script's


def test_a_training_script_learns():
    model, x = tiny_lstmvae(), sentences(rows=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    meta = optimiser(model, dict(lr=[1.0, 1.0], momentum=0.5, max_grad_norm=5.0))
    losses, stream = [], generator(9)
    for _ in range(40):
        optimizer.zero_grad()
        mean, logvar = model.encode(x).chunk(2, -1)
        start = torch.cat([mean, logvar], 1)
        refined = meta.forward([mean.detach(), logvar.detach()], x)
        z = torch.randn(mean.shape, generator=stream, dtype=mean.dtype)
        loss = batch_loss(refined, x, model, z)
        loss.backward(retain_graph=True)
        start.backward(torch.cat(meta.backward([part.grad for part in refined]), 1))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_verbose_prints_norms(capsys):
    model, x = tiny_lstmvae(), sentences()
    meta = optimiser(model, SETTINGS["clip"])
    refined = meta.forward(model.encode(x).chunk(2, -1), x, True)
    meta.backward([torch.ones_like(part) for part in refined], True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == STEPS + 1 and lines[0].startswith("step 0: gradient")


def test_a_gradient_that_is_not_finite_names_the_step():
    model, x = tiny_lstmvae(), sentences()
    calls = []

    def loss_fn(inputs, y, model, z):
        calls.append(None)
        return batch_loss(inputs, y, model, z) * (float("nan") if len(calls) == 3 else 1.0)

    with pytest.raises(FloatingPointError) as caught:
        optimiser(model, SETTINGS["clip"], loss_fn=loss_fn).forward(model.encode(x).chunk(2, -1), x)
    assert "step 2 of 4" in "".join(caught.value.__notes__)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        (dict(lr=[0.1, 0.1, 0.1]), "num_inputs = 2 rates"),
        (dict(lr=[0.1, -0.1]), "not negative"),
        (dict(lr=[0.0, 0.0]), "one of them positive"),
        (dict(iters=-1), "iters must"),
        (dict(momentum=1.0), "momentum must"),
        (dict(max_grad_norm=-5), "max_grad_norm must"),
    ],
)
def test_bad_settings_are_refused(how, match):
    with pytest.raises(ValueError, match=match):
        OptimN2N(batch_loss, None, [], **how)


def test_one_rate_serves_all_inputs():
    model, x = tiny_lstmvae(), sentences()
    lam = model.encode(x).chunk(2, -1)
    one, two = (optimiser(model, dict(lr=lr)).forward(lam, x) for lr in ([0.3], [0.3, 0.3]))
    assert_close(one, two, rtol=0, atol=0)


def test_bad_calls_are_refused():
    model, x = tiny_lstmvae(), sentences()
    mean, logvar = model.encode(x).chunk(2, -1)
    meta = optimiser(model, SETTINGS["clip"])
    with pytest.raises(RuntimeError, match="backward needs a forward"):
        meta.backward([mean, logvar])
    with pytest.raises(ValueError, match="input must be 2 tensors; got 1"):
        meta.forward([mean], x)
    meta.forward([mean, logvar], x)
    with pytest.raises(ValueError, match="grad_output must hold gradients"):
        meta.backward([None, None])
    with pytest.raises(ValueError, match="grad_output must hold gradients"):
        meta.backward([mean])
    for wrong in (lambda inputs, y, model, z: inputs[0].sum(-1), lambda inputs, y, model, z: 1.0):
        with pytest.raises(ValueError, match="one number for the batch"):
            optimiser(model, SETTINGS["clip"], loss_fn=wrong).forward([mean, logvar], x)


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_a_model_of_torch_modules(adjoint):
    """The shape of a script that comes from elsewhere: nn.LSTM, a mean over the batch, no generator."""
    lstm, output = torch.nn.LSTM(2, 3, batch_first=True).double(), torch.nn.Linear(3, 5).double()
    model, x = torch.nn.ModuleList([lstm, output]), sentences()[:, 1:]
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            p.copy_(0.7 * noise(*p.shape, seed=seed))

    def loss_fn(inputs, x, model, z):
        mean, logvar = inputs
        code = (mean + (0.5 * logvar).exp() * z)[:, None].expand(-1, x.shape[1], -1)
        logits = model[1](model[0](code)[0])
        divergence = 0.5 * (mean.square() + logvar.exp() - logvar - 1).sum(-1).mean()
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x.flatten()) * x.shape[1] + divergence

    lam, zs = [noise(ROWS, LATENT, seed=s).requires_grad_() for s in (1, 2)], noises()[0]
    meta = optimiser_of(model, loss_fn, adjoint)
    refined = meta.forward(lam, x)
    found = [*meta.backward(refined), *(p.grad for p in model.parameters())]
    at = lambda lam, z: loss_fn(lam, x, model, z)  # noqa: E731
    end = unroll(at, lam, zs, **SETTINGS["two rates, clip"])
    exact = torch.autograd.grad(end, [*lam, *model.parameters()], [part.detach() for part in refined])
    for mine, theirs in zip(found, exact, strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-8)


def optimiser_of(model, loss_fn, adjoint):
    how = dict(iters=STEPS, adjoint=adjoint, generator=generator(SEED), **SETTINGS["two rates, clip"])
    return OptimN2N(loss_fn, model, model.parameters(), **how)


def test_the_code_of_the_page_runs_and_its_last_step_is_its_first(monkeypatch):
    """Twice the same gradients: by the class, and by `savae_loss` at lr / B with the same noise and no bound."""
    before, after, rows = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    model, x = tiny_lstmvae().float(), sentences()
    names = dict(model=model, loss_fn=batch_loss, decoder_parameters=halves(model)[1].values())
    exec(after, names)
    exec(before, names)
    names["meta"].max_grad_norm = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    shape = (len(x), LATENT)
    scoring = torch.randn(1, *shape, generator=generator(1))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn_like", lambda like: scoring[0])
        names["train_step"](model, x, names["meta"], batch_loss, optimizer)
    gradients = lambda: {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}  # noqa: E731
    through_the_class = gradients()
    optimizer.zero_grad()
    eps = torch.cat([torch.randn(20, *shape, generator=generator(0)), scoring])[:, None]  # what the first step drew

    def same_noise(steps, rows, latent, *, generator):
        assert (steps, 1, rows, latent) == eps.shape
        return eps

    monkeypatch.setattr("savae_lite.savae.draw_noise", same_noise)
    names |= dict(K=20, B=len(x), D=LATENT, alpha=1.0, x=x)
    exec(rows, names)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    assert len(through_the_class) > 10
    assert_same(through_the_class, gradients(), rtol=1e-3, atol=1e-5)
    assert names["refined"].shape == (len(x), 2 * LATENT) and not names["refined"].requires_grad


def test_the_code_of_the_page_fits_a_narrow_column():
    code = re.findall(r"```(?:python|bash)\n(.*?)```", PAGE, re.DOTALL)
    assert len(code) == 4 and all(len(line) <= 72 for block in code for line in block.splitlines())


def test_parameters_that_are_no_leaves_are_refused():
    weight = noise(2, 2).requires_grad_()
    for wrong in (weight, [weight * 2]):
        with pytest.raises(ValueError, match="a list of parameters"):
            OptimN2N(batch_loss, None, wrong)
