"""savae_lite.gaussian against torch.distributions."""

import pytest
import torch
from cases import noise, seeds, sizes, tensors
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, Normal, kl_divergence
from torch.testing import assert_close

from savae_lite.gaussian import entropy, kl, log_prior, log_prob, pack, reparameterize, unpack

lams = st.tuples(sizes, sizes).flatmap(lambda size: tensors(size[0], 2 * size[1]))
pairs = st.tuples(sizes, sizes).flatmap(lambda n: st.tuples(*[tensors(n[0], 2 * n[1])] * 2))


def normal(lam):
    """q(z; λ) as torch.distributions has it."""
    mean, logvar = lam.chunk(2, -1)
    return Independent(Normal(mean, (logvar / 2).exp()), 1)


@given(lams, seeds)
def test_log_prob_is_that_of_the_normal(lam, seed):
    z = noise(6, len(lam), lam.shape[-1] // 2, seed=seed)
    assert_close(log_prob(lam, z), normal(lam).log_prob(z))


@given(lams)
def test_the_density_integrates_to_one(lam):
    one = lam[:1, [0, lam.shape[-1] // 2]]
    mean, sd = normal(one).mean, normal(one).stddev
    z = mean + sd * torch.linspace(-12, 12, 4001, dtype=torch.float64)[:, None, None]
    assert_close(torch.trapezoid(log_prob(one, z)[:, 0].exp(), z[:, 0, 0]), torch.ones((), dtype=lam.dtype))


@given(lams)
def test_entropy_is_that_of_the_normal(lam):
    assert_close(entropy(lam), normal(lam).entropy())


@given(lams)
def test_kl_to_the_prior(lam):
    assert_close(kl(lam), kl_divergence(normal(lam), normal(torch.zeros_like(lam))))


@given(pairs)
def test_kl_between_two_normals_in_this_direction(pair):
    lam, other = pair
    assert_close(kl(lam, other), kl_divergence(normal(lam), normal(other)))


@given(lams)
def test_kl_of_a_normal_to_itself_is_zero(lam):
    assert_close(kl(lam, lam), torch.zeros(len(lam), dtype=lam.dtype), atol=1e-12, rtol=0)


@given(pairs)
def test_kl_is_never_negative(pair):
    assert (kl(*pair) >= -1e-12).all() and (kl(pair[0]) >= -1e-12).all()


@given(lams)
def test_kl_is_the_mean_of_the_log_ratio(lam):
    """Exact by quadrature: E over ±1 nodes integrates the quadratic log ratio."""
    size = lam.shape[-1] // 2
    nodes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * size).reshape(-1, 1, size)
    z = reparameterize(lam, nodes.expand(-1, len(lam), -1))
    assert_close((log_prob(lam, z) - log_prior(z)).mean(0), kl(lam))


def test_lam_zero_is_the_prior():
    lam, eps = torch.zeros(3, 4, dtype=torch.float64), noise(5, 3, 2)
    assert_close(reparameterize(lam, eps), eps, rtol=0, atol=0)
    assert_close(log_prior(eps), normal(lam).log_prob(eps))
    assert_close(log_prob(lam, eps), log_prior(eps))
    assert_close(kl(lam), torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)


@given(lams)
def test_reparameterize_maps_zero_to_the_mean_and_one_to_one_deviation_above(lam):
    eps = torch.zeros(1, len(lam), lam.shape[-1] // 2, dtype=lam.dtype)
    assert_close(reparameterize(lam, eps)[0], normal(lam).mean)
    assert_close(reparameterize(lam, eps + 1)[0], normal(lam).mean + normal(lam).stddev)
    assert_close(reparameterize(lam, eps - 3)[0], normal(lam).mean - 3 * normal(lam).stddev)


@given(lams)
def test_reparameterize_has_the_moments_of_q(lam):
    """The nodes ±1 have mean 0 and variance 1, so the affine map must give exactly μ and σ²."""
    nodes = torch.tensor([-1.0, 1.0], dtype=lam.dtype)[:, None, None].expand(2, len(lam), lam.shape[-1] // 2)
    z = reparameterize(lam, nodes)
    assert_close(z.mean(0), normal(lam).mean)
    assert_close(z.var(0, correction=0), normal(lam).variance)


@given(pairs)
def test_unpack_undoes_pack(pair):
    assert_close(unpack(pack(*pair)), pair, rtol=0, atol=0)


@given(lams)
def test_pack_undoes_unpack_and_the_mean_comes_first(lam):
    mean, logvar = unpack(lam)
    assert_close(pack(mean, logvar), lam, rtol=0, atol=0)
    assert_close(mean, lam[:, : lam.shape[-1] // 2], rtol=0, atol=0)


@pytest.mark.parametrize("function", [unpack, kl, entropy])
def test_an_odd_size_is_refused(function):
    with pytest.raises(ValueError, match=r"(?s)lam.*2D.*\(3, 5\)"):
        function(torch.zeros(3, 5))


@pytest.mark.parametrize("shape", [(3, 2), (4, 5, 2), (4, 3, 4), (3, 3, 1)])
def test_noise_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError) as error:
        reparameterize(torch.zeros(3, 4), torch.zeros(shape))
    assert "eps must be (S, 3, 2)" in str(error.value) and "(3, 4)" in str(error.value)
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("shape", [(3, 2), (4, 5, 2), (4, 3, 4), (3, 3, 1)])
def test_samples_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError) as error:
        log_prob(torch.zeros(3, 4), torch.zeros(shape))
    assert "z must be (S, 3, 2)" in str(error.value) and str(shape) in str(error.value)


def test_packing_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(3, 1\)"):
        pack(torch.zeros(3, 2), torch.zeros(3, 1))


def test_kl_between_two_shapes_is_refused():
    with pytest.raises(ValueError, match=r"\(3, 4\)"):
        kl(torch.zeros(3, 4), torch.zeros(3, 2))
