"""What the library does with tensors, for `test_device`: on the CPU and on a second device the same must come out.

A case takes a place and returns what it computed, gradients among it. A fault is a case that must fail on the device.
"""

import io
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from cases import generator, noise, sentences, tiny_lstmvae
from simulated_gpu import Generator
from torch import Tensor, nn

from savae_lite import adjoint, checkpoint, diagnostics, elbo, exact, gaussian, lstm, saliency, softmax, svi, twice
from savae_lite.data import Vocab, batches, check_tokens
from savae_lite.grammar import grammar
from savae_lite.images import MLPVAE
from savae_lite.models import LinearGaussian, LSTMOracle
from savae_lite.optim_n2n import OptimN2N
from savae_lite.savae import METHODS, draw_noise, infer, savae_loss
from savae_lite.schedules import linear
from savae_lite.text import LSTMVAE
from savae_lite.trainer import descend, fit

CASES: dict[str, Callable] = {}
FAULTS: dict[str, tuple[str, Callable]] = {}
HOW = dict(lr=0.2, momentum=0.5, clip=0.4)
ROWS, LATENT = 3, 2


class Place(NamedTuple):
    """A device: ``to(x)`` moves a tensor or a model there."""

    device: str

    def __call__(self, thing):
        return thing.to(self.device)

    def noise(self, *shape: int, seed: int = 0) -> Tensor:
        return self(noise(*shape, seed=seed))

    def leaf(self, *shape: int, seed: int = 0) -> Tensor:
        return self.noise(*shape, seed=seed).requires_grad_()

    def generator(self, seed: int = 0) -> torch.Generator:
        return (torch.Generator() if self.device == "cpu" else Generator()).manual_seed(seed)


def case(function: Callable) -> Callable:
    CASES[function.__name__] = function
    return function


def fault(said: str) -> Callable:
    """A case that fails on the device, with ``said`` in the error."""
    return lambda function: FAULTS.setdefault(function.__name__, (said, function))


def derived(values: Tensor, *leaves: Tensor) -> list[Tensor]:
    """The values, and the gradients of one sum of them."""
    return [values, *torch.autograd.grad(values.sin().sum(), leaves, retain_graph=True, materialize_grads=True)]


def said(function: Callable, *args, **kwargs) -> list[str]:
    """What it warns of, and the error it ends with."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            function(*args, **kwargs)
            error = ""
        except Exception as raised:
            error = f"{type(raised).__name__}: {raised}"
    assert caught or error, "nothing was said"
    return [str(warning.message) for warning in caught] + [error]


# models: each gives (model, x, leaves)


class Synthetic(nn.Module):
    """The oracle, and an encoder for it."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        sizes = dict(embedding=2, hidden=3, generator=generator())
        self.oracle = LSTMOracle(5, length=5, layer=layer, **sizes).requires_grad_()
        self.encode = lstm.LSTMEncoder(5, latent=LATENT, scale=0.7, **sizes)

    def log_likelihood(self, x):
        return self.oracle.log_likelihood(x)


def linear_model(to):
    weight = to(torch.linalg.qr(noise(4, LATENT, seed=1))[0]).requires_grad_()
    return LinearGaussian(weight, 0.7), to.noise(ROWS, 4, seed=2), [weight]


def module(make, x, to):
    model = to(make().double())
    return model, to(x), list(model.parameters())


MODELS = {
    "linear": linear_model,
    "text": partial(module, partial(tiny_lstmvae, skip=True), sentences()),
    "dropout": partial(module, partial(tiny_lstmvae, dropout=0.4, word_dropout=0.4), sentences()),
    "oracle": partial(module, partial(Synthetic, 0), sentences()),
    "layered oracle": partial(module, partial(Synthetic, 4), sentences()),
    "images": partial(module, lambda: MLPVAE(6, 5, LATENT, generator=generator()), (noise(ROWS, 6) > 0).double()),
}


# training and inference


def trained(name, method, to):
    """The loss a row, and what its mean gives each parameter."""
    model, x, leaves = MODELS[name](to)
    steps = 1 if method == "VAE" else 4
    masks = dict(generator=to.generator(5)) if name == "dropout" else {}
    loss = savae_loss(model, x, to.noise(steps, 2, ROWS, LATENT, seed=4), beta=0.7, **masks, **HOW, **WAYS[method])
    loss.mean().backward()
    return loss, [leaf.grad for leaf in leaves]


