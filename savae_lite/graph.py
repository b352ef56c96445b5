"""What the graph under a tensor says: its leaves, whether it can be differentiated twice, how its gradients grow."""

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

UNSTABLE = 1e3  # a reverse pass that grows by more loses three of float32's seven digits


def nodes_under(tensor: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """The nodes of the graph under a tensor."""
    ahead, seen = [tensor.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            ahead.extend(parent for parent, _ in node.next_functions)


def leaves_under(tensor: Tensor) -> list[Tensor]:
    """The leaves under a tensor that want a gradient."""
    return [node.variable for node in nodes_under(tensor) if hasattr(node, "variable")]


def refuse_hooks(leaves: Iterable[Tensor]) -> None:
    """Raise RuntimeError where a leaf has a hook, for which there is no telling a part of its gradient from all."""
    if any(leaf._backward_hooks for leaf in leaves):
        raise RuntimeError(
            "a parameter under the losses has a hook, which adjoint=recomputed and adjoint=difference would call with "
            "the share of every step. Remove it and act on .grad, or use adjoint=kept."
        )


def refuse_cudnn(lam: Tensor) -> None:
    """Raise RuntimeError for a graph with cuDNN's recurrent layers, which have no second derivative."""
    if any(node.name().startswith("CudnnRnnBackwardBackward") for node in nodes_under(lam)):
        raise RuntimeError(
            "adjoint=kept needs a second derivative; got a recurrent layer of cuDNN, which has none. "
            "Use adjoint=difference, or another layer (savae_lite.lstm), or torch.backends.cudnn.flags(enabled=False)."
        )


def warn_of_growth(start: Tensor, end: Tensor, steps: int) -> None:
    """Compare the gradient that reaches λ₀ with the one that came in at λ_K, as long as there is one."""
    if not (start.requires_grad and end.requires_grad):
        return
    norm = {}
    end.register_hook(lambda bar: norm.update(end=bar.detach().norm() if bar is not None else None))

    def compare(bar: Tensor | None) -> None:
        if bar is None or norm["end"] is None:
            return
        growth = (bar.detach().norm() / norm["end"]).item()
        if growth > UNSTABLE:
            warnings.warn(
                f"the reverse pass through {steps} steps of SVI grew {growth:.2g}-fold; beyond {UNSTABLE:.0f} the "
                "inner loop is unstable and gradients lose their digits. Lower lr, or set clip.",
                RuntimeWarning,
                stacklevel=2,
            )

    start.register_hook(compare)
