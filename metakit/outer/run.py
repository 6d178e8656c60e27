"""A run of the outer loop: its live side, and the record of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from typing import Any

from metakit.contracts import LOSS, Measure


@dataclasses.dataclass(frozen=True)
class History:
    """What happened in a run of ``fit``.

    Arguments:
        loss: mean loss over the meta-batch at each outer step.
        validation: ``(outer step, mean score, half width of its 95% interval)`` for each validation.
        ended: why it ended: ``"steps spent"``, ``"time spent"``, ``"target reached"``, ``"no improvement"``,
            ``"stopped"`` or ``"interrupted"``.
        seconds: time spent in this run and, if it was resumed, before.
        measure: what the score of a validation says.
        diverged: inner loops that diverged and were counted by the greatest loss, in all; of learners with a ``cap``.
        state: all that the run can go on from: ``fit(..., resume=history)``.
    """

    loss: tuple[float, ...]
    validation: tuple[tuple[int, float, float], ...]
    ended: str
    seconds: float
    measure: Measure = LOSS
    diverged: float = 0.0
    state: Mapping[str, Any] | None = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def steps(self) -> int:
        """Outer steps done."""
        return len(self.loss)


class DivergedError(RuntimeError):
    """The loss or a meta-gradient became NaN or infinite; the learner holds the last good weights."""

    def __init__(self, message: str, history: History) -> None:
        super().__init__(message)
        self.history = history


class Run:
    """The live side of a run: ``.step``, ``.progress``, ``.loss``, ``.validation``, ``.stop()``, ``.history()``.

    A run of ``Training`` takes an outer step each time that it is asked for the next.

    Arguments:
        steps: outer steps to do in all, if their number is set.
        minutes: time to spend in all, if it is set.
    """

    def __init__(self, steps: int | None, minutes: float | None = None) -> None:
        self.steps, self.minutes = steps, minutes
        self.loss: list[float] = []
        self.validation: list[tuple[int, float, float]] = []
        self.measure, self.diverged = LOSS, 0.0
        self.ended = ""
        self.started = time.perf_counter()
        self.state: Mapping[str, Any] | None = None
        self.loop: Iterator[Run] = iter(())

    def __iter__(self) -> Iterator[Run]:
        return self.loop

    def __next__(self) -> Run:
        return next(self.loop)

    @property
    def step(self) -> int:
        """Outer steps done."""
        return len(self.loss)

    @property
    def seconds(self) -> float:
        """Time spent."""
        return time.perf_counter() - self.started

    @property
    def progress(self) -> float:
        """The share of the run that is done, 0 to 1: of its steps or of its time, whichever is further on."""
        of_steps = self.step / self.steps if self.steps else 0.0
        of_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(of_steps, of_time))

    @property
    def spent(self) -> str:
        """What is used up, steps or time, or nothing yet."""
        if self.steps is not None and self.step >= self.steps:
            return "steps spent"
        return "time spent" if self.minutes is not None and self.seconds >= 60 * self.minutes else ""

    def stop(self) -> None:
        """End the run at the next step's edge; safe to call from another thread."""
        self.ended = self.ended or "stopped"

    def history(self) -> History:
        """The record so far."""
        return History(
            *(tuple(self.loss), tuple(self.validation), self.ended, self.seconds),
            measure=self.measure,
            diverged=self.diverged,
            state=self.state,
        )