def inferred(name, to):
    """λ₀ … λ_K."""
    model, x, _ = MODELS[name](to)
    return list(infer(model, x, draw_noise(3, ROWS, LATENT, samples=2, generator=to.generator(4)).double(), **HOW))


WAYS = METHODS | {f"SA-VAE, {way.__name__}": dict(adjoint=way) for way in (adjoint.recomputed, adjoint.difference)}
CASES |= {f"{name}: {method}": partial(trained, name, method) for name in MODELS for method in WAYS}
CASES |= {f"{name}: infer": partial(inferred, name) for name in MODELS}


@case
def refine(to):
    """Every way to differentiate through the steps, with a parameter under the losses."""
    lam, theta, found = to.leaf(ROWS, 4, seed=1), to.leaf(4, seed=2), []
    losses = [lambda lam: (lam * theta).sin().sum(-1)] * 3
    for way in (adjoint.kept, adjoint.recomputed, adjoint.difference):
        found += derived(adjoint.refine(losses, lam, **HOW, adjoint=way), lam, theta)
    return found, adjoint.refine(losses, lam, **HOW, adjoint=adjoint.detached)


@case
def autocast(to):
    """It casts no float64; but the reverse pass must ask for that of its device, as the forward pass does."""
    model, x, leaves = MODELS["text"](to)
    lam, eps, on, found = to.leaf(ROWS, 4), to.noise(3, 2, ROWS, LATENT, seed=4), [], []

    def loss(lam):
        on.append(torch.is_autocast_enabled(to.device))
        return lam.sin().sum(-1)

    for way in (adjoint.kept, adjoint.recomputed, adjoint.difference):
        with torch.autocast(to.device, dtype=torch.bfloat16):
            values = savae_loss(model, x, eps, **HOW, adjoint=way)
            end = adjoint.refine([loss, loss], lam, **HOW, adjoint=way)
        found += derived(values, *leaves), derived(end, lam)
    return found, on


@case
def steps(to):
    lam = to.leaf(ROWS, 4, seed=1)
    loss = lambda lam: lam.sin().sum(-1)  # noqa: E731
    svi.check_loss(loss, lam)
    path = list(svi.svi([loss] * 3, lam, **HOW, differentiable=True))
    return path, derived(svi.last(path), lam), derived(svi.clip_rows(lam, 0.5), lam)


@case
def optim_n2n(to):
    """The published calls, with a rate and a bound of each input, every way, and with a generator of its own."""

    def loss(inputs, x, model, z):
        return elbo.nelbo(model.log_likelihood(x), gaussian.pack(*inputs), z[None]).mean()

    found = []
    for way in (adjoint.kept, adjoint.recomputed, adjoint.difference):
        for own in (None, to.generator(6)):
            model, x, leaves = MODELS["text"](to)
            how = dict(lr=[0.4, 0.2], iters=3, momentum=0.5, max_grad_norm=0.1, adjoint=way, generator=own)
            meta = OptimN2N(loss, model, leaves, **how)
            start = gaussian.unpack(model.encode(x))
            with redirect_stdout(io.StringIO()) as printed:
                refined = meta.forward(start, x, verbose=True)
                loss(refined, x, model, to.noise(ROWS, LATENT)).backward()
                torch.autograd.backward(start, meta.backward([part.grad for part in refined], verbose=True))
            found += [refined, [leaf.grad for leaf in leaves], printed.getvalue()]
    return found


@case
def training(to):
    """Two epochs, a stop, and two more from the checkpoint; dropout and batches from one generator."""
    with TemporaryDirectory() as folder:
        return [_epochs(to, Path(folder) / "run.pt", count) for count in (2, 4)]


def _epochs(to, path, count):
    model, x, leaves = MODELS["dropout"](to)
    draw, beta, optimizer = to.generator(7), linear(0.1, 1.0, steps=9), torch.optim.Adam(leaves, lr=0.01)

    def loss(batch, step):
        eps = to(draw_noise(3, len(batch), LATENT, generator=draw).double())
        return savae_loss(model, batch, eps, beta=beta(step), generator=draw, **HOW).mean()

    def validate():
        return savae_loss(model, x, to.noise(1, 2, ROWS, LATENT), **HOW).mean().item()

    how = dict(generator=draw, epochs=count, validate=validate, checkpoint=path)
    epochs = list(fit(loss, lambda: batches(x, 2, generator=draw), model, optimizer, **how))
    again = torch.optim.Adam(MODELS["dropout"](to)[2], lr=0.01)
    found = checkpoint.load(path, model=model, optimizer=again, generator=draw)
    checkpoint.save(path, found, model=model, optimizer=again, generator=draw)
    moments = [state["exp_avg"] for state in again.state.values()]
    return [(epoch.step, epoch.train, epoch.valid) for epoch in epochs], leaves, moments, draw.get_state().tolist()


