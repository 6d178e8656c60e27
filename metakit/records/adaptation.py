"""One regression task seen by a learner: what an adaptation leaves to be seen."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metakit.records.words import count


@dataclasses.dataclass(frozen=True)
class Adaptation:
    """One regression task seen by a learner before, during and after its inner steps.

    Arguments:
        x: where the curves are known, ``[G]``.
        truth: the task's true curve, ``[G]``.
        curves: the learner's curve after 0, 1, ..., K inner steps, ``[K + 1, G]``.
        support_x: inputs of the support rows, ``[S]``.
        support_y: their targets, ``[S]``.
        loss: mean squared distance of each curve from the true one, ``[K + 1]``.
        amplitude: amplitude of the task, in units of y.
        phase: its phase in radians.
        seen: whether the task lies inside the distribution that the learner was given.
    """

    x: Tensor
    truth: Tensor
    curves: Tensor
    support_x: Tensor
    support_y: Tensor
    loss: Tensor
    amplitude: float
    phase: float
    seen: bool

    @property
    def steps(self) -> int:
        """Inner steps K."""
        return len(self.loss) - 1

    @property
    def shots(self) -> int:
        """Support rows S."""
        return len(self.support_x)

    def __str__(self) -> str:
        before, after = float(self.loss[0]), float(self.loss[-1])
        task = f"amplitude {self.amplitude:.2f}, phase {self.phase:.2f}"
        told = f"{count(self.shots, 'point')} and {count(self.steps, 'inner step')}"
        if torch.isfinite(self.loss[-1]) and after < 1e4:
            result = f"loss {before:.2f} before, {after:.2f} after {told} ({task})."
        else:
            result = f"the loss has exploded after {told} ({task}): the steps are too large here."
        return result + ("" if self.seen else " No such task was in the training distribution.")
