"""The sizes of models and batches that are measured, and what a measurement starts from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from savae_lite.savae import draw_noise
from savae_lite.text import LSTMVAE

MOMENTUM = 0.5
STEPS = (1, 5, 10, 20, 40)


@dataclass(frozen=True)
class Size:
    """A model and its batches. Trained, its inner loop is stable with ``rate`` and amplifies with ``large_rate``; both
    are one row's.
    """

    name: str
    vocabulary: int
    tokens: int  # that are predicted; a sentence has one more
    embedding: int
    hidden: int
    latent: int
    rows: int
    rate: float
    large_rate: float

    def model(self, generator: torch.Generator, z_scale: float = 0.1) -> LSTMVAE:
        """With fresh weights."""
        sizes = dict(embedding=self.embedding, hidden=self.hidden, latent=self.latent)
        return LSTMVAE(self.vocabulary, **sizes, generator=generator, z_scale=z_scale)

    def noise(self, steps: int, seed: int) -> Tensor:
        """ε for ``steps`` inner steps and a scoring one."""
        return draw_noise(steps + 1, self.rows, self.latent, generator=torch.Generator().manual_seed(seed))


SIZES = {
    "tiny": Size("tiny", 11, 3, embedding=4, hidden=5, latent=2, rows=4, rate=0.05, large_rate=0.5),
    "S": Size("S", 1000, 5, embedding=100, hidden=100, latent=2, rows=50, rate=0.05, large_rate=0.2),
    "M": Size("M", 5000, 20, embedding=128, hidden=256, latent=16, rows=32, rate=0.01, large_rate=0.03),
}
