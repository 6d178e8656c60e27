"""The seven steps of a meta-learning algorithm, each with what it leaves to be seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from matplotlib.axes import Axes
from torch import Tensor

from metakit.plots.adaptation import Adaptation
from metakit.plots.figures import BLACK, CYCLE, DASHES, GREY, RED, SKY, plain_log_axis

Score = tuple[int, float, float]

TITLES = (
    "Initialise the learner's parameters",
    "Choose an optimiser by the learner's kind",
    "Optimise the learner's parameters",
    "Learn with the optimised learner",
    "Evaluate the learner",
    "Adjust by the evaluation",
    "Repeat until the target",
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A meta-training run as it stands after one of the seven steps.

    Arguments:
        number: which of the seven, 1 to 7.
        round: how often steps 3 to 7 have begun, 0 before the first time.
        told: what the step did, in numbers.
        adaptation: the learner on one task that stays the same: its curve before and, from step 4 on, after learning.
        starts: curves of other random starts on that task, ``[N, G]``: what step 1 might have drawn.
        random: mean query loss over new tasks of the random start, before anything is learned.
        trials: the evaluations of each optimiser that step 2 tried from that start, by its name; empty before.
        loss: query loss of each outer step so far.
        validation: ``(outer step, mean query loss over new tasks, half width of its 95% interval)`` of each evaluation.
        target: the validation loss to reach.
        lr: the outer rate now.
        done: whether the target is reached or the rounds are spent.
    """

    number: int
    round: int
    told: str
    adaptation: Adaptation
    starts: Tensor
    random: float
    trials: Mapping[str, tuple[Score, ...]]
    loss: tuple[float, ...]
    validation: tuple[Score, ...]
    target: float
    lr: float
    done: bool

    def __str__(self) -> str:
        where = f", round {self.round}" if self.round else ""
        return f"step {self.number}{where}: {TITLES[self.number - 1]}. {self.told}"


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
