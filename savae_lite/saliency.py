"""Which words z decides, and which words decide z: slopes, information in nats, and what follows when a word is hidden.

A slope says how much a quantity would move, not how much z has told, and a model that has learned nothing has slopes
too: put `token_information`, or a control with random weights, beside it. Nothing here trains, draws noise or knows
word classes.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from savae_lite.data import check_tokens
from savae_lite.gaussian import kl, reparameterize, unpack

TokenLogLikelihood = Callable[[Tensor], Tensor]


def token_gradients(log_likelihood: TokenLogLikelihood, z: Tensor) -> Tensor:
    """∂ log p(x_t | x_<t, z) / ∂z of every token: ``(S, B, T, D)``.

    log_likelihood: z ``(S, B, D)`` ↦ ``(S, B, T)``, as of `LSTMVAE.token_log_likelihood`, with rows and samples that
    do not mix. It is differentiated once for each token.
    """
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        values = _per_token(log_likelihood(z), z)
        if not values.requires_grad:  # z is not read at all
            return z.new_zeros(*values.shape, z.shape[-1])
        slopes = [
            torch.autograd.grad(token.sum(), z, retain_graph=True, materialize_grads=True)[0]
            for token in values.unbind(-1)
        ]
    return torch.stack(slopes, dim=2)


def output_saliency(log_likelihood: TokenLogLikelihood, lam: Tensor, eps: Tensor) -> Tensor:
    """‖E_q ∂ log p(x_t | x_<t, z) / ∂z‖₂ of every token, ``(B, T)``, in nats a unit of z (Kim et al. 2018, §5).

    log_likelihood as in `token_gradients`; lam ``(B, 2D)``; eps ``(S, B, D)``. The mean over samples is taken before
    the norm. Exactly 0 where z is not read.
    """
    return token_gradients(log_likelihood, reparameterize(lam.detach(), eps)).mean(0).norm(dim=-1)


@torch.no_grad()
def token_information(
    log_likelihood: TokenLogLikelihood, lam: Tensor, eps: Tensor, prior: Tensor, *, chunk: int = 50
) -> Tensor:
    """E_q log p(x_t | x_<t, z) − log p(x_t | x_<t) of every token, ``(B, T)``, in nats: what z adds to x_<t.

    The second term is that of the model without knowledge of z, ∫ p(x_≤t|z) p(z) dz / ∫ p(x_<t|z) p(z) dz, by Monte
    Carlo over samples ``prior`` ``(M, D)`` of p(z), ``chunk`` at a time. log_likelihood as in `token_gradients`; lam
    ``(B, 2D)``; eps ``(S, B, D)``. Summed over t it is E_q log p(x|z) − log p(x) = KL(q ‖ p(z)) − KL(q ‖ p(z|x)): at
    most KL. With few samples of the prior log p(x) comes out too low in the mean, and the sum too high.
    """
    if prior.dim() != 2 or len(prior) < 1 or prior.shape[1] != eps.shape[-1] or chunk < 1:
        raise ValueError(
            f"prior must be (M, {eps.shape[-1]}), M ≥ 1 samples of p(z), and chunk at least 1; got "
            f"{tuple(prior.shape)} and {chunk}. Draw them with torch.randn(M, {eps.shape[-1]}, generator=generator)."
        )
    z = reparameterize(lam, eps)
    given = _per_token(log_likelihood(z), z).mean(0)
    parts = []
    for some in prior.split(chunk):
        some = some[:, None].expand(-1, len(lam), -1)
        parts.append(_per_token(log_likelihood(some), some).cumsum(-1).logsumexp(0))
    total = torch.stack(parts).logsumexp(0) - math.log(len(prior))  # log p(x_≤t)
    return given - total.diff(dim=-1, prepend=total.new_zeros(len(total), 1))


def input_saliency(encoder: nn.Module, x: Tensor) -> Tensor:
    """‖∂μ / ∂e_t‖, the Frobenius norm of the derivative of q's mean in the embedding e_t of every token: ``(B, T)``.

    encoder: ids x ``(B, T)`` ↦ λ ``(B, 2D)`` with a table of embeddings ``words``, as `LSTMEncoder`; rows must not mix.
    An LSTM remembers best what it read last, and this norm says mostly that: see `occlusion` for a second opinion.
    """
    check_tokens(x, len(encoder.words))
    with torch.enable_grad():
        own = encoder.words.detach()[x].flatten(0, 1).requires_grad_()  # a row of the table for every token of x
        places = torch.arange(x.numel(), device=x.device).view_as(x)
        mean, _ = unpack(functional_call(encoder, {"words": own}, (places,)))
        slopes = [
            torch.autograd.grad(unit.sum(), own, retain_graph=True, materialize_grads=True)[0]
            for unit in mean.unbind(-1)
        ]
    return torch.stack(slopes).square().sum((0, -1)).sqrt().view_as(x)


def occlusion(encode: Callable[[Tensor], Tensor], x: Tensor, token: int) -> Tensor:
    """KL(q(z|x) ‖ q(z|x with token t hidden)) in nats, ``(B, T)``: how far q moves when ``token`` stands in t's place.

    encode: token ids ``(B, T)`` ↦ λ ``(B, 2D)``, with or without refinement; a refinement must see the same noise at
    each call. x ``(B, T)`` int64. 0, up to rounding, where the token stands there already.
    """
    check_tokens(x, max(int(x.max()), token) + 1 if x.numel() else 1)
    if token < 0:
        raise ValueError(f"token must be an id of the vocabulary, ≥ 0; got {token}. Pass Vocab.UNK, for instance.")
    lam, moved = encode(x), []
    for t in range(x.shape[1]):
        hidden = x.clone()
        hidden[:, t] = token
        moved.append(kl(lam, encode(hidden)))
    return torch.stack(moved, dim=1).detach()


def ranks(values: Tensor) -> Tensor:
    """The rank of every value ``(N,)`` from 1 in float64; equal values share the mean of their ranks.

    >>> ranks(torch.tensor([5.0, 2.0, 5.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    if values.dim() != 1 or values.isnan().any():
        raise ValueError(
            f"values must be (N,) without NaN, which has no rank; got {tuple(values.shape)}. Drop such rows."
        )
    _, place, count = values.unique(return_inverse=True, return_counts=True)
    last = count.cumsum(0).double()
    return (last - (count.double() - 1) / 2)[place]


def rank_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's ρ of two sets of values ``(N,)``: the correlation of their `ranks`, from −1 to 1.

    Raises ValueError for sets of different size, and for one whose values are all equal: they rank nothing.
    """
    if a.dim() != 1 or a.shape != b.shape:
        raise ValueError(f"a and b must be (N,), of one size; got {tuple(a.shape)} and {tuple(b.shape)}. Flatten them.")
    a, b = (rank - rank.mean() for rank in (ranks(a), ranks(b)))
    if not (a.any() and b.any()):
        raise ValueError("a and b must each have at least two different values; got one. Nothing can be ranked.")
    return max(-1.0, min(1.0, float((a @ b) / (a.norm() * b.norm()))))  # rounding may step over an end


def _per_token(values: Tensor, z: Tensor) -> Tensor:
    if values.dim() != 3 or values.shape[:2] != z.shape[:2]:
        raise ValueError(
            f"the log-likelihood must return one value a token, (S, B, T) for z {tuple(z.shape)}; "
            f"got {tuple(values.shape)}. Take model.token_log_likelihood(x), which does not sum over tokens."
        )
    return values
