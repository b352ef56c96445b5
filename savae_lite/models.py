"""Models p(x, z) with a standard normal prior: one linear, one an LSTM of known parameters.

The protocol that `savae` needs has two methods: ``encode(x)`` gives λ ``(B, 2D)``; ``log_likelihood(x)`` gives the
function z ``(S, B, D)`` ↦ log p(x|z) ``(S, B)``, with everything that z does not touch already computed. No model
here draws noise of its own or chooses a device: it is made where the generator of its weights lies. What is drawn later
is drawn where that generator lies, and moved to the model; one on the CPU gives the same on every device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from savae_lite.data import check_tokens
from savae_lite.gaussian import LOG_2PI, check_codes, pack
from savae_lite.lstm import lstm, uniform_parameters
from savae_lite.softmax import log_total


class LinearGaussian:
    """x = W z + scale · noise: the model whose posterior and evidence have closed forms (Bishop 2006, eq. 2.113–2.117).

    weight W ``(X, D)``, scale > 0. The posterior's covariance is diagonal when the columns of W are orthogonal; only
    then can λ hold it.
    """

    def __init__(self, weight: Tensor, scale: float) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive; got {scale}. It is the standard deviation of the noise on x.")
        if weight.dim() != 2:
            raise ValueError(f"weight must be (X, D); got {tuple(weight.shape)}. It maps z of D entries to x of X.")
        self.weight, self.scale = weight, scale

    def log_likelihood(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """x ``(B, X)``; returns the function z ``(S, B, D)`` ↦ log p(x|z) ``(S, B)``."""
        self._check(x)

        def given(z: Tensor) -> Tensor:
            check_codes(z, "S", len(x), self.weight.shape[1])
            error = (x - z @ self.weight.T) / self.scale
            return -0.5 * (error.square() + LOG_2PI).sum(-1) - x.shape[-1] * math.log(self.scale)

        return given

    def encode(self, x: Tensor) -> Tensor:
        """λ ``(B, 2D)`` of the exact posterior p(z|x). Raises ValueError where its covariance is not diagonal."""
        self._check(x)
        precision = torch.eye(self.weight.shape[1]).to(self.weight) + self.weight.T @ self.weight / self.scale**2
        if not torch.allclose(precision, precision.diag().diag(), atol=1e-5 * precision.diag().max().item()):
            raise ValueError(
                "an exact λ needs orthogonal columns of weight (a diagonal posterior covariance); "
                "got correlated columns. Use log_evidence, or a QR decomposition of weight."
            )
        variance = 1 / precision.diag()
        mean = x @ self.weight * variance / self.scale**2
        return pack(mean, variance.log().expand_as(mean))

    def log_evidence(self, x: Tensor) -> Tensor:
        """log p(x) ``(B,)`` in nats, for any W: x is normal with covariance W Wᵀ + scale² I.

        Along the left singular vectors of W its variances are s² + scale², and scale² across them: no sum of W Wᵀ and a
        small scale² is formed, in which the second would be lost.
        """
        self._check(x)
        left, values, _ = torch.linalg.svd(self.weight, full_matrices=False)
        along, across = x @ left, self.weight.shape[0] - len(values)
        variances = values.square() + self.scale**2
        rest = (x - along @ left.T) / self.scale if across else torch.zeros_like(x)
        determinant = variances.log().sum() + 2 * across * math.log(self.scale)
        whole = (along.square() / variances).sum(-1) + rest.square().sum(-1)
        return -0.5 * (whole + determinant + x.shape[-1] * LOG_2PI)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != len(self.weight):
            raise ValueError(
                f"x must be (B, {len(self.weight)}), one row an example; got {tuple(x.shape)}. One row is x[None]."
            )


class LSTMOracle(nn.Module):
    """Short sequences whose generative model is known: z ~ N(0, I) in two dimensions steers an LSTM (Kim et al. 2018,
    §5.1).

    A state h_t that has read the tokens before x_t gives logits h_t A + z W + b. With ``layer`` > 0 a tanh layer of so
    many units comes between, and posteriors are not log-concave. The defaults are the paper's sizes. Weights are
    uniform in ±1, out of the layer in ±2, from z in ±``z_scale``, and frozen. There is no encoder here.
    """

    def __init__(
        self,
        vocabulary: int = 1000,
        *,
        length: int = 5,
        embedding: int = 100,
        hidden: int = 100,
        layer: int = 0,
        z_scale: float = 5.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        if min(vocabulary, length, embedding, hidden) < 1 or layer < 0:
            raise ValueError(
                "vocabulary, length, embedding and hidden must each be at least 1, layer at least 0; "
                f"got {vocabulary}, {length}, {embedding}, {hidden} and {layer}. The defaults are the paper's."
            )
        uniform = uniform_parameters(1.0, generator)
        self.length, self.latent, width = length, 2, layer or vocabulary
        self.words, self.bias = uniform(vocabulary + 1, embedding), uniform(4 * hidden)  # the last word is the start
        self.input, self.recurrent = uniform(embedding, 4 * hidden), uniform(hidden, 4 * hidden)
        self.output, self.output_bias = uniform(hidden, width), uniform(width)
        self.z_output = uniform(self.latent, width, scale=z_scale)
        self.top = uniform(layer, vocabulary, scale=2.0) if layer else None
        self.requires_grad_(False)

    def log_likelihood(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """x ``(B, T)``; returns the function z ``(S, B, 2)`` ↦ log p(x|z) ``(S, B)``."""
        check_tokens(x, len(self.words) - 1, shortest=1)
        start = x.new_full((len(x), 1), len(self.words) - 1)
        base = self._base(torch.cat([start, x[:, :-1]], 1))
        return self._affine(base, x) if self.top is None else self._layered(base, x)

    @torch.no_grad()
    def sample(self, rows: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw z ``(rows, 2)`` from the prior and sequences x ``(rows, length)`` from p(x|z); returns (x, z)."""
        if rows < 1:
            raise ValueError(f"rows must be at least 1; got {rows}. Ask for one or more sequences.")
        z = torch.randn(rows, self.latent, generator=generator, device=generator.device).to(self.output)
        x = torch.full((rows, 1), len(self.words) - 1, device=z.device)
        for _ in range(self.length):
            probabilities = self._logits(self._base(x)[-1], z).softmax(-1).to(generator.device)
            x = torch.cat([x, probabilities.multinomial(1, generator=generator).to(x)], 1)
        return x[:, 1:], z

    def _affine(self, base: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
        total = log_total(base.transpose(0, 1))
        chosen, toward = base.gather(-1, x.T[..., None]).sum((0, 2)), self.z_output.T[x].sum(1)  # (B,), (B, 2)

        def given(z: Tensor) -> Tensor:
            check_codes(z, "S", len(x), self.latent)
            some = z[:, :1] if z.stride(1) == 0 else z  # a grid is the same for all rows
            return chosen + (z * toward).sum(-1) - total(some @ self.z_output).sum(-1)

        return given

    def _layered(self, base: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
        def given(z: Tensor) -> Tensor:
            check_codes(z, "S", len(x), self.latent)
            log_p = self._logits(base[:, None], z).log_softmax(-1)  # (T, S, B, V)
            return log_p.gather(-1, x.T[:, None, :, None].expand(-1, len(z), -1, 1)).sum((0, -1))

        return given

    def _base(self, x: Tensor) -> Tensor:
        gates = self.words[x.T] @ self.input + self.bias
        states = lstm(gates, self.recurrent, gates.new_zeros(len(x), len(self.recurrent)))
        return states @ self.output + self.output_bias

    def _logits(self, base: Tensor, z: Tensor) -> Tensor:
        logits = base + z @ self.z_output
        return logits if self.top is None else logits.tanh() @ self.top
