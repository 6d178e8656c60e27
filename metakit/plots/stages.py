"""The seven steps of a meta-learning algorithm, each with what it leaves to be seen."""

from __future__ import annotations

import dataclasses

from matplotlib.axes import Axes

from metakit.plots.adaptation import Adaptation
from metakit.plots.figures import BLACK, GREY, RED, SKY, plain_log_axis

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
    loss: tuple[float, ...]
    validation: tuple[tuple[int, float, float], ...]
    target: float
    lr: float
    done: bool

    def __str__(self) -> str:
        where = f", round {self.round}" if self.round else ""
        return f"step {self.number}{where}: {TITLES[self.number - 1]}. {self.told}"


def draw_progress(ax: Axes, record: Stage) -> None:
    """The query loss of each outer step, each evaluation with its interval, and the target."""
    ax.plot(range(1, len(record.loss) + 1), record.loss, color=SKY, lw=0.7, label="each outer step")
    if record.validation:
        at, mean, half = zip(*record.validation, strict=True)
        ax.errorbar(at, mean, yerr=half, color=RED, marker="s", ms=4, lw=1, capsize=3, label="evaluation, 95%")
    ax.axhline(record.target, color=BLACK, ls=":", label=f"target {record.target:g}")
    if not record.loss:
        ax.text(30, 2.5, "nothing learned yet", ha="center", color=GREY)
    ax.set(xlim=(0, max(60, len(record.loss)) * 1.05), xlabel="outer step", ylabel="query loss (y squared)")
    plain_log_axis(ax)
    ax.set(ylim=(0.3, 8), title="The learner over time")
    ax.legend(frameon=False, fontsize=8, loc="upper right")
