"""Two weights, two tasks: the outer loss as a surface, with the exact and the first-order gradient on it."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from metakit.plots.figures import BLACK, BLUE, GREEN, GREY, RED
from metakit.records.surface import Surface


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
    """How strongly each gradient pulls towards a task, against the task's curvature along a weight."""
    a = torch.linspace(0, max(4.5, float(record.curvature.max()) + 0.5), 100)
    exact, first_order = record.pull(a)
    ax.axhline(0, color=GREY, lw=0.8)
    ax.plot(a, exact, color=BLUE, label="exact")
    ax.plot(a, first_order, color=RED, ls="--", label="first order")
    for t, marker in enumerate("oD"):
        at = record.curvature[t, 0]
        label = f"task {'AB'[t]}, weight 1"
        ax.plot([at, at], record.pull(at), marker=marker, color=GREEN, ls=":", label=label)
    ax.set(xlim=(0, float(a[-1])), ylim=(-2.5, 2.5), xlabel="curvature of a task", ylabel="pull towards the task")
    ax.set_title("Who pulls how strongly")
    ax.legend(fontsize=8, loc="upper left", frameon=False)
