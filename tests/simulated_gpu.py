"""A second device, "gpu", made of the CPU's memory, so that a tensor left on the CPU fails without a GPU.

    register()
    with GPU():
        model, x = model.to("gpu"), x.to("gpu")
        loss(model, x).backward()  # gradients lie on gpu:0, and their values are the CPU's

A tensor of this device wraps one of the CPU. Every operation goes through `_run`, which refuses tensors of two devices
and lets the CPU compute. So it shows what was left behind: a parameter, noise, a constant, a result, a gradient, a
generator. It is stricter than a GPU, which takes a number (a tensor without dimensions) or an index from the CPU and
copies it at each use.

It cannot show what only a real device has: kernels of its own (cuDNN, other rounding, a type or an operation that has
none), memory, streams, what a copy or a wait for the device costs, what autocast casts, optimisers that step many
parameters at once, a second GPU. A saved tensor is the CPU's. What changes a tensor's shape in place is not supported,
and an error in a tensor's hook ends the process.
"""

from functools import cache
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "gpu"
SETUP = "_setup_privateuseone_for_python_backend"


def why_not() -> str | None:
    """Why there can be no such device here; None where there can."""
    if hasattr(backend_registration, SETUP):
        return None
    return f"torch {torch.__version__} takes no device written in Python: it has no {SETUP}"


@cache
def register() -> list[torch.library.Library]:
    """Tell torch of the device, before the process's first backward pass: autograd counts the devices once.

    It cannot be taken back, so a process that does something else should not do it.
    """
    dummy = backend_registration._DummyBackendModule
    module = type(NAME, (dummy,), {"get_amp_supported_dtype": lambda self: [torch.bfloat16]})()
    getattr(backend_registration, SETUP)(NAME, backend_module=module)
    past_modes, uncast = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    for op in (aten.empty_strided.default, aten.copy_.default):  # of torch.tensor(…, device="gpu")
        past_modes.impl(op, lambda *args, op=op, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    uncast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    return [past_modes, uncast]


class OnGPU(Tensor):
    """A tensor of the CPU that says it lies on gpu:0."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnGPU":
        layout = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype)
        outer = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=f"{NAME}:0")
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})

    def __reduce_ex__(self, protocol):  # torch.save
        return self.inner.__reduce_ex__(protocol)

    def __format__(self, spec):
        return self.inner.__format__(spec)

    def __repr__(self):
        return f"{self.inner} on {NAME}"

    def tolist(self):
        return self.inner.tolist()


class Generator(torch.Generator):
    """A generator of the device; its stream is the CPU's."""

    device = property(lambda self: torch.device(NAME, 0))

    def __init__(self) -> None:
        _GENERATORS[self._cdata] = self


_GENERATORS = WeakValueDictionary()  # an operation gets a copy, known by its address only


class GPU(TorchDispatchMode):
    """Where the device is there."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return _run(op, args, kwargs or {})


def _run(op, args, kwargs):
    """What the CPU computes, on the device where the arguments lie or which ``device`` names."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = [isinstance(tensor, OnGPU) for tensor in tensors]
    if any(ours) and not all(ours) and op not in (aten._to_copy.default, aten.copy_.default):
        lie = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {op} got {lie}")
    asked = kwargs.get("device")
    here = any(ours) if asked is None else torch.device(asked).type == NAME
    _check_generator(kwargs.get("generator"), NAME if here else "cpu")
    given = {id(_bare(tensor)): tensor for tensor in tensors}
    out = op(*tree_map(_bare, args), **tree_map(_bare, kwargs if asked is None else kwargs | {"device": "cpu"}))
    return tree_map(lambda t: given.get(id(t), OnGPU(t) if here else t) if isinstance(t, Tensor) else t, out)


def _bare(leaf):
    return leaf.inner if isinstance(leaf, OnGPU) else leaf


def _check_generator(generator: torch.Generator | None, device: str) -> None:
    mine = NAME if generator is not None and generator._cdata in _GENERATORS else "cpu"
    if generator is not None and mine != device:
        raise RuntimeError(f"Expected a '{device}' device type for generator but found '{mine}'")
