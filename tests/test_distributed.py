"""A semi-amortized VAE under DistributedDataParallel: two processes with half the rows each are one with all."""

import pytest
import torch
from cases import noise, sentences, tiny_lstmvae
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

from savae_lite.adjoint import kept, recomputed
from savae_lite.savae import savae_loss

ADJOINTS = {"kept": kept, "recomputed": recomputed}


class Objective(nn.Module):
    """What DDP wraps: a module whose forward is the loss, so that its hooks see every parameter."""

    def __init__(self, adjoint):
        super().__init__()
        self.model, self.adjoint = tiny_lstmvae(), adjoint

    def forward(self, x, eps):
        """The mean loss of the rows x."""
        return savae_loss(self.model, x, eps, lr=0.2, momentum=0.5, clip=1.0, adjoint=self.adjoint).mean()


def batch():
    x = sentences(rows=4)
    return x, noise(4, 1, len(x), 2, seed=50)


def work(rank, name, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    objective = DistributedDataParallel(Objective(ADJOINTS[name]))
    x, eps = batch()
    half = slice(2 * rank, 2 * rank + 2)
    objective(x[half], eps[:, :, half]).backward()
    torch.save([p.grad for p in objective.parameters()], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ADJOINTS)
def test_two_processes_are_one(name, tmp_path):
    multiprocessing.spawn(work, (name, str(tmp_path)), nprocs=2)
    alone = Objective(ADJOINTS[name])
    alone(*batch()).backward()
    for rank in range(2):
        shared = torch.load(tmp_path / f"{rank}.pt")
        for mine, whole in zip(shared, (p.grad for p in alone.parameters()), strict=True):
            assert_close(mine, whole, rtol=1e-10, atol=1e-12)
