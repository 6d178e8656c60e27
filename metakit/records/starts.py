"""Networks that start from different places, raced on the same new tasks."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from metakit.judging.evaluation import NORMAL_95
from metakit.records.words import count

EXPLODED = 50.0  # far above the loss of the answer 0 everywhere


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
            told.append(f"{name} {mean:.2f} +- {half:.2f}" if mean < EXPLODED else f"{name} exploded")
        where = "" if self.trained is None else f"trained for {count(self.trained, 'outer step')}; "
        work = f"{count(self.shots, 'point')} and {count(self.steps, 'gradient step')} at rate {self.lr:.3g}"
        return f"{where}query loss after {work}: {', '.join(told)}."
