"""Networks that start from different places, raced on the same new tasks."""

from __future__ import annotations

import dataclasses

import torch
from matplotlib.axes import Axes
from torch import Tensor

from metakit.judging.evaluation import NORMAL_95
from metakit.plots.figures import CYCLE, DASHES, count, plain_log_axis

_LOW, _HIGH = 0.05, 50.0


@dataclasses.dataclass(frozen=True)
class HeadStart:
    """The query loss of R racers on the same T tasks after 0, 1, ..., K gradient steps.

    Arguments:
        names: of the racers, R of them.
        loss: mean squared error on the query rows, ``[R, T, K + 1]``.
        shots: support rows of each task.
        lr: the rate of the gradient steps, the same for all.
        trained: outer steps of training before the race, or ``None`` where that is of no interest.
    """

    names: tuple[str, ...]
    loss: Tensor
    shots: int
    lr: float
    trained: int | None = None

    @property
    def steps(self) -> int:
        """Gradient steps K."""
        return self.loss.shape[-1] - 1

    def mean(self) -> Tensor:
        """Mean over tasks, ``[R, K + 1]``."""
        return self.loss.mean(1)

    def half(self) -> Tensor:
        """Half of the 95% interval of the mean over tasks, ``[R, K + 1]``."""
        tasks = self.loss.shape[1]
        squares = (self.loss - self.mean()[:, None]).square().sum(1)  # torch's std warns where there is no racer
        return NORMAL_95 * (squares / (tasks - 1) / tasks).sqrt()

    def __str__(self) -> str:
        if not self.names:
            return "no racer is at the start: tick one."
        told = []
        for name, mean, half in zip(self.names, self.mean()[:, -1].tolist(), self.half()[:, -1].tolist(), strict=True):
            told.append(f"{name} {mean:.2f} +- {half:.2f}" if mean < _HIGH else f"{name} exploded")
        where = "" if self.trained is None else f"trained for {count(self.trained, 'outer step')}; "
        work = f"{count(self.shots, 'point')} and {count(self.steps, 'gradient step')} at rate {self.lr:.3g}"
        return f"{where}query loss after {work}: {', '.join(told)}."


def draw_head_start(ax: Axes, record: HeadStart) -> None:
    """Mean query loss of each racer against its gradient steps, with the 95% band over tasks."""
    steps = range(record.steps + 1)
    mean, half = record.mean().nan_to_num(_HIGH), record.half().nan_to_num(0.0)
    band = torch.stack([mean - half, mean, mean + half]).clamp(_LOW, _HIGH)
    for i, name in enumerate(record.names):
        low, middle, high = band[:, i].tolist()
        mark = "o" if record.steps <= 20 else None
        ax.plot(steps, middle, color=CYCLE[i % 7], ls=DASHES[i % 4], lw=2, marker=mark, ms=4, label=name)
        ax.fill_between(steps, low, high, color=CYCLE[i % 7], alpha=0.2, lw=0)
    plain_log_axis(ax)
    ax.set(ylim=(_LOW, _HIGH), xlabel="gradient step on the new task", ylabel="query loss (y squared)")
    ax.set_title(f"Mean over {record.loss.shape[1]} new tasks, with 95% band")
    if record.names:
        ax.legend(frameon=False, fontsize=9, loc="upper right")