# bounds and densities


@case
def gaussians(to):
    lam, other, eps = to.leaf(ROWS, 4, seed=1), to.leaf(ROWS, 4, seed=2), to.noise(2, ROWS, LATENT, seed=3)
    z = gaussian.reparameterize(lam, eps)
    gaussian.check_codes(z, "S", ROWS, LATENT)
    found = z, gaussian.log_prob(lam, z), gaussian.log_prior(z), gaussian.entropy(lam), gaussian.kl(lam)
    both = gaussian.kl(lam, gaussian.pack(*gaussian.unpack(other)))
    return [derived(values, lam) for values in found], derived(both, lam, other)


@case
def bounds(to):
    model, x, leaves = linear_model(to)
    lam, eps, likelihood = to.leaf(ROWS, 4, seed=1), to.noise(5, ROWS, LATENT, seed=3), model.log_likelihood(x)
    given = (lambda z: likelihood(z) + gaussian.log_prior(z)), lam, eps
    found = elbo.elbo(likelihood, lam, eps), elbo.nelbo(likelihood, lam, eps, beta=0.5), elbo.elbo_mc(*given)
    exact = derived(model.log_evidence(x), *leaves), derived(model.encode(x), *leaves)
    free = derived(elbo.free_bits(elbo.unit_kl(lam), 0.3), lam)
    return [derived(values, lam, *leaves) for values in (*found, elbo.iwae(*given))], exact, free


@case
def quadrature(to):
    model, x, _ = MODELS["oracle"](to)
    table = exact.tabulate(model.log_likelihood(x), ROWS, LATENT, points=61, device=to.device)
    lam = exact.moments(table).requires_grad_()
    best, values = exact.best_in_family(table, steps=5), derived(exact.exact_elbo(table, lam), lam)
    return table, values, exact.log_evidence(table), best, exact.gaps(table, lam, best)


@case
def quality(to):
    model, x, _ = MODELS["text"](to)
    lam, eps = model.encode(x), to.noise(5, ROWS, LATENT, seed=3)
    nll = diagnostics.importance_weighted_nll(model.log_likelihood(x), lam, eps, chunk=2)
    return nll, diagnostics.active_units(lam), diagnostics.mutual_information(lam, eps[0], chunk=2)


@case
def saliencies(to):
    model, x, _ = MODELS["text"](to)
    per_token, lam, eps = model.token_log_likelihood(x), model.encode(x), to.noise(2, ROWS, LATENT, seed=3)
    slopes = saliency.token_gradients(per_token, eps), saliency.token_gradients(lambda z: eps, eps)
    norms = saliency.output_saliency(per_token, lam, eps), saliency.input_saliency(model.encoder, x)
    gain = saliency.token_information(per_token, lam, eps, to.noise(7, LATENT, seed=4), chunk=3)
    hidden = saliency.occlusion(model.encode, x, Vocab.UNK)
    rank = saliency.ranks(gain.flatten()), saliency.rank_correlation(gain.flatten(), hidden[:, 1:].flatten())
    return slopes, norms, gain, hidden, rank


# layers


def three_derivatives(layer, *inputs):
    """The output, and its first three derivatives along fixed directions."""
    found, values = [layer(*inputs)], layer(*inputs)
    leaves = [t for t in inputs if t.requires_grad]
    for _ in range(3):
        gradients = torch.autograd.grad(values.sin().sum(), leaves, create_graph=True, materialize_grads=True)
        found.append(gradients)
        values = torch.cat([g.flatten() for g in gradients])
    return found


