"""The interface of the published code's optimiser, over the exact machinery of `adjoint`: a way in for its users.

A script that was written for ``OptimN2N`` of harvardnlp/sa-vae changes its import and runs. The page *Porting from
OptimN2N* of the book says what changes in its numbers. New code wants `savae.savae_loss`: a loss a row, so that no
rate depends on the batch.

The loss here is one number for the whole batch, its mean as a rule, and the rates act on that number. So all
variational parameters of a batch are one row ``(1, P)``.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from savae_lite.adjoint import Adjoint, Step, detached, kept, refine
from savae_lite.svi import Loss, clip_rows

BatchLoss = Callable[[list[Tensor], object, object, Tensor], Tensor]


class OptimN2N:
    """K steps of SVI on variational parameters, and the reverse pass through them, as two calls.

    loss_fn: (inputs, y, model, z) ↦ the loss of the batch, one number. inputs is a list of tensors shaped as those
    that `forward` got, z standard normal noise of the first one's shape; model and y are handed on.
    ``model_update_params`` get the part of the gradient that comes through the steps, added to their ``.grad`` by
    `backward`; ``acc_param_grads=False`` leaves it out. lr holds one rate an input, or one for all. ``max_grad_norm``
    bounds each input's gradient, its norm taken over the whole batch; 0 is no bound. ``eps`` is accepted and not
    used: no way of differentiating here takes one.

    adjoint: `kept`, `recomputed` or `difference` of the module `adjoint`; `detached` where `backward` is never called.
    generator: the source of z; left out, one on the CPU that is seeded from ``torch.initial_seed()`` and kept as
    ``.generator``. This class neither draws from the global random state nor moves it.
    """

    def __init__(
        self,
        loss_fn: BatchLoss,
        model,
        model_update_params: Iterable[Tensor],
        lr: Sequence[float] = (0.2,),
        iters: int = 10,
        acc_param_grads: bool = True,
        max_grad_norm: float = 0.0,
        eps: float = 1e-5,
        momentum: float = 0.75,
        num_inputs: int = 2,
        *,
        generator: torch.Generator | None = None,
        adjoint: Adjoint = kept,
    ) -> None:
        rates = tuple(lr) * (num_inputs if len(lr) == 1 else 1)
        _check_settings(rates, iters, max_grad_norm, momentum, num_inputs)
        self.loss_fn, self.model, self.adjoint = loss_fn, model, adjoint
        self.lr, self.iters, self.max_grad_norm, self.momentum = rates, iters, max_grad_norm, momentum
        self.params = _leaves(model_update_params) if acc_param_grads else ()
        self.generator = _seeded() if generator is None else generator
        self._starts, self._end = [], None

    def forward(self, input: Sequence[Tensor], y, verbose: bool = False) -> list[Tensor]:
        """The inputs after K steps of SVI, as leaves: a later ``backward()`` leaves what `backward` wants in ``.grad``.

        input: ``num_inputs`` tensors, (mean, logvar) as a rule; their own graph is not followed. ``verbose`` prints
        the gradient's norms. In evaluation mode (``model.training`` is False) and under ``torch.no_grad()`` nothing
        is kept for `backward`. Raises FloatingPointError, naming the step, when a gradient is not finite.
        """
        if len(input) != len(self.lr):
            raise ValueError(f"input must be {len(self.lr)} tensors; got {len(input)}. See num_inputs and lr.")
        ahead = torch.is_grad_enabled() and getattr(self.model, "training", True) and self.adjoint is not detached
        shapes = [x.shape for x in input]
        self._starts, self._end = [x.detach().requires_grad_(ahead) for x in input], None
        losses = [partial(self._loss, shapes, y, z) for z in self._noise(input[0])]
        steps = _each_input_apart(
            self.adjoint if ahead else detached, [x.numel() for x in input], self.lr, self.max_grad_norm, verbose
        )
        lam = torch.cat([x.flatten() for x in self._starts])[None]
        lam = refine(losses, lam, lr=max(self.lr), momentum=self.momentum, adjoint=steps)
        if ahead:
            self._end = lam
        return [x.detach().clone().requires_grad_() for x in _parts(lam, shapes)]

    def backward(self, grad_output: Sequence[Tensor], verbose: bool = False) -> list[Tensor]:
        """The loss's gradients at the inputs of the last `forward`, from those at what it returned.

        grad_output: one tensor an input, of its shape. Adds to ``.grad`` of ``model_update_params`` what reaches them
        through the steps. Once a `forward`: the graph is freed. ``verbose`` prints the norms.
        """
        if self._end is None:
            raise RuntimeError(
                "backward needs a forward before it, in training mode, with gradients enabled and an adjoint other "
                "than detached; got none, or one that was used. Call model.train() and forward first."
            )
        shapes = [tuple(x.shape) for x in self._starts]
        got = [tuple(g.shape) if torch.is_tensor(g) else g for g in grad_output]
        if got != shapes:
            raise ValueError(
                f"grad_output must hold gradients of shapes {shapes}; got {got}. Take .grad of what forward returned, "
                "after the backward() of the loss there."
            )
        wanted = [*self._starts, *(p for p in self.params if p.requires_grad)]
        end, self._end = self._end, None
        torch.autograd.backward(end, torch.cat([g.detach().flatten() for g in grad_output])[None], inputs=wanted)
        grads = [x.grad for x in self._starts]
        if verbose:
            _print_norms("gradient at the inputs", grads)
        return grads

    def _noise(self, like: Tensor) -> Tensor:
        """z ``(K, …)``: drawn at once, so that a step that is computed again meets the same."""
        source = self.generator
        noise = torch.randn(self.iters, *like.shape, generator=source, device=source.device, dtype=like.dtype)
        return noise.to(like.device)

    def _loss(self, shapes: list[torch.Size], y, z: Tensor, lam: Tensor) -> Tensor:
        """The batch's loss ``(1,)`` at all of its variational parameters λ ``(1, P)``."""
        value = self.loss_fn(_parts(lam, shapes), y, self.model, z)
        if not torch.is_tensor(value) or value.numel() != 1:
            got = f"shape {tuple(value.shape)}" if torch.is_tensor(value) else type(value).__name__
            raise ValueError(f"loss_fn must return one number for the batch; got {got}. Take the mean over its rows.")
        return value.reshape(1)


