"""savae_lite.twice and the two layers that stand on it, against autograd through their plain functions."""

import pytest
import torch
from cases import generator, noise, seeds, sentences, sizes, tiny_lstmvae
from hypothesis import given
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from savae_lite import lstm, softmax, twice
from savae_lite.savae import savae_loss
from savae_lite.text import LSTMVAE


def lstm_inputs(seed=1, length=4, rows=3, hidden=2):
    shapes = (length, rows, 4 * hidden), (rows, hidden), (hidden, 4 * hidden)
    return [noise(*shape, seed=seed + k).requires_grad_() for k, shape in enumerate(shapes)]


def softmax_inputs(seed=1, rows=5, hidden=3, vocabulary=7):
    shapes = (rows, hidden), (hidden, vocabulary), (vocabulary,)
    inputs = [noise(*shape, seed=seed + k).requires_grad_() for k, shape in enumerate(shapes)]
    return [*inputs, torch.randint(vocabulary, (rows,), generator=generator(seed))]


LAYERS = {"lstm": (lstm.LAYER, lstm_inputs), "softmax": (softmax.LAYER, softmax_inputs)}
every_layer = pytest.mark.parametrize("name", LAYERS)


def derivatives(function, inputs, data, *, third=False):
    """The output's pull-back to the data, what it is differentiated by everything, and one derivative more."""
    inputs = [t.detach().requires_grad_(t.is_floating_point()) for t in inputs]
    wanted = [t for t in inputs if t.requires_grad]
    output = function(*inputs)
    bar = noise(*output.shape, seed=70).requires_grad_()
    first = torch.autograd.grad(output, inputs[:data], bar, create_graph=True)
    directions = [noise(*t.shape, seed=80 + k).requires_grad_() for k, t in enumerate(first)]
    second = torch.autograd.grad(first, [bar, *wanted], directions, create_graph=third)
    found = [output, *first, *second]
    if third:
        total = sum(t.sin().sum() for t in second)
        found += torch.autograd.grad(total, [bar, *wanted, *directions])
    return found


@every_layer
@pytest.mark.parametrize("third", [False, True])
def test_derivatives_are_those_of_the_plain_function(name, third):
    layer, inputs = LAYERS[name]
    mine = derivatives(lambda *t: twice.apply(layer, *t), inputs(), layer.data, third=third)
    for ours, theirs in zip(mine, derivatives(layer.plain, inputs(), layer.data, third=third), strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@given(seeds, sizes, sizes, sizes)
def test_derivatives_at_any_size(seed, length, rows, hidden):
    for layer, inputs in (
        (lstm.LAYER, lstm_inputs(seed, length, rows, hidden)),
        (softmax.LAYER, softmax_inputs(seed, rows, hidden, length + 1)),
    ):
        mine = derivatives(lambda *t, layer=layer: twice.apply(layer, *t), inputs, layer.data)
        for ours, theirs in zip(mine, derivatives(layer.plain, inputs, layer.data), strict=True):
            assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_layer
def test_first_and_second_derivatives_against_differences(name):
    """With respect to every input, weights included: there the second derivative takes the plain way."""
    layer, inputs = LAYERS[name]
    *inputs, last = inputs()
    fixed = [] if last.requires_grad else [last]
    wanted = inputs if fixed else [*inputs, last]
    assert torch.autograd.gradcheck(lambda *t: twice.apply(layer, *t, *fixed), wanted)
    assert torch.autograd.gradgradcheck(lambda *t: twice.apply(layer, *t, *fixed), wanted)


@every_layer
@pytest.mark.parametrize("absent", [0, 1])
def test_a_direction_may_be_absent(name, absent):
    """An inner loop may want the derivative by one of the data alone."""
    layer, inputs = LAYERS[name]
    inputs = inputs()

    def found(function):
        data = [t for k, t in enumerate(inputs[: layer.data]) if k != absent or layer.data == 1]
        first = torch.autograd.grad(function(*inputs).sin().sum(), data, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in first), [t for t in inputs if t.requires_grad])

    for ours, theirs in zip(found(lambda *t: twice.apply(layer, *t)), found(layer.plain), strict=True):
        assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_layer
def test_an_inner_loop_asks_for_no_weights(name):
    """Differentiated by the data alone, a layer is not asked for a weight's gradient, though the weight wants one."""
    layer, inputs = LAYERS[name]
    inputs, asked = inputs(), []

    def gradient(*arguments):
        asked.append(arguments[-1])
        return layer.gradient(*arguments)

    output = twice.apply(layer._replace(gradient=gradient), *inputs)
    torch.autograd.grad(output.sum(), inputs[0], retain_graph=True)
    output.sum().backward()
    wants = tuple(t.requires_grad for t in inputs)
    assert asked == [(True, *(False for _ in wants[1:])), wants]


