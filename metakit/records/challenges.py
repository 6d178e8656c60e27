"""Losses on tasks beyond those of the training, over one property that was varied."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from metakit.judging.evaluation import NORMAL_95

EXPLODED = 1e3  # a loss from which there is no return


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Query losses on tasks of which one property is varied, V values with n tasks each.

    Arguments:
        what: the property, with its unit.
        at: its values, ascending, ``[V]``.
        before, after: mean squared error before and after adaptation, ``[V, n]``.
        zero: loss of the answer 0 everywhere, ``[V]``.
        trained: the range met in training.
        chosen: one of the values, the one that is asked about.
    """

    what: str
    at: Tensor
    before: Tensor
    after: Tensor
    zero: Tensor
    trained: tuple[float, float]
    chosen: float

    @property
    def index(self) -> int:
        """Number of the chosen value."""
        return int((self.at - self.chosen).abs().argmin())

    @property
    def seen(self) -> bool:
        """Whether the chosen value lies in the range met in training."""
        low, high = self.trained
        return low - 1e-6 <= self.chosen <= high + 1e-6


@dataclasses.dataclass(frozen=True)
class Outside:
    """Losses over the amplitude at one phase, and over the phase at one amplitude.

    Arguments:
        amplitude, phase: the two sweeps; they meet in the chosen task.
        shots: support rows of each task.
        steps: inner steps.
        trained_shots: support rows of the tasks met in training.
    """

    amplitude: Sweep
    phase: Sweep
    shots: int
    steps: int
    trained_shots: int

    def __str__(self) -> str:
        sweep = self.amplitude
        before, after = (losses[sweep.index] for losses in (sweep.before, sweep.after))
        half = NORMAL_95 * float(after.std()) / len(after) ** 0.5
        met = {"amplitude": sweep.seen, "phase": self.phase.seen, "number of shots": self.shots == self.trained_shots}
        new = [name for name, seen in met.items() if not seen]
        told = f"{_listed(new)} not met in training" if new else "a task like those of the training"
        ended = f"{float(after.mean()):.2f} +- {half:.2f}" if float(after.mean()) < EXPLODED else "exploded"
        return (
            f"{told}: query loss {float(before.mean()):.2f} before adaptation, {ended} after; "
            f"the answer 0 everywhere has {float(sweep.zero[sweep.index]):.2f}."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
