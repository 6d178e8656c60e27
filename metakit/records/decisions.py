"""Points of some classes in a plane, and what classifiers make of the plane."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from metakit.checks import whole
from metakit.records.words import count


class Classifier(Protocol):
    """What scikit-learn calls a classifier."""

    classes_: Any

    def fit(self, X: Any, y: Any, /) -> Any: ...

    def predict_proba(self, X: Any, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class DecisionMap:
    """The chances that a classifier gives the classes all over a plane.

    Arguments:
        chances: ``[G, G, N]``, rows from the lowest second feature up.
        seconds: taken to learn and to answer.
    """

    chances: Tensor
    seconds: float


@dataclasses.dataclass(frozen=True)
class DecisionMaps:
    """Points of some classes in a plane, and what classifiers make of them.

    Arguments:
        x: the points, ``[n, 2]``.
        y: their class numbers, ``[n]``.
        classes: those there are, ascending, N of them.
        limits: of the plane, ``(x low, x high, y low, y high)``.
        maps: by the classifier's name; none while there are too few classes to tell apart.
    """

    x: Tensor
    y: Tensor
    classes: tuple[int, ...]
    limits: tuple[float, float, float, float]
    maps: Mapping[str, DecisionMap]

    @property
    def agreement(self) -> float:
        """Share of the plane where all name the same class."""
        named = torch.stack([each.chances.argmax(-1) for each in self.maps.values()])
        return float((named == named[0]).all(0).double().mean())

    def __str__(self) -> str:
        points = count(len(self.x), "point")
        if not self.maps:
            few = "no class" if not self.classes else "one class only"
            return f"{points}, of {few}: click points of at least two classes into the plane, or choose a preset."
        times = ", ".join(f"{name} {each.seconds:.2f} s" for name, each in self.maps.items())
        agree = f" They name the same class on {100 * self.agreement:.0f}% of the plane." if len(self.maps) > 1 else ""
        return f"{points} of {len(self.classes)} classes, learned and answered in: {times}.{agree}"


def decision_maps(
    classifiers: Mapping[str, Classifier],
    x: Any,
    y: Any,
    grid: int = 40,
    *,
    limits: tuple[float, float, float, float] | None = None,
) -> DecisionMaps:
    """Let classifiers learn some points of a plane, and ask them for the chances of the classes all over it.

    Arguments:
        classifiers: by name; each is fitted.
        x: the points, ``[n, 2]``.
        y: their class numbers, ``[n]``.
        grid: places along each side.
        limits: of the plane, ``(x low, x high, y low, y high)``; a tenth beyond the points when left out.

    Raises:
        ValueError: if the points are not of a plane, not finite, or of fewer than two classes.

    Example:
        >>> from sklearn.neighbors import KNeighborsClassifier
        >>> nearest = KNeighborsClassifier(1)
        >>> record = decision_maps({"nearest": nearest}, [[0.0, 0.0], [1.0, 1.0]], [0, 1], grid=10)
        >>> record.maps["nearest"].chances.shape, record.maps["nearest"].chances[0, 0].tolist()
        (torch.Size([10, 10, 2]), [1.0, 0.0])
    """
    x, y = torch.as_tensor(x, dtype=torch.float64), torch.as_tensor(y)
    if x.dim() != 2 or x.shape[1] != 2 or y.shape != x.shape[:1] or not bool(x.isfinite().all()):
        raise ValueError(f"x and y must be [n, 2], finite, and [n], got {list(x.shape)} and {list(y.shape)}.")
    classes = tuple(y.unique().tolist())
    if len(classes) < 2:
        raise ValueError(f"there must be points of at least two classes, got those of {len(classes)}. Add some.")
    if limits is None:
        (low, high), beyond = x.aminmax(dim=0), 0.1 * (x.amax(0) - x.amin(0)).clamp(min=1e-6)
        (left, bottom), (right, top) = (low - beyond).tolist(), (high + beyond).tolist()
        limits = (left, right, bottom, top)
    ends, grid = (limits[2:], limits[:2]), whole("grid", grid, least=2)
    plane = torch.cartesian_prod(*(torch.linspace(*pair, grid, dtype=torch.float64) for pair in ends)).flip(1)
    maps = {name: _map(each, x, y, plane, grid, classes) for name, each in classifiers.items()}
    return DecisionMaps(x.float(), y, classes, limits, maps)


def _map(
    classifier: Classifier, x: Tensor, y: Tensor, plane: Tensor, grid: int, classes: tuple[int, ...]
) -> DecisionMap:
    began = time.perf_counter()
    classifier.fit(x.numpy(), y.numpy())
    chances = classifier.predict_proba(plane.numpy())
    seconds = time.perf_counter() - began
    if list(classifier.classes_) != list(classes):
        raise ValueError(f"a classifier must know the classes {list(classes)}, got {list(classifier.classes_)}.")
    return DecisionMap(torch.as_tensor(chances, dtype=torch.float32).view(grid, grid, -1), seconds)
