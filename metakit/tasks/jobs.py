"""Training jobs, what a learned optimiser learns from: each a network at its start, and data to train it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import Device, drawing, placed, real, span, whole, whole_span
from metakit.contracts import Loss, Weights
from metakit.data.labelled import LabelledData
from metakit.losses import task_loss, task_losses
from metakit.models import MLP
from metakit.nn.lending import Functional
from metakit.randomness import Dice
from metakit.tasks.tables import InventedTables, drawn_rows

_EPOCHS = 8  # orders of the rows that are drawn for a job; a longer training goes through them again


@dataclasses.dataclass(frozen=True)
class JobBatch:
    """T training jobs of one size: what ``TrainingJobs`` draws, and a ``contracts.Jobs`` for ``Unroll``.

    Arguments:
        network: the network of all of them; its own weights play no part.
        start: the weights that each begins with, ``{name: [T, ...]}``.
        x, y: the rows to train on, ``[T, R, ...]``, and their targets.
        query_x, query_y: other rows, to judge by.
        order: in which order the rows come, ``[T, epochs R]``.
        batch: rows in a step.
        loss: one number per job.
        length: how long they shall be trained, see ``contracts.Lasting``.
    """

    network: nn.Module
    start: Weights
    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor
    order: Tensor
    batch: int
    loss: Loss = task_loss
    length: float = 1.0

    def losses(self, weights: Weights, k: int | None) -> Tensor:
        """The loss of each job on the rows of step k, or on all it trains on, ``[T]``."""
        if k is None:
            return self._loss(weights, self.x, self.y)
        return self._loss(weights, *self._some(self.x, self.y, self._rows(self.order, k, self.batch)))

    def judged(self, weights: Weights, k: int | None) -> Tensor:
        """The loss of each job on as many of the other rows, those of step k, or on all of them, ``[T]``."""
        if k is None:
            return self._loss(weights, self.query_x, self.query_y)
        places = torch.arange(self.query_x.shape[1], device=self.device).expand(len(self), -1)
        return self._loss(weights, *self._some(self.query_x, self.query_y, self._rows(places, k, 2 * self.batch)))

    def __len__(self) -> int:
        return self.x.shape[0]

    def __getitem__(self, index: slice | Tensor) -> JobBatch:
        """Some of the jobs, still a batch."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str | None) -> JobBatch:
        return self._each(lambda tensor: tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.x.device

    def numel(self) -> int:
        """Numbers in the rows of a step."""
        return self.batch * len(self) * self.x[0, 0].numel()

    def _loss(self, weights: Weights, x: Tensor, y: Tensor) -> Tensor:
        return task_losses(self.loss, Functional(self.network)(weights, x), y)

    def _each(self, change: Callable[[Tensor], Tensor]) -> JobBatch:
        names = ("x", "y", "query_x", "query_y", "order")
        rows: dict[str, Any] = {name: change(getattr(self, name)) for name in names}
        return dataclasses.replace(self, start={name: change(w) for name, w in self.start.items()}, **rows)

    @staticmethod
    def _rows(order: Tensor, k: int, size: int) -> Tensor:
        """The places of step k, ``[T, size]``: the next ones in the order, from the front again at its end."""
        steps = torch.arange(k * size, (k + 1) * size, device=order.device)
        return order[:, steps % order.shape[1]]

    @staticmethod
    def _some(x: Tensor, y: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        jobs = torch.arange(len(x), device=x.device)[:, None]
        return x[jobs, rows], y[jobs, rows]


@dataclasses.dataclass(frozen=True)
class TrainingJobs:
    """A distribution of training jobs: data, width, depth, activation, rows in a step, scale.

    The T jobs of a batch share their sizes, so that they run stacked; the next batch has others. Each job has rows of
    its own, an order of them, and a start. Jobs that share their sizes are no independent witnesses of other sizes: for
    an interval over sizes too, judge on several batches and take it over their means.

    Arguments:
        data: where rows come from: ``LabelledData``, ``InventedTables``, or a list of such, of which each batch draws
            one; invented tables when left out.
        network: makes the network of a job from its inputs and outputs; an ``MLP`` when left out.
        width: range of the units of each hidden layer.
        depth: range of the hidden layers.
        activation: the MLP's, one of them.
        rows: range of the rows to train on.
        queries: other rows of each job, to judge by.
        batch: range of the rows in a step.
        scale: range of what initial weights are multiplied by.
        loss: as in ``MAML``; cross-entropy when left out.

    Raises:
        TypeError: if a number is not a number, or the data are no source of rows.
        ValueError: if a range is empty.

    Example:
        >>> jobs = TrainingJobs(width=16, depth=1, batch=32).sample(4, seed=0)
        >>> len(jobs), jobs.losses(jobs.start, 0).shape
        (4, torch.Size([4]))

    Source: training on many tasks so that a learned optimiser carries over, Metz et al. 2020, section 4.
    """

    data: Any = None
    _: dataclasses.KW_ONLY
    network: Callable[[int, int], nn.Module] | None = None
    width: int | tuple[int, int] = (16, 64)
    depth: int | tuple[int, int] = (1, 3)
    activation: str | Sequence[str] = ("relu", "tanh", "gelu")
    rows: int | tuple[int, int] = (200, 1000)
    queries: int = 128
    batch: int | tuple[int, int] = (16, 64)
    scale: tuple[float, float] = (0.7, 1.4)
    loss: Loss = task_loss

    def __post_init__(self) -> None:
        for name in ("width", "depth", "rows", "batch"):
            object.__setattr__(self, name, whole_span(name, getattr(self, name), least=0 if name == "depth" else 1))
        object.__setattr__(self, "queries", whole("queries", self.queries))
        object.__setattr__(self, "scale", span("scale", self.scale))
        real("scale", self.scale[0], above=0.0)
        sources = self.data if isinstance(self.data, list | tuple) else [self.data]
        sources = [InventedTables() if source is None else source for source in sources]
        for source in sources:
            if not isinstance(source, LabelledData | InventedTables):
                raise TypeError(f"data must be LabelledData, InventedTables, or a list of them, got {source!r}.")
        if not sources:
            raise ValueError("data is an empty list. Give it a source of rows, or leave it out.")
        object.__setattr__(self, "data", tuple(sources))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> JobBatch:
        """T jobs of one size; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, drawn_on, target = drawing(n_tasks, generator, seed, device)
        place = drawn_on or torch.device("cpu")

        def number(ends: Any) -> int:
            low, high = ends
            return int(torch.randint(low, high + 1, (), generator=generator, device=place))

        source = self.data[number((0, len(self.data) - 1))]
        wanted = number(self.rows)
        x, y, ways = drawn_rows(source, n_tasks, wanted + self.queries, generator, place)
        rows = x.shape[1] - min(self.queries, x.shape[1] // 3)
        make = self._maker(number)
        with Dice(number((0, 2**31))):
            networks = [make(x[0, 0].numel() if self.network is None else x.shape[2], ways) for _ in range(n_tasks)]
        named = [dict(network.named_parameters()) for network in networks]
        low, high = self.scale
        scale = low * (high / low) ** torch.rand(n_tasks, generator=generator, device=place)
        start = {}
        for name in named[0]:
            w = torch.stack([one[name].detach() for one in named]).to(place)
            start[name] = w * scale.view(-1, *[1] * (w.dim() - 1))
        orders = torch.rand(n_tasks, _EPOCHS, rows, generator=generator, device=place).argsort(-1).flatten(1)
        if self.network is None:
            x = x.flatten(2)
        sides = x[:, :rows], y[:, :rows], x[:, rows:], y[:, rows:]
        size, length = min(number(self.batch), rows), float(torch.rand((), generator=generator, device=place))
        batch = JobBatch(networks[0].to(place), start, *sides, orders, size, self.loss, length)
        return placed(batch, target)

    def _maker(self, number: Callable[[Any], int]) -> Callable[[int, int], nn.Module]:
        """What makes a network of the sizes that this batch has."""
        if self.network is not None:
            return self.network
        kinds = [self.activation] if isinstance(self.activation, str) else list(self.activation)
        hidden = [number(self.width)] * number(self.depth)
        kind = kinds[number((0, len(kinds) - 1))]
        return lambda inputs, outputs: MLP(inputs, hidden, outputs, activation=kind)


@dataclasses.dataclass(frozen=True)
class QuadraticBatch:
    """T quadratics ``f(w) = |A w - y|^2``, jobs without rows; ``noise`` is the spread of what is added to a gradient.

    Arguments:
        matrix, target: A ``[T, D, D]`` and y ``[T, D]``.
        start: where each begins, ``{"w": [T, D]}``.
        disturbance: what y is moved by at each step, ``[T, steps, D]``; ``None`` without noise.
        length: how long they shall be trained, see ``contracts.Lasting``.
    """

    matrix: Tensor
    target: Tensor
    start: Weights
    disturbance: Tensor | None = None
    length: float = 1.0

    def losses(self, weights: Weights, k: int | None) -> Tensor:
        target = self.target
        if k is not None and self.disturbance is not None:
            target = target + self.disturbance[:, k % self.disturbance.shape[1]]
        return ((self.matrix @ weights["w"][..., None])[..., 0] - target).square().sum(1)

    def judged(self, weights: Weights, k: int | None) -> Tensor:
        return self.losses(weights, None)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, index: slice | Tensor) -> QuadraticBatch:
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device | str | None) -> QuadraticBatch:
        return self._each(lambda tensor: tensor.to(device))

    @property
    def device(self) -> torch.device:
        return self.target.device

    def numel(self) -> int:
        return self.matrix.numel()

    def minimum(self) -> Weights:
        """Where each quadratic is least."""
        return {"w": torch.linalg.solve(self.matrix, self.target)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> QuadraticBatch:
        moved = None if self.disturbance is None else change(self.disturbance)
        start = {"w": change(self.start["w"])}
        return QuadraticBatch(change(self.matrix), change(self.target), start, moved, self.length)


@dataclasses.dataclass(frozen=True)
class Quadratics:
    """The classic jobs of a learned optimiser: ``f(w) = |A w - y|^2``, entries of A and y standard normal.

    Arguments:
        dimensions: numbers D in w.
        condition: the ratio of the largest to the smallest singular value of A; as it is drawn when left out.
        noise: standard deviation of what is added to y anew at each step.
        start: standard deviation of the first w; 0 begins at the origin.

    Example:
        >>> batch = Quadratics(dimensions=3).sample(4, seed=0)
        >>> bool((batch.losses(batch.minimum(), 0) < 1e-6).all())
        True

    Source: Andrychowicz et al. 2016, section 3.1.
    """

    dimensions: int = 10
    _: dataclasses.KW_ONLY
    condition: float | None = None
    noise: float = 0.0
    start: float = 0.0

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> QuadraticBatch:
        """T quadratics; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, device=place)

        d = self.dimensions
        matrix, y = normal(d, d), normal(d)
        if self.condition is not None:
            u, _, vh = torch.linalg.svd(matrix)
            matrix = u * torch.logspace(0, -1, d, self.condition, device=place).mul(d**0.5) @ vh
        noise = self.noise * normal(256, d) if self.noise else None
        length = float(torch.rand((), generator=generator, device=place))
        batch = QuadraticBatch(matrix, y, {"w": self.start * normal(d)}, noise, length)
        return placed(batch, target)
