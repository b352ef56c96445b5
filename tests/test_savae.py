"""savae_lite.savae against limit cases, finite differences and gradients put together by hand."""

from functools import partial

import pytest
import torch
from cases import generator, halves, linear_gaussian, noise, sentences, tiny_lstmvae
from torch import nn
from torch.func import functional_call
from torch.testing import assert_close

from savae_lite.adjoint import detached
from savae_lite.elbo import nelbo
from savae_lite.gaussian import kl
from savae_lite.savae import METHODS, bound_at_start, draw_noise, from_encoder, from_prior, infer, kl_to_end, savae_loss
from savae_lite.svi import last

INNER = {"lr": 0.2, "momentum": 0.5, "clip": 0.2}
X = sentences()


def noises(steps, samples=1):
    return noise(steps, samples, 3, 2, seed=21)


def gradients(model, loss):
    """The gradient of every parameter by its name, zeros where there is none."""
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: torch.zeros_like(p) if g is None else g for n, p, g in zip(names, parameters, found, strict=True)}


def parts(found):
    """Encoder's and decoder's gradients apart."""
    encoder = {name: gradient for name, gradient in found.items() if name.startswith("encoder.")}
    return encoder, {name: gradient for name, gradient in found.items() if name not in encoder}


def teach_nothing(loss, lam_0, lam_k):
    return torch.zeros(len(lam_0), dtype=lam_0.dtype)


def test_a_vae_with_refining_noise_is_refused_because_nothing_would_teach_its_encoder():
    with pytest.raises(ValueError, match="one scoring step; got 4"):
        savae_loss(tiny_lstmvae(), X, noises(4), **INNER, **METHODS["VAE"])


def test_the_methods_are_the_papers():
    assert set(METHODS) == {"VAE", "SVI", "VAE+SVI", "VAE+SVI+KL", "SA-VAE"}


def test_the_methods_cannot_be_changed():
    with pytest.raises(TypeError):
        METHODS["VAE"] = {}


@pytest.mark.parametrize("method", ["VAE", "SA-VAE"])
@pytest.mark.parametrize("beta", [1.0, 0.3])
def test_without_steps_it_is_the_vae_bit_for_bit(method, beta):
    model, eps = tiny_lstmvae(), noises(1, samples=2)
    loss = savae_loss(model, X, eps, beta=beta, **INNER, **METHODS[method])
    plain = nelbo(model.log_likelihood(X), model.encode(X), eps[0], beta=beta)
    assert torch.equal(loss, plain)
    assert_close(gradients(model, loss.mean()), gradients(model, plain.mean()), rtol=0, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_value_is_the_loss_where_the_refinement_ends(method):
    model, eps = tiny_lstmvae(), noises(4, samples=2)
    options, start = METHODS[method], from_prior if method == "SVI" else from_encoder
    lam = last(infer(model, X, eps[:-1], beta=0.5, start=start, **INNER))
    expected = nelbo(model.log_likelihood(X), lam, eps[-1], beta=0.5)
    loss = savae_loss(model, X, eps, beta=0.5, **INNER, **(options | {"teach": teach_nothing}))
    assert_close(loss, expected, rtol=1e-12, atol=1e-12)


def test_inference_ends_where_training_does():
    model, eps, seen = tiny_lstmvae(), noises(4), []

    def teach(loss, lam_0, lam_k):
        seen.extend([lam_0, lam_k])
        return torch.zeros_like(loss(lam_k))

    savae_loss(model, X, eps, adjoint=detached, teach=teach, **INNER)
    path = list(infer(model, X, eps[:-1], **INNER))
    assert len(path) == 4
    assert_close([path[0], path[-1]], seen, rtol=0, atol=0)
    assert not any(lam.requires_grad for lam in path)


def test_refinement_is_descent_with_momentum_and_clipping_written_out():
    model, eps, lr = tiny_lstmvae(), noises(3), 0.3
    lam = model.encode(X).detach()
    velocity, path = torch.zeros_like(lam), [lam]
    for one in eps:
        lam = path[-1].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(nelbo(model.log_likelihood(X), lam, one, beta=0.5).sum(), lam)
        gradient = gradient * (0.2 / gradient.norm(dim=1, keepdim=True)).clamp(max=1.0)
        velocity = 0.9 * velocity - gradient
        path.append(lam.detach() + lr * velocity)
    assert_close(list(infer(model, X, eps, lr=lr, momentum=0.9, clip=0.2, beta=0.5)), path)


def test_gradcheck_of_the_whole_loss_in_every_parameter():
    """Through two noisy refinements, with momentum and a clip that bites in some rows."""
    model = tiny_lstmvae(4, embedding=2, hidden=2, latent=1, skip=True)
    x, eps = sentences(2, 4, vocabulary=4), noise(3, 1, 2, 1, seed=22)
    norms = gradient_norms(model, x, eps[0])
    options = {"lr": 0.3, "momentum": 0.5, "clip": float(norms.mean())}
    assert norms.min() < options["clip"] < norms.max(), "the clip must bite in one row and not in the other"

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self):
            return savae_loss(self.model, x, eps, beta=0.7, **options)

    names, parameters = zip(*Whole().named_parameters(), strict=True)
    loss = lambda *values: functional_call(Whole(), dict(zip(names, values, strict=True)), ())  # noqa: E731
    assert torch.autograd.gradcheck(loss, tuple(p.detach().requires_grad_() for p in parameters), fast_mode=True)


