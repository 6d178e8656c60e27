"""The table explorer: points of a few classes clicked into a plane, and what classifiers make of them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.checks import choice, whole
from metakit.records.decisions import Classifier
from metakit.widgets.explorer import ROW, STYLE, VIEWED, Explorer, button
from metakit.widgets.points import Points, lay_beneath, pairs

CLASSES = ("0: blue circle", "1: orange square", "2: green triangle")
PRESETS = ("two moons", "xor", "circles", "blobs")
_LIMITS = (-2.0, 2.0, -2.0, 2.0)
_GRID, _MOST = 40, 200
_LEFT, _GAP, _EDGE, _TOP, _HEIGHT = 0.08, 0.105, 0.025, 0.085, 0.72  # of the axes, in shares of the picture


def preset_points(name: str, *, rows: int = 60, seed: int = 0) -> list[list[float]]:
    """Points of a plane that are told apart by a curve: lists of x, y and class.

    Arguments:
        name: ``"two moons"``, half circles that reach into each other; ``"xor"``, a class in two corners each;
            ``"circles"``, one around the other; ``"blobs"``, three heaps of three classes.
        rows: number of points.
        seed: of the points.

    Raises:
        ValueError: if there is no preset of this name.

    Example:
        >>> points = preset_points("xor", rows=40)
        >>> len(points), all((x * y > 0) == (label == 0) for x, y, label in points)
        (40, True)
    """
    rows, generator = whole("rows", rows, least=3), torch.Generator().manual_seed(whole("seed", seed, least=0))
    noise = torch.randn(rows, 2, generator=generator)
    angle = 2 * math.pi * torch.rand(rows, generator=generator)
    label = torch.arange(rows) % (3 if choice("name", name, PRESETS) == "blobs" else 2)
    round_x, round_y = angle.cos(), angle.sin()
    if name == "two moons":
        x = torch.stack([label + round_x - 0.5, torch.where(label == 0, 1, -1) * (round_y.abs() - 0.25)], 1)
        x = x + 0.12 * noise
    elif name == "xor":
        side = torch.where(torch.rand(rows, generator=generator) < 0.5, -1.0, 1.0)
        x = side[:, None] * (0.15 + 1.4 * torch.rand(rows, 2, generator=generator))
        x = x * torch.stack([torch.ones(rows), 1.0 - 2 * label], 1)
    elif name == "circles":
        x = torch.where(label == 0, 1.5, 0.6)[:, None] * torch.stack([round_x, round_y], 1) + 0.13 * noise
    else:
        x = torch.tensor([[-1.0, -0.6], [1.0, -0.6], [0.0, 1.0]])[label] + 0.4 * noise
    return _listed(x, label)


def _listed(x: Tensor, label: Tensor) -> list[list[float]]:
    places = x.clamp(-1.98, 1.98).double()
    return [
        [round(first, 3), round(second, 3), number]
        for (first, second), number in zip(places.tolist(), label.tolist(), strict=True)
    ]


class TableExplorer:
    """Click points of two or three classes into a plane; see the chances that classifiers give at once, side by side.

    Arguments:
        classifier: an ``mk.TableClassifier``, or anything with ``fit``, ``predict_proba`` and ``classes_``, to be shown
            beside scikit-learn's random forest; or several by name, which are then all that is shown.

    After each change ``.record`` is the ``records.DecisionMaps`` shown, and ``.error`` the exception if there was one.
    Controls by name: points. ``.brush`` is the class of the next click; ``.buttons`` are presets and Clear.

    Raises:
        ValueError: if there are no classifiers.

    Example:
        >>> from sklearn.neighbors import KNeighborsClassifier
        >>> explorer = TableExplorer({"nearest": KNeighborsClassifier(1)})
        >>> explorer.controls["points"].value = [[0.0, 0.0, 0], [1.0, 1.0, 1]]
        >>> explorer.record.classes, explorer.error
        ((0, 1), None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, classifier: Classifier | Mapping[str, Classifier]) -> None:
        self.classifiers = _named(classifier)
        if not self.classifiers:
            raise ValueError('there must be a classifier, got none. Give {"nearest": KNeighborsClassifier()}.')
        panels, self._seed = len(self.classifiers), -1
        wide = (1 - _LEFT - _EDGE - (panels - 1) * _GAP) / panels
        self._boxes = [[_LEFT + i * (wide + _GAP), _TOP, wide, _HEIGHT] for i in range(panels)]
        alt = "The plane in the colours of the likelier classes, with the points."
        points = Points(limits=list(_LIMITS), boxes=self._boxes, label=0, most=_MOST, alt=alt)
        options = [(text, number) for number, text in enumerate(CLASSES)]
        self.brush = ipw.ToggleButtons(description="Next click", options=options, style=STYLE)
        self.brush.observe(lambda change: setattr(points, "label", change.new), names="value")
        self.buttons = {name: self._preset(name) for name in PRESETS}
        self.buttons["clear"] = button("Clear", "Remove all points", lambda: setattr(points, "value", []))
        rows = [self.brush, ipw.HBox(list(self.buttons.values()), layout=ROW)]
        told = "An explorer with a plane to click points into"
        self._view = Explorer({"points": points}, self.compute, self.draw, rows=rows, instead=told)
        lay_beneath(points, self._view)
        self.buttons["two moons"].click()

    def compute(self, *, points: Sequence[Sequence[float]] = ()) -> records.DecisionMaps:
        """The record for some points; see ``records.decision_maps``. Of fewer than two classes there is no map."""
        rows = torch.tensor(pairs(points, _MOST, labels=len(CLASSES)), dtype=torch.float64).view(-1, 3)
        x, y = rows[:, :2], rows[:, 2].long()
        classes = tuple(y.unique().tolist())
        if len(classes) < 2:
            return records.DecisionMaps(x.float(), y, classes, _LIMITS, {})
        return records.decision_maps(self.classifiers, x, y, _GRID, limits=_LIMITS)

    def draw(self, fig: Figure, record: records.DecisionMaps) -> None:
        """The plane as each classifier sees it, side by side on a whole figure."""
        fig.set(figwidth=8.6, figheight=4.5, dpi=100, facecolor="white")
        for name, (left, top, width, height) in zip(self.classifiers, self._boxes, strict=True):
            ax = fig.add_axes((left, 1 - top - height, width, height))
            plots.draw_decision_map(ax, record, name)
            ax.set_title(ax.get_title(), y=1.0)
            ax.xaxis.set_label_coords(0.5, -0.08)
            ax.yaxis.set_label_coords(-0.13, 0.5)
        told = "Colour: the likelier class, stronger where it is surer; white: undecided"
        fig.text(0.5, 0.03, told, ha="center", fontsize=8)

    def _preset(self, name: str) -> ipw.Button:
        def put() -> None:
            self._seed += 1
            self.controls["points"].value = preset_points(name, seed=self._seed)

        return button(name.capitalize(), f"Points in the manner of {name}; each click draws others", put)


def _named(classifier: Classifier | Mapping[str, Classifier]) -> dict[str, Classifier]:
    """Classifiers by name; one alone beside a random forest."""
    if isinstance(classifier, Mapping):
        return dict(classifier)
    from sklearn.ensemble import RandomForestClassifier  # here: only the lab has scikit-learn

    return {"learned in context": classifier, "random forest": RandomForestClassifier(random_state=0)}
