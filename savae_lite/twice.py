"""An operation whose first and second derivatives are written by hand.

Autograd differentiates a layer twice by walking the graph of its gradient, with a node and some arrays for every small
step. Where the formulas are known (Pearlmutter's R-operator gives them), one node does: `Layer` holds four functions,
and `apply` makes of them an operation that autograd takes like any other. Beyond the second derivative, under
autocast and under ``torch.func``, the plain function answers instead, so every derivative is there and right.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tensors = tuple[Tensor | None, ...]


class Layer(NamedTuple):
    """A layer by its formulas. Inputs are tensors; the first ``data`` of them are those an inner loop differentiates.

    * ``plain(*inputs)``: the output, of ordinary operations.
    * ``forward(*inputs)``: the output, and a tuple of what the derivatives need.
    * ``gradient(inputs, saved, bar, asked)``: the pull-back of bar, one gradient an input (None where not asked), and
      a tuple of what `product` needs.
    * ``product(inputs, saved, bar, more, directions, asked)``: the gradient of Σ ⟨gradient, direction⟩ over the data,
      with respect to bar and to each input.
    """

    plain: Callable[..., Tensor]
    forward: Callable[..., tuple[Tensor, Tensors]]
    gradient: Callable[..., tuple[Tensors, Tensors]]
    product: Callable[..., tuple[Tensor, Tensors]]
    data: int


def apply(layer: Layer, *inputs: Tensor) -> Tensor:
    """The layer's output, differentiable as often as its plain function is."""
    if torch.is_autocast_enabled(inputs[0].device.type) or torch._C._are_functorch_transforms_active():
        return layer.plain(*inputs)
    # The engine does not say whether it will reach a leaf, so a leaf is seen through a view.
    return _Output.apply(layer, *(t.view_as(t) if t.is_leaf and t.requires_grad else t for t in inputs))


class _Output(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, *inputs):
        output, saved = layer.forward(*inputs)
        ctx.layer, ctx.count = layer, len(inputs)
        ctx.save_for_backward(*inputs, *saved)
        return output

    @staticmethod
    def backward(ctx, bar):
        asked, tensors = _asked(ctx), ctx.saved_tensors
        inputs, saved = tensors[: ctx.count], tensors[ctx.count :]
        with torch.autocast(bar.device.type, enabled=False):
            if torch.is_grad_enabled():
                return None, *_Gradient.apply(ctx.layer, asked, len(saved), bar, *(s.detach() for s in saved), *inputs)
            return None, *ctx.layer.gradient(inputs, saved, bar, asked)[0]


class _Gradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, layer, asked, count, bar, *tensors):
        saved, inputs = tensors[:count], tensors[count:]
        gradient, more = layer.gradient(inputs, saved, bar, asked)
        ctx.layer, ctx.counts = layer, (count, len(inputs))
        ctx.save_for_backward(bar, *saved, *inputs, *more)
        ctx.set_materialize_grads(False)
        return gradient

    @staticmethod
    def backward(ctx, *directions):
        bar, *tensors = ctx.saved_tensors
        first, second = ctx.counts[0], sum(ctx.counts)
        saved, inputs, more = tensors[:first], tensors[first:second], tensors[second:]
        layer, asked = ctx.layer, _asked(ctx)
        if all(direction is None for direction in directions):
            return (None,) * (4 + second)
        with torch.autocast(bar.device.type, enabled=False):
            if torch.is_grad_enabled() or any(d is not None for d in directions[layer.data :]):
                to_bar, to_inputs = _plainly(layer.plain, inputs, bar, directions)
            else:
                data, wanted = directions[: layer.data], asked[1 + first :]
                to_bar, to_inputs = layer.product(inputs, saved, bar, more, data, wanted)
        return None, None, None, to_bar, *(None for _ in saved), *to_inputs


def _plainly(plain: Callable[..., Tensor], inputs: Sequence[Tensor], bar: Tensor, directions: Tensors):
    further = torch.is_grad_enabled()
    with torch.enable_grad():
        if further:  # a view is a place of its own, though bar may depend on the inputs, or one input on another
            bar, *inputs = (t.view_as(t) for t in (bar, *inputs))
        else:
            bar, *inputs = (t.detach().requires_grad_(t.is_floating_point()) for t in (bar, *inputs))
        sought = [i for i, direction in enumerate(directions) if direction is not None]
        gradient = torch.autograd.grad(plain(*inputs), [inputs[i] for i in sought], bar, create_graph=True)
        wanted = [t for t in (bar, *inputs) if t.requires_grad]
        found = torch.autograd.grad(
            gradient, wanted, [directions[i] for i in sought], create_graph=further, allow_unused=True
        )
    by_tensor = {id(t): part for t, part in zip(wanted, found, strict=True)}
    return by_tensor.get(id(bar)), tuple(by_tensor.get(id(t)) for t in inputs)


def _asked(ctx) -> tuple[bool, ...]:
    """Which tensors' gradients the running backward asks for: a weight's costs a product, and an inner loop, which
    differentiates by λ alone, asks for none. ``needs_input_grad`` only says which could ever be asked for.
    """
    will_run = getattr(torch._C, "_will_engine_execute_node", lambda node: True)
    nodes = [node for node, _ in ctx.next_functions]
    return tuple(node is not None and (hasattr(node, "variable") or will_run(node)) for node in nodes)