def test_blocks_cover_the_rows():
    for rows, columns in ((1, 1), (5, 2**20), (640, 5000), (7, 3 * 2**20)):
        blocks = softmax._blocks(rows, columns)
        assert [i for block in blocks for i in range(rows)[block]] == list(range(rows))


def test_the_second_derivative_in_blocks(monkeypatch):
    whole = derivatives(lambda *t: twice.apply(softmax.LAYER, *t), softmax_inputs(), 1)
    monkeypatch.setattr(softmax, "BLOCK", 14)
    for part, all_at_once in zip(
        derivatives(lambda *t: twice.apply(softmax.LAYER, *t), softmax_inputs(), 1), whole, strict=True
    ):
        assert_close(part, all_at_once, rtol=1e-12, atol=1e-12)


def test_a_score_far_below_the_others_keeps_its_probability():
    """log p stays finite where p itself is 0."""
    states, weight = torch.ones(1, 1), torch.tensor([[0.0, 500.0]])
    found = softmax.log_probability(states, weight, torch.zeros(2), torch.tensor([0]))
    assert_close(found, torch.tensor([-500.0]))


def test_autocast_takes_the_plain_function():
    model = LSTMVAE(11, embedding=3, hidden=4, latent=2, generator=generator())
    x = torch.randint(3, 11, (2, 5), generator=generator())
    z = noise(1, 2, 2).float()
    exact = model.log_likelihood(x)(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model.log_likelihood(x)(z)
    rough.sum().backward()
    assert 0 < (rough - exact).abs().max() < 0.1
    assert all(parameter.grad is not None for parameter in (model.recurrent, model.output))


@every_layer
def test_a_bar_that_depends_on_the_inputs_is_not_counted_twice(name):
    """Reverse over reverse, as a Hessian-vector product has it, and a gradient of a gradient's norm."""
    layer, inputs = LAYERS[name]
    inputs = inputs()
    wanted = [t for t in inputs if t.requires_grad]

    def found(function):
        gradient = torch.autograd.grad(function(*inputs).square().sum(), wanted, create_graph=True)
        again = torch.autograd.grad(sum(t.square().sum() for t in gradient), wanted, create_graph=True)
        return [*gradient, *again, *torch.autograd.grad(sum(t.sin().sum() for t in again), wanted)]

    for ours, theirs in zip(found(lambda *t: twice.apply(layer, *t)), found(layer.plain), strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_gradients_with_create_graph_are_those_without():
    model, x = tiny_lstmvae(), sentences()
    eps, parameters = noise(4, 1, len(x), 2, seed=48), list(model.parameters())
    loss = savae_loss(model, x, eps, lr=0.3).mean()
    plain = torch.autograd.grad(loss, parameters, retain_graph=True)
    for ours, theirs in zip(torch.autograd.grad(loss, parameters, create_graph=True), plain, strict=True):
        assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@every_layer
def test_a_layer_can_be_checkpointed_and_used_under_torch_func(name):
    layer, inputs = LAYERS[name]
    *inputs, last = inputs()
    value = lambda first: twice.apply(layer, first, *inputs[1:], last).sin().sum()  # noqa: E731
    (expected,) = torch.autograd.grad(value(inputs[0]), inputs[0])
    (again,) = torch.autograd.grad(checkpoint(value, inputs[0], use_reentrant=False), inputs[0])
    assert_close(again, expected)
    assert_close(torch.func.grad(value)(inputs[0]), expected)


def test_a_backward_inside_an_autocast_region_is_in_full_precision():
    inputs = [t.detach().float().requires_grad_() for t in lstm_inputs()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with torch.autocast("cpu", enabled=False):
            output = twice.apply(lstm.LAYER, *inputs)
        found = torch.autograd.grad(output.sum(), inputs)
    for ours, theirs in zip(found, torch.autograd.grad(lstm.plain_lstm(*inputs).sum(), inputs), strict=True):
        assert_close(ours, theirs)


def test_shapes_that_would_broadcast_are_refused():
    gates, h, recurrent = lstm_inputs()
    with pytest.raises(ValueError, match="T counts time steps"):
        lstm.lstm(gates[0], recurrent, h)
    states, weight, bias, targets = softmax_inputs()
    with pytest.raises(ValueError, match="Flatten time, samples and rows"):
        softmax.log_probability(states, weight, bias, targets[:1])
