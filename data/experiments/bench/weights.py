"""The models that are measured: as they start, and after a short training in which z has become useful.

What is exact at the start may be wrong in a trained model, so both are needed. Sentences come from generators, not
from a data set: short ones from the known model of `savae_lite.models.LSTMOracle`, longer ones from topics.
"""

from pathlib import Path

import torch
from sizes import MOMENTUM, Size
from torch import Tensor
from tqdm.auto import tqdm

from savae_lite.gaussian import kl
from savae_lite.models import LSTMOracle
from savae_lite.savae import savae_loss
from savae_lite.text import LSTMVAE

CACHE = Path(__file__).resolve().parents[2] / "cache" / "bench"
VAE_STEPS, REFINED_STEPS = {"tiny": 5, "S": 1500, "M": 200}, {"tiny": 1, "S": 100, "M": 20}


def sentences(size: Size, batches: int, seed: int) -> list[Tensor]:
    """Batches of token ids ``(rows, tokens + 1)`` that begin with 0."""
    draw = _from_oracle if size.tokens <= 5 else _from_topics
    x = draw(size, batches * size.rows, torch.Generator().manual_seed(seed))
    return list(torch.cat([torch.zeros_like(x[:, :1]), x], 1).split(size.rows))


def model_with(weights: str, size: Size) -> LSTMVAE:
    """A model with ``weights`` "initial" or "trained"; the latter are trained once and kept in data/cache."""
    if weights == "initial":
        return size.model(torch.Generator().manual_seed(0))
    model, path = size.model(torch.Generator().manual_seed(0), z_scale=1.0), CACHE / f"{size.name}.pt"
    if not path.exists():
        _train(model, size)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model


@torch.no_grad()
def divergence(model: LSTMVAE, x: Tensor) -> float:
    """KL(q ‖ p) in nats of the encoder's λ, a mean over rows: above 1 where z is used."""
    return kl(model.encode(x)).mean().item()


def _train(model: LSTMVAE, size: Size) -> None:
    """First as a VAE, with the divergence annealed, then as an SA-VAE with five inner steps."""
    vae, refined = VAE_STEPS[size.name], REFINED_STEPS[size.name]
    data = sentences(size, 100, seed=1)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    bar = tqdm(range(vae + refined), desc=f"training {size.name}")
    for i in bar:
        steps = 0 if i < vae else 5
        x, beta = data[i % len(data)], min(1.0, 0.1 + i / (0.7 * vae))
        eps = size.noise(steps, seed=i)
        loss = savae_loss(model, x, eps, lr=size.rate, momentum=MOMENTUM, beta=beta).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        if i % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.1f}", kl=f"{divergence(model, x):.2f}")


def _from_oracle(size: Size, rows: int, generator: torch.Generator) -> Tensor:
    oracle = LSTMOracle(size.vocabulary, length=size.tokens, generator=generator)
    return oracle.sample(rows, generator=generator)[0]


def _from_topics(size: Size, rows: int, generator: torch.Generator, topics: int = 50) -> Tensor:
    """Half of the words follow from the word before, half come from the sentence's topic, the same words for all of
    its sentences. A topic and a word's successors are 20 words each, drawn at random, the first ones likelier.
    """
    words = torch.randint(1, size.vocabulary, (topics, 20), generator=generator)
    successors = torch.randint(1, size.vocabulary, (size.vocabulary, 20), generator=generator)
    zipf = 1 / torch.arange(1.0, 21.0)
    topic = torch.randint(topics, (rows,), generator=generator)
    x = [words[topic, 0]]
    for _ in range(size.tokens - 1):
        which = zipf.expand(rows, -1).multinomial(1, generator=generator)[:, 0]
        from_topic = torch.rand(rows, generator=generator) < 0.5
        x.append(words[topic, which].where(from_topic, successors[x[-1], which]))
    return torch.stack(x, 1)