@case
def lstm_layer(to):
    gates, h, recurrent = to.leaf(4, ROWS, 8, seed=1), to.leaf(ROWS, 2, seed=2), to.leaf(2, 8, seed=3)
    whole = lambda gates, h, recurrent: lstm.lstm(gates, recurrent, h)  # noqa: E731
    layers = [three_derivatives(layer, gates, h, recurrent) for layer in (whole, lstm.plain_lstm)]
    alone = three_derivatives(whole, gates, h.detach(), recurrent.detach())
    return layers, alone, [derived(part, gates, h, recurrent) for part in lstm.cell(gates[0], recurrent, h, h)]


@case
def softmax_layer(to):
    states, weight, bias = to.leaf(5, 3, seed=1), to.leaf(3, 7, seed=2), to.leaf(7, seed=3)
    targets = to(torch.arange(5))
    layers = softmax.log_probability, softmax.plain_log_probability, partial(twice.apply, softmax.LAYER)
    return [three_derivatives(layer, states, weight, bias, targets) for layer in layers]


@case
def layers_under_autocast(to):
    """The plain function answers, and derivatives written by hand are not cast."""
    called = []

    def noted(name):
        function = getattr(softmax.LAYER, name)
        return lambda *args: called.append((name, torch.is_autocast_enabled(to.device))) or function(*args)

    layer = softmax.LAYER._replace(**{name: noted(name) for name in ("plain", "forward", "gradient", "product")})
    states, weight, bias = to.leaf(5, 3, seed=1), to.leaf(3, 7, seed=2), to.leaf(7, seed=3)
    inputs, casting = (states, weight, bias, to(torch.arange(5))), partial(torch.autocast, to.device, torch.bfloat16)
    with casting():
        twice.apply(layer, *inputs)
    values = twice.apply(layer, *inputs)
    with casting():
        (slope,) = torch.autograd.grad(values.sum(), states, create_graph=True)
        second = torch.autograd.grad(slope.sin().sum(), (states, weight, bias))
    assert called == [("plain", True), ("forward", False), ("gradient", False), ("product", False)], called
    return slope, second


@case
def log_totals(to):
    """The product of exponentials, and the plain sum where scores lie far apart."""
    base, shift = to.leaf(ROWS, 4, 5, seed=1), to.leaf(2, ROWS, 5, seed=2)
    return [derived(softmax.log_total(scale * base)(shift), base, shift) for scale in (1, 1e4)]


# what is drawn, and what is read


@case
def built(to):
    """A model is born where its generator lies."""
    draw = to.generator(8)
    sizes = dict(embedding=2, hidden=3, generator=draw)
    models = LSTMVAE(5, latent=2, **sizes), LSTMOracle(5, layer=4, **sizes), MLPVAE(6, 5, 2, generator=draw)
    return [list(model.parameters()) for model in models]


@case
def drawn(to):
    return _drawn(to, to.generator)


@case
def drawn_by_the_cpu(to):
    """A generator of the CPU serves a model anywhere: the same masks, words and sequences."""
    return _drawn(to, generator)


def _drawn(to, source):
    model, x, leaves = MODELS["dropout"](to)
    likelihood, z = model.log_likelihood(x, generator=source(1)), to.noise(2, ROWS, LATENT)
    words = [model.generate(z[0], steps=6, generator=source(seed)) for seed in range(3)]
    oracles = [MODELS[name](to)[0].oracle for name in ("oracle", "layered oracle")]
    sampled = [oracle.sample(4, generator=source(2)) for oracle in oracles]
    return derived(likelihood(z), *leaves[-8:]), words, sampled, model.generate(z[0], steps=6)


@case
def language_model(to):
    """Without z."""
    model = to(tiny_lstmvae(latent=0))
    x, lam = to(sentences()), model.encode(to(sentences()))
    return lam, derived(model.log_likelihood(x)(x.new_zeros(1, ROWS, 0).double()), model.words)


@case
def corpus(to):
    words, factors = grammar(20, to.generator(9))
    vocab = Vocab.build(words, 50)
    encoded = [to(vocab.encode(sentence)) for sentence in words]
    mixed = batches(encoded, 4, generator=to.generator(10))
    return words, factors, batches(encoded, 4), mixed, vocab.decode(encoded[0])


# what is refused, in the same words


