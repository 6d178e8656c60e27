"""Learned rules looked at: paths, updates, their course over a training, meta-losses, and rows weighted by a few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from metakit.plots.figures import BLACK, BLUE, CYCLE, DASHES, GREY, RED, SKY
from metakit.records.optimizers import (
    NEXT_TO_NOTHING,
    HorizonSurface,
    NoisyExamples,
    OptimizerPaths,
    RuleCourse,
    RuleSurface,
)

_MARKERS = "os^"
_HIGHEST = 1e3  # losses beyond are drawn at the edge


def draw_optimizer_paths(ax: Axes, record: OptimizerPaths) -> None:
    """Level lines of the loss, the way of each optimiser over them, the start and the minimum."""
    first, second = record.first.numpy(), record.second.numpy()
    levels = torch.linspace(0, 1, 14).square() * float(record.surface.max())
    ax.contour(first, second, record.surface.numpy(), levels=levels.tolist(), colors="#B8B8B8", linewidths=0.7)
    for i, path in enumerate(record.paths):
        style: dict[str, Any] = {"color": CYCLE[i], "ls": DASHES[i % 4], "marker": _MARKERS[i % 3], "ms": 3.5}
        ax.plot(*path.T.numpy(), lw=1.4, label=record.names[i], **style)
    ax.plot(*record.paths[0, 0].tolist(), marker="o", ms=8, color=BLACK, ls="none", label="start")
    ax.plot(*record.minimum.tolist(), marker="*", ms=13, color=BLACK, mec="white", ls="none", label="minimum", zorder=5)
    ax.set(xlim=(first[0], first[-1]), ylim=(second[0], second[-1]), xlabel="weight 1", ylabel="weight 2")
    shape = f"{record.condition:.3g} times as long as wide" if record.condition > 1.001 else "are circles"
    ax.set_title(f"Level lines {shape}")


def draw_optimizer_losses(ax: Axes, record: OptimizerPaths) -> None:
    """The loss of each optimiser after every step, without the noise, on a scale of powers of ten."""
    for i, (name, loss) in enumerate(zip(record.names, record.loss, strict=True)):
        shown = loss.clamp(NEXT_TO_NOTHING, _HIGHEST).tolist()
        style: dict[str, Any] = {
            "color": CYCLE[i],
            "ls": DASHES[i % 4],
            "marker": _MARKERS[i % 3],
            "ms": 3 if len(shown) < 50 else 2,
        }
        ax.plot(range(len(shown)), shown, lw=1.4, label=name, **style)
    _powers(ax)
    ax.set(ylim=(NEXT_TO_NOTHING / 3, 30), xlabel="step", ylabel="loss (1e-12 stands for less)")
    ax.set_title(f"Loss, gradients with noise {record.noise:.2g}" if record.noise else "Loss, no noise")
    ax.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="center right", bbox_to_anchor=(1, 0.36))


def draw_noisy_examples(ax: Axes, record: NoisyExamples) -> None:
    """The training rows, as large as their weight, wrong ones ringed, and where the two classes part."""
    x, sizes = record.x, 6 + 40 * record.weights.clamp(max=6)
    for label, colour, marker in ((0, BLUE, "o"), (1, RED, "s")):
        some = record.y == label
        ax.scatter(
            x[some, 0].numpy(), x[some, 1].numpy(), s=sizes[some].numpy(), c=colour, marker=marker, alpha=0.75, lw=0
        )
        ax.plot([], [], color=colour, marker=marker, ls="none", label=f"labelled {'AB'[label]}")
    ringed, rings = x[record.wrong].numpy(), (sizes[record.wrong] + 60).numpy()
    ax.scatter(ringed[:, 0], ringed[:, 1], s=rings, facecolors="none", edgecolors=BLACK, lw=1.2)
    if len(ringed):
        ax.plot([], [], marker="o", ms=9, mfc="none", mec=BLACK, ls="none", label="label is wrong")
    ends = torch.tensor([-9.0, 9.0], dtype=record.before.dtype)
    for w, colour, dash, name in ((record.before, GREY, "--", "equal weights"), (record.after, BLACK, "-", "learned")):
        ax.plot(*_boundary(w, ends), color=colour, ls=dash, lw=2, label=name)
    ax.set(xlim=(-4.8, 4.8), ylim=(-4.9, 6.2), xlabel="feature 1", ylabel="feature 2")
    ax.set_title("Rows as large as their weight")
    ax.legend(fontsize=8, framealpha=0.9, edgecolor="none", loc="upper left", ncols=2)


def draw_example_weights(ax: Axes, record: NoisyExamples) -> None:
    """The learned weights in order, those of wrong rows in another colour."""
    order, most = record.weights.argsort(stable=True), float(record.weights.max())
    places, count = torch.arange(1, len(order) + 1), int(record.wrong.sum())
    kinds = ((False, SKY, "o", "label is right"), (True, RED, "D", "label is wrong"))
    for wrong, colour, marker, name in kinds if count else kinds[:1]:
        some = record.wrong[order] == wrong
        at, height = places[some].tolist(), record.weights[order][some].tolist()
        ax.vlines(at, 0, height, color=colour, lw=1.5)
        ax.plot(at, height, color=colour, marker=marker, ms=4, ls="none", label=name)
    if count:
        ax.axvline(count + 0.5, color=GREY, lw=1, ls=":")
    ax.axhline(1, color=GREY, lw=0.8, ls="--", label="at the start")
    ax.set(xlabel="training row, lightest first", ylabel="weight (1 on average)", ylim=(-0.05 * most, 1.3 * most))
    ax.set_title(f"{record.found} of the {count} lightest are wrong" if count else "No label is wrong")
    ax.legend(
        fontsize=8, framealpha=0.9, edgecolor="none", loc="upper left", ncols=3, columnspacing=1, handlelength=1.2
    )


def draw_rule_surface(ax: Axes, record: RuleSurface) -> None:
    """The update over gradient and momentum, in colours and level lines; those of Adam would be level."""
    gradient, momentum, update = (side.numpy() for side in (record.gradient, record.momentum, record.update))
    most = max(float(record.update.abs().max()), 1e-12)
    ax.contourf(gradient, momentum, update, levels=torch.linspace(-most, most, 16).tolist(), cmap="PuOr")
    lines = ax.contour(gradient, momentum, update, levels=8, colors=BLACK, linewidths=0.8)
    ax.clabel(lines, fontsize=8, fmt=lambda value: f"{value:.2g}")
    ax.set(xlabel="gradient (root mean square = 1)", ylabel="momentum (same unit)")
    ax.set_title(f"Update of a weight at step {record.k} of {record.steps}")


def draw_rule_course(ax: Axes, record: RuleCourse) -> None:
    """The mean size of the updates over the training: of each tensor, and of all weights."""
    steps = range(1, len(record.mean) + 1)
    for i, (name, size) in enumerate(zip(record.names, record.size, strict=True)):
        colour, dash = CYCLE[i % len(CYCLE)], DASHES[i % 4]
        ax.plot(steps, size.tolist(), color=colour, ls=dash, lw=1, label=name)
    ax.plot(steps, record.mean.tolist(), color=BLACK, lw=2.4, label="all weights")
    _powers(ax)
    ax.set(xlabel="step", ylabel="mean size of an update")
    ax.set_title(f"Updates in {record.jobs} trainings")
    ax.set_ylim(top=5 * max(float(record.size.max()), 1e-12))  # room for the legend
    ax.legend(fontsize=8, frameon=False, ncols=3, columnspacing=1, handlelength=1.5, loc="upper right")


def draw_horizon_surface(ax: Axes, record: HorizonSurface) -> None:
    """The meta-loss over the rate, and what is left of it under normal noise."""
    rates = record.rates.tolist()
    ax.plot(rates, record.loss.tolist(), color=BLUE, lw=1, label="meta-loss")
    label = f"blurred, sigma {record.sigma:g}"
    ax.plot(rates, record.blurred.tolist(), color=RED, ls="--", lw=2.4, label=label)
    _rates(ax)
    ax.set(xlabel="rate", ylabel="meta-loss, log ratio", title=f"Horizon {record.horizon} steps")
    ax.legend(fontsize=8, frameon=False, loc="best")


def draw_horizon_slopes(ax: Axes, records: Sequence[HorizonSurface]) -> None:
    """The size of the exact derivative over the rate at each horizon, and of the steepest blurred one."""
    for i, record in enumerate(records):
        style: dict[str, Any] = {"color": CYCLE[i % len(CYCLE)], "ls": DASHES[i % 4]}
        ax.plot(record.rates.tolist(), _positive(record.slope), lw=1.4, label=f"{record.horizon} steps", **style)
    last = records[-1]
    name = f"{last.horizon} steps, blurred"
    ax.plot(last.rates.tolist(), _positive(last.blurred_slope), color=BLACK, lw=2.4, label=name)
    _rates(ax)
    _powers(ax)
    ax.set(xlabel="rate", ylabel="size of d meta-loss / d log rate", title="Exact derivatives")
    ax.legend(fontsize=8, frameon=False, loc="upper left")


def _positive(slope: Tensor) -> list[float]:
    """Sizes that a logarithm can take."""
    return [float(size) for size in slope.double().abs().clamp(1e-6, 1e100)]


def _powers(ax: Axes) -> None:
    """A logarithmic axis of few powers of ten, written in ASCII."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(numticks=8))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(lambda value, _: f"1e{round(math.log10(value))}" if value > 0 else "0")


def _rates(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter("{x:g}")


def _boundary(w: Tensor, ends: Tensor) -> tuple[list[float], list[float]]:
    """Two points of the line ``w1 x1 + w2 x2 + b = 0``, beyond the axes."""
    slopes, bias = w[:2], w[2]
    square = slopes.square().sum().clamp(min=1e-12)
    along = torch.stack([-slopes[1], slopes[0]]) / square.sqrt()
    x, y = (-bias * slopes / square)[:, None] + along[:, None] * ends
    return x.tolist(), y.tolist()
