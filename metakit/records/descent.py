"""Rules of descent raced against each other on one task."""

from __future__ import annotations

import dataclasses

from torch import Tensor

EXPLODED = 1e3  # a loss from which there is no return


@dataclasses.dataclass(frozen=True)
class Race:
    """The loss of one network under R inner rules, from one start and on one task.

    Arguments:
        names: of the rules, R of them.
        steps: the inner steps at which the loss was taken, M of them, from 0.
        support: mean squared error on the support rows, ``[R, M]``.
        query: mean squared error on rows that no rule has seen, ``[R, M]``.
        lr: the rate that all of them used.
        noise: standard deviation of the noise in the targets, in units of y.
    """

    names: tuple[str, ...]
    steps: tuple[int, ...]
    support: Tensor
    query: Tensor
    lr: float
    noise: float

    def exploded(self, name: str) -> bool:
        """Whether a rule's support loss has left every bound."""
        return not float(self.support[self.names.index(name), -1]) < EXPLODED

    @property
    def winner(self) -> str | None:
        """The rule with the lowest query loss at the end, if any is still in the race."""
        left = [name for name in self.names if not self.exploded(name)]
        return min(left, key=lambda name: float(self.query[self.names.index(name), -1])) if left else None

    def __str__(self) -> str:
        told = f"after {self.steps[-1]} steps at rate {self.lr:.4g}"
        lost = [name for name in self.names if self.exploded(name)]
        if self.winner is None:
            return f"{told} every rule has exploded: lower the rate."
        best = float(self.query[self.names.index(self.winner), -1])
        tail = f" Exploded: {', '.join(lost)}." if lost else ""
        return f"{told}, {self.winner} has the lowest query loss, {best:.3f}.{tail}"
