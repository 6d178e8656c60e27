"""How learning went: scores over inner steps, losses over outer steps, learned rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from metakit.contracts import ACCURACY, LOSS
from metakit.judging.evaluation import Evaluation
from metakit.plots.figures import BLUE, CYCLE, DASHES, GREY, RED, SKY, plain_log_axis
from metakit.records.words import count

_LABELS = {ACCURACY: "query accuracy (%)", LOSS: "query loss (y squared)"}


def draw_evaluation(ax: Axes, results: Evaluation | Mapping[str, Evaluation], *, log: bool = False) -> None:
    """Mean score over tasks after each stage with its 95% band, of one evaluation or of several by name."""
    named = {"": results} if isinstance(results, Evaluation) else results
    first = next(iter(named.values()))
    measure, axis = first.measure, first.axis.removesuffix("s") or "stage"
    scale = 100 if measure.percent else 1
    for i, (name, result) in enumerate(named.items()):
        colour, mean, (low, high), steps = CYCLE[i % len(CYCLE)], result.mean(), result.interval(), result.at
        if len(mean) == 1:  # no inner steps: a level, not a curve
            ax.axhline(scale * float(mean), color=colour, ls=DASHES[i % 4], label=name)
            continue
        ax.plot(steps, (scale * mean).tolist(), color=colour, ls=DASHES[i % 4], marker="o", ms=4, label=name)
        ax.fill_between(steps, (scale * low).tolist(), (scale * high).tolist(), color=colour, alpha=0.2, lw=0)
    tasks = max(len(result.score) for result in named.values())
    ax.set(xlabel=axis, ylabel=_LABELS.get(measure, f"{measure} (%)" if measure.percent else str(measure)))
    ax.set_title(f"Mean over {tasks} new tasks, with 95% interval")
    if log:
        plain_log_axis(ax)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if any(named):
        ax.legend(frameon=False, fontsize=8)


def draw_history(ax: Axes, history: Any, *, window: int = 50, log: bool = True) -> None:
    """Loss at each outer step, its mean over ``window`` steps, and the validations with their intervals.

    ``history`` is the ``History`` of a finished run or the ``Run`` of one that goes on.
    """
    loss = torch.tensor(history.loss, dtype=torch.float64)
    every = max(1, len(loss) // 1000)  # A picture 600 dots wide shows no more, and is drawn many times in a live run.
    ax.plot(range(1, len(loss) + 1, every), loss[::every].tolist(), color=SKY, lw=0.6, alpha=0.7, label="each step")
    if len(loss) >= window:
        smooth = loss.unfold(0, window, every).mean(1).tolist()
        at = range(window, window + every * len(smooth), every)
        ax.plot(at, smooth, color=BLUE, lw=2, label=f"mean of {window} steps")
    if history.validation:
        steps, mean, half = zip(*history.validation, strict=True)
        ax.errorbar(steps, mean, yerr=half, color=RED, marker="s", ms=4, lw=1, capsize=3, label="validation, 95%")
    ax.set(xlabel="outer step", ylabel="query loss", title=f"Meta-training: {count(len(loss), 'outer step')}")
    if log and len(loss) and float(loss.min()) > 0:
        plain_log_axis(ax)
    if len(loss):
        ax.legend(frameon=False, fontsize=8, loc="upper right")


def draw_rates(ax: Axes, rates: Mapping[str, Tensor], *, start: float | None = None) -> None:
    """The spread of learned inner rates, a box for each weight tensor: median, quartiles, and all points beyond.

    ``rates`` maps the name of a weight tensor to its rates; ``start`` marks where all of them began.
    """
    names = list(rates)
    values = [rates[name].detach().flatten().tolist() for name in names]
    boxes = ax.boxplot(values, orientation="horizontal", tick_labels=names, widths=0.6, patch_artist=True, sym=".")
    for box, median in zip(boxes["boxes"], boxes["medians"], strict=True):
        box.set(facecolor=SKY, alpha=0.6)
        median.set(color=BLUE, lw=2)
    ax.axvline(0, color=GREY, lw=0.8)
    if start is not None:
        ax.axvline(start, color=RED, ls="--", lw=1.2, label=f"start, {start:g}")
        ax.legend(frameon=False, fontsize=8)
    ax.invert_yaxis()
    ax.set(xlabel="learned inner rate (no unit)", ylabel="weight tensor", title="Learned inner rates")
