"""A population in training: networks of many structures, with their own rates, as a few stacks of weights.

A stack holds networks of one depth and of similar widths, so that little of it is padding.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metakit.search.architecture import Architecture
from metakit.search.stack import Stack
from metakit.tasks.batch import TaskBatch
from metakit.threads import one_thread

# Numbers in a layer's activations of one stack: what a core's cache holds, and what keeps a GPU busy in 2 GiB.
_CACHED, _HELD = 1 << 19, 1 << 27
# A stack is cut in two where it saves so many numbers of padding: about what the calls of another stack cost.
_WORTH_A_STACK = 1 << 14
# And stacks train side by side where one holds so many numbers on average: smaller ones would wait for the interpreter.
_WORTH_A_THREAD = 1 << 17


class Population:
    """P networks that learn T tasks each by full-batch gradient descent, all at once.

        w[p, t] <- w[p, t] - lr[p] grad L(w[p, t]; support set t)

    Every network ends as if it had been trained alone, to rounding; one that diverges disturbs no other.

    Arguments:
        architectures: the P networks.
        batch: the T tasks, rows ``[D]``; the targets choose the loss, as in ``inner.task_loss``.
        seed: of the initial weights, which are the same for each task of a network.
        numbers: the candidates' numbers in the search, P of them; 0 to P - 1 when left out.
    """

    def __init__(
        self,
        architectures: Sequence[Architecture],
        batch: TaskBatch,
        *,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
    ) -> None:
        if batch.support_x.dim() != 3:
            raise ValueError(f"rows must be [D] vectors, got {list(batch.support_x.shape[2:])}. Flatten them first.")
        self.architectures, self.batch = tuple(architectures), batch
        self.inputs, self.outputs = batch.support_x.shape[-1], batch.ways or batch.support_y.shape[-1]
        numbers = range(len(self.architectures)) if numbers is None else numbers
        drawn = [
            a.weights(self.inputs, self.outputs, seed=seed, number=n)
            for a, n in zip(architectures, numbers, strict=True)
        ]
        rows = len(batch) * batch.support_x.shape[1]
        limit = _HELD if batch.support_x.is_cuda else _CACHED
        self._stacks = [
            Stack(members, [self.architectures[p] for p in members], [drawn[p] for p in members], batch)
            for members in _groups(self.architectures, self.inputs, rows, limit)
        ]

    def __len__(self) -> int:
        return sum(len(stack.members) for stack in self._stacks)

    def train(self, steps: int) -> None:
        """Take so many gradient steps with each network.

        The stacks have nothing to do with each other, so on a CPU large ones train side by side, a thread each.
        """
        held = sum(stack.w[0].shape[0] * stack.w[0].shape[2] for stack in self._stacks) * self.batch.support_x.shape[1]
        large = not self.batch.support_x.is_cuda and held > _WORTH_A_THREAD * len(self._stacks)
        threads = min(torch.get_num_threads(), len(self._stacks)) if large else 1
        if threads < 2:
            for stack in self._stacks:
                stack.train(self.batch, steps)
            return
        widest_first = sorted(self._stacks, key=lambda stack: -stack.w[0].numel())
        with one_thread(), concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda stack: stack.train(self.batch, steps), widest_first))

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of each network on each task, ``[P, T]``: infinite where it diverged or the network was dropped."""
        losses = x.new_full((len(self.architectures), len(self.batch)), math.inf)
        for stack in self._stacks:
            losses[stack.members] = stack.losses(x, y)
        return losses.nan_to_num(math.inf, math.inf)

    def keep(self, members: Sequence[int]) -> None:
        """Drop all networks but these."""
        chosen = set(members)
        for stack in self._stacks:
            stack.keep([i for i, member in enumerate(stack.members) if member in chosen])
        self._stacks = [stack for stack in self._stacks if stack.members]

    def weights(self, member: int, task: int = 0) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of each layer of one network, as trained on one task."""
        stack = next(stack for stack in self._stacks if member in stack.members)
        return stack.weights(stack.members.index(member), task)


def _groups(architectures: Sequence[Architecture], inputs: int, rows: int, limit: int) -> list[list[int]]:
    """Members of each stack: of one depth, of widths that waste little, small enough; ordered by activation."""
    groups: list[list[int]] = []
    depth, units = [len(a.hidden) for a in architectures], [sum(a.hidden) for a in architectures]
    order = sorted(range(len(architectures)), key=lambda p: (depth[p], units[p]))
    for _, same_depth in itertools.groupby(order, key=lambda p: depth[p]):
        for members in _cuts(list(same_depth), units, _WORTH_A_STACK // rows):
            widest = max([inputs, *(u for p in members for u in architectures[p].hidden)])
            size = max(1, limit // (widest * rows))
            groups += [members[start : start + size] for start in range(0, len(members), size)]
    return [sorted(members, key=lambda p: architectures[p].activation) for members in groups]


def _cuts(members: list[int], units: Sequence[int], worth: int) -> list[list[int]]:
    """Cut members, ascending in units, wherever that saves more than ``worth`` padded units."""
    widest = units[members[-1]]
    saved, at = max((i * (widest - units[members[i - 1]]), i) for i in range(1, len(members) + 1))
    if saved <= worth:
        return [members]
    return _cuts(members[:at], units, worth) + _cuts(members[at:], units, worth)
