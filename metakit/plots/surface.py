"""Two weights, two tasks: the outer loss as a surface, with the exact and the first-order gradient on it."""

from __future__ import annotations

import dataclasses
import math

import torch
from matplotlib.axes import Axes
from torch import Tensor

from metakit.plots.figures import BLACK, BLUE, GREEN, GREY, RED


@dataclasses.dataclass(frozen=True)
class Surface:
    """The outer loss of T quadratic tasks over two weights, and what two gradients make of it.

    Arguments:
        axis: values of either weight, ``[G]``.
        loss: outer loss, ``[G, G]``; the first weight runs along the columns.
        curvature: of each task along each weight, ``[T, 2]``.
        centres: the best weights of each task, ``[T, 2]``.
        inner_lr: the inner rate.
        exact: meta-gradient at the start, ``[2]``.
        first_order: the same without its Hessian term, ``[2]``.
        exact_path: weights after 0, 1, ..., N outer steps along ``-exact``, ``[N + 1, 2]``.
        first_order_path: the same along ``-first_order``.
        start_loss, exact_loss, first_order_loss: the outer loss at the start and at the end of either path.
    """

    axis: Tensor
    loss: Tensor
    curvature: Tensor
    centres: Tensor
    inner_lr: float
    exact: Tensor
    first_order: Tensor
    exact_path: Tensor
    first_order_path: Tensor
    start_loss: float
    exact_loss: float
    first_order_loss: float

    @property
    def angle(self) -> float:
        """Degrees between the two gradients; NaN where one of them vanishes."""
        lengths = self.exact.norm() * self.first_order.norm()
        cosine = (self.exact @ self.first_order) / lengths if lengths > 1e-12 else torch.tensor(math.nan)
        return math.degrees(math.acos(min(1.0, max(-1.0, float(cosine))))) if cosine.isfinite() else math.nan

    @property
    def uphill(self) -> bool:
        """Whether a step of first order would raise the outer loss however short it is."""
        return float(self.exact @ self.first_order) < 0

    def __str__(self) -> str:
        if math.isnan(self.angle):
            return "one of the two gradients is zero here: move the start."
        way = "uphill" if self.uphill else "downhill"
        ends = f"{self.exact_loss:.3f} along the exact one, " + (
            f"{self.first_order_loss:.3f} along the other."
            if self.first_order_loss < 100
            else "and the other runs away."
        )
        return (
            f"the gradients differ by {self.angle:.0f} degrees; first order points {way}. "
            f"Outer loss {self.start_loss:.3f} at the start, {ends}"
        )


def draw_surface(ax: Axes, record: Surface) -> None:
    """Contours of the outer loss, the tasks' centres, the two gradients at the start and where they lead."""
    axis, start = record.axis.numpy(), record.exact_path[0]
    levels = torch.linspace(0, 1, 14).square() * (record.loss.max() - record.loss.min()) + record.loss.min()
    if levels[-1] > levels[0]:
        ax.contour(axis, axis, record.loss.numpy(), levels=levels.tolist(), colors="#B8B8B8", linewidths=0.7)
    for t, (x, y) in enumerate(record.centres.tolist()):
        ax.plot(x, y, marker="+", ms=11, mew=2, color=GREY, ls="none")
        ax.annotate(f"task {'AB'[t]}", (x, y), xytext=(6, 6), textcoords="offset points", color=GREY, fontsize=9)
    longest = float(max(record.exact.norm(), record.first_order.norm(), torch.tensor(1e-12)))
    paths = record.exact_path, record.first_order_path
    kinds = ((record.exact, BLUE, "-", "exact"), (record.first_order, RED, "--", "first order"))
    for path, (gradient, colour, dash, name) in zip(paths, kinds, strict=True):
        ax.plot(*path.T.numpy(), color=colour, ls=dash, lw=1.4, marker=".", ms=3, label=f"{name}, path and end")
        ax.plot(*path[-1].tolist(), marker="s", ms=7, color=colour, ls="none")
        tip = tuple((start - 0.9 * gradient / longest).tolist())
        style = {"arrowstyle": "-|>", "color": colour, "lw": 2.4, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", xy=tip, xytext=tuple(start.tolist()), arrowprops=style)
    ax.plot(*start.tolist(), marker="o", ms=8, color=BLACK, ls="none", label="start")
    ax.set(xlim=(axis[0], axis[-1]), ylim=(axis[0], axis[-1]), xlabel="weight 1", ylabel="weight 2")
    ax.set_title(f"Outer loss after one inner step of {record.inner_lr:.2f}")
    ax.legend(loc="lower right", fontsize=8, framealpha=0.9)


def draw_weighting(ax: Axes, record: Surface) -> None:
    """How strongly each gradient pulls towards a task, against the task's curvature a along a weight.

    The exact pull is ``a (1 - lr a)^2``, that of first order ``a (1 - lr a)``; without adaptation it would be ``a``.
    """
    a = torch.linspace(0, max(4.5, float(record.curvature.max()) + 0.5), 100)
    left = 1 - record.inner_lr * a
    ax.axhline(0, color=GREY, lw=0.8)
    ax.plot(a, a * left.square(), color=BLUE, label="exact")
    ax.plot(a, a * left, color=RED, ls="--", label="first order")
    for t, marker in enumerate("oD"):
        at = record.curvature[t, 0]
        pull = at * (1 - record.inner_lr * at)
        label = f"task {'AB'[t]}, weight 1"
        ax.plot([at, at], [pull * (1 - record.inner_lr * at), pull], marker=marker, color=GREEN, ls=":", label=label)
    ax.set(xlim=(0, float(a[-1])), ylim=(-2.5, 2.5), xlabel="curvature of a task", ylabel="pull towards the task")
    ax.set_title("Who pulls how strongly")
    ax.legend(fontsize=8, loc="upper left", frameon=False)
