"""savae_lite.lstm against torch.nn.LSTM and a numerical second derivative."""

import pytest
import torch
from cases import generator, noise, seeds, sizes
from hypothesis import given
from torch import nn
from torch.testing import assert_close

from savae_lite.lstm import LSTMEncoder, cell, lstm, uniform_parameters


def reorder(matrix):
    """[input | forget | output | candidate] to torch's [input | forget | candidate | output]."""
    i, f, o, g = matrix.chunk(4, -1)
    return torch.cat([i, f, g, o], -1)


@given(seeds, sizes, sizes, sizes)
def test_the_sequence_is_that_of_torch(seed, length, rows, hidden):
    x, weight = noise(length, rows, 3, seed=seed), noise(3, 4 * hidden, seed=seed + 1)
    bias, recurrent = noise(4 * hidden, seed=seed + 2), noise(hidden, 4 * hidden, seed=seed + 3)
    h = noise(rows, hidden, seed=seed + 4)
    module = nn.LSTM(3, hidden).double()
    with torch.no_grad():
        module.weight_ih_l0.copy_(reorder(weight).T)
        module.weight_hh_l0.copy_(reorder(recurrent).T)
        module.bias_ih_l0.copy_(reorder(bias))
        module.bias_hh_l0.zero_()
        expected, _ = module(x, (h[None], torch.zeros_like(h)[None]))
    assert_close(lstm(x @ weight + bias, recurrent, h), expected, rtol=1e-12, atol=1e-12)


@given(seeds)
def test_a_step_is_that_of_torchs_cell(seed):
    gates, recurrent = noise(2, 12, seed=seed), noise(3, 12, seed=seed + 1)
    h, c = noise(2, 3, seed=seed + 2), noise(2, 3, seed=seed + 3)
    module = nn.LSTMCell(12, 3).double()
    with torch.no_grad():
        module.weight_ih.copy_(torch.eye(12))
        module.weight_hh.copy_(reorder(recurrent).T)
        module.bias_ih.zero_()
        module.bias_hh.zero_()
        expected = module(reorder(gates), (h, c))
    assert_close(cell(gates, recurrent, h, c), expected, rtol=1e-12, atol=1e-12)


def test_first_and_second_derivatives():
    inputs = [noise(2, 1, 8, seed=1), noise(2, 8, seed=2), noise(1, 2, seed=3)]
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(lstm, inputs)
    assert torch.autograd.gradgradcheck(lstm, inputs)


def test_the_states_of_a_prefix_do_not_depend_on_what_follows():
    gates, recurrent, h = noise(5, 2, 12, seed=1), noise(3, 12, seed=2), noise(2, 3, seed=3)
    assert_close(lstm(gates, recurrent, h)[:3], lstm(gates[:3], recurrent, h), rtol=0, atol=0)


# --- the encoder ---


def encoder(vocabulary=5, *, embedding=2, hidden=3, latent=2, scale=0.8, seed=0):
    options = dict(embedding=embedding, hidden=hidden, latent=latent, scale=scale)
    return LSTMEncoder(vocabulary, **options, generator=generator(seed)).double()


@given(seeds, sizes, sizes, sizes)
def test_the_encoder_is_an_affine_map_of_the_last_state_of_torchs_lstm(seed, length, rows, hidden):
    model = encoder(hidden=hidden, latent=3, seed=seed)
    x = torch.randint(5, (rows, length), generator=generator(seed))
    module = nn.LSTM(2, hidden, batch_first=True).double()
    with torch.no_grad():
        module.weight_ih_l0.copy_(reorder(model.input).T)
        module.weight_hh_l0.copy_(reorder(model.recurrent).T)
        module.bias_ih_l0.copy_(reorder(model.bias))
        module.bias_hh_l0.zero_()
        _, (last, _) = module(model.words[x])
        expected = nn.functional.linear(last[0], model.output.T, model.output_bias)
    found = model(x)
    assert found.shape == (rows, 6)
    assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_rows_are_encoded_as_if_alone():
    model, x = encoder(), torch.randint(5, (4, 6), generator=generator())
    assert_close(model(x), torch.cat([model(row[None]) for row in x]), rtol=1e-12, atol=1e-12)


def test_every_parameter_of_the_encoder_learns():
    model, x = encoder(), torch.tensor([[0, 1, 2], [3, 4, 0]])
    model(x).square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()
    assert set(dict(model.named_parameters())) == {"words", "input", "recurrent", "bias", "output", "output_bias"}


@pytest.mark.parametrize("options,bound", [({}, 0.1), ({"scale": 0.7}, 0.7)])
def test_the_encoder_starts_within_its_bounds_and_from_the_generator_alone(options, bound):
    def make(seed):
        return LSTMEncoder(50, embedding=20, hidden=20, latent=50, **options, generator=generator(seed))

    before = torch.get_rng_state()
    model = make(1)
    assert torch.equal(torch.get_rng_state(), before)
    named = zip(model.named_parameters(), make(1).parameters(), make(2).parameters(), strict=True)
    for (name, p), same, other in named:
        assert torch.equal(p, same) and not torch.equal(p, other), name
        assert 0.9 * bound < p.abs().max() <= bound, name


# --- parameters ---


@given(seeds)
def test_parameters_are_uniform_within_their_bounds(seed):
    before = torch.get_rng_state()
    value = uniform_parameters(0.3, generator(seed))(50, 40)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(value, nn.Parameter) and value.requires_grad and value.is_leaf and value.shape == (50, 40)
    assert value.abs().max() <= 0.3
    assert value.min() < -0.29 and value.max() > 0.29
    assert value.mean().abs() < 4.5 * 0.3 / (3 * 2000) ** 0.5
    assert_close(value.square().mean().item(), 0.03, atol=0, rtol=4.5 * (0.8 / 2000) ** 0.5)


def test_parameters_come_from_the_generator_and_one_after_another():
    def make(seed):
        draw = uniform_parameters(0.3, generator(seed))
        return draw(4), draw(4), draw(2, 3, 4)

    first, again, other = make(1), make(1), make(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])
    assert [value.shape for value in first] == [(4,), (4,), (2, 3, 4)]


def test_a_scale_of_zero_gives_zeros():
    assert not uniform_parameters(0.0, generator())(5).any()
