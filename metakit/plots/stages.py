"""The seven steps of a meta-learning algorithm, each with what it leaves to be seen."""

from __future__ import annotations

from matplotlib.axes import Axes

from metakit.plots.figures import BLACK, CYCLE, DASHES, GREY, RED, SKY, plain_log_axis
from metakit.records.stages import Stage


def draw_starts(ax: Axes, record: Stage) -> None:
    """The other random starts, behind the learner's own."""
    x = record.adaptation.x.numpy()
    for i, curve in enumerate(record.starts.numpy()):
        ax.plot(x, curve, color=GREY, lw=0.8, alpha=0.6, zorder=0, label=None if i else "other random starts")


def draw_trials(ax: Axes, record: Stage) -> None:
    """The evaluations of each optimiser that was tried, with their intervals, and the target."""
    for i, (name, scores) in enumerate(record.trials.items()):
        at, mean, half = zip(*scores, strict=True)
        shifted = [step + 0.6 * (i - 1) for step in at]  # The intervals would hide each other.
        ax.errorbar(shifted, mean, yerr=half, color=CYCLE[i], ls=DASHES[i], marker="o", ms=4, capsize=3, label=name)
    _finish(ax, record, outer_steps=at[-1], title="Optimisers tried from this start")


def draw_progress(ax: Axes, record: Stage) -> None:
    """The query loss of each outer step, each evaluation with its interval, the random start and the target."""
    if record.loss:
        ax.plot(range(1, len(record.loss) + 1), record.loss, color=SKY, lw=0.7, label="each outer step")
    if record.validation:
        at, mean, half = zip(*record.validation, strict=True)
        ax.errorbar(at, mean, yerr=half, color=RED, marker="s", ms=4, lw=1, capsize=3, label="evaluation, 95%")
    _finish(ax, record, outer_steps=max(60, len(record.loss)), title="The learner over time")


def _finish(ax: Axes, record: Stage, *, outer_steps: int, title: str) -> None:
    ax.axhline(record.random, color=GREY, ls="--", lw=1, label=f"random start {record.random:.2f}")
    ax.axhline(record.target, color=BLACK, ls=":", label=f"target {record.target:g}")
    ax.set(xlim=(0, outer_steps * 1.05), xlabel="outer step", ylabel="query loss (y squared)")
    plain_log_axis(ax)
    ax.set(ylim=(0.3, 40), title=title)
    ax.legend(frameon=False, fontsize=8, loc="upper right")
