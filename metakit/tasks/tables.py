"""Rows to train on: invented tables without end, and the rows of labelled data."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metakit.checks import span, whole_span
from metakit.data.labelled import LabelledData, as_real


@dataclasses.dataclass(frozen=True)
class InventedTables:
    """Tables of rows with a class each, invented from a random network: a prior over what people classify.

        x = z A + noise,  z ~ N(0, 1),    class = argmax_n (V tanh(U z) + noise)

    A spreads few directions, at most 12, over the features, so that features go together; they are then standardised.
    Of three tables, two have classes that come in clusters instead, two for each.

    Arguments:
        features: range of the features D of a table.
        ways: range of its classes N.
        noise: range of the spread of what is added to the class scores, in units of their own spread.

    Example:
        >>> x, y, ways = drawn_rows(InventedTables(features=5, ways=3), 4, 100, None, torch.device("cpu"))
        >>> x.shape, y.shape, ways
        (torch.Size([4, 100, 5]), torch.Size([4, 100]), 3)
    """

    features: int | tuple[int, int] = (8, 64)
    ways: int | tuple[int, int] = (2, 10)
    noise: tuple[float, float] = (0.0, 0.3)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", whole_span("features", self.features))
        object.__setattr__(self, "ways", whole_span("ways", self.ways, least=2))
        object.__setattr__(self, "noise", span("noise", self.noise))

    def draw(
        self, n_tasks: int, rows: int, generator: torch.Generator | None, device: torch.device
    ) -> tuple[Tensor, Tensor, int]:
        """T tables of one size: ``x [T, rows, D]``, class numbers ``[T, rows]``, and N."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(n_tasks, *shape, generator=generator, device=device)

        def number(ends: Any) -> int:
            return int(torch.randint(ends[0], ends[1] + 1, (), generator=generator, device=device))

        d, ways = number(self.features), number(self.ways)
        inside, clustered = number((2, min(d, 12))), number((0, 2)) > 0
        z = normal(rows, inside)
        if clustered:
            centres = normal(2 * ways, inside) * (1.5 + 1.5 * torch.rand((), generator=generator, device=device))
            of = torch.randint(2 * ways, (n_tasks, rows), generator=generator, device=device)
            z, y = z + centres.take_along_dim(of[..., None], 1), of % ways
        else:
            units = number((4, 16))
            scores = torch.tanh(z @ normal(inside, units) / inside**0.5) @ normal(units, ways)
            low, high = self.noise
            share = low + (high - low) * float(torch.rand((), generator=generator, device=device))
            y = (scores + share * scores.std() * normal(rows, ways)).argmax(-1)
        x = z @ normal(inside, d) + 0.3 * normal(rows, d)
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)
        return x, y, ways


def drawn_rows(
    source: LabelledData | InventedTables,
    n_tasks: int,
    rows: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> tuple[Tensor, Tensor, int]:
    """T sets of at most so many rows of a source, ``[T, R, ...]``, their class numbers ``[T, R]``, and N.

    Labelled data of more than ten classes give each set ten of them.
    """
    if isinstance(source, InventedTables):
        return source.draw(n_tasks, rows, generator, device)
    ways, counts, pool = min(len(source), 10), source.counts, source.rows
    first, sets = counts.cumsum(0) - counts, []

    def order(n: int) -> Tensor:
        return torch.randperm(n, generator=generator, device=device).to(source.device)

    for _ in range(n_tasks):
        chosen = order(len(source))[:ways]
        places = torch.cat([first[c] + torch.arange(int(counts[c]), device=source.device) for c in chosen.tolist()])
        numbers = torch.arange(ways, device=source.device).repeat_interleave(counts[chosen])
        taken = order(len(places))[:rows]
        sets.append((places[taken], numbers[taken]))
    fewest = min(len(places) for places, _ in sets)
    x = torch.stack([as_real(pool[places[:fewest]]) for places, _ in sets])
    return x, torch.stack([numbers[:fewest] for _, numbers in sets]), ways