def gradient_norms(model, x, eps):
    """‖∇ −ELBO(λ₀)‖ of each row."""
    lam = model.encode(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(nelbo(model.log_likelihood(x), lam, eps, beta=0.7).sum(), lam)
    return gradient.norm(dim=1)


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_know_of_each_other(method):
    model, eps = tiny_lstmvae(), noises(1 if method == "VAE" else 4)
    together = savae_loss(model, X, eps, **INNER, **METHODS[method])
    path = list(infer(model, X, eps, **INNER))
    for b in range(3):
        alone, own = X[b : b + 1], eps[:, :, b : b + 1]
        loss = savae_loss(model, alone, own, **INNER, **METHODS[method])
        assert_close(together[b : b + 1], loss, rtol=1e-12, atol=1e-12)
        assert_close([lam[b : b + 1] for lam in path], list(infer(model, alone, own, **INNER)), rtol=1e-12, atol=1e-12)


def test_svi_starts_from_the_prior_and_gives_the_encoder_nothing():
    model, eps = tiny_lstmvae(), noises(4)
    savae_loss(model, X, eps, **INNER, **METHODS["SVI"]).mean().backward()
    encoder, decoder = halves(model)
    assert all(p.grad is None or not p.grad.any() for p in encoder.values())
    assert any(p.grad.any() for p in decoder.values() if p.grad is not None)
    assert torch.equal(next(infer(model, X, eps, start=from_prior, **INNER)), torch.zeros(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("method", ["SVI", "VAE+SVI", "VAE+SVI+KL"])
def test_without_differentiation_the_decoder_learns_at_the_constant_end(method):
    model, eps = tiny_lstmvae(), noises(4)
    options = METHODS[method]
    _, decoder = parts(gradients(model, savae_loss(model, X, eps, **INNER, **options).mean()))
    lam = last(infer(model, X, eps[:-1], start=options.get("start", from_encoder), **INNER))
    _, expected = parts(gradients(model, nelbo(model.log_likelihood(X), lam, eps[-1]).mean()))
    assert_close(decoder, expected, rtol=1e-10, atol=1e-12)


def test_vae_svi_teaches_the_encoder_the_bound_at_its_start():
    model, eps = tiny_lstmvae(), noises(4)
    encoder, _ = parts(gradients(model, savae_loss(model, X, eps, **INNER, **METHODS["VAE+SVI"]).mean()))
    plain = nelbo(model.log_likelihood(X), model.encode(X), eps[-1])
    assert_close(encoder, parts(gradients(model, plain.mean()))[0], rtol=1e-10, atol=1e-12)


def test_vae_svi_kl_teaches_the_encoder_the_divergence_to_the_end():
    model, eps = tiny_lstmvae(), noises(4)
    encoder, _ = parts(gradients(model, savae_loss(model, X, eps, **INNER, **METHODS["VAE+SVI+KL"]).mean()))
    distance = kl(model.encode(X), last(infer(model, X, eps[:-1], **INNER)))
    assert distance.min() > 1e-3
    assert_close(encoder, parts(gradients(model, distance.mean()))[0], rtol=1e-10, atol=1e-12)


def test_the_lessons_are_their_formulas():
    lam_0, lam_k = noise(3, 4, seed=1).requires_grad_(), noise(3, 4, seed=2).requires_grad_()
    assert_close(kl_to_end(None, lam_0, lam_k), kl(lam_0, lam_k))
    by_start, by_end = torch.autograd.grad(kl_to_end(None, lam_0, lam_k).sum(), (lam_0, lam_k), allow_unused=True)
    assert_close(by_start, torch.autograd.grad(kl(lam_0, lam_k).sum(), lam_0)[0])
    assert by_end is None or not by_end.any()

    weight = noise(4, seed=3).requires_grad_()
    lesson = bound_at_start(lambda lam: (lam**3 * weight).sum(-1), lam_0, lam_k)
    found = torch.autograd.grad(lesson.sum(), (lam_0, lam_k, weight), allow_unused=True)
    assert lesson.shape == (3,)
    assert_close(found[0], 3 * lam_0**2 * weight)
    assert all(gradient is None or not gradient.any() for gradient in found[1:])


def test_as_the_rate_vanishes_sa_vae_becomes_the_vae():
    model, eps = tiny_lstmvae(), noises(4)
    plain = gradients(model, nelbo(model.log_likelihood(X), model.encode(X), eps[-1]).mean())

    def distance(lr):
        found = gradients(model, savae_loss(model, X, eps, lr=lr, **METHODS["SA-VAE"]).mean())
        return max((found[name] - plain[name]).norm() for name in plain)

    assert distance(1e-6) < 1e-5
    assert distance(1e-3) / distance(1e-4) == pytest.approx(10, rel=0.05), "the difference is of first order"


def test_sa_vae_gives_the_encoder_another_gradient_than_the_baselines():
    model, eps = tiny_lstmvae(), noises(4)
    found = {}
    for method in ("VAE+SVI", "VAE+SVI+KL", "SA-VAE"):
        options = METHODS[method]
        encoder, _ = parts(gradients(model, savae_loss(model, X, eps, **INNER, **options).mean()))
        found[method] = torch.cat([gradient.flatten() for gradient in encoder.values()])
    assert (found["SA-VAE"] - found["VAE+SVI"]).norm() > 0.01 * found["SA-VAE"].norm() > 0
    assert (found["SA-VAE"] - found["VAE+SVI+KL"]).norm() > 0.01 * found["SA-VAE"].norm()


def test_refinement_finds_the_exact_posterior():
    """From the prior, with the ±1 nodes as noise, the descent on a linear-Gaussian model ends in its posterior."""
    model, x = linear_gaussian()
    nodes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)[:, None].expand(-1, 4, -1)
    lam = last(infer(model, x, nodes.expand(800, -1, -1, -1), lr=0.05, momentum=0.5, start=from_prior))
    assert_close(lam, model.encode(x), atol=1e-8, rtol=0)


def test_steps_lower_the_loss():
    model, eps = tiny_lstmvae(), noises(1, samples=50).expand(6, -1, -1, -1)
    bound = partial(nelbo, model.log_likelihood(X), eps=eps[0])
    values = torch.stack([bound(lam) for lam in infer(model, X, eps, lr=0.1)])
    assert (values.diff(dim=0) < 0).all()


def test_inference_does_not_differentiate_and_works_under_no_grad():
    model, eps = tiny_lstmvae(), noises(3)
    path = list(infer(model, X, eps, **INNER))
    with torch.no_grad():
        assert_close(list(infer(model, X, eps, **INNER)), path, rtol=0, atol=0)
    assert all(p.grad is None for p in model.parameters())


def test_one_dropout_mask_serves_all_steps():
    model, eps = tiny_lstmvae(dropout=0.5), noises(3)
    loss = savae_loss(model, X, eps, generator=generator(7), **INNER)
    masked = model.log_likelihood(X, generator=generator(7))

    class Frozen:
        encode = model.encode

        def log_likelihood(self, x):
            return masked

    assert_close(loss, savae_loss(Frozen(), X, eps, **INNER), rtol=0, atol=0)
    assert not torch.equal(loss, savae_loss(model, X, eps, **INNER))


def test_a_model_without_latent_is_scored_by_its_likelihood():
    model = tiny_lstmvae(latent=0)
    loss = savae_loss(model, X, noise(1, 1, 3, 0), lr=1.0, **METHODS["VAE"])
    assert_close(loss, -model.log_likelihood(X)(noise(1, 3, 0))[0])


# --- noise ---


def test_noise_is_standard_normal_of_its_shape():
    eps = draw_noise(5, 40, 10, generator=generator(), samples=20)
    assert eps.shape == (5, 20, 40, 10) and draw_noise(2, 3, 4, generator=generator()).shape == (2, 1, 3, 4)
    assert abs(eps.mean()) < 5 / eps.numel() ** 0.5
    assert abs(eps.square().mean() - 1) < 5 * (2 / eps.numel()) ** 0.5
    assert abs(eps.pow(4).mean() - 3) < 5 * (96 / eps.numel()) ** 0.5


def test_a_seed_determines_the_run_and_nothing_global_is_touched():
    model, before = tiny_lstmvae(dropout=0.5), torch.get_rng_state()

    def run(seed):
        g = generator(seed)
        eps = draw_noise(3, 3, 2, generator=g).double()
        return savae_loss(model, X, eps, generator=g, **INNER)

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    list(infer(model, X, noises(2), **INNER))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("steps", "samples", "message"), [(-1, 1, "steps.*-1"), (2, 0, "samples.*0"), (2, -1, "samples.*-1")]
)
def test_an_impossible_amount_of_noise_is_refused(steps, samples, message):
    with pytest.raises(ValueError, match=message):
        draw_noise(steps, 3, 2, generator=generator(), samples=samples)


@pytest.mark.parametrize("shape", [(1, 3, 2), (0, 1, 3, 2), (2, 1, 4, 2), (2, 1, 3, 3), (2,)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        savae_loss(tiny_lstmvae(), X, noise(*shape), **INNER)
    assert "eps must be" in str(error.value)
    assert str(shape) in str(error.value) or str(shape[1:]) in str(error.value)


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 1, 4, 2), (2, 1, 3, 3), (2,)])
def test_inference_refuses_noise_of_another_shape(shape):
    with pytest.raises(ValueError, match="eps must be"):
        list(infer(tiny_lstmvae(), X, noise(*shape), **INNER))


def test_inference_without_noise_is_the_start():
    model = tiny_lstmvae()
    (lam,) = infer(model, X, noises(0), **INNER)
    assert_close(lam, model.encode(X), rtol=0, atol=0)
