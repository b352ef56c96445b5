"""savae_lite.lstm against torch.nn.LSTM and a numerical second derivative."""

import torch
from cases import noise, seeds, sizes
from hypothesis import given
from torch import nn
from torch.testing import assert_close

from savae_lite.lstm import cell, lstm


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
