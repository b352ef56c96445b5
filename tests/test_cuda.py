"""What the CPU computes in float64, a GPU computes too; skipped where there is none."""

import pytest
import torch
from cases import noise, sentences, tiny_lstmvae
from torch.testing import assert_close

from savae_lite.adjoint import difference, kept, recomputed
from savae_lite.savae import infer, savae_loss
from savae_lite.svi import last

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HOW = dict(lr=0.2, momentum=0.5)


def gradients(device, adjoint):
    model, x = tiny_lstmvae().to(device), sentences().to(device)
    eps = noise(4, 2, len(x), 2, seed=48).to(device)
    savae_loss(model, x, eps, adjoint=adjoint, clip=1.0, **HOW).mean().backward()
    return [p.grad.cpu() for p in model.parameters()]


@pytest.mark.parametrize("adjoint", [kept, recomputed, difference])
def test_gradients_are_those_of_the_cpu(adjoint):
    near = dict(rtol=1e-5, atol=1e-7) if adjoint is difference else dict(rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(gradients("cuda", adjoint), gradients("cpu", kept), strict=True):
        assert_close(mine, theirs, **near)


def test_refined_lam_is_that_of_the_cpu():
    model, x, eps = tiny_lstmvae(), sentences(), noise(4, 2, 3, 2, seed=48)
    expected = last(infer(model, x, eps, **HOW))
    assert_close(last(infer(model.cuda(), x.cuda(), eps.cuda(), **HOW)).cpu(), expected, rtol=1e-9, atol=1e-12)
