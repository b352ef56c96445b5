"""Small problems with known answers, in float64, shared by the test files."""

import torch
from hypothesis import strategies as st

from savae_lite.models import LinearGaussian
from savae_lite.text import LSTMVAE

numbers = st.floats(-2.5, 2.5)
sizes = st.integers(1, 4)
seeds = st.integers(0, 2**32)


def tensors(*shape):
    """A hypothesis strategy for float64 tensors of a shape."""
    count = torch.Size(shape).numel()
    return st.lists(numbers, min_size=count, max_size=count).map(
        lambda values: torch.tensor(values, dtype=torch.float64).reshape(shape)
    )


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def linear_gaussian(rows=4):
    """A model with orthogonal columns and data from it: the posterior is diagonal, the evidence known."""
    weight = torch.tensor([[1.0, 0.5], [-2.0, 0.25], [0.0, 1.0]], dtype=torch.float64)
    return LinearGaussian(weight, 0.7), noise(rows, 3, seed=11)


def log_joint(model, x):
    """log p(x, z), with the prior from torch.distributions."""
    prior = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1.0)
    likelihood = model.log_likelihood(x)
    return lambda z: likelihood(z) + prior.log_prob(z).sum(-1)


def quadratic(size=3):
    """The Hessian A of 0.5 λᵀAλ, symmetric and positive definite, and that loss."""
    root = noise(size, size, seed=12)
    hessian = root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)
    return hessian, lambda lam: 0.5 * torch.einsum("bi,ij,bj->b", lam, hessian, lam)


def tiny_lstmvae(vocabulary=5, *, embedding=2, hidden=3, latent=2, scale=0.7, **options):
    """A sentence VAE in float64 whose weights are large enough for every part to matter."""
    model = LSTMVAE(
        vocabulary, embedding=embedding, hidden=hidden, latent=latent, generator=generator(), **options
    ).double()
    with torch.no_grad():
        for seed, parameter in enumerate(model.parameters()):
            parameter.copy_(scale * noise(*parameter.shape, seed=100 + seed))
    return model


def sentences(rows=3, length=5, vocabulary=5, seed=13):
    """Token ids ``(rows, length)`` from <s> to </s>, words between."""
    x = torch.randint(2, vocabulary, (rows, length), generator=generator(seed))
    x[:, 0], x[:, -1] = 0, 1
    return x


def halves(model):
    """The encoder's and the decoder's parameters, each by name."""
    named = dict(model.named_parameters())
    encoder = {name: named.pop(name) for name in list(named) if name.startswith("encoder.")}
    return encoder, named


def draws_other_sequences():
    """Whether this torch samples other categories from a seed than the recorded runs did, as torch 2.6 does."""
    drawn = torch.full((3, 50), 0.02).multinomial(1, generator=generator())
    return drawn.flatten().tolist() != [47, 8, 28]
