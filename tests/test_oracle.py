"""savae_lite.models.LSTMOracle against enumeration and a generative model written a second time."""

from itertools import product

import pytest
import torch
from cases import generator, noise, seeds
from hypothesis import given, settings
from torch.autograd.functional import hessian
from torch.testing import assert_close

from savae_lite.models import LSTMOracle

few = settings(max_examples=8)
layers = pytest.mark.parametrize("layer", [0, 4])


def oracle(vocabulary=3, *, length=3, layer=0, z_scale=2.0, seed=0):
    model = LSTMOracle(
        vocabulary, length=length, embedding=2, hidden=3, layer=layer, z_scale=z_scale, generator=generator(seed)
    )
    return model.double()


def everything(vocabulary=3, length=3):
    """All sequences ``(V^T, T)``."""
    return torch.tensor(list(product(range(vocabulary), repeat=length)))


def written_again(model, tokens, z):
    """log p(tokens | z) of one sequence and one z, a token at a time."""
    hidden = len(model.recurrent)
    h = c = torch.zeros(hidden, dtype=torch.float64)
    total = 0.0
    before = len(model.words) - 1
    for token in tokens.tolist():
        gates = model.words[before] @ model.input + h @ model.recurrent + model.bias
        i, f, o = (gates[k * hidden : (k + 1) * hidden].sigmoid() for k in range(3))
        c = f * c + i * gates[3 * hidden :].tanh()
        h = o * c.tanh()
        logits = h @ model.output + model.output_bias + z @ model.z_output
        if model.top is not None:
            logits = logits.tanh() @ model.top
        total = total + logits[token] - logits.exp().sum().log()
        before = token
    return total


# --- the likelihood ---