@case
def refused(to):
    _, x, leaves = MODELS["text"](to)
    lam, nan, optimizer = to.leaf(ROWS, 4), torch.nan, torch.optim.SGD(leaves, lr=1)
    log_likelihood = lambda z: -1e4 * (z - 1).square().sum(-1)  # noqa: E731
    table = partial(exact.tabulate, rows=ROWS, latent=LATENT, device=to.device)
    images, pictures, _ = MODELS["images"](to)
    return [
        said(check_tokens, x, 3),
        said(svi.last, svi.svi([lambda lam: (lam * nan).sum(-1)], lam, lr=1)),
        said(svi.check_loss, lambda lam: lam.sum() + lam.sum(-1), lam),
        said(diagnostics.active_units, lam * nan),
        said(images.encode, 0.5 * pictures),
        said(descend, lam.sum() * nan, optimizer),
        said(descend, (0 * leaves[0]).sum().sqrt(), optimizer),
        said(table, log_likelihood),
        said(table, lambda z: -((z - 5) ** 2).sum(-1)),
        said(table, lambda z: z.sum(-1) * nan),
        said(torch.autograd.backward, adjoint.refine([lambda lam: 1e3 * lam.sin().sum(-1)] * 3, lam, lr=1).sum()),
    ]


# faults


class Forgetful(LinearGaussian):
    """Its mean of x is a tensor that nobody moves."""

    def log_likelihood(self, x):
        return super().log_likelihood(x - torch.zeros(4, dtype=torch.float64))


@fault("same device")
def a_constant_in_the_model(to):
    _, x, (weight,) = linear_model(to)
    return savae_loss(Forgetful(weight, 0.7), x, to.noise(3, 2, ROWS, LATENT), **HOW)


@fault("same device")
def noise_of_the_cpu(to):
    model, x, _ = linear_model(to)
    return savae_loss(model, x, noise(3, 2, ROWS, LATENT), **HOW)


@fault("same device")
def a_batch_of_the_cpu(to):
    model, _, _ = MODELS["text"](to)
    return model.encode(sentences())


class Unregistered(nn.Module):
    """A tensor that is neither parameter nor buffer does not move with its module."""

    def __init__(self):
        super().__init__()
        self.scale = noise(4)

    def forward(self, x):
        return x * self.scale


@fault("same device")
def a_tensor_that_the_module_does_not_know(to):
    return to(Unregistered())(to.noise(ROWS, 4))


@fault("same device")
def a_loss_of_two_devices(to):
    lam = to.leaf(ROWS, 4)
    return svi.last(svi.svi([lambda lam: lam.square().sum(-1) + torch.ones(ROWS)], lam, lr=0.1))


class Halved(torch.autograd.Function):
    """Its gradient is made on the CPU."""

    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, bar):
        return torch.full(bar.shape, 0.5, dtype=bar.dtype)


@fault("lies on cpu")
def a_gradient_of_the_cpu(to):
    x = to.leaf(ROWS)
    return torch.autograd.grad(Halved.apply(x).sum(), x)


@fault("lies on cpu")
def a_result_of_the_cpu(to):
    return to.noise(ROWS).cpu()


@fault("lies on cpu")
def a_result_that_was_made_of_numbers(to):
    return torch.tensor(to.noise(ROWS).tolist())


@fault("same device")
def a_number_of_the_cpu(to):
    """A GPU would take it."""
    return to.noise(ROWS) * torch.tensor(2.0)


@fault("same device")
def numbers_of_two_devices_in_a_stack(to):
    return torch.stack([to.noise(ROWS).sum(), torch.tensor(2.0)])


@fault("same device")
def a_write_to_a_number_of_the_cpu(to):
    return torch.tensor(0.0).add_(to.noise(ROWS).sum())


@fault("same device")
def an_index_of_the_cpu(to):
    """A GPU would take it."""
    return to.noise(ROWS)[torch.arange(2)]


@fault("same device")
def an_index_of_the_device(to):
    return noise(ROWS)[to(torch.arange(2))]


@fault("same device")
def ids_of_the_cpu(to):
    return to.noise(ROWS, 4).gather(0, torch.zeros(1, 4, dtype=torch.int64))


@fault("generator")
def a_generator_of_the_cpu(to):
    return torch.rand(ROWS, generator=generator(), device=to.device)


@fault("generator")
def a_generator_of_the_device(to):
    return to(torch.rand(ROWS, generator=to.generator()))


@fault("numpy")
def a_detour_through_numpy(to):
    return torch.from_numpy(2 * to.noise(ROWS).numpy())


@fault("not close")
def other_values_on_the_device(to):
    x = to.noise(ROWS)
    return x if x.device.type == "cpu" else x + 1e-6
