"""A prior over tables: rows to classify, invented by random networks, trees and clusters, without end."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from metakit.checks import Device, drawing, placed, real, whole, whole_span
from metakit.tasks.batch import TaskBatch
from metakit.tasks.steady import drawn_size

_CENTRES = 3  # at most so many a class
_TREES, _DEPTH = 6, 4  # at most
_LEVELS = 6
_KINDS = ("network", "trees", "features", "sum", "clusters")  # where the classes of a table come from
_BENDS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda h: h,
    torch.tanh,
    torch.relu,
    lambda h: (2 * h).sin(),
    torch.square,
    torch.abs,
    lambda h: (h > 0).to(h.dtype),
    lambda h: (-h.square()).exp(),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TablePrior:
    """Tables to learn from and rows of them to tell the class of, each invented in a way of its own.

    A random network of few causes is drawn, with noise in every node and most of its wires cut; the features are some
    of its nodes. The class of a row says which of some points its target lies nearest to,

        y = class of argmin_j (|t - c_j|^2 - b_j),    t = the row's target + noise,    c_j targets of random rows

    and the target is, in equal shares of the tables: other nodes of the same network; the sum of random trees over the
    features; some of the features themselves; a weighted sum of them; or none, and the rows come in clusters, some for
    each class. Features are then measured as people measure: bent, cut into levels whose codes have no order, useless,
    missing. Last they are made ``ready``, and filled up with zeros to as many columns as the greatest table has.

    Arguments:
        features: range of the features D of a table.
        ways: range of its classes N.
        context: support rows S, or a range of them, of which each batch has one number; every class has one at least.
        queries: query rows Q.
        noise: the greatest spread of what is added to targets, in units of their own; a table's is log-uniform down to
            a fiftieth of it.
        columns: columns of the batch; the most features of a table by default.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a range is not ``low <= high``, or there are fewer rows than classes, or columns than features.

    Example:
        >>> batch = TablePrior(context=(20, 60), queries=10).sample(3, seed=0)
        >>> batch.query_x.shape, batch.ways, 20 <= batch.support_x.shape[1] <= 60
        (torch.Size([3, 10, 16]), 10, True)

    Source: networks as priors of tables, Mueller et al. 2022, section 6, and Hollmann, Mueller, Eggensperger and Hutter
    2023, section 4; the kinds of targets and of measuring are ours.
    """

    features: Any = (2, 16)
    ways: Any = (2, 10)
    context: Any = (16, 256)
    queries: int = 128
    noise: float = 0.5
    columns: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("features", 1), ("ways", 2), ("context", 2)):
            object.__setattr__(self, name, whole_span(name, getattr(self, name), least=least))
        object.__setattr__(self, "queries", whole("queries", self.queries))
        object.__setattr__(self, "noise", real("noise", self.noise, least=0.0))
        columns = self.features[1] if self.columns is None else whole("columns", self.columns)
        object.__setattr__(self, "columns", columns)
        if columns < self.features[1]:
            raise ValueError(f"columns must be at least the most features, {self.features[1]}, got {columns}.")
        if self.context[0] < self.ways[1]:
            raise ValueError(
                f"context must have a row for each class, {self.ways[1]} at least, got {self.context[0]}. Ask for more "
                "rows or fewer ways."
            )

    @property
    def context_range(self) -> tuple[int, int]:
        """The smallest and the greatest context size."""
        low, high = self.context
        return low, high

    @property
    def query_rows(self) -> int:
        """Query rows of a task."""
        return self.queries

    @property
    def drawn_at_once(self) -> int:
        """Tasks to judge on at once: each batch has its own context size."""
        return 20

    def at(self, rows: int) -> TablePrior:
        """The same tables with contexts of just so many rows."""
        return dataclasses.replace(self, context=rows)

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T tables: ``support_x [T, S, columns]``, ``query_x [T, Q, columns]``, class numbers ``[T, S]``, ``[T, Q]``.

        Arguments and randomness as in ``Sinusoids.sample``.
        """
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        rows = drawn_size(*self.context_range, generator)
        draw = _Draw(n_tasks, rows + self.queries, generator, place)
        d, ways = draw.whole(*self.features), draw.fewer(*self.ways)
        x, y = _rows(draw, d, self.features[1], ways, self.ways[1], self.noise)
        x = _measured(draw, x)
        order = _one_of_each_first(draw, y, self.ways[1])
        x, y = _taken(x, order[..., None], 1), _taken(y, order, 1)
        x = ready(x, rows) * (torch.arange(x.shape[2], device=place) < d[:, None])[:, None]
        x = torch.nn.functional.pad(x, (0, (self.columns or 0) - x.shape[2]))
        return placed(TaskBatch.trusted(x[:, :rows], y[:, :rows], x[:, rows:], y[:, rows:], ways=self.ways[1]), target)


