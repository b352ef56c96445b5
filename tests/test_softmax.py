"""savae_lite.softmax.log_total against the sums written out; the output layer has its oracles in test_twice."""

import pytest
import torch
from cases import generator
from torch.testing import assert_close

from savae_lite.softmax import log_total


def scores(*shape, seed=0, scale=1.0, dtype=torch.float64):
    return scale * torch.randn(*shape, generator=generator(seed), dtype=dtype)


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("scale", [1.0, 200.0])  # a product, and the sum as it stands
def test_the_total_is_that_of_the_sums_and_so_are_two_derivatives(rows, scale):
    base, shift = scores(4, 3, 7, scale=scale).requires_grad_(), scores(2, rows, 7, seed=1).requires_grad_()

    def written_out(base, shift):
        return (base + shift[:, :, None]).logsumexp(-1)

    def total(base, shift):
        return log_total(base)(shift)

    assert_close(total(base, shift), written_out(base, shift))
    assert torch.autograd.gradcheck(total, (base, shift))
    assert torch.autograd.gradgradcheck(total, (base, shift))


@pytest.mark.parametrize("scale", [3.0, 8.0, 60.0])
def test_the_total_survives_wide_scores_in_float32(scale):
    base, shift = scores(5, 3, 50, scale=scale, dtype=torch.float32), scores(2, 5, 50, seed=1, scale=scale).float()
    wanted = (base.double() + shift.double()[:, :, None]).logsumexp(-1)
    shift.requires_grad_()
    found = log_total(base)(shift)
    (slope,) = torch.autograd.grad(found.sum(), shift, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), shift)
    assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)
    assert curvature.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1000.0])
@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 4, 6), (4, 7)])
def test_a_shift_of_another_shape_is_refused(scale, shape):
    total = log_total(scores(4, 3, 7, scale=scale))
    with pytest.raises(ValueError, match=r"shift must be \(S, B, V\) with B = 4 or 1 and V = 7"):
        total(scores(*shape))


def test_scores_without_time_are_refused():
    with pytest.raises(ValueError, match=r"base must be \(B, T, V\); got \(4, 7\)"):
        log_total(scores(4, 7))
