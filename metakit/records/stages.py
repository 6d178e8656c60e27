"""The seven steps of a meta-learning algorithm, each with what it leaves to be seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from metakit.records.adaptation import Adaptation

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
