"""A population in training: networks of many structures, with their own rates, as a few stacks of weights.

Weights are stacked as ``[T P, in + 1, out]`` for T tasks and P networks, and activations lie feature first,
``[T P, units, rows]``: of the ways to write the products, the one that a CPU's matrix library is quickest at. A stack
holds networks of one depth and of similar widths. They differ by zeros: a unit that a network does not have starts with
zero weights and learns with rate zero, so it stays without a voice. The gradient is written out by hand, into memory
that is used again at each step.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.models import MLP
from metakit.tasks.batch import TaskBatch
from metakit.threads import one_thread

ACTIVATIONS = ("relu", "sigmoid", "tanh")  # Their derivatives are functions of their outputs.
# Numbers in a layer's activations of one stack: what a core's cache holds, and what keeps a GPU busy in 2 GiB.
_CACHED, _HELD = 1 << 19, 1 << 27
# A stack is cut in two where it saves so many numbers of padding: about what the calls of another stack cost.
_WORTH_A_STACK = 1 << 14
# And stacks train side by side where one holds so many numbers on average: smaller ones would wait for the interpreter.
_WORTH_A_THREAD = 1 << 17
_SEEDS = 1_000_003

Operation = Callable[[], object]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network to be trained: units of each hidden layer, activation, learning rate.

    Example:
        >>> Architecture.of({"hidden_layers": 2, "units": 8, "activation": "tanh"})
        Architecture(hidden=(8, 8), activation='tanh', learning_rate=0.01)
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    learning_rate: float = 0.01

    @classmethod
    def of(cls, candidate: Mapping[str, Any]) -> Architecture:
        """The architecture that a candidate names by ``hidden_layers``, ``units`` (or ``units_1``, ``units_2``, ... of
        each layer), ``activation`` and ``learning_rate``; one hidden layer, ReLU and 0.01 where it does not say.

        Raises:
            ValueError: if a name is not one of these, the units are missing, or a value is out of its range.
        """
        layers = itertools.takewhile(candidate.__contains__, (f"units_{i}" for i in itertools.count(1)))
        each = [candidate[name] for name in layers]
        known = {"hidden_layers", "units", "activation", "learning_rate", *(f"units_{i + 1}" for i in range(len(each)))}
        if unknown := [name for name in candidate if name not in known]:
            raise ValueError(
                f"a network has hidden_layers, units (or units_1, units_2, ...), activation and learning_rate; got "
                f"{unknown[0]!r}. For another kind of search use strategy.start(space), ask and tell."
            )
        if bool(each) == ("units" in candidate):
            raise ValueError(f"a network needs units, or units_1, units_2, ..., not both; got {', '.join(candidate)}.")
        depth = candidate.get("hidden_layers", len(each) or 1)
        if not isinstance(depth, int) or not 0 <= depth <= (len(each) or math.inf):
            rule = f"from 0 to {len(each)}, the layers that have units" if each else "a whole number of at least 0"
            raise ValueError(f"hidden_layers must be {rule}, got {depth!r}.")
        hidden = tuple(each[:depth]) if each else (candidate["units"],) * depth
        named = {name: candidate[name] for name in ("activation", "learning_rate") if name in candidate}
        return cls(hidden, **named)

    def __post_init__(self) -> None:
        for units in self.hidden:
            if not isinstance(units, int) or isinstance(units, bool) or units < 1:
                raise ValueError(f"units must be whole numbers of at least 1, got {units!r}.")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {self.activation!r}.")
        if not isinstance(self.learning_rate, int | float) or not 0 <= self.learning_rate < math.inf:
            raise ValueError(f"learning_rate must be a finite number of at least 0, got {self.learning_rate!r}.")

    def weights(self, inputs: int, outputs: int, *, seed: int, number: int) -> list[tuple[Tensor, Tensor]]:
        """The initial weights and biases of each layer, float32, of the candidate ``number`` of a search.

        Uniform in +-1/sqrt(fan in), as in ``torch.nn.Linear``. They depend on seed and number alone: not on the
        population, not on the device.
        """
        generator = torch.Generator().manual_seed((seed * _SEEDS + number) % (1 << 32))
        sizes = [inputs, *self.hidden, outputs]
        return [
            ((2 * drawn[:, :-1] - 1) / math.sqrt(i), (2 * drawn[:, -1] - 1) / math.sqrt(i))
            for i, drawn in ((i, torch.rand(o, i + 1, generator=generator)) for i, o in itertools.pairwise(sizes))
        ]

    def model(self, inputs: int, outputs: int, weights: Sequence[tuple[Tensor, Tensor]]) -> MLP:
        """The same network as an ordinary module with these weights."""
        made = MLP(inputs, self.hidden, outputs, activation=self.activation).to(weights[0][0].dtype)
        layers = [layer for name, layer in made.named_children() if name.startswith("linear")] + [made.head]
        with torch.no_grad():
            for layer, (weight, bias) in zip(layers, weights, strict=True):
                layer.get_parameter("weight").copy_(weight)
                layer.get_parameter("bias").copy_(bias)
        return made


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
            _Stack(members, [self.architectures[p] for p in members], [drawn[p] for p in members], batch)
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


class _Stack:
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
