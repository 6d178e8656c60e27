"""The contract proved by a toy: two processes that each draw half of the tasks, their gradients combined."""

import pathlib
import subprocess
import sys

import torch
import torch.distributed as dist
from torch import nn

import metakit as mk

HALF, STEPS = 3, 15


class Share:
    """One rank's half of the tasks that a single process would draw."""

    def __init__(self, rank, ranks):
        self.rank, self.ranks = rank, ranks

    def sample(self, n_tasks, *, generator=None, device=None):
        batch = mk.tasks.Sinusoids(shots=5, queries=4).sample(self.ranks * n_tasks, generator=generator)
        return batch[self.rank * n_tasks : (self.rank + 1) * n_tasks].to(dtype=torch.float64)


def summed(found):
    """One collective an outer step: loss and gradients, flat."""
    flat = torch.cat([found.loss[None], *(grad.flatten() for grad in found.grads)])
    dist.all_reduce(flat)
    loss, *grads = (flat / dist.get_world_size()).split([1, *(grad.numel() for grad in found.grads)])
    shaped = [new.view_as(old) for new, old in zip(grads, found.grads, strict=True)]
    return mk.contracts.Estimate(loss[0], shaped, found.carry)


def train(rank, ranks, combine):
    torch.manual_seed(0)
    learner = mk.MAML(mk.models.MLP(1, [8], 1), steps=2).double()
    options = {"steps": STEPS, "meta_batch": 2 * HALF // ranks, "combine": combine, "chunk": 2, "progress": False}
    history = mk.fit(learner, Share(rank, ranks), **options)
    return nn.utils.parameters_to_vector(learner.parameters()).detach(), torch.tensor(history.loss)


def test_two_ranks_are_one_process_with_all_the_tasks(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    alone = train(0, 1, None)
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-12, atol=1e-12)


if __name__ == "__main__":
    folder, number = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=number, world_size=2)
    torch.save(train(number, 2, summed), folder / f"{number}.pt")
    dist.destroy_process_group()