@layers
@pytest.mark.parametrize("length", [1, 2, 3])
@few
@given(seeds)
def test_the_probabilities_of_all_sequences_sum_to_one(layer, length, seed):
    x = everything(length=length)
    z = 2 * noise(2, 1, 2, seed=seed).expand(2, len(x), 2)
    mass = oracle(length=length, layer=layer, seed=seed % 1000).log_likelihood(x)(z).logsumexp(1)
    assert_close(mass, torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@layers
def test_a_prefix_has_the_mass_of_its_continuations(layer):
    model, z = oracle(layer=layer), noise(1, 1, 2)
    whole = model.log_likelihood(everything())(z.expand(1, 27, 2)).reshape(9, 3)
    prefix = model.log_likelihood(everything(length=2))(z.expand(1, 9, 2))[0]
    assert_close(whole.logsumexp(1), prefix, atol=1e-12, rtol=0)


@layers
@few
@given(seeds)
def test_the_likelihood_is_the_one_written_here(layer, seed):
    model = oracle(5, length=4, layer=layer, seed=seed % 1000)
    x = torch.randint(5, (3, 4), generator=generator(seed))
    z = noise(2, 3, 2, seed=seed)
    expected = torch.stack([torch.stack([written_again(model, x[b], z[s, b]) for b in range(3)]) for s in range(2)])
    assert_close(model.log_likelihood(x)(z), expected, rtol=1e-10, atol=1e-12)


@layers
def test_samples_and_rows_at_once_are_those_one_at_a_time(layer):
    model, x, z = oracle(layer=layer), everything()[::5], noise(4, 6, 2)
    likelihood = model.log_likelihood(x)
    found = likelihood(z)
    assert found.shape == (4, 6)
    assert_close(found, torch.cat([likelihood(one[None]) for one in z]), rtol=1e-12, atol=1e-12)
    alone = [model.log_likelihood(x[b : b + 1])(z[:, b : b + 1]) for b in range(6)]
    assert_close(found, torch.cat(alone, 1), rtol=1e-12, atol=1e-12)


@layers
def test_a_far_z_leaves_the_likelihood_finite(layer):
    model, x, z = oracle(layer=layer, z_scale=5.0), everything(), 200 * noise(3, 27, 2)
    z.requires_grad_()
    found = model.log_likelihood(x)(z)
    (gradient,) = torch.autograd.grad(found.sum(), z)
    assert found.isfinite().all() and (found <= 0).all() and gradient.isfinite().all()


@layers
def test_gradients_flow_to_z_twice_and_to_no_parameter(layer):
    model, x = oracle(layer=layer), everything()[::9]
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == []
    assert not model.log_likelihood(x)(noise(2, 3, 2)).requires_grad
    z = noise(2, 3, 2).requires_grad_()
    assert torch.autograd.gradcheck(model.log_likelihood(x), (z,))
    assert torch.autograd.gradgradcheck(model.log_likelihood(x), (z,))


def hessians(model, x, points):
    """Eigenvalues ``(S, B, 2)`` of the second derivative of log p(x, z) in z."""
    rows = []
    for z in points:
        for one in x:
            likelihood = model.log_likelihood(one[None])
            rows.append(hessian(lambda u, f=likelihood: f(u[None, None])[0, 0] - 0.5 * u.square().sum(), z))
    return torch.linalg.eigvalsh(torch.stack(rows)).reshape(len(points), len(x), 2)


@few
@given(seeds)
def test_without_a_layer_the_log_joint_is_concave(seed):
    """An affine map of z under a log-softmax is concave, and the prior takes another 1 from every eigenvalue."""
    found = hessians(oracle(z_scale=5.0, seed=seed % 1000), everything()[::9], 2 * noise(5, 2, seed=seed))
    assert found.max() <= -1 + 1e-9


def test_with_a_layer_it_is_not():
    found = hessians(oracle(layer=4, z_scale=5.0), everything()[::9], 0.5 * noise(20, 2))
    assert found.max() > 0.1


# --- samples ---


@layers
def test_sequences_come_as_often_as_their_probability(layer):
    """Given the drawn z, the count of a sequence in a quadrant of z is a sum of independent Bernoulli draws."""
    model, rows = oracle(layer=layer, z_scale=1.0, seed=3), 20_000
    x, z = model.sample(rows, generator=generator(7))
    probability = model.log_likelihood(everything().repeat_interleave(rows, 0))(z.repeat(27, 1)[None])
    probability = probability.exp().reshape(27, rows)
    drawn = (x[None] == everything()[:, None]).all(-1)
    assert (drawn.sum(0) == 1).all()
    for right, upper in product((True, False), repeat=2):
        here = ((z[:, 0] > 0) == right) & ((z[:, 1] > 0) == upper)
        p, hits = probability[:, here], drawn[:, here].sum(1)
        error = (p * (1 - p)).sum(1).sqrt()
        assert (hits - p.sum(1)).abs().sub(4.5 * error + 2).max() < 0, "2 for the few that are very rare"
        assert error.max() > 15, "or the case would show nothing"


@layers
def test_z_is_standard_normal(layer):
    rows = 20_000
    _, z = oracle(layer=layer).sample(rows, generator=generator(8))
    error = 4.5 / rows**0.5
    assert z.mean(0).abs().max() < error
    assert (z.square().mean(0) - 1).abs().max() < 2**0.5 * error
    assert z.prod(1).mean().abs() < error
    assert (z**4).mean(0).sub(3).abs().max() < 96**0.5 * error
    uniform = torch.special.ndtr(z).sort(0).values
    steps = (torch.arange(rows, dtype=torch.float64)[:, None] + 0.5) / rows
    assert (uniform - steps).abs().max() < 2 / rows**0.5, "Kolmogorov's distance"


def test_samples_have_the_model_s_length_vocabulary_and_type():
    x, z = oracle(4, length=6).sample(500, generator=generator())
    assert x.shape == (500, 6) and x.dtype == torch.long and z.shape == (500, 2) and z.dtype == torch.float64
    assert x.unique().tolist() == [0, 1, 2, 3], "and never the start token, which is id 4"


@layers
def test_the_generators_alone_decide(layer):
    def draw(seed, model_seed=0):
        return oracle(layer=layer, seed=model_seed).sample(50, generator=generator(seed))

    before = torch.get_rng_state()
    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    one, same, another = (dict(oracle(layer=layer, seed=seed).named_parameters()) for seed in (0, 0, 1))
    assert one.keys() == same.keys() == another.keys()
    for name, value in one.items():
        assert torch.equal(value, same[name])
        assert not torch.equal(value, another[name]), name


# --- sizes and weights ---


def test_the_defaults_are_the_paper_s_sizes():
    model = LSTMOracle(generator=generator())
    assert {name: tuple(parameter.shape) for name, parameter in model.named_parameters()} == {
        "words": (1001, 100),
        "input": (100, 400),
        "recurrent": (100, 400),
        "bias": (400,),
        "output": (100, 1000),
        "output_bias": (1000,),
        "z_output": (2, 1000),
    }
    assert model.top is None and model.length == 5 and model.latent == 2
    assert 4.9 < model.z_output.abs().max() <= 5
    assert model.sample(3, generator=generator())[0].shape == (3, 5)


@pytest.mark.parametrize("name", ["words", "input", "recurrent", "bias", "output", "output_bias", "z_output", "top"])
def test_weights_are_uniform_within_their_bounds(name):
    model = LSTMOracle(200, length=2, embedding=50, hidden=50, layer=200, z_scale=0.4, generator=generator())
    weight, bound = getattr(model, name), {"z_output": 0.4, "top": 2.0}.get(name, 1.0)
    assert 0.97 * bound < weight.abs().max() <= bound
    assert weight.mean().abs() < 4.5 * bound / (3 * weight.numel()) ** 0.5
    assert_close(weight.square().mean().item(), bound**2 / 3, rtol=4.5 * (0.8 / weight.numel()) ** 0.5, atol=0)


def test_the_layer_has_the_size_asked_for():
    model = oracle(5, layer=7)
    assert model.output.shape == (3, 7) and model.output_bias.shape == (7,)
    assert model.z_output.shape == (2, 7) and model.top.shape == (7, 5)


# --- bad input ---


@pytest.mark.parametrize("token", [-1, 3, 4])
def test_a_token_outside_the_vocabulary_is_refused(token):
    """3 would be the start token: it has a row among the embeddings, but it is no word."""
    with pytest.raises(ValueError, match=rf"0 … 2; got .*{token}"):
        oracle().log_likelihood(torch.tensor([[0, 1, token], [0, 1, 2]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int32, torch.uint8, torch.bool])
def test_tokens_of_another_type_are_refused(dtype):
    with pytest.raises(ValueError, match=f"int64.*{dtype}"):
        oracle().log_likelihood(torch.ones(2, 3).to(dtype))


@pytest.mark.parametrize("shape", [(3,), (1, 2, 3), (0, 3), (2, 0)])
def test_tokens_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(B, T\).*got .*" + str(shape).replace("(", r"\(").replace(")", r"\)")):
        oracle().log_likelihood(torch.zeros(shape, dtype=torch.long))


@layers
@pytest.mark.parametrize("shape", [(2,), (4, 2), (5, 4, 1), (5, 4, 3), (5, 1, 2), (5, 3, 2), (1, 5, 4, 2)])
def test_z_of_another_shape_is_refused(layer, shape):
    likelihood = oracle(layer=layer).log_likelihood(everything()[:4])
    with pytest.raises(ValueError, match=r"z must be \(S, 4, 2\)"):
        likelihood(noise(*shape))


@layers
def test_z_of_another_type_is_refused(layer):
    with pytest.raises(RuntimeError, match="same dtype"):
        oracle(layer=layer).log_likelihood(everything())(noise(1, 27, 2).float())
