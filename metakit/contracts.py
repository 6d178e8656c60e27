"""The contract: all that the engine asks of what it works with. Nothing else is ever asked.

    tasks.sample(T) -> batch -> learner(batch) -> losses [T] -> an estimator's gradient -> a stock optimiser's move

A learner is an ``nn.Module`` that turns a batch of T tasks into one loss for each. Whatever does that is trained by
``fit``, judged by ``evaluate`` and ``compare``, and drawn by the same plots. What a class can offer beyond that stands
here as a protocol with its default; a class of your own needs none of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

Weights = dict[str, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


# --- What is drawn. ---


@runtime_checkable
class Batch(Protocol):
    """T tasks: rows to learn from and be judged on, a set of environments, a stream of minibatches, ...

    ``batch[2:5]`` is a batch of three of them. ``TaskBatch`` is the one with support and query rows.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> Self: ...

    def to(self, device: torch.device | str | None, /) -> Self: ...

    @property
    def device(self) -> torch.device: ...


@runtime_checkable
class Counted(Protocol):
    """A batch that says how many numbers it holds: few of them are worked on by one thread, which is faster."""

    def numel(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


@runtime_checkable
class Jobs(Batch, Protocol):
    """T training jobs: a start, the loss at each step, and the loss on other rows. ``TrainingJobs`` draws such batches.

    ``k`` is the number of the step, whose rows are meant; ``None`` means all rows.
    """

    @property
    def start(self) -> Weights: ...

    def losses(self, weights: Weights, k: int | None, /) -> Tensor: ...

    def judged(self, weights: Weights, k: int | None, /) -> Tensor: ...


@runtime_checkable
class Lasting(Protocol):
    """Jobs that say how long they shall be trained: a share, 0 to 1, of the way from the shortest to the longest."""

    @property
    def length(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class Turn:
    """What T worlds answer to T actions.

    Arguments:
        reward: ``[T]``.
        observation: what is seen now, ``[T, ...]``; where an episode ended, the first sight of the next one. ``None``
            in worlds without anything to see.
        done: whether an episode ended with this action, ``[T]``, boolean; ``None`` if none ever does within a trial.
        merit: what the action was worth to one who knows the world: how far its expected return lies below the best,
            ``[T]``, at most 0. For training and judging alone; ``None`` where it is not known.
    """

    reward: Tensor
    observation: Tensor | None = None
    done: Tensor | None = None
    merit: Tensor | None = None


@runtime_checkable
class Worlds(Batch, Protocol):
    """T hidden worlds to act in: a trial of L ``steps`` in each, over as many episodes as fit into it.

    ``begin`` gives their state, tensors in a dictionary, and the first sight of them; ``step`` changes the state by an
    action, ``[T]`` whole numbers below ``actions``. Chance comes from torch's generator.
    """

    @property
    def actions(self) -> int: ...

    @property
    def steps(self) -> int: ...

    def begin(self) -> tuple[dict[str, Tensor], Tensor | None]: ...

    def step(self, state: dict[str, Tensor], action: Tensor, /) -> tuple[dict[str, Tensor], Turn]: ...


@runtime_checkable
class Tasks(Protocol):
    """A distribution of tasks. The same generator state draws the same tasks."""

    def sample(
        self, n_tasks: int, *, generator: torch.Generator | None = None, device: torch.device | None = None
    ) -> Any: ...


@runtime_checkable
class Plentiful(Protocol):
    """Tasks so small that judging draws more of them at once than the usual 50."""

    @property
    def drawn_at_once(self) -> int: ...


# --- Who learns. ---


@runtime_checkable
class Learner(Protocol):
    """An ``nn.Module`` whose call turns a batch of T tasks into T losses. That, and nothing else, is trained.

    The loss of a task may not depend on the other tasks of the batch: a batch can be worked on in pieces.
    """

    def __call__(self, batch: Any, /) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a score says: its name, and which way is better; ``percent`` if it is a share, best told in percent."""

    name: str
    higher_is_better: bool = False
    percent: bool = False

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.higher_is_better else -1

    def __str__(self) -> str:
        return self.name


LOSS = Measure("loss")
ACCURACY = Measure("accuracy", higher_is_better=True, percent=True)
RETURN = Measure("return", higher_is_better=True)
REGRET = Measure("regret")
Scores = Mapping[Measure, Tensor]


@runtime_checkable
class Judged(Protocol):
    """A learner that can say more than a loss: scores after each stage of its inner loop.

    ``axis`` names what the stages count ("inner steps", "context rows", "optimiser steps", "trials"). Each stage is a
    pair of the count at which it stands and its scores, one number per task each; the first score is the headline.
    Without it a learner is judged by its loss, once.
    """

    axis: str

    def scores(self, batch: Any, steps: int | None, protocol: str | None, /) -> Iterator[tuple[int, Scores]]: ...


@runtime_checkable
class Company(Protocol):
    """A learner that says whether its answers to the rows of a task depend on each other, so that a protocol matters.

    ``protocol`` is how it treats them when it is trained. A learner that does not say is labelled ``"unstated"``.
    """

    protocol: str

    @property
    def answers_together(self) -> bool: ...


@runtime_checkable
class Choosy(Protocol):
    """A learner with an outer optimiser and rate of its own kind; Adam at 0.001 otherwise."""

    outer_optimizer: Callable[..., torch.optim.Optimizer]
    outer_lr: float


@runtime_checkable
class Estimated(Protocol):
    """A learner with an estimator of its own, which ``fit`` takes where none is asked for; autograd otherwise."""

    estimator: Estimator


@runtime_checkable
class Paired(Protocol):
    """A learner whose comparison with others on the same tasks is best made by another score than its headline."""

    compared_by: Measure


@runtime_checkable
class Paced(Protocol):
    """A learner that changes with the outer steps done: told of each by the outer loop."""

    def pace(self, step: int, /) -> None: ...


@runtime_checkable
class Sized(Protocol):
    """A learner that says how many tasks of a batch it wants to hold at once, to be trained or to be judged.

    ``None`` is all of them, as it is for one that does not say.
    """

    def tasks_at_once(self, batch: Any, /, *, training: bool) -> int | None: ...


@runtime_checkable
class Unrolled(Protocol):
    """A learner whose inner loop can be gone through in stretches: what truncation and persistent evolution work on.

    ``advance`` goes so many steps on from a state and gives the losses over them; a state is tensors and plain values
    in dictionaries, with ``"k"``, the steps done, and ``"steps"``, those to do in all.
    """

    def start(self, batch: Any, /) -> dict[str, Any]: ...

    def advance(self, batch: Any, state: dict[str, Any], stretch: int, /) -> tuple[Tensor, dict[str, Any]]: ...


@runtime_checkable
class Capped(Protocol):
    """A learner whose losses end at a greatest one, which means that the inner loop of that task has diverged."""

    cap: float


def losses_of(learner: Any, batch: Any) -> Tensor:
    """What a learner makes of a batch, if it is one loss per task."""
    losses = learner(batch)
    if not isinstance(losses, Tensor) or losses.shape != (len(batch),):
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"a learner must give one loss per task, shape [{len(batch)}], got {got} from {type(learner).__name__}. "
            "Average over rows, not over tasks."
        )
    return losses


def pieces(learner: Any, batch: Any, *, training: bool, size: int | None = None) -> Iterator[Any]:
    """The batch in pieces of so many tasks, or of as many as the learner wants to hold at once."""
    if size is None and hasattr(learner, "tasks_at_once"):  # Sized; asking a protocol takes as long as a small task
        size = learner.tasks_at_once(batch, training=training)
    if size is None or size >= len(batch):
        yield batch
        return
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


# --- What it works with. ---


@dataclasses.dataclass(frozen=True)
class InnerStep:
    """What an inner rule is told, once a step: all that there is to know, so that a new rule needs no new argument.

    Arguments:
        weights: the weights w_k, stacked over tasks: ``{name: [T, ...]}``.
        grads: the gradients of each task's loss with respect to them, of the same shapes.
        loss: the loss of each task at w_k, ``[T]``.
        k: number of the step, from 0.
        steps: number of steps K that will be made, if it is known.
    """

    weights: Weights
    grads: Weights
    loss: Tensor | None = None
    k: int = 0
    steps: int | None = None


@runtime_checkable
class Rule(Protocol):
    """An inner update, of operations that autograd can differentiate.

    An ``nn.Module``: its own parameters are meta-parameters.
    """

    def init_state(self, weights: Weights, /) -> Any: ...

    def step(self, now: InnerStep, state: Any, /) -> tuple[Weights, Any]: ...


@runtime_checkable
class Fitted(Protocol):
    """A rule whose parameters have the shapes of the weights: the rule, ready for those of one learner.

    Itself where it is asked first; asked again, another of its kind: learners do not share what they learn by accident.
    """

    def prepared(self, weights: Mapping[str, Tensor], steps: int, /) -> Rule: ...


# --- How the outer loop moves. ---


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A meta-gradient for the outer parameters, however it was got.

    Arguments:
        loss: mean loss over the tasks, a number in a tensor.
        grads: one for each parameter, in their order; ``None`` for one that played no part.
        carry: what the next estimate goes on from, tensors and plain values in dictionaries, lists and tuples; with it
            the outer loop keeps the batch for another move. ``None``: the batch is done with, a new one is drawn.
        size: a number that is finite if all gradients are, if it was worked out beside them.
        diverged: how many of the tasks had an inner loop that diverged, if the learner's losses tell (``Capped``).
    """

    loss: Tensor
    grads: Sequence[Tensor | None]
    carry: Any = None
    size: Tensor | None = None
    diverged: Tensor | None = None


class Estimator(Protocol):
    """How the meta-gradient is got: autograd, a truncated unroll, evolution strategies, a policy gradient, ...

    ``parameters`` are those of the learner that are trained, by name, and require gradients; ``grads`` are asked for in
    their order. ``carry`` is what the last estimate on this batch
    left, or ``None`` for a new batch. Randomness comes from torch's generator, which the outer loop seeds and keeps.
    """

    def __call__(self, learner: Any, parameters: Mapping[str, Tensor], batch: Any, carry: Any, /) -> Estimate: ...


Combine = Callable[[Estimate], Estimate]
"""Changes the estimate of a whole batch before the move: sums it over ranks, for one."""


@runtime_checkable
class Search(Protocol):
    """A search under way: asked for candidates, told a score for each; lower is better, infinite if it failed."""

    def ask(self, n: int, /) -> Sequence[Any]: ...

    def tell(self, candidates: Sequence[Any], scores: Sequence[float], /) -> None: ...


@runtime_checkable
class Strategy(Protocol):
    """How to choose the next candidates from the scores of those before; ``population`` are asked for in a round."""

    @property
    def population(self) -> int: ...

    def start(self, space: Any, /, *, seed: int = 0) -> Search: ...
