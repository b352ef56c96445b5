"""savae_lite.images against torch.distributions, and inputs that it refuses."""

import pytest
import torch
from cases import generator, noise, seeds, sizes
from hypothesis import given
from torch.distributions import Bernoulli
from torch.testing import assert_close

from savae_lite.images import MLPVAE


def model(pixels=6, hidden=5, latent=2, seed=0):
    return MLPVAE(pixels, hidden, latent, generator=generator(seed)).double()


def pictures(rows, pixels=6, seed=0):
    return (noise(rows, pixels, seed=seed) > 0).double()


@given(seeds, sizes, sizes)
def test_the_likelihood_is_a_product_of_bernoullis(seed, rows, latent):
    vae, x, z = model(latent=latent, seed=seed), pictures(rows, seed=seed), noise(3, rows, latent, seed=seed + 1)
    expected = Bernoulli(logits=vae.decode(z)).log_prob(x).sum(-1)
    assert_close(vae.log_likelihood(x)(z), expected, rtol=1e-12, atol=1e-12)


def test_the_likelihoods_of_all_images_add_up_to_one():
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 6)
    z = noise(4, 1, 2).expand(-1, len(x), -1)
    assert_close(model().log_likelihood(x)(z).logsumexp(1), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_extreme_logits_stay_finite():
    vae, x = model(), pictures(2)
    with torch.no_grad():
        vae.output.mul_(1e6)
    values = vae.log_likelihood(x)(noise(3, 2, 2))
    assert values.isfinite().all() and (values < -1e3).any()


def test_encoder_and_decoder_are_two_affine_maps_with_tanh_between():
    vae, x, z = model(), pictures(3), noise(3, 2)
    layers = (
        (vae.reader, vae.reader_bias, vae.proposal, vae.proposal_bias),
        (vae.writer, vae.writer_bias, vae.output, vae.output_bias),
    )
    for (w, b, v, c), given_, found in zip(layers, (x, z), (vae.encode(x), vae.decode(z)), strict=True):
        nets = torch.nn.Linear(*w.shape).double(), torch.nn.Linear(*v.shape).double()
        with torch.no_grad():
            for net, weight, bias in zip(nets, (w, v), (b, c), strict=True):
                net.weight.copy_(weight.T)
                net.bias.copy_(bias)
        assert_close(found, nets[1](nets[0](given_).tanh()))


def test_rows_do_not_mix():
    vae, x, z = model(), pictures(4), noise(3, 4, 2)
    assert_close(vae.log_likelihood(x[1:2])(z[:, 1:2]), vae.log_likelihood(x)(z)[:, 1:2])
    assert_close(vae.encode(x[1:2]), vae.encode(x)[1:2])


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float32])
def test_pixels_may_have_any_dtype(dtype):
    vae, x, z = model(), pictures(3), noise(2, 3, 2)
    assert_close(vae.encode(x.to(dtype)), vae.encode(x))
    assert_close(vae.log_likelihood(x.to(dtype))(z), vae.log_likelihood(x)(z))


def test_the_generator_alone_decides_the_start():
    first, again, other = (list(model(seed=seed).parameters()) for seed in (1, 1, 2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert all(weight.abs().max() <= len(weight) ** -0.5 for weight in first if weight.dim() == 2)


@pytest.mark.parametrize(
    "x, said",
    [
        (torch.zeros(3, 5), r"\(B, 6\).*got \(3, 5\)"),
        (torch.zeros(0, 6), r"B ≥ 1.*got \(0, 6\)"),
        (torch.zeros(3, 2, 3), r"got \(3, 2, 3\).*flatten"),
        (torch.full((3, 6), 0.5), r"0 or 1; got 0\.5.*threshold"),
        (torch.full((3, 6), -1), r"0 or 1; got -1"),
        (torch.full((3, 6), float("nan")), r"0 or 1; got nan"),
    ],
)
def test_images_that_are_not_binary_or_have_another_shape_are_refused(x, said):
    vae = model()
    for use in (vae.encode, vae.log_likelihood):
        with pytest.raises(ValueError, match=said):
            use(x)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 2), (2, 3, 1)])
def test_codes_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"z must be \(S, 3, 2\)"):
        model().log_likelihood(pictures(3))(torch.zeros(shape, dtype=torch.float64))


@pytest.mark.parametrize("sizes_", [(0, 5, 2), (6, 0, 2), (6, 5, 0)])
def test_sizes_below_one_are_refused(sizes_):
    with pytest.raises(ValueError, match="at least 1"):
        MLPVAE(*sizes_, generator=generator(0))
