"""A search space: named dimensions, each a choice among values or a range of numbers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.checks import as_generator, span, whole

Candidate = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values without an order; value k of n owns the k-th of n equal cells of [0, 1)."""

    values: tuple[Hashable, ...]

    @property
    def count(self) -> int:
        """Number of values."""
        return len(self.values)

    def value(self, unit: float) -> Any:
        """The value whose cell holds ``unit``."""
        return self.values[min(int(unit * self.count), self.count - 1)]

    def unit(self, value: Any) -> float:
        """The middle of the value's cell."""
        return (self.values.index(value) + 0.5) / self.count

    def holds(self, value: Any) -> bool:
        """Whether it is one of the values."""
        return isinstance(value, Hashable) and value in self.values

    def neighbours(self, value: Any) -> list[Any]:
        """All other values."""
        return [other for other in self.values if other != value]

    def __str__(self) -> str:
        return "one of " + ", ".join(repr(value) for value in self.values)


@dataclasses.dataclass(frozen=True)
class Number:
    """A number from ``low`` to ``high``, both included: whole or real, on a plain or a logarithmic scale."""

    low: float
    high: float
    whole: bool
    log: bool = False

    @property
    def count(self) -> float:
        """Number of values; infinite for real numbers."""
        return self.high - self.low + 1 if self.whole else 1 if self.low == self.high else math.inf

    def value(self, unit: float) -> Any:
        """The number at ``unit`` of the way from low to high."""
        low, high = self._ends
        at = low + unit * (high - low)
        at = math.exp(at) if self.log else at
        number = math.floor(at) if self.whole else at  # a whole number owns the cell up to the next one
        return min(max(number, self.low), self.high)

    def unit(self, value: Any) -> float:
        """Where the number lies between low, 0, and high, 1; of a whole number, the middle of its cell."""
        low, high = self._ends
        if low == high:
            return 0.5
        at = [math.log(v) if self.log else v for v in ((value, value + 1) if self.whole else (value,))]
        return (sum(at) / len(at) - low) / (high - low)

    def holds(self, value: Any) -> bool:
        """Whether it is such a number, inside the range."""
        kind = int if self.whole else (int, float)
        return isinstance(value, kind) and not isinstance(value, bool) and self.low <= value <= self.high

    def neighbours(self, value: Any) -> list[Any]:
        """One step down and one up: 1 for whole numbers, a tenth of the range for real ones."""
        if self.whole:
            return [n for n in (value - 1, value + 1) if self.low <= n <= self.high]
        ends = (max(self.unit(value) - 0.1, 0.0), min(self.unit(value) + 0.1, 1.0))
        return [n for n in map(self.value, ends) if n != value]

    @property
    def _ends(self) -> tuple[float, float]:
        high = self.high + 1 if self.whole else self.high
        return (math.log(self.low), math.log(high)) if self.log else (self.low, high)

    def __str__(self) -> str:
        return f"a {'whole' if self.whole else 'real'} number from {self.low:g} to {self.high:g}"


@dataclasses.dataclass(frozen=True)
class PerLayer:
    """The same dimension for each of several layers; ``Space`` numbers their names from 1."""

    dimension: Choice | Number
    layers: int


def log(low: float, high: float) -> Number:
    """A range on a logarithmic scale: of whole numbers between two ints, else of real numbers.

    Raises:
        ValueError: if ``low`` is not positive or the ends are in the wrong order.

    Example:
        >>> round(log(1e-3, 1e-1).value(0.5), 6)
        0.01
    """
    made = _dimension("log", (low, high))
    if not isinstance(made, Number) or made.low <= 0:
        raise ValueError(f"log must have 0 < low < high, got ({low!r}, {high!r}). Raise the low end above 0.")
    return dataclasses.replace(made, log=True)


def per_layer(values: Any, *, layers: int) -> PerLayer:
    """A dimension for each of ``layers`` layers: ``units=per_layer((1, 64), layers=2)`` is ``units_1`` and ``units_2``.

    Raises:
        ValueError: if ``layers`` is not a positive whole number, or the values are no dimension.

    Example:
        >>> Space(units=per_layer((1, 64), layers=2)).names
        ('units_1', 'units_2')
    """
    return PerLayer(_dimension("per_layer", values), whole("layers", layers))


