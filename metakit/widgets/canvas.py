"""The canvas: draw characters of your own, one of each, then one of them again, and see it recognised."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import anywidget
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.data._strokes import rasterise
from metakit.widgets.explorer import show_widget

Strokes = Sequence[Sequence[Sequence[float]]]

_PEN = 1.4  # pixels of 28, as in Glyphs
_SIDE = 18.3  # pixels of 28: with the pen, the median longer side of a glyph
_MIDDLE = 13.6  # pixels of 28, where glyphs are centred
_SMALLEST = 0.15  # of the pad: smaller drawings are not blown up further
_STEP = 0.5  # pixels of 28 between two spots of ink
_HERE = pathlib.Path(__file__).resolve().parent


def ink(strokes: Strokes, *, size: int = 28) -> Tensor:
    """Pen strokes as a picture in the manner of ``Glyphs``: centred, of their size, with their pen.

    Arguments:
        strokes: each a list of points ``(x, y)`` in units of the pad's side, 0 to 1, y down; one point is a dot.
        size: height and width of the picture in pixels.

    Returns:
        ``[1, size, size]``, ink 1 and paper 0.

    Raises:
        ValueError: if there is no stroke, a stroke holds no points, or a point is not two numbers from 0 to 1.

    Example:
        >>> picture = ink([[(0.5, 0.1), (0.5, 0.9)]])
        >>> picture.shape, bool(picture[0, 14, 13] > 0.5), bool(picture[0, 14, 0] > 0.5)
        (torch.Size([1, 28, 28]), True, False)

    Source: the rasteriser of ``metakit.tasks.Glyphs``.
    """
    paths = [_points(stroke) for stroke in strokes]
    if not paths:
        raise ValueError("strokes must hold at least one stroke, got none. Draw something first.")
    every = torch.cat(paths)
    low, high = every.amin(0), every.amax(0)
    unit = size / 28
    zoom = _SIDE / max(float((high - low).max()), _SMALLEST)
    spots = [_spots((path - (low + high) / 2) * zoom + _MIDDLE) for path in paths]
    points, steps = (torch.cat(side)[None] * unit for side in zip(*spots, strict=True))
    return rasterise(points, steps, torch.tensor([_PEN * unit]), size).clamp(max=1)


def recognise(learner: Any, support: Tensor, query: Tensor, *, names: Sequence[str] | None = None) -> records.Drawn:
    """Let a learner say which of N characters, each seen in one picture, another picture shows.

        chances = softmax(scores of the query)

    Arguments:
        learner: anything with ``predict(support_x, support_y, query_x)``.
        support: one picture of each character, ``[N, 1, H, W]``.
        query: the picture to name, ``[1, H, W]``.
        names: of the characters; A, B, C, ... when left out.

    Raises:
        ValueError: if there are fewer than two characters.

    Example:
        >>> import metakit as mk
        >>> support = torch.eye(2).view(2, 1, 1, 2)
        >>> recognise(mk.NearestNeighbour(), support, support[1]).answer
        'B'
    """
    n = len(support)
    if n < 2:
        raise ValueError(f"there must be at least 2 characters to choose from, got {n}. Draw another one.")
    place = next((p.device for p in learner.parameters()), support.device)
    scores = learner.predict(support.to(place), torch.arange(n, device=place), query[None].to(place))
    chances = scores.detach().cpu()[0, :n].softmax(0)  # a learner made for more classes scores those too
    return records.Drawn(support, query, tuple(names or map(_letter, range(n))), chances)


class Canvas:
    """Pads to draw on with pen, finger, mouse or keys: a few characters, one drawing each, then one of them again.

    After each stroke ``.record`` is the ``records.Drawn`` shown (``None`` while there is too little to compare) and
    ``.error`` the exception if there was one. ``.draw(place, strokes)`` is drawing by code.

    Arguments:
        learner: a learner of pictures trained on ``Glyphs`` or the like.
        ways: pads for characters, 2 to 5; those left empty do not count.
        size: height and width in pixels of the pictures that the learner takes.

    Raises:
        ValueError: if ``ways`` is out of its range.

    Example:
        >>> import metakit as mk
        >>> canvas = Canvas(mk.NearestNeighbour(), ways=2)
        >>> canvas.draw("A", [[(0.5, 0.1), (0.5, 0.9)]])
        >>> canvas.draw("B", [[(0.1, 0.5), (0.9, 0.5)]])
        >>> canvas.draw("query", [[(0.4, 0.2), (0.45, 0.9)]])
        >>> canvas.record.answer, canvas.error
        ('A', None)
    """

    def __init__(self, learner: Any, *, ways: int = 5, size: int = 28) -> None:
        if not 2 <= ways <= 5:
            raise ValueError(f"ways must be from 2 to 5, got {ways}. Five pads fill a page.")
        self.learner, self.size = learner, size
        self.places = (*map(_letter, range(ways)), "query")
        self.record: records.Drawn | None = None
        self.error: Exception | None = None
        self.pads = _Pads(drawings=[[] for _ in self.places])
        self.pads.observe(self._changed, names="drawings")
        self._tell(self._answer({}), {})

    def draw(self, place: str, strokes: Strokes) -> None:
        """Put strokes on a pad, ``"A"``, ``"B"``, ... or ``"query"``, in place of what was there; ``[]`` clears it.

        Raises:
            ValueError: if there is no such pad.
        """
        if place not in self.places:
            raise ValueError(f"place must be one of {', '.join(self.places)}, got {place!r}.")
        drawings = list(self.pads.drawings)
        drawings[self.places.index(place)] = [[list(point) for point in stroke] for stroke in strokes]
        self.pads.drawings = drawings

    def compute(self, support: Tensor, query: Tensor, *, names: Sequence[str] | None = None) -> records.Drawn:
        """The record for some pictures; see ``recognise``."""
        return recognise(self.learner, support, query, names=names)

    def static(self) -> Figure:
        """The answer as a picture, for ``plots.show``: for pages where no kernel runs.

        Raises:
            ValueError: if there is no answer to show.
        """
        if self.record is None:
            raise ValueError("there is no answer yet. Draw two characters, and one of them again as the query.")
        fig, ax = plots.figure(6.4, 0.8 + 0.7 * len(self.record.names))
        plots.draw_drawn(ax, self.record)
        return fig

    def _changed(self, change: Any) -> None:
        self.record, self.error, pictures = None, None, {}
        try:
            drawn = zip(self.places, change.new, strict=True)
            pictures = {place: ink(strokes, size=self.size) for place, strokes in drawn if strokes}
            message = self._answer(pictures)
        except Exception as error:  # Whatever it is, the reader must see it: a callback's traceback goes nowhere.
            self.error = error
            message = f"This did not work. {type(error).__name__}: {error}"
        self._tell(message, pictures)

    def _answer(self, pictures: dict[str, Tensor]) -> str:
        """Name the query if there is enough to go by, and say what is so."""
        support = {place: picture for place, picture in pictures.items() if place != "query"}
        if len(support) < 2:
            return "Draw at least two characters, one on each pad."
        if "query" not in pictures:
            return "Now draw one of them once more, on the pad named Query."
        self.record = self.compute(torch.stack([*support.values()]), pictures["query"], names=[*support])
        return str(self.record)

    def _tell(self, message: str, pictures: dict[str, Tensor]) -> None:
        names, chances = (self.record.names, self.record.chances.tolist()) if self.record else ((), ())
        self.pads.reply = {
            "number": self.pads.reply["number"] + 1,  # so that the same answer twice is two replies
            "message": message,
            "chances": dict(zip(names, chances, strict=True)),
            "answer": self.record.answer if self.record else "",
            "size": self.size,
            "seen": {place: (255 * picture).byte().numpy().tobytes() for place, picture in pictures.items()},
        }

    def _ipython_display_(self) -> None:
        show_widget(self.pads, "An explorer with pads to draw characters on")


class _Pads(anywidget.AnyWidget):
    """What the page shows; anywidget asks for a subclass. ``drawings`` holds the strokes of each pad."""

    _esm = _HERE / "canvas.js"
    _css = _HERE / "canvas.css"
    drawings: Any = traitlets.List().tag(sync=True)
    reply: Any = traitlets.Dict({"number": 0}).tag(sync=True)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _points(stroke: Sequence[Sequence[float]]) -> Tensor:
    """The points of a stroke, ``[k, 2]``."""
    if not len(stroke) or any(len(point) != 2 for point in stroke):
        raise ValueError(f"a stroke must be a list of points (x, y), got {str(stroke)[:60]}. Give one point or more.")
    path = torch.tensor([[float(x), float(y)] for x, y in stroke])
    if not bool(((path >= 0) & (path <= 1)).all()):
        raise ValueError(f"points must be from 0 to 1, the sides of the pad, got {str(stroke)[:60]}. Scale them.")
    return path


def _spots(path: Tensor) -> tuple[Tensor, Tensor]:
    """Midpoints ``[P, 2]`` and steps ``[P, 2]`` of a pen that follows a path, all in pixels."""
    moves = path.diff(dim=0)
    if float(moves.norm(dim=1).sum()) < _PEN:
        return path[:1], torch.tensor([[_PEN, 0.0]])  # a dot: as much ink as a step of the pen's width
    parts = (moves.norm(dim=1) / _STEP).ceil().long().clamp(min=1)
    steps = (moves / parts[:, None]).repeat_interleave(parts, 0)
    return path[0] + steps.cumsum(0) - steps / 2, steps