def ready(x: Tensor, context: int) -> Tensor:
    """Columns of tables ``[..., R, D]`` as a network reads them, by the mean and spread of the first rows of each.

        x <- sign(z) log(1 + |z|),    z = (x - mean) / spread;    0 where a cell is missing (NaN) or nothing varies

    Example:
        >>> ready(torch.tensor([[0.0], [2.0], [float("nan")], [9.0]]), 2)[:, 0]
        tensor([-0.6931,  0.6931,  0.0000,  2.1972])
    """
    known = x[..., :context, :]
    mean = known.nanmean(-2, keepdim=True)
    spread = (known - mean).square().nanmean(-2, keepdim=True).sqrt()
    z = ((x - mean) / spread.clamp(min=1e-30)).nan_to_num(0.0, posinf=0.0, neginf=0.0)
    z = torch.where(spread > 1e-6 * mean.abs(), z, 0.0)  # what is left of rounding is no spread
    return z.sign() * z.abs().log1p()


class _Draw:
    """Random numbers for T tables of R rows: shapes are what follows T."""

    def __init__(self, n_tasks: int, rows: int, generator: torch.Generator | None, device: torch.device | None) -> None:
        self.n_tasks, self.rows, self.generator, self.device = n_tasks, rows, generator, device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n_tasks, *shape, generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        share = torch.rand(self.n_tasks, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * share

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, (self.n_tasks, *shape), generator=self.generator, device=self.device)

    def fewer(self, low: int, high: int) -> Tensor:
        """Whole numbers, of which small ones are likelier: of 2 to 10 half of them are 2."""
        return (self.uniform(0, 1).square() * math.log((high + 1) / low)).exp().mul(low).long().clamp(max=high)

    def below(self, ends: Tensor, *shape: int) -> Tensor:
        """Whole numbers from 0 to below the end of each table ``[T]``."""
        return (self.uniform(0, 1, *shape) * ends.reshape(-1, *[1] * len(shape))).long()

    def chance(self, p: float | Tensor, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < p

    def order(self, n: int) -> Tensor:
        """An order of n things for each table, ``[T, n]``."""
        return self.uniform(0, 1, n).argsort(1)


def _rows(draw: _Draw, d: Tensor, width: int, ways: Tensor, most: int, noise: float) -> tuple[Tensor, Tensor]:
    """Features ``[T, R, width]``, of which the first D count, and class numbers ``[T, R]``; D and N are ``[T]``."""
    nodes = _network(draw)
    order = draw.order(nodes.shape[2])[:, None]
    x, beside = _taken(nodes, order[..., :width], 2), _taken(nodes, order[..., width : width + 3], 2)
    some = _taken(x, draw.below(d, 1, 3), 2)
    counts = torch.arange(width, device=d.device) < d[:, None]
    weighted = x @ (draw.normal(width, 3) * (draw.chance(draw.uniform(0.2, 1.0, 1), width) & counts)[..., None])
    targets = torch.stack([beside, _trees(draw, x, d), some, weighted])
    kind = draw.whole(0, len(_KINDS) - 1)
    target = _standard(targets[kind.clamp(max=3), torch.arange(len(kind), device=kind.device)])
    target = target + noise * draw.uniform(-3.9, 0.0, 1, 1).exp() * draw.normal(draw.rows, 3)
    target = target * (torch.arange(3, device=kind.device) <= draw.whole(0, 2, 1))[:, None]
    y = _nearest(draw, target, ways, most)
    grouped, groups = _clusters(draw, width, ways, most)
    clustered = kind == len(_KINDS) - 1
    y = torch.where(clustered[:, None], groups, y)
    wrong = draw.chance(draw.uniform(-0.1, 0.08, 1), draw.rows)
    y = torch.where(wrong, draw.below(ways, draw.rows), y)
    return torch.where(clustered[:, None, None], grouped, x), y


def _network(draw: _Draw, width: int = 16, layers: int = 2) -> Tensor:
    """All nodes of a random network for each row, each of mean 0 and spread 1: ``[T, R, (layers + 1) width]``.

    In each layer of it two nodes have the same one of the eight functions; wires are cut at random, so that no two
    networks are alike.
    """
    h = draw.normal(draw.rows, width)
    found = [torch.cat([torch.special.ndtr(h[..., ::2]) * 3.46 - 1.73, h[..., 1::2]], -1)]
    for _ in range(layers):
        wires = draw.normal(width, width) * draw.chance(draw.uniform(0.1, 0.5, 1, 1), width, width)
        h = _standard(found[-1] @ wires) + 0.5 * draw.normal(1, width)
        h = _standard(torch.cat([bend(part) for bend, part in zip(_BENDS, h.chunk(len(_BENDS), -1), strict=True)], -1))
        found.append(h + draw.uniform(-4.0, -1.0, 1, width).exp() * draw.normal(draw.rows, width))
    return torch.cat(found, -1)


def _trees(draw: _Draw, x: Tensor, d: Tensor) -> Tensor:
    """Sums of trees, each of which asks the same question in all nodes of one depth, ``[T, R, 3]``."""
    n = _TREES * _DEPTH
    values = _taken(x, draw.below(d, 1, n), 2)
    deep = (torch.arange(_DEPTH, device=x.device) < draw.whole(1, _DEPTH, _TREES)[..., None]).flatten(1)
    bits = (values > _taken(values, draw.whole(0, draw.rows - 1, 1, n), 1)) & deep[:, None]
    leaf = (bits.unflatten(-1, (_TREES, _DEPTH)) * 2 ** torch.arange(_DEPTH, device=x.device)).sum(-1)
    few = torch.arange(_TREES, device=x.device) < draw.whole(1, _TREES, 1)
    heights = draw.normal(2**_DEPTH, _TREES, 3) * few[:, None, :, None]
    return _taken(heights, leaf[..., None], 1).sum(2)


def _nearest(draw: _Draw, target: Tensor, ways: Tensor, most: int) -> Tensor:
    """The class of the nearest of some points, which are targets of rows; points have classes by turns, ``[T, R]``."""
    n = most * _CENTRES
    centres = target[:, :n] if draw.rows >= n else _taken(target, draw.whole(0, draw.rows - 1, n, 1), 1)
    far = centres.square().sum(-1) - draw.uniform(0.0, 1.5, 1) * draw.normal(n)
    number = torch.arange(n, device=target.device)
    far = far.masked_fill(number >= (ways * draw.whole(1, _CENTRES))[:, None], torch.inf)
    nearest = torch.baddbmm(far[:, None], target, centres.mT, alpha=-2).argmin(-1)
    return _taken(number % ways[:, None], nearest, 1)


def _clusters(draw: _Draw, d: int, ways: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Rows in clusters, some for each class: features ``[T, R, d]`` and class numbers ``[T, R]``."""
    n = most * _CENTRES
    number = torch.arange(n, device=ways.device)
    mass = (draw.uniform(0.0, 1.5, 1) * draw.normal(n)).exp()
    mass = mass * (number < (ways * draw.whole(1, _CENTRES))[:, None])
    of = torch.multinomial(mass, draw.rows, replacement=True, generator=draw.generator)
    apart = draw.uniform(0.3, 2.5, 1, 1) * draw.chance(draw.uniform(0.2, 1.0, 1, 1), 1, d)
    centres, spreads = apart * draw.normal(n, d), (0.4 * draw.normal(n, d)).exp()
    together = torch.eye(d, device=ways.device) + draw.uniform(0.0, 0.6, 1, 1) * draw.normal(d, d) / d**0.5
    noise = _taken(spreads, of[..., None], 1) * (draw.normal(draw.rows, d) @ together)
    return _standard(_taken(centres, of[..., None], 1) + noise), _taken(number % ways[:, None], of, 1)


def _measured(draw: _Draw, x: Tensor) -> Tensor:
    """Features as people measure them; a missing cell is NaN."""
    d = x.shape[2]
    useless = draw.chance(draw.uniform(-0.3, 0.3, 1, 1), 1, d)
    x = torch.where(useless, x.roll(1, 0) if len(x) > 1 else x.flip(1), x)
    bent = draw.whole(0, 5, 1, d)
    for i, way in enumerate((x.clamp(max=4).exp(), x.sign() * x.square(), x.tanh())):
        x = torch.where(bent == i, way, x)
    levels = x[:, : _LEVELS - 1].masked_fill(
        torch.arange(_LEVELS - 1, device=x.device)[:, None] >= draw.whole(1, _LEVELS - 1, 1, d), torch.inf
    )
    code = sum((x > levels[:, [i]]).to(torch.int64) for i in range(_LEVELS - 1))
    order = torch.rand(_LEVELS, device=x.device, generator=draw.generator).argsort()
    unordered = draw.chance(0.5, 1, d)
    cut = draw.chance(draw.uniform(-0.5, 0.7, 1, 1), 1, d)
    x = torch.where(cut, torch.where(unordered, order[code], code).to(x.dtype), x)
    return x.masked_fill(draw.chance(draw.uniform(-0.8, 0.15, 1, 1), draw.rows, d), torch.nan)


def _one_of_each_first(draw: _Draw, y: Tensor, most: int) -> Tensor:
    """An order of the rows in which one of each class comes first, ``[T, R]``; the others by chance."""
    members = y[..., None] == torch.arange(most, device=y.device)
    rank = _taken(members.cumsum(1), y[..., None], 2)[..., 0]
    return draw.uniform(0, 1, draw.rows).masked_fill(rank == 1, -1.0).argsort(1)


def _taken(x: Tensor, index: Tensor, dim: int) -> Tensor:
    """``x.take_along_dim(index, dim)`` for indices that are known to be there, at half the time."""
    sizes = [max(a, b) for a, b in zip(x.shape, index.shape, strict=True)]
    return x.expand(*sizes[:dim], -1, *sizes[dim + 1 :]).gather(dim, index.expand(*sizes[:dim], -1, *sizes[dim + 1 :]))


def _standard(x: Tensor) -> Tensor:
    """Columns of mean 0 and spread 1 over the rows; 0 where nothing varies."""
    x = x - x.mean(1, keepdim=True)
    return x / x.square().mean(1, keepdim=True).sqrt().clamp(min=1e-3)
