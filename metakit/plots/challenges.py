"""Curves over one number that was varied, layers compared, and tasks beyond those of the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from metakit.judging.evaluation import NORMAL_95
from metakit.plots.figures import BLACK, BLUE, CYCLE, DASHES, GREY, RED, SKY, plain_log_axis
from metakit.records.challenges import EXPLODED, Sweep

_LOW, _HIGH = 1e-3, EXPLODED  # losses beyond are drawn at the edge


def draw_outside(ax: Axes, sweep: Sweep, *, legend: bool = True) -> None:
    """Loss before and after adaptation over the varied property, the range of the training shaded."""
    at = sweep.at.tolist()
    ax.axvspan(*sweep.trained, color=SKY, alpha=0.18, lw=0, label="met in training")
    for losses, colour, dash, name in ((sweep.before, RED, "--", "before"), (sweep.after, BLUE, "-", "after")):
        low, mean, high = _band(losses)
        ax.plot(at, mean, color=colour, ls=dash, lw=2, label=f"{name} adaptation")
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    ax.plot(at, sweep.zero.clamp(_LOW, _HIGH).tolist(), color=BLACK, ls=":", lw=1.2, label="answer 0 everywhere")
    ax.axvline(sweep.chosen, color=GREY, lw=1)
    plain_log_axis(ax)
    ax.set(xlabel=sweep.what, ylabel="query loss (y squared)")
    if legend:
        ax.legend(framealpha=0.9, edgecolor="none", fontsize=8, loc="lower right")


def draw_against(ax: Axes, at: Sequence[float], samples: Mapping[str, Tensor], *, log: bool = True) -> None:
    """Mean and 95% band of repeated measurements against a number that was varied.

    ``samples`` maps a name to ``[V, n]``, n measurements for each of the V values ``at``; ``log`` draws the values on a
    scale of doublings and the measurements on one of powers of ten.
    """
    for i, (name, values) in enumerate(samples.items()):
        low, mean, high = _band(values)
        colour = CYCLE[i % len(CYCLE)]
        ax.plot(at, mean, color=colour, ls=DASHES[i % 4], marker="o", ms=4, label=name)
        ax.fill_between(at, low, high, color=colour, alpha=0.2, lw=0)
    if log:
        ax.set_xscale("log", base=2)
        plain_log_axis(ax)
    ax.set_xticks(at, [f"{value:g}" for value in at])
    if len(samples) > 1:
        ax.legend(frameon=False, fontsize=8)


def draw_layers(ax: Axes, layers: Sequence[str], samples: Mapping[str, Tensor]) -> None:
    """For each layer the mean of a number over tasks, with its 95% interval; ``samples`` maps names to ``[T, L]``."""
    width = 0.8 / len(samples)
    for i, (name, values) in enumerate(samples.items()):
        places = [place + (i - (len(samples) - 1) / 2) * width for place in range(len(layers))]
        half = NORMAL_95 * values.std(0) / len(values) ** 0.5
        colour = CYCLE[i % len(CYCLE)]
        ax.bar(places, values.mean(0).tolist(), width, yerr=half.tolist(), color=colour, capsize=3, label=name)
    ax.set_xticks(range(len(layers)), layers)
    ax.set(xlabel="layer")
    if len(samples) > 1:
        ax.legend(frameon=False, fontsize=8, loc="upper right", ncols=len(samples))


def _band(values: Tensor) -> tuple[list[float], list[float], list[float]]:
    """Low end, mean and high end of the 95% interval over the columns of ``[V, n]``."""
    values = values.nan_to_num(_HIGH).clamp(max=_HIGH)
    mean, half = values.mean(1), NORMAL_95 * values.std(1) / values.shape[1] ** 0.5
    low, middle, high = (line.clamp(_LOW, _HIGH).tolist() for line in (mean - half, mean, mean + half))
    return low, middle, high
