"""The process explorer: points dragged about, and two answers to them: exact Bayes, and a network that read them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.checks import choice, whole
from metakit.learners import Contextual, ExactGP, GridGP
from metakit.tasks import GaussianProcesses
from metakit.widgets.explorer import LINE, ROW, VIEWED, Explorer, button, by_name
from metakit.widgets.points import Points, lay_beneath, pairs

YARDSTICKS = ("told the hyperparameters", "averaged over the prior")
_BEYOND = 3.0  # times the ends of a range, that a slider goes
_PLACES, _GRID_POINTS, _MOST, _DRAWN = 80, 6, 60, 6
_BOX = (0.075, 0.075, 0.9, 0.725)  # left, top, width, height of the axes, in shares of the picture
_EXAMPLE = ((-1.6, -0.5), (-1.1, 0.6), (-0.3, 1.1), (0.6, -0.4), (1.3, -0.9))
_JITTER = 1e-9


def one_process(prior: GaussianProcesses, *, lengthscale: float, noise: float) -> GaussianProcesses:
    """The processes of a prior with this lengthscale and this noise; of other ranges the middle, in the logarithm.

    Example:
        >>> one_process(GaussianProcesses(outputscale=(0.5, 2.0)), lengthscale=0.5, noise=0.1).outputscale
        (1.0, 1.0)
    """
    _, _, outputscale, period = (round(value, 12) for value in prior.grid(1)[0][0].tolist())
    return dataclasses.replace(prior, lengthscale=lengthscale, noise=noise, outputscale=outputscale, period=period)


def drawn_function(
    process: GaussianProcesses, grid: Tensor, *, rows: int = _DRAWN, seed: int = 0
) -> tuple[Tensor, ...]:
    """A function of a process at some places ``[G]``, and points with noise on it, x and y ``[rows]``.

    Arguments:
        process: one of one feature; the first is taken where its hyperparameters have ranges.
        grid: the places.
        rows: number of points, uniform in the domain.
        seed: of the function and of the points.

    Example:
        >>> process = GaussianProcesses(lengthscale=0.5, noise=1e-4)
        >>> f, x, y = drawn_function(process, torch.linspace(-2, 2, 401), rows=4)
        >>> nearest = f[((x + 2) * 100).round().long()]
        >>> f.shape, bool((nearest - y).abs().max() < 0.05)
        (torch.Size([401]), True)
    """
    generator, hyper = torch.Generator().manual_seed(seed), process.grid(2)[0][0]
    kind: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
    low, high = process.domain
    x = low + (high - low) * torch.rand(whole("rows", rows), **kind)
    places = torch.cat([x, grid.double()])[:, None]
    covariance = process.covariance(hyper, places, places)
    factor = torch.linalg.cholesky(covariance + _JITTER * hyper[2].square() * torch.eye(len(places), dtype=x.dtype))
    f = factor @ torch.randn(len(places), **kind)
    y = f[: len(x)] + hyper[1] * torch.randn(len(x), **kind)
    return tuple(side.float() for side in (f[len(x) :], x, y))


class ProcessExplorer:
    """Add, drag and remove points; see the exact posterior and the answer of a network that has never seen them.

    Lengthscale and noise are what the yardstick believes, and go beyond the ranges of the prior. "Averaged over the
    prior" it is told neither, as little as the network. The button draws a function of a process with these
    hyperparameters, and points on it.

    Arguments:
        learner: a trained ``InContext`` with bins for rows of one number, or several by name to choose from.
        prior: the Gaussian processes that it was trained on.

    After each change ``.record`` is the ``records.PosteriorBands`` shown, and ``.error`` the exception if there was
    one. Controls by name: points, learner, yardstick, lengthscale, noise. ``.draw_function(seed)`` is the button.

    Raises:
        ValueError: if there is no learner to show, or the prior is of more than one feature.

    Example:
        >>> import metakit as mk
        >>> explorer = ProcessExplorer(mk.InContext(mk.models.SetTransformer(1, width=16, layers=2), bins=50))
        >>> explorer.controls["points"].value = [[0.0, 1.0]]
        >>> len(explorer.record.support_x), explorer.error
        (1, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self, learner: Contextual | Mapping[str, Contextual], prior: GaussianProcesses | None = None) -> None:
        self.learners, self.prior = by_name(learner), prior or GaussianProcesses()
        if self.prior.inputs != 1:
            raise ValueError(f"the prior must be of one feature, got {self.prior.inputs}. Curves have one.")
        self._limits = (*self.prior.domain, *(sign * 3.2 * self.prior.outputscale[1] for sign in (-1, 1)))
        self._grid = torch.linspace(*self.prior.domain, _PLACES)
        self._drawn: tuple[list[list[float]], Tensor] | None = None
        self._seed = 0
        controls = self._make_controls()
        buttons = [
            button("New function", "Draw a function with these hyperparameters, and points on it", self._next),
            button("Clear", "Remove all points", lambda: setattr(controls["points"], "value", [])),
        ]
        hidden = {"points"} if len(self.learners) > 1 else {"points", "learner"}
        rows = [*(control for name, control in controls.items() if name not in hidden), ipw.HBox(buttons, layout=ROW)]
        told = "An explorer with points to drag, and sliders for lengthscale and noise"
        self._view = Explorer(controls, self._current, self.draw, rows=rows, instead=told)
        lay_beneath(controls["points"], self._view)
        self._view.refresh()

    def draw_function(self, seed: int) -> None:
        """Put points of a new function in place of those there are."""
        process = one_process(self.prior, **{name: self.controls[name].value for name in ("lengthscale", "noise")})
        truth, x, y = drawn_function(process, self._grid, seed=seed)
        points = [[round(each, 3) for each in point] for point in zip(x.tolist(), y.tolist(), strict=True)]
        self._drawn = points, truth
        self.controls["points"].value = points

    def compute(
        self,
        *,
        points: Sequence[Sequence[float]] = (),
        learner: str | None = None,
        yardstick: str = YARDSTICKS[0],
        lengthscale: float = 0.5,
        noise: float = 0.1,
        truth: Tensor | None = None,
    ) -> records.PosteriorBands:
        """The record for one setting of the controls; see ``records.posterior_bands``."""
        chosen = self.learners[next(iter(self.learners)) if learner is None else learner]
        rows = torch.tensor(pairs(points, _MOST)).view(-1, 2)
        told = choice("yardstick", yardstick, YARDSTICKS)
        exact: Contextual = GridGP(self.prior, points=_GRID_POINTS)
        if told == YARDSTICKS[0]:
            exact = ExactGP(one_process(self.prior, lengthscale=lengthscale, noise=noise))
            told = f"told {self._words('lengthscale', lengthscale)} and {self._words('noise', noise)}"
        return records.posterior_bands(chosen, exact, rows[:, 0], rows[:, 1], self._grid, told=told, truth=truth)

    def draw(self, fig: Figure, record: records.PosteriorBands) -> None:
        """Both answers on a whole figure."""
        fig.set(figwidth=7.6, figheight=4.4, dpi=100, facecolor="white")
        left, top, width, height = _BOX
        ax = fig.add_axes((left, 1 - top - height, width, height))
        ax.spines[["top", "right"]].set_visible(False)
        plots.draw_posteriors(ax, record)
        ax.set(ylim=self._limits[2:])
        ax.set_title(ax.get_title(), y=1.0)  # Left to itself, matplotlib measures every label twice.
        ax.xaxis.set_label_coords(0.5, -0.08)
        ax.yaxis.set_label_coords(-0.05, 0.5)

    def _make_controls(self) -> dict[str, Any]:
        def slider(name: str, span: tuple[float, float]) -> ipw.FloatLogSlider:
            low, high = math.log10(span[0] / _BEYOND), math.log10(span[1] * _BEYOND)
            middle = (span[0] * span[1]) ** 0.5
            return ipw.FloatLogSlider(
                description=name, min=low, max=high, step=0.02, value=middle, readout_format=".2f", **LINE
            )

        alt = "Curves over x: exact and learned mean and band, with points."
        points = Points(
            value=[list(point) for point in _EXAMPLE], limits=list(self._limits), boxes=[_BOX], most=_MOST, alt=alt
        )
        return {
            "points": points,
            "learner": ipw.Dropdown(description="Learner", options=list(self.learners), **LINE),
            "yardstick": ipw.Dropdown(description="Exact posterior", options=YARDSTICKS, **LINE),
            "lengthscale": slider("Lengthscale", self.prior.lengthscale),
            "noise": slider("Noise", self.prior.noise),
        }

    def _current(self, *, points: list[list[float]], **values: Any) -> records.PosteriorBands:
        """The function that was drawn is shown as long as its points are all there."""
        shown = self._drawn is not None and all(point in points for point in self._drawn[0])
        return self.compute(points=points, truth=self._drawn[1] if shown and self._drawn else None, **values)

    def _next(self) -> None:
        self._seed += 1
        self.draw_function(self._seed)

    def _words(self, name: str, value: float) -> str:
        low, high = getattr(self.prior, name)
        outside = not low * (1 - 1e-6) <= value <= high * (1 + 1e-6)
        return f"{name} {value:.2f}{' (outside the prior)' if outside else ''}"
