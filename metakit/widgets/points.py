"""A picture whose points the reader adds, moves and removes with mouse, pen, finger or keys."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import anywidget
import traitlets

from metakit.widgets.explorer import Explorer

_HERE = pathlib.Path(__file__).resolve().parent


class Points(anywidget.AnyWidget):
    """A picture and the points on it; anywidget asks for a subclass. ``value`` is what the reader changes.

    Arguments:
        value: the points, lists of x and y, and of the label that new ones get if there is one.
        picture: PNG.
        boxes: where in the picture the axes lie, ``[left, top, width, height]`` each, in shares of the picture.
        limits: of the axes, ``[x low, x high, y low, y high]``.
        label: of new points; ``None`` for points without.
        most: as many points may be added.
        alt: what the picture shows, in a sentence.
        answered: changes of the value that the explorer has dealt with.

    Example:
        >>> points = Points(value=[[0.0, 1.0]], limits=[-2.0, 2.0, -3.0, 3.0])
        >>> points.value
        [[0.0, 1.0]]
    """

    _esm = _HERE / "points.js"
    _css = _HERE / "points.css"
    value: Any = traitlets.List().tag(sync=True)
    picture: Any = traitlets.Bytes().tag(sync=True)
    boxes: Any = traitlets.List([[0.0, 0.0, 1.0, 1.0]]).tag(sync=True)
    limits: Any = traitlets.List([0.0, 1.0, 0.0, 1.0]).tag(sync=True)
    label: Any = traitlets.Int(None, allow_none=True).tag(sync=True)
    most: Any = traitlets.Int(50).tag(sync=True)
    alt: Any = traitlets.Unicode().tag(sync=True)
    answered: Any = traitlets.Int(0).tag(sync=True)


class Beneath:
    """The picture beneath points, with the ``value`` that an ``Image`` has."""

    def __init__(self, points: Points) -> None:
        self.points = points

    @property
    def value(self) -> bytes:
        """PNG."""
        return bytes(self.points.picture)

    @value.setter
    def value(self, png: bytes) -> None:
        self.points.picture = png


def lay_beneath(points: Points, view: Explorer) -> None:
    """Let the picture of an explorer be the one that the points lie on."""
    view.picture = Beneath(points)
    view.widget.children = (*view.widget.children[:-1], points)

    def answer(change: Any) -> None:
        points.answered += 1

    points.observe(answer, names="value")  # after the explorer, which has drawn by then, or told why not


def pairs(points: Sequence[Sequence[float]], most: int, *, labels: int | None = None) -> list[list[float]]:
    """The points, if they are such: two numbers each, and with ``labels`` one of so many classes.

    Raises:
        ValueError: if they are not, or are too many.

    Example:
        >>> pairs([(0.5, -1)], 50)
        [[0.5, -1.0]]
    """
    found, long = [[float(part) for part in point] for point in points], 2 if labels is None else 3
    wrong = [point for point in found if len(point) != long or not all(abs(part) < 1e6 for part in point)]
    if labels is not None:
        wrong += [point for point in found if point[-1] not in range(labels)]
    if wrong:
        what = "(x, y)" if labels is None else f"(x, y, class), with a class below {labels}"
        raise ValueError(f"points must be {what}, finite, got {wrong[0]}. Give one such for each point.")
    if len(found) > most:
        raise ValueError(f"there may be {most} points, got {len(found)}. Remove some.")
    return found
