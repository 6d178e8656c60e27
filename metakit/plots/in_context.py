"""Learning in context drawn: posteriors, scores over the size of the context, tasks outside the prior, and planes."""

from __future__ import annotations

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from metakit.judging.evaluation import half_width
from metakit.plots.figures import BLACK, BLUE, CYCLE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, plain_log_axis
from metakit.records.decisions import DecisionMaps
from metakit.records.in_context import ContextCurve, OutsidePrior, PosteriorBands
from metakit.records.words import count

_COLOURS, _MARKERS = (BLUE, ORANGE, GREEN, PURPLE, RED), "os^Dv"  # of classes
_LEGEND: dict[str, Any] = {"fontsize": 8, "framealpha": 0.9, "edgecolor": "none"}
_LEAST_NATS = 1e-4  # what is nearer to zero is drawn there


def draw_posteriors(ax: Axes, record: PosteriorBands) -> None:
    """The exact and the learned mean and band over x, and the points; the function they come from, if it is known."""
    x, percent = record.x.tolist(), f"{100 * record.share:g}%"
    exact, learned = record.exact, record.learned
    ax.fill_between(x, exact.low.tolist(), exact.high.tolist(), color=SKY, alpha=0.35, lw=0)
    ax.plot(x, exact.mean.tolist(), color=BLUE, lw=2, label=f"exact: mean, {percent} band")
    ax.plot(x, learned.mean.tolist(), color=ORANGE, ls="--", lw=2, label="learned: mean")
    for i, edge in enumerate((learned.low, learned.high)):
        label = None if i else f"learned: {percent} band"
        ax.plot(x, edge.tolist(), color=ORANGE, ls=":", lw=1.6, label=label)
    if record.truth is not None:
        ax.plot(x, record.truth.tolist(), color=GREY, lw=1, label="the function drawn")
    ax.plot(record.support_x.tolist(), record.support_y.tolist(), "o", color=BLACK, ms=6, mec="white", zorder=5)
    ax.set(xlim=(x[0], x[-1]), xlabel="x", ylabel="y")
    ax.set_title(f"{count(len(record.support_x), 'point')}: learned to exact {record.kl:.3f} nats")
    ax.legend(**_LEGEND, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, columnspacing=1.4)


def draw_context_curve(ax: Axes, record: ContextCurve, *, log: bool = False) -> None:
    """The mean score of each over the size of the context, with its 95% interval; yardsticks dashed.

    Arguments:
        ax: where to draw.
        record: the scores.
        log: on a scale of powers of ten, for scores above 0.
    """
    colours = iter(CYCLE * (1 + len(record.names) // len(CYCLE)))
    for i, (name, mean, half) in enumerate(zip(record.names, record.mean, record.half, strict=True)):
        yardstick = name in record.references
        style: dict[str, Any] = {"ls": "--" if yardstick else "-", "marker": _MARKERS[i % 5], "ms": 4, "lw": 1.6}
        style["color"] = (BLACK, GREY)[record.references.index(name) % 2] if yardstick else next(colours)
        ax.errorbar(record.sizes, mean.tolist(), yerr=half.tolist(), capsize=2, label=name, **style)
    if log:
        plain_log_axis(ax)
    ax.set(xlabel="context rows", ylabel=f"query {record.measure}")
    ax.set_xticks(record.sizes)
    ax.set_title(f"Mean over the same {count(record.scores.shape[1], 'task')}, 95% interval")
    ax.legend(**_LEGEND)


def draw_outside_prior(ax: Axes, record: OutsidePrior) -> None:
    """The divergence from exact Bayes over what is varied, with its 95% band; the range of the training shaded."""
    at = record.at.tolist()
    ax.axvspan(*record.trained, color=SKY, alpha=0.18, lw=0, label="met in training")
    _line(ax, at, record.learned, BLUE, "-", "learned in context")
    if record.reference is not None:
        _line(ax, at, record.reference, BLACK, "--", "exact Bayes under the training's prior")
    ax.set_xscale("log")
    plain_log_axis(ax)
    ax.xaxis.set(major_locator=LogLocator(subs=(1.0, 2.0, 5.0)), major_formatter="{x:g}", minor_locator=NullLocator())
    ax.set(xlabel=record.what, ylabel="KL to the exact posterior (nats)")
    ax.set_title(f"{count(record.rows, 'context row')}, {record.learned.shape[1]} tasks a point, 95% interval")
    ax.legend(**_LEGEND)


def _line(ax: Axes, at: list[float], samples: Tensor, colour: str, dash: str, name: str) -> None:
    """Mean and 95% band of ``[V, n]``."""
    mean, half = samples.mean(1), half_width(samples.T)
    low, middle, high = (side.clamp(min=_LEAST_NATS).tolist() for side in (mean - half, mean, mean + half))
    ax.plot(at, middle, color=colour, ls=dash, marker="o", ms=4, lw=1.8, label=name)
    ax.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)


def draw_decision_map(ax: Axes, record: DecisionMaps, name: str) -> None:
    """The plane in the colours of the likelier classes, white where they are as likely, and the points over it.

    Without a map of this name, as there is none of one class, the points alone.
    """
    if name in record.maps:
        found = record.maps[name]
        ax.imshow(_shades(found.chances, record).numpy(), origin="lower", extent=record.limits, aspect="auto")
        ax.set_title(f"{name}: {found.seconds:.2f} s")
    else:
        ax.set_title(name)
    for number in record.classes:
        x = record.x[record.y == number]
        style: dict[str, Any] = {"color": _COLOURS[number % 5], "mec": BLACK, "mew": 0.8, "ms": 6}
        ax.plot(*x.T.tolist(), _MARKERS[number % 5], label=f"class {number}", **style)
    ax.set(xlim=record.limits[:2], ylim=record.limits[2:], xlabel="first feature", ylabel="second feature")


def _shades(chances: Tensor, record: DecisionMaps) -> Tensor:
    """Colours for chances, ``[G, G, 3]``: the likeliest class's, the more of it the surer it is."""
    colours = torch.tensor([to_rgb(_COLOURS[number % 5]) for number in record.classes])
    n = len(record.classes)
    most, which = chances.max(-1)
    sure = 0.75 * ((most - 1 / n) / (1 - 1 / n)).clamp(0, 1)[..., None]
    return 1 - sure * (1 - colours[which])