class Space:
    """What a search chooses from: named dimensions, of networks or of anything else.

    Arguments:
        dimensions: by name; a pair of ints is a range of whole numbers with both ends, a pair of floats a range of real
            ones, ``log(low, high)`` a range on a logarithmic scale, any other tuple a choice among its values, and
            ``per_layer(...)`` one dimension for each layer.

    Raises:
        ValueError: if there is no dimension, a range is upside down, or values repeat.
        TypeError: if a dimension is not a tuple.

    Example:
        >>> space = Space(units=(1, 64), activation=("relu", "tanh"))
        >>> space.size, space.sample(1, seed=0)
        (128, [{'units': 63, 'activation': 'tanh'}])
    """

    def __init__(self, **dimensions: Any) -> None:
        made: dict[str, Choice | Number] = {}
        for name, given in dimensions.items():
            if isinstance(given, PerLayer):
                each = {f"{name}_{layer}": given.dimension for layer in range(1, given.layers + 1)}
            else:
                each = {name: _dimension(name, given)}
            if made.keys() & each.keys():
                raise ValueError(f"each dimension must have a name of its own, got {next(iter(each))!r} twice.")
            made |= each
        if not made:
            raise ValueError("a space must have a dimension, got none. Add one: Space(units=(1, 64)).")
        self.dimensions = made

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the dimensions, in order."""
        return tuple(self.dimensions)

    @property
    def size(self) -> float:
        """Number of different candidates; infinite if a dimension is real."""
        return math.prod(dimension.count for dimension in self.dimensions.values())

    def sample(self, n: int, *, generator: torch.Generator | None = None, seed: int | None = None) -> list[Candidate]:
        """Draw n candidates, each dimension uniformly on its scale; repeats are possible."""
        points = (whole("n", n, least=0), len(self.names))
        return self.decode(torch.rand(points, generator=as_generator(generator, seed, None), dtype=torch.float64))

    def encode(self, candidates: Sequence[Mapping[str, Any]]) -> Tensor:
        """Candidates as points of the unit cube, ``[n, dimensions]``."""
        return torch.tensor(
            [[d.unit(self.check(c)[name]) for name, d in self.dimensions.items()] for c in candidates],
            dtype=torch.float64,
        ).reshape(len(candidates), len(self.names))

    def decode(self, points: Tensor) -> list[Candidate]:
        """The candidates at points of the unit cube, ``[n, dimensions]``; the inverse of ``encode``."""
        if points.dim() != 2 or points.shape[1] != len(self.names) or not ((points >= 0) & (points <= 1)).all():
            raise ValueError(f"points must be [n, {len(self.names)}] numbers in [0, 1], got {list(points.shape)}.")
        return [
            {name: d.value(u) for (name, d), u in zip(self.dimensions.items(), row, strict=True)}
            for row in points.tolist()
        ]

    def neighbours(self, candidate: Mapping[str, Any]) -> list[Candidate]:
        """The candidates that differ in one dimension, by another choice or by one step of a number."""
        candidate = self.check(candidate)
        return [
            {**candidate, name: value}
            for name, dimension in self.dimensions.items()
            for value in dimension.neighbours(candidate[name])
        ]

    def __iter__(self) -> Iterator[Candidate]:
        """Every candidate of a finite space."""
        if not math.isfinite(self.size):
            raise ValueError("a space with a real dimension has no end. Draw from it: space.sample(n, seed=0).")
        values = [
            d.values if isinstance(d, Choice) else (range(int(d.low), int(d.high) + 1) if d.whole else (d.low,))
            for d in self.dimensions.values()
        ]
        for each in itertools.product(*values):
            yield dict(zip(self.names, each, strict=True))

    def check(self, candidate: Mapping[str, Any]) -> Candidate:
        """The candidate with its dimensions in order, if it is one of this space."""
        if not isinstance(candidate, Mapping):
            raise TypeError(f"a candidate must map names to values, got {type(candidate).__name__}.")
        if candidate.keys() != self.dimensions.keys():
            raise ValueError(
                f"a candidate must have the dimensions {', '.join(self.names)}; got {', '.join(candidate)}."
            )
        for name, dimension in self.dimensions.items():
            if not dimension.holds(candidate[name]):
                raise ValueError(f"{name} must be {dimension}, got {candidate[name]!r}.")
        return {name: candidate[name] for name in self.dimensions}

    def key(self, candidate: Mapping[str, Any]) -> tuple[Hashable, ...]:
        """The candidate's values alone: equal for equal candidates, and hashable."""
        return tuple(candidate[name] for name in self.dimensions)

    def __repr__(self) -> str:
        return "Space(" + "; ".join(f"{name}: {dimension}" for name, dimension in self.dimensions.items()) + ")"


def _dimension(name: str, given: Any) -> Choice | Number:
    if isinstance(given, Choice | Number):
        return given
    if not isinstance(given, tuple | list):
        raise TypeError(f"dimension {name!r} must be a tuple, got {given!r}. For one value v, give (v,).")
    if len(given) == 2 and all(isinstance(value, numbers.Real) and not isinstance(value, bool) for value in given):
        low, high = span(f"dimension {name!r}", given)
        if all(isinstance(value, numbers.Integral) for value in given):
            return Number(int(low), int(high), whole=True)
        return Number(low, high, whole=False)
    if not given or not all(isinstance(v, Hashable) for v in given) or len(set(given)) != len(given):
        raise ValueError(f"dimension {name!r} must hold different, hashable values, at least one; got {given!r}.")
    return Choice(tuple(given))
