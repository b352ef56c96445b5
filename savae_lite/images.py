"""A VAE for small binary images: one hidden layer reads x and gives λ, one hidden layer turns z into pixels.

It keeps the protocol of `models`. It does not convolve, does not load or binarise images, draws no noise of its own and
chooses no device; grey values are refused, since a Bernoulli has none.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from savae_lite.gaussian import check_codes


class MLPVAE(nn.Module):
    """Binary pixels x ``(B, X)``, independent given z: log p(x|z) = Σ_i x_i log π_i(z) + (1 − x_i) log(1 − π_i(z))
    (Kingma & Welling 2014, app. C.1).

    Encoder and decoder each have one tanh layer of ``hidden`` units. Weights start uniform in ±1/√(number of inputs),
    biases at 0. ``decode(z).sigmoid()`` is the picture that z stands for.
    """

    def __init__(self, pixels: int, hidden: int, latent: int, *, generator: torch.Generator) -> None:
        super().__init__()
        if min(pixels, hidden, latent) < 1:
            raise ValueError(
                f"pixels, hidden and latent must each be at least 1; got {pixels}, {hidden} and {latent}. "
                "A model without z has no posterior to infer."
            )
        self.pixels, self.latent = pixels, latent
        self.reader, self.reader_bias = _affine(pixels, hidden, generator)
        self.proposal, self.proposal_bias = _affine(hidden, 2 * latent, generator)
        self.writer, self.writer_bias = _affine(latent, hidden, generator)
        self.output, self.output_bias = _affine(hidden, pixels, generator)

    def encode(self, x: Tensor) -> Tensor:
        """λ ``(B, 2D)`` of binary pixels x ``(B, X)``, 0 or 1, of any dtype."""
        _check_pixels(x, self.pixels)
        hidden = (x.to(self.reader) @ self.reader + self.reader_bias).tanh()
        return hidden @ self.proposal + self.proposal_bias

    def log_likelihood(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """The function z ``(S, B, D)`` ↦ log p(x|z) ``(S, B)`` in nats, the sum over the pixels of x ``(B, X)``."""
        _check_pixels(x, self.pixels)
        signs = 1 - 2 * x.to(self.output)

        def given(z: Tensor) -> Tensor:
            check_codes(z, "S", len(x), self.latent)
            return -F.softplus(signs * self.decode(z)).sum(-1)  # log π = −softplus(−logit)

        return given

    def decode(self, z: Tensor) -> Tensor:
        """Logits ``(…, X)`` of the pixels at z ``(…, D)``."""
        return (z @ self.writer + self.writer_bias).tanh() @ self.output + self.output_bias


def _affine(inputs: int, outputs: int, generator: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
    bound = 1 / math.sqrt(inputs)
    weight = torch.empty(inputs, outputs, device=generator.device).uniform_(-bound, bound, generator=generator)
    return nn.Parameter(weight), nn.Parameter(weight.new_zeros(outputs))


def _check_pixels(x: Tensor, pixels: int) -> None:
    if x.dim() != 2 or len(x) < 1 or x.shape[1] != pixels:
        raise ValueError(
            f"x must be (B, {pixels}) with B ≥ 1, one row an image; got {tuple(x.shape)}. Flatten it with x.flatten(1)."
        )
    wrong = (x != 0) & (x != 1)  # NaN is neither
    if wrong.any():
        example = x[wrong][0].item()
        raise ValueError(f"pixels must be 0 or 1; got {example}. Binarise them, for instance with x >= threshold.")
