"""Networks of one depth, trained as one stack of weights.

Weights are stacked as ``[T P, in + 1, out]`` for T tasks and P networks, and activations lie feature first,
``[T P, units, rows]``: of the ways to write the products, the one that a CPU's matrix library is quickest at. Networks
differ by zeros: a unit that a network does not have starts with zero weights and learns with rate zero, so it stays
without a voice. The gradient is written out by hand, into memory that is used again at each step.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.search.architecture import Architecture
from metakit.tasks.batch import TaskBatch

Operation = Callable[[], object]


class Stack:
    """Networks of one depth, padded to the widest of them.

    The last unit of each hidden layer is the constant 1, whose outgoing weights are the biases of the next layer; its
    own bias is so large (``_ONE``) that the activation gives 1 exactly, and its rate is zero.
    """

    def __init__(
        self,
        members: list[int],
        architectures: Sequence[Architecture],
        drawn: Sequence[Sequence[tuple[Tensor, Tensor]]],
        batch: TaskBatch,
    ) -> None:
        self.members, self.architectures, self.tasks = members, list(architectures), len(batch)
        self.w: list[Tensor] = []
        self.rates: list[Tensor] = []
        for pairs in zip(*drawn, strict=True):  # layer by layer
            last = len(self.w) == len(drawn[0]) - 1
            fan_in, fan_out = max(w.shape[1] for w, _ in pairs), max(len(b) for _, b in pairs)
            weight, rate = torch.zeros(2, len(members), fan_in + 1, fan_out + (not last), dtype=batch.support_x.dtype)
            for p, ((w, b), architecture) in enumerate(zip(pairs, architectures, strict=True)):
                out, into = w.shape
                weight[p, :into, :out], weight[p, -1, :out] = w.mT, b
                rate[p, :into, :out] = rate[p, -1, :out] = architecture.learning_rate
                if not last:
                    weight[p, -1, -1] = _ONE[architecture.activation]
            self.w.append(weight.to(batch.device).repeat(self.tasks, 1, 1))
            self.rates.append(rate.to(batch.device).repeat(self.tasks, 1, 1))

    def train(self, batch: TaskBatch, steps: int) -> None:
        """Gradient steps, in place."""
        operations = self._step(batch)
        for _ in range(steps):
            for operation in operations:
                operation()

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Loss of each member on each task, ``[members, T]``."""
        a = [self._columns(x), *self._buffers(x.shape[1])]
        for operation in self._forward(a):
            operation()
        scores = a[-1].unflatten(0, (self.tasks, -1)).mT  # [T, members, rows, outputs]
        targets = y[:, None].expand(-1, scores.shape[1], *y.shape[1:])
        if y.is_floating_point():
            return (scores - targets).square().flatten(2).mean(2).mT
        rows = F.cross_entropy(scores.flatten(0, 2), targets.flatten(), reduction="none")
        return rows.view(scores.shape[:3]).mean(2).mT

    def keep(self, chosen: list[int]) -> None:
        """Drop all members but these."""
        self.members = [self.members[i] for i in chosen]
        self.architectures = [self.architectures[i] for i in chosen]
        for tensors in (self.w, self.rates):
            tensors[:] = [t.unflatten(0, (self.tasks, -1))[:, chosen].flatten(0, 1) for t in tensors]

    def weights(self, i: int, task: int) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases of each layer of one member on one task, without the padding."""
        own = [w.unflatten(0, (self.tasks, -1))[task, i].clone() for w in self.w]
        hidden = self.architectures[i].hidden
        outs, ins = [*hidden, own[-1].shape[1]], [len(own[0]) - 1, *hidden]
        return [(w[:into, :out].mT, w[-1, :out]) for w, out, into in zip(own, outs, ins, strict=True)]

    def _buffers(self, rows: int) -> list[Tensor]:
        return [w.new_empty(len(w), w.shape[2], rows) for w in self.w]

    def _columns(self, x: Tensor) -> Tensor:
        """Rows ``[T, rows, D]`` as columns with a constant 1 below, for each member: ``[T P, D + 1, rows]``."""
        columns = F.pad(x, (0, 1), value=1.0).mT.contiguous()
        return columns[:, None].expand(-1, len(self.members), -1, -1).flatten(0, 1)  # of one task: without a copy

    def _step(self, batch: TaskBatch) -> list[Operation]:
        """The operations of a step, on views that are made once: made anew, they would cost as much as a product."""
        rows = batch.support_x.shape[1]
        x, y = self._columns(batch.support_x), _targets(batch.support_y, self.w[-1].shape[2])
        a, d = [x, *self._buffers(rows)], self._buffers(rows)
        operations = self._forward(a) + self._error(a[-1], y, batch.support_y.is_floating_point(), out=d[-1])
        # The loss is a mean, over rows and, of squares, over outputs too.
        mean = 2 / (rows * y.shape[1]) if batch.support_y.is_floating_point() else 1 / rows
        for layer in range(len(self.w) - 1, -1, -1):
            w, gradient = self.w[layer], torch.empty_like(self.w[layer])
            operations.append(functools.partial(torch.bmm, a[layer], d[layer].mT, out=gradient))
            if layer:
                operations += [_back(w, d[layer], out=d[layer - 1]), *self._derive(d[layer - 1], a[layer])]
            operations.append(functools.partial(w.addcmul_, gradient, mean * self.rates[layer], value=-1))
        return operations

    def _forward(self, a: list[Tensor]) -> list[Operation]:
        """Fill in the activations of each layer from those of the one before."""
        operations: list[Operation] = []
        for layer, w in enumerate(self.w):
            operations.append(functools.partial(torch.bmm, w.mT, a[layer], out=a[layer + 1]))
            if layer < len(self.w) - 1:
                parts = self._by_activation(a[layer + 1])
                operations += [functools.partial(_APPLY[function], members) for function, members in parts]
        return operations

    def _error(self, outputs: Tensor, y: Tensor, real: bool, *, out: Tensor) -> list[Operation]:
        """Outputs (of classes: their probabilities) less targets: the gradient of the loss, but for the mean."""
        answers, out, y = outputs.unflatten(0, (self.tasks, -1)), out.unflatten(0, (self.tasks, -1)), y[:, None]
        if real:
            return [functools.partial(torch.sub, answers, y, out=out)]
        return [functools.partial(torch.softmax, answers, 2, out=out), functools.partial(out.sub_, y)]

    def _derive(self, d: Tensor, a: Tensor) -> list[Operation]:
        """Multiply by the derivative of each member's activation, a function of its output."""
        pairs = zip(self._by_activation(d), self._by_activation(a), strict=True)
        return [functools.partial(_DERIVE[function], upstream, output) for (function, upstream), (_, output) in pairs]

    def _by_activation(self, a: Tensor) -> list[tuple[str, Tensor]]:
        """The members of each activation, which lie beside each other: ``[T, members, units, rows]``."""
        parts, start, tasks = [], 0, a.unflatten(0, (self.tasks, -1))
        for function, same in itertools.groupby(architecture.activation for architecture in self.architectures):
            size = len(list(same))
            parts.append((function, tasks[:, start : start + size]))
            start += size
        return parts


_ONE = {"relu": 1.0, "sigmoid": 50.0, "tanh": 25.0}
_APPLY = {"relu": torch.relu_, "sigmoid": torch.sigmoid_, "tanh": torch.tanh_}
_DERIVE = {
    "relu": lambda d, a: torch.ops.aten.threshold_backward.grad_input(d, a, 0, grad_input=d),
    "sigmoid": lambda d, a: torch.ops.aten.sigmoid_backward.grad_input(d, a, grad_input=d),
    "tanh": lambda d, a: torch.ops.aten.tanh_backward.grad_input(d, a, grad_input=d),
}


def _back(w: Tensor, d: Tensor, *, out: Tensor) -> Operation:
    """``W d`` for each network; with one output it is a product of each pair, quicker without a matrix library."""
    return functools.partial(torch.mul if w.shape[2] == 1 else torch.bmm, w, d, out=out)


def _targets(y: Tensor, outputs: int) -> Tensor:
    """Targets as columns, ``[T, outputs, rows]``: real ones, or the one-hot code of a class."""
    return (y if y.is_floating_point() else F.one_hot(y, outputs)).mT.contiguous()
