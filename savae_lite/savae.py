"""The semi-amortized VAE: the encoder starts λ, K steps of SVI refine it, and training differentiates through them.

One loss covers its relatives. They differ in how many steps there are (the length of ε), where λ starts, whether the
steps are differentiated, and what else the encoder learns from; `METHODS` lists them. How SVI descends is `svi`'s
business, what the bound is `elbo`'s.
"""

from collections.abc import Callable, Iterator
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor

from savae_lite.adjoint import Adjoint, detached, kept, refine
from savae_lite.elbo import nelbo
from savae_lite.gaussian import kl
from savae_lite.svi import Loss, svi

Start = Callable[[object, Tensor], Tensor]
Teach = Callable[[Loss, Tensor, Tensor], Tensor]


def from_encoder(model, x: Tensor) -> Tensor:
    """λ₀ = enc(x), ``(B, 2D)``."""
    return model.encode(x)


def from_prior(model, x: Tensor) -> Tensor:
    """λ₀ = 0, the prior, for every row ``(B, 2D)``: the encoder plays no part."""
    return torch.zeros_like(model.encode(x[:1]).detach()).repeat(len(x), 1)


def bound_at_start(loss: Loss, lam_0: Tensor, lam_k: Tensor) -> Tensor:
    """The encoder descends −ELBO(λ₀) as in a VAE, and the model's own parameters do not see this term; returns
    ``(B,)``.

    It is ∇loss(λ₀) · λ₀ with the gradient held constant, so its derivative is the bound's but its value is not.
    """
    (gradient,) = torch.autograd.grad(loss(lam_0).sum(), lam_0)
    return (gradient * lam_0).sum(-1)


def kl_to_end(loss: Loss, lam_0: Tensor, lam_k: Tensor) -> Tensor:
    """The encoder descends KL(q(z; λ₀) ‖ q(z; λ_K)) with λ_K held constant; returns ``(B,)``."""
    return kl(lam_0, lam_k.detach())


METHODS = MappingProxyType({
    "VAE": dict(adjoint=detached),  # with K = 0
    "SVI": dict(adjoint=detached, start=from_prior),
    "VAE+SVI": dict(adjoint=detached, teach=bound_at_start),
    "VAE+SVI+KL": dict(adjoint=detached, teach=kl_to_end),
    "SA-VAE": dict(adjoint=kept),
})  # fmt: skip


def savae_loss(
    model,
    x: Tensor,
    eps: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    clip: float | None = None,
    beta: float = 1.0,
    start: Start = from_encoder,
    adjoint: Adjoint = kept,
    teach: Teach | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """−ELBO(λ_K) after K = len(eps) − 1 steps of SVI on −ELBO, per row, in nats (Kim et al. 2018, algorithm 1).

    x ``(B, …)`` as the model wants it; eps ``(K + 1, S, B, D)``: noise of K refining losses and of one scoring
    loss. K = 0 is the VAE. lr, momentum and clip are `svi`'s; ``start`` gives λ₀; ``adjoint`` says how the steps are
    differentiated, and what that costs (see the module `adjoint`); ``teach`` adds what the encoder alone learns from
    when they are not. A generator switches the model's dropout on, with one mask for all steps. Returns ``(B,)``:
    average it over rows before ``backward``.
    """
    _check_noise(eps, x)
    if len(eps) > 1 and adjoint is detached and teach is None and start is from_encoder:
        raise ValueError(
            f"a VAE takes noise for its one scoring step; got {len(eps)} steps, and nothing would teach the encoder. "
            "Pass eps[-1:], or a ``teach``, or another adjoint."
        )
    log_likelihood = model.log_likelihood(x) if generator is None else model.log_likelihood(x, generator=generator)
    *inner, outer = (partial(nelbo, log_likelihood, eps=e, beta=beta) for e in eps)
    lam_0 = start(model, x)
    lam_k = refine(inner, lam_0, lr=lr, momentum=momentum, clip=clip, adjoint=adjoint)
    loss = outer(lam_k)
    return loss if teach is None else loss + teach(outer, lam_0, lam_k)


def infer(
    model,
    x: Tensor,
    eps: Tensor,
    *,
    lr: float,
    momentum: float = 0.0,
    clip: float | None = None,
    beta: float = 1.0,
    start: Start = from_encoder,
) -> Iterator[Tensor]:
    """Yield λ₀ … λ_K ``(B, 2D)`` at test time, K = len(eps); nothing is differentiated through.

    eps ``(K, S, B, D)``; the other arguments as in `savae_loss`. ``last(infer(…))`` is the refined λ.
    """
    if len(eps):
        _check_noise(eps, x)
    log_likelihood = model.log_likelihood(x)
    losses = [partial(nelbo, log_likelihood, eps=e, beta=beta) for e in eps]
    return svi(losses, start(model, x).detach(), lr=lr, momentum=momentum, clip=clip)


def draw_noise(steps: int, rows: int, latent: int, *, generator: torch.Generator, samples: int = 1) -> Tensor:
    """Standard normal ε ``(steps, samples, rows, latent)`` on the generator's device.

    A loss with K refinements needs K + 1 steps of noise, `infer` needs K.
    """
    if steps < 0 or samples < 1:
        raise ValueError(
            f"noise needs steps ≥ 0 and samples ≥ 1; got {steps} and {samples}. K = 0 refinements is the VAE."
        )
    return torch.randn(steps, samples, rows, latent, generator=generator, device=generator.device)


def _check_noise(eps: Tensor, x: Tensor) -> None:
    if eps.dim() != 4 or len(eps) < 1 or eps.shape[2] != len(x):
        raise ValueError(
            f"eps must be (steps, S, B, D) with at least one step and B = {len(x)} to match x; got {tuple(eps.shape)}. "
            "Draw it with draw_noise(K + 1, rows, latent, generator=…) for a loss, K for infer."
        )
