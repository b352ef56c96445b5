"""The sentence VAE of `savae_lite.text.LSTMVAE` once more, from torch's own parts, with the same weights.

z is joined to every word's embedding and h₀ is an affine map of z, as in Kim et al. (2018, §5.2). An nn.LSTM has the
gates in another order and two biases; the second one is zero here.
"""

import contextlib
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from savae_lite.gaussian import kl, reparameterize


class Stock(nn.Module):
    """A copy of an LSTMVAE that shares no tensor with it."""

    def __init__(self, model) -> None:
        super().__init__()
        (vocabulary, embedding), hidden, latent = model.words.shape, model.hidden, model.latent
        self.latent = latent
        self.encoder_words, self.words = nn.Embedding(vocabulary, embedding), nn.Embedding(vocabulary, embedding)
        self.encoder_rnn = nn.LSTM(embedding, hidden, batch_first=True)
        self.encoder_output = nn.Linear(hidden, 2 * latent)
        self.rnn = nn.LSTM(embedding + latent, hidden, batch_first=True)
        self.state, self.output = nn.Linear(latent, hidden), nn.Linear(hidden, vocabulary)
        self.to(model.words)
        self._copy(model)

    def encode(self, x: Tensor) -> Tensor:
        """λ ``(B, 2D)``."""
        states, _ = self.encoder_rnn(self.encoder_words(x))
        return self.encoder_output(states[:, -1])

    def logits(self, x: Tensor, z: Tensor) -> Tensor:
        """``(B, T − 1, V)`` for the tokens of x after the first; z ``(B, D)``."""
        words = self.words(x[:, :-1])
        inputs = torch.cat([words, z[:, None].expand(-1, words.shape[1], -1)], -1)
        h = self.state(z)[None]
        states, _ = self.rnn(inputs, (h, torch.zeros_like(h)))
        return self.output(states)

    def nelbo(self, x: Tensor, lam: Tensor, eps: Tensor) -> Tensor:
        """−ELBO ``(B,)`` in nats with one sample; eps ``(1, B, D)``."""
        z = reparameterize(lam, eps)[0]
        logits = self.logits(x, z)
        loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten(), reduction="none")
        return loss.view(len(x), -1).sum(-1) + kl(lam)

    def decoder(self) -> list[nn.Parameter]:
        """The decoder's parameters θ."""
        return [p for name, p in self.named_parameters() if not name.startswith("encoder")]

    def gradients(self) -> dict[str, Tensor]:
        """The gradients under the names and in the shapes of the LSTMVAE."""
        g = {name: p.grad for name, p in self.named_parameters()}
        inputs = _from_gates(g["rnn.weight_ih_l0"])
        return {
            "encoder.words": g["encoder_words.weight"],
            "encoder.bias": _from_gates(g["encoder_rnn.bias_ih_l0"]),
            "encoder.input": _from_gates(g["encoder_rnn.weight_ih_l0"]),
            "encoder.recurrent": _from_gates(g["encoder_rnn.weight_hh_l0"]),
            "encoder.output": g["encoder_output.weight"].T,
            "encoder.output_bias": g["encoder_output.bias"],
            "words": g["words.weight"],
            "bias": _from_gates(g["rnn.bias_ih_l0"]),
            "input": inputs[: -self.latent],
            "recurrent": _from_gates(g["rnn.weight_hh_l0"]),
            "z_input": inputs[-self.latent :],
            "z_state": g["state.weight"].T,
            "z_state_bias": g["state.bias"],
            "output": g["output.weight"].T,
            "output_bias": g["output.bias"],
        }

    @torch.no_grad()
    def _copy(self, model) -> None:
        self.encoder_words.weight.copy_(model.encoder.words)
        self.encoder_output.weight.copy_(model.encoder.output.T)
        self.encoder_output.bias.copy_(model.encoder.output_bias)
        _fill(self.encoder_rnn, model.encoder.input, model.encoder.recurrent, model.encoder.bias)
        self.words.weight.copy_(model.words)
        self.state.weight.copy_(model.z_state.T)
        self.state.bias.copy_(model.z_state_bias)
        self.output.weight.copy_(model.output.T)
        self.output.bias.copy_(model.output_bias)
        _fill(self.rnn, torch.cat([model.input, model.z_input]), model.recurrent, model.bias)


@contextlib.contextmanager
def twice_differentiable():
    """Inside, an nn.LSTM has a second derivative: the vendors' kernels, which have none, are switched off."""
    with warnings.catch_warnings():  # switching mkldnn off warns of GPUs that are not in question
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)
        with torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
            yield


def _fill(rnn: nn.LSTM, inputs: Tensor, recurrent: Tensor, bias: Tensor) -> None:
    rnn.weight_ih_l0.copy_(_to_gates(inputs))
    rnn.weight_hh_l0.copy_(_to_gates(recurrent))
    rnn.bias_ih_l0.copy_(_to_gates(bias))
    rnn.bias_hh_l0.zero_()


def _to_gates(weight: Tensor) -> Tensor:
    """(…, 4H) in the order i, f, o, g to (4H, …) in the order i, f, g, o."""
    i, f, o, g = weight.T.chunk(4) if weight.dim() > 1 else weight.chunk(4)
    return torch.cat([i, f, g, o])


def _from_gates(gradient: Tensor) -> Tensor:
    i, f, g, o = gradient.chunk(4)
    joined = torch.cat([i, f, o, g])
    return joined.T if joined.dim() > 1 else joined
