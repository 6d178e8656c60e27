"""The surface explorer: two weights, two tasks, and the meta-gradient with and without its Hessian term."""

from __future__ import annotations

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.widgets.explorer import LINE, VIEWED, Explorer

_CENTRES = ((-1.0, -0.5), (1.0, 0.5))
_GRID, _STEPS, _REACH = 41, 60, 2.5


def surface(
    *, inner_lr: float = 0.25, curvature: float = 3.0, start: tuple[float, float] = (1.5, 1.5)
) -> records.Surface:
    """The outer loss of two quadratic tasks over two weights, its exact gradient and the first-order one.

        L_t(w) = sum_d a_td (w_d - c_td)^2 / 2,    w_t = w - lr a_t (w - c_t),    F(w) = mean_t L_t(w_t)
        exact = mean_t (1 - lr a_t) a_t (w_t - c_t),    first order = mean_t a_t (w_t - c_t)

    Support and query set are taken to be so large that they give the same loss. Task A is a round bowl, ``a = (1, 1)``;
    task B is a valley, ``a = (curvature, 0.5)``.

    Arguments:
        inner_lr: rate of the single inner step.
        curvature: that of task B along the first weight.
        start: where both paths begin; each takes 60 outer steps of one size, at which the exact one is stable.

    Raises:
        ValueError: if the rate is negative or the curvature is not positive.

    Example:
        >>> record = surface(inner_lr=0.0)
        >>> bool(torch.equal(record.exact, record.first_order))
        True

    Source: Finn, Abbeel and Levine 2017, section 5.2, for the first-order approximation.
    """
    if not 0 <= inner_lr < float("inf"):
        raise ValueError(f"inner_lr must be a finite number that is not negative, got {inner_lr}. 0.25 is a start.")
    if not 0 < curvature < float("inf"):
        raise ValueError(f"curvature must be positive, got {curvature}. A bowl opens upwards; 1 is that of task A.")
    a = torch.tensor([[1.0, 1.0], [curvature, 0.5]], dtype=torch.float64)
    centres = torch.tensor(_CENTRES, dtype=torch.float64)
    left = 1 - inner_lr * a  # the share of the way to the centre that is left after the inner step

    def outer_loss(w: Tensor) -> Tensor:
        return (a * (left * (w[..., None, :] - centres)).square()).sum((-2, -1)) / 2 / len(a)

    def gradient(w: Tensor, pull: Tensor) -> Tensor:
        return (pull * (w - centres)).mean(0)

    exact, first_order = a * left.square(), a * left
    outer_lr = 0.5 / max(exact.mean(0).max(), first_order.mean(0).abs().max())
    begin = torch.tensor(start, dtype=torch.float64)
    paths = []
    for pull in (exact, first_order):
        path = [begin]
        for _ in range(_STEPS):
            path.append(path[-1] - outer_lr * gradient(path[-1], pull))
        paths.append(torch.stack(path))
    axis = torch.linspace(-_REACH, _REACH, _GRID, dtype=torch.float64)
    start_loss, exact_loss, first_order_loss = (float(outer_loss(w)) for w in (begin, paths[0][-1], paths[1][-1]))
    return records.Surface(
        axis=axis,
        loss=outer_loss(torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)),
        curvature=a,
        centres=centres,
        inner_lr=float(inner_lr),
        exact=gradient(begin, exact),
        first_order=gradient(begin, first_order),
        exact_path=paths[0],
        first_order_path=paths[1],
        start_loss=start_loss,
        exact_loss=exact_loss,
        first_order_loss=first_order_loss,
    )


class SurfaceExplorer:
    """Turn the inner rate, the curvature of a task and the start; see two gradients agree, part, and disagree.

    After each change ``.record`` is the ``records.Surface`` shown, and ``.error`` the exception if there was one.
    Controls by name: inner_lr, curvature, first, second.

    Example:
        >>> explorer = SurfaceExplorer()
        >>> explorer.controls["inner_lr"].value = 0.0
        >>> explorer.record.angle, explorer.error
        (0.0, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self) -> None:
        place = {"min": -2.0, "max": 2.0, "step": 0.1, **LINE}
        controls = {
            "inner_lr": ipw.FloatSlider(description="Inner rate", min=0, max=1, step=0.01, value=0.25, **LINE),
            "curvature": ipw.FloatSlider(description="Curvature of B", min=0.5, max=4, step=0.1, value=3.0, **LINE),
            "first": ipw.FloatSlider(description="Start, weight 1", value=1.5, **place),
            "second": ipw.FloatSlider(description="Start, weight 2", value=1.5, **place),
        }
        told = "An explorer with sliders for inner rate, curvature and start"
        self._view = Explorer(controls, self.compute, self.draw, instead=told)
        self._view.refresh()

    @staticmethod
    def compute(*, inner_lr: float, curvature: float, first: float, second: float) -> records.Surface:
        """The record for one setting of the controls; see ``surface``."""
        return surface(inner_lr=inner_lr, curvature=curvature, start=(first, second))

    @staticmethod
    def draw(fig: Figure, record: records.Surface) -> None:
        """The surface, and beside it how strongly each gradient pulls towards a task."""
        draw_surface_and_weighting(fig, record)


def draw_surface_and_weighting(fig: Figure, record: records.Surface) -> None:
    """Draw one surface on a whole figure: arrows and paths on the left, the pull of the tasks on the right."""
    fig.set(figwidth=7.8, figheight=4.2, dpi=100, facecolor="white")
    left, right = fig.subplots(1, 2, width_ratios=(1.35, 1))
    fig.subplots_adjust(left=0.075, right=0.985, top=0.92, bottom=0.12, wspace=0.24)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    plots.draw_surface(left, record)
    plots.draw_weighting(right, record)
    for ax, at in ((left, -0.1), (right, -0.13)):  # Left to itself, matplotlib measures every label twice.
        ax.set_title(ax.get_title(), y=1.0)
        ax.xaxis.set_label_coords(0.5, -0.09)
        ax.yaxis.set_label_coords(at, 0.5)