def _each_input_apart(
    adjoint: Adjoint, sizes: list[int], rates: Sequence[float], max_norm: float, verbose: bool
) -> Adjoint:
    """Steps of SVI in which every part of λ ``(1, P)`` has a rate and a bound of its own.

    One step of ``adjoint`` without momentum or clip gives a gradient that knows how it is differentiated. What is
    then done with it is plain tensor code, and autograd's.
    """

    def find(losses: Sequence[Loss], lam: Tensor, step: Step) -> Tensor:
        shares = torch.cat([lam.new_full((1, n), rate / step.lr) for n, rate in zip(sizes, rates, strict=True)], -1)
        velocity = torch.zeros_like(lam)
        for k, loss in enumerate(losses):
            try:
                gradient = (lam - adjoint([loss], lam, Step(step.lr))) / step.lr
            except FloatingPointError as error:
                error.add_note(f"This was step {k} of {len(losses)} of OptimN2N.forward, where the batch is one row.")
                raise
            parts = gradient.split(sizes, dim=-1)
            if verbose:
                _print_norms(f"step {k}: gradient", parts)
            if max_norm > 0:
                gradient = torch.cat([clip_rows(part, max_norm) for part in parts], -1)
            velocity = step.momentum * velocity - gradient
            lam = lam + step.lr * shares * velocity
        return lam

    return find


def _leaves(parameters: Iterable[Tensor]) -> tuple[Tensor, ...]:
    single = torch.is_tensor(parameters)
    parameters = () if single else tuple(parameters)
    if single or not all(p.is_leaf for p in parameters):
        got = "one tensor" if single else "a tensor that is computed from others"
        raise ValueError(f"model_update_params must be a list of parameters; got {got}. Try model.parameters().")
    return parameters


def _parts(lam: Tensor, shapes: list[torch.Size]) -> list[Tensor]:
    sizes = [shape.numel() for shape in shapes]
    return [part.view(shape) for part, shape in zip(lam[0].split(sizes), shapes, strict=True)]


def _seeded() -> torch.Generator:
    """A stream of its own that follows the script's ``torch.manual_seed``, without touching what that seeded."""
    parent = torch.Generator().manual_seed(torch.initial_seed())
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=parent)))


def _print_norms(what: str, tensors: Iterable[Tensor]) -> None:
    print(f"{what}, norm an input: " + ", ".join(f"{tensor.detach().norm().item():.4g}" for tensor in tensors))


def _check_settings(
    rates: tuple[float, ...], iters: int, max_grad_norm: float, momentum: float, num_inputs: int
) -> None:
    if len(rates) != num_inputs:
        raise ValueError(f"lr must hold num_inputs = {num_inputs} rates, or one for all inputs; got {list(rates)}.")
    if not all(0 <= rate < math.inf for rate in rates) or max(rates) == 0:
        raise ValueError(
            f"the rates in lr must be finite and not negative, one of them positive; got {list(rates)}. "
            "0 leaves an input as it is."
        )
    if iters < 0:
        raise ValueError(f"iters must be at least 0; got {iters}. It is the number of steps K.")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1); got {momentum}. 0 is plain gradient descent.")
    if not 0 <= max_grad_norm < math.inf:
        raise ValueError(f"max_grad_norm must be finite and not negative; got {max_grad_norm}. 0 switches it off.")
