"""A language model with a latent sentence code, z ~ N(0, I).

It keeps the protocol of `models`. It draws no noise of its own but dropout's, from a generator that is passed, and does
not know where sentences come from.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from savae_lite.data import Vocab, check_tokens
from savae_lite.gaussian import check_codes
from savae_lite.lstm import LSTMEncoder, cell, lstm, uniform_parameters
from savae_lite.softmax import log_probability

BOS, EOS, UNK = Vocab.BOS, Vocab.EOS, Vocab.UNK


class LSTMVAE(nn.Module):
    """A sentence VAE: one LSTM reads x and gives λ, another writes x with z at every step (Kim et al. 2018, §5.2).

    z enters each input of the decoder, its first state h₀ and, with ``skip``, the logits (Dieng et al. 2019).
    ``latent = 0`` is a plain language model. A batch x ``(B, T)`` holds sentences of one length, from <s> to </s>;
    there is no padding and no mask.

    Weights start uniform in ±0.1, those that read z in ±``z_scale``: in a small decoder z needs the larger start to
    be heard at all. ``dropout`` acts on the decoder's word embeddings and on its output states; ``word_dropout``
    replaces that share of the decoder's input words by <unk>, never <s>, and leaves what is to be predicted (Bowman
    et al. 2016, §3.1). Both act only where a generator is passed.
    """

    def __init__(
        self,
        vocabulary: int,
        *,
        embedding: int,
        hidden: int,
        latent: int,
        generator: torch.Generator,
        skip: bool = False,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        z_scale: float = 0.1,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1); got {dropout}. It is the share of values set to zero.")
        if not 0 <= word_dropout <= 1:
            raise ValueError(f"word_dropout must lie in [0, 1]; got {word_dropout}. It is the share of words hidden.")
        self.latent, self.hidden, self.dropout, self.word_dropout = latent, hidden, dropout, word_dropout

        uniform = uniform_parameters(0.1, generator)
        sizes = dict(embedding=embedding, hidden=hidden, latent=latent)
        self.encoder = LSTMEncoder(vocabulary, **sizes, generator=generator) if latent else None
        self.words, self.bias = uniform(vocabulary, embedding), uniform(4 * hidden)
        self.input, self.recurrent = uniform(embedding, 4 * hidden), uniform(hidden, 4 * hidden)
        self.z_input = uniform(latent, 4 * hidden, scale=z_scale)
        self.z_state, self.z_state_bias = uniform(latent, hidden, scale=z_scale), uniform(hidden)
        self.output, self.output_bias = uniform(hidden, vocabulary), uniform(vocabulary)
        self.z_output = uniform(latent if skip else 0, vocabulary, scale=z_scale)

    def encode(self, x: Tensor) -> Tensor:
        """λ ``(B, 2D)`` from the last state of an LSTM that read the token ids x ``(B, T)``."""
        check_tokens(x, len(self.words))
        return self.encoder(x) if self.latent else self.bias.new_zeros(len(x), 0)

    def log_likelihood(self, x: Tensor, *, generator: torch.Generator | None = None) -> Callable[[Tensor], Tensor]:
        """The function z ``(S, B, D)`` ↦ log p(x|z) ``(S, B)``, the sum over the tokens of x ``(B, T)``."""
        per_token = self.token_log_likelihood(x, generator=generator)
        return lambda z: per_token(z).sum(-1)

    def token_log_likelihood(
        self, x: Tensor, *, generator: torch.Generator | None = None
    ) -> Callable[[Tensor], Tensor]:
        """The function z ``(S, B, D)`` ↦ log p(x_t | x_<t, z) ``(S, B, T − 1)``, for every token after <s>.

        With a generator the dropout masks are drawn here, once, so that the function is the same each time it is
        called.
        """
        check_tokens(x, len(self.words))
        drop = generator is not None and self.dropout > 0
        hide = generator is not None and self.word_dropout > 0
        embedded = self.words[(self._hide(x, generator) if hide else x)[:, :-1].T]
        embedded = self._drop(embedded, generator) if drop else embedded
        gates = (embedded @ self.input + self.bias)[:, None]  # (T − 1, 1, B, 4H), shared by all samples and inner steps
        mask = self._drop(gates.new_ones(len(gates), 1, len(x), self.hidden), generator) if drop else None
        targets = x[:, 1:].T[:, None]
        weight = torch.cat([self.output, self.z_output])

        def given(z: Tensor) -> Tensor:
            check_codes(z, "S", len(x), self.latent)
            samples, rows, _ = z.shape
            h = (z @ self.z_state + self.z_state_bias).flatten(0, 1)
            states = lstm((gates + z @ self.z_input).flatten(1, 2), self.recurrent, h)
            states = states.unflatten(1, (samples, rows))
            states = self._with_skip(states * mask if drop else states, z).flatten(0, 2)
            tokens = targets.expand(-1, samples, -1).flatten()
            return log_probability(states, weight, self.output_bias, tokens).view(-1, samples, rows).movedim(0, -1)

        return given

    @torch.no_grad()
    def generate(self, z: Tensor, *, steps: int, generator: torch.Generator | None = None) -> Tensor:
        """Sentences x ``(B, ≤ steps + 1)`` from z ``(B, D)``: sampled with a generator, the likeliest next token
        without one.

        Rows that have ended are filled with </s>.
        """
        check_codes(z, len(z), self.latent)
        if steps < 1:
            raise ValueError(f"steps must be at least 1; got {steps}. It is the greatest number of tokens after <s>.")
        x = torch.full((len(z), 1), BOS, device=z.device)
        h, c = z @ self.z_state + self.z_state_bias, z.new_zeros(len(z), self.hidden)
        for _ in range(steps):
            gates = self.words[x[:, -1]] @ self.input + self.bias + z @ self.z_input
            h, c = cell(gates, self.recurrent, h, c)
            logits = self._with_skip(h, z) @ torch.cat([self.output, self.z_output]) + self.output_bias
            token = _draw(logits, generator) if generator else logits.argmax(-1)
            x = torch.cat([x, token.where(x[:, -1] != EOS, EOS)[:, None]], dim=1)
            if (x[:, -1] == EOS).all():
                break
        return x

    def _with_skip(self, states: Tensor, z: Tensor) -> Tensor:
        """One product serves state and skip: a separate sum over the vocabulary would cost as much as the softmax."""
        return torch.cat([states, z.expand(*states.shape[:-1], -1)], -1) if len(self.z_output) else states

    def _hide(self, x: Tensor, generator: torch.Generator) -> Tensor:
        hidden = _uniform(x, generator) < self.word_dropout
        return x.masked_fill(hidden & (x != BOS), UNK)

    def _drop(self, values: Tensor, generator: torch.Generator) -> Tensor:
        kept = _uniform(values, generator) >= self.dropout
        return values * kept / (1 - self.dropout)


# Noise is drawn where its generator lies, and used where the model does.


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """A number in [0, 1) for every entry of ``like``."""
    return torch.rand(like.shape, generator=generator, device=generator.device).to(like.device)


def _draw(logits: Tensor, generator: torch.Generator) -> Tensor:
    """One id for every row of logits ``(B, V)``."""
    return logits.softmax(-1).to(generator.device).multinomial(1, generator=generator)[:, 0].to(logits.device)
