"""Evaluation: what a learner makes of tasks it has not seen, stage by stage, with an interval over tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from metakit.checks import in_words, whole
from metakit.contracts import (
    ACCURACY,
    LOSS,
    Batch,
    Company,
    Judged,
    Learner,
    Measure,
    Plentiful,
    Scores,
    Tasks,
    losses_of,
    pieces,
)
from metakit.learners import check_protocol
from metakit.nn.lending import shadow
from metakit.randomness import Dice, apart
from metakit.threads import threads_for_batch

# Tasks are drawn this many at a time, whatever the chunk: the same seed gives the same tasks on any machine.
_DRAWN_AT_ONCE = 50
NORMAL_95 = 1.959964


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of each task after each stage of a learner's inner loop.

    Arguments:
        loss: ``[n_tasks, stages]``; for a learner with inner steps, after 0, 1, ..., K of them.
        accuracy: share of query rows answered rightly, ``[n_tasks, stages]`` in 0..1, where there are right ones.
        protocol: ``"transductive"`` if the rows of a task were answered together, else ``"inductive"``; ``"unstated"``
            of a learner that does not say.
        others: scores of other measures, alike.
        axis: what the stages count.
        at: the count at which each stage stands; 0, 1, ... when left out.
        headline: the measure that comes first; one of the others, if there are any, when left out.
        reference: what another learner made of the very same tasks, at the same stages.

    Example:
        >>> result = Evaluation(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), None, "inductive")
        >>> result.mean().tolist()
        [3.0, 1.0]
    """

    loss: Tensor | None
    accuracy: Tensor | None
    protocol: str
    others: Mapping[Measure, Tensor] = dataclasses.field(default_factory=dict)
    axis: str = "inner steps"
    at: Sequence[int] = ()
    headline: Measure | None = None
    reference: Evaluation | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", tuple(self.at) or tuple(range(self.score.shape[1])))

    @property
    def scores(self) -> dict[Measure, Tensor]:
        """All scores by their measure, the headline first."""
        named = {ACCURACY: self.accuracy, LOSS: self.loss}
        every = {**self.others, **{measure: score for measure, score in named.items() if score is not None}}
        first = {} if self.headline is None else {self.headline: every[self.headline]}
        return first | every

    @property
    def measure(self) -> Measure:
        """What the headline score says."""
        return next(iter(self.scores))

    @property
    def score(self) -> Tensor:
        """The headline score: ``[n_tasks, stages]``."""
        return self.scores[self.measure]

    def mean(self) -> Tensor:
        """Mean score over tasks after each stage, ``[stages]``."""
        return self.score.mean(0)

    def interval(self) -> tuple[Tensor, Tensor]:
        """Low and high end of the 95% interval of the mean over tasks, ``[stages]`` each; NaN for a single task.

        ``mean +- 1.96 s / sqrt(n_tasks)``, with s the standard deviation over tasks: how far the mean would move had
        other tasks been drawn. It does not tell how far another training run would move it.
        """
        half = half_width(self.score)
        return self.mean() - half, self.mean() + half

    def difference(self, measure: Measure | None = None) -> tuple[Tensor, Tensor]:
        """Mean of score minus the reference's on the same task, and half of its 95% interval, ``[stages]`` each.

            d_t = s_t - r_t,    mean(d) +- 1.96 std(d) / sqrt(n_tasks)

        What makes a task easy or hard for both cancels. The first shared measure is taken when left out.

        Raises:
            ValueError: if there is no reference, or it has no such score.
        """
        ours, theirs = self._pairs(measure)
        return (ours - theirs).mean(0), half_width(ours - theirs)

    def ratio(self, measure: Measure | None = None) -> tuple[Tensor, Tensor]:
        """Mean score divided by the reference's mean, and half of its 95% interval over tasks, ``[stages]`` each.

            R = mean(s) / mean(r),    R +- 1.96 std(s_t - R r_t) / (mean(r) sqrt(n_tasks))

        For scores above 0 such as squared errors, at large ``n_tasks``. Errors as in ``difference``.

        Source: the ratio estimator of survey sampling, Cochran 1977, section 6.3.
        """
        ours, theirs = self._pairs(measure)
        ratio = ours.mean(0) / theirs.mean(0)
        return ratio, half_width(ours - ratio * theirs) / theirs.mean(0).abs()

    def _pairs(self, measure: Measure | None) -> tuple[Tensor, Tensor]:
        """The scores of both, ``[n_tasks, stages]``."""
        if self.reference is None:
            raise ValueError(
                "this was judged without a reference. Give one: mk.evaluate(learner, tasks, reference=...)."
            )
        shared = [each for each in self.scores if each in self.reference.scores]
        if not shared or (measure is not None and measure not in shared):
            named = ", ".join(map(str, shared)) or "none"
            raise ValueError(f"measure must be a score of both, got {measure}. They share: {named}.")
        chosen = shared[0] if measure is None else measure
        return self.scores[chosen], self.reference.scores[chosen]

    def __str__(self) -> str:
        mean, half = float(self.mean()[-1]), float(half_width(self.score)[-1])
        tasks = len(self.score)
        judged = f"{tasks} tasks" if tasks > 1 else "1 task, so no interval"
        judged += f", {self.at[-1]} {self.axis}" if self.axis else ""
        lost = 0 if self.loss is None else int((~torch.isfinite(self.loss[:, -1])).sum())
        judged += f", {lost} of them diverged" if lost else ""
        if self.measure.percent:
            interval = f" +- {100 * half:.2f}" if tasks > 1 else ""
            return f"{self.measure} {100 * mean:.2f}{interval} % ({self.protocol}, {judged})"
        interval = f" +- {half:.2g}" if tasks > 1 else ""
        return f"{self.measure} {mean:.3g}{interval} ({judged})"


def half_width(scores: Tensor) -> Tensor:
    """Half of the 95% interval of the mean over the first dimension; NaN where there is nothing to vary."""
    spread = scores.std(0) if len(scores) > 1 else torch.full_like(scores[0], torch.nan)
    return NORMAL_95 * spread / len(scores) ** 0.5


def evaluate(
    learner: nn.Module,
    tasks: Tasks | Batch,
    *,
    n_tasks: int = 600,
    steps: int | None = None,
    seed: int = 1,
    protocol: str | None = None,
    chunk: int | None = None,
    progress: bool = False,
    reference: nn.Module | None = None,
) -> Evaluation:
    """Judge a learner on freshly drawn tasks, after each stage of its inner loop, in evaluation mode.

    Nothing is written into the learner, its mode included. Where tasks differ in the length of their inner loop, as
    trials of different numbers of pulls do, each is judged at its end alone.

    Arguments:
        learner: any learner. One with ``scores``, as the learners here, is judged by them; another one by its loss.
        tasks: a task distribution, or a batch of fixed tasks.
        n_tasks: number of tasks to draw.
        steps: inner steps K; the learner's own number when left out.
        seed: the same seed draws the same tasks, for every learner.
        protocol: ``"transductive"`` or ``"inductive"``; the learner's own when left out. The result names it.
        chunk: tasks to run at once; chosen by the learner when left out.
        progress: show a bar.
        reference: another learner, to be judged on the very same tasks, such as exact Bayes beside one that learns in
            context; the result tells the ``difference`` and the ``ratio``, stage by stage.

    Raises:
        ValueError: if a number is out of its range, or the reference is judged at other stages.

    Example:
        >>> import metakit as mk
        >>> learner = mk.MAML(mk.models.MLP(1, [8], 1), steps=1)
        >>> mk.evaluate(learner, mk.tasks.Sinusoids(), n_tasks=20, steps=3).loss.shape
        torch.Size([20, 4])
    """
    few = f"n_tasks must be at least 2 (an interval needs several), got {n_tasks!r}."
    n_tasks = in_words(few, lambda: whole("n_tasks", n_tasks, least=2))
    if chunk is not None:
        in_words(f"chunk must be a positive number of tasks, got {chunk!r}.", lambda: whole("chunk", chunk))
    own = learner.protocol if isinstance(learner, Company) else "inductive"
    protocol = check_protocol(str(protocol or own))
    parameter = next(learner.parameters(), None)
    device = None if parameter is None else parameter.device  # without parameters, where the tasks are
    learners = [learner] if reference is None else [learner, reference]
    made = [(one, _Found(shadow(one), Dice(apart(seed), device))) for one in learners]
    batches = _drawn(tasks, n_tasks, seed, device) if isinstance(tasks, Tasks) else [tasks]
    with torch.no_grad(), tqdm(total=n_tasks, unit="task", delay=2, disable=not progress) as bar:
        for batch in batches:
            for piece in pieces(made[0][1].reader, batch, training=False, size=chunk):
                for _, found in made:
                    found.judge(piece, steps, protocol)
                bar.update(len(piece))
    results = [found.result(one, protocol) for one, found in made]
    if reference is None:
        return results[0]
    if results[0].at != results[1].at:
        raise ValueError(
            f"a reference must be judged at the same stages: the learner's are {results[0].at}, the reference's "
            f"{results[1].at}. Give both the same sizes, or steps."
        )
    return dataclasses.replace(results[0], reference=results[1])


class _Found:
    """The scores of one learner, piece by piece."""

    def __init__(self, reader: nn.Module, dice: Dice) -> None:
        self.reader, self.dice = reader, dice
        self.parts: list[dict[Measure, Tensor]] = []
        self.at: list[tuple[int, ...]] = []

    def judge(self, piece: Any, steps: int | None, protocol: str) -> None:
        with threads_for_batch(piece), self.dice:
            at, scores = zip(*judged(self.reader, piece, steps, protocol), strict=True)
        self.at.append(at)
        self.parts.append({m: torch.stack([stage[m] for stage in scores], 1).cpu() for m in scores[0]})

    def result(self, learner: nn.Module, protocol: str) -> Evaluation:
        headline, at = next(iter(self.parts[0])), self.at[-1]
        first = (
            0 if len(set(self.at)) == 1 else -1
        )  # inner loops of different lengths have no stage in common but the last
        scores = {measure: torch.cat([part[measure][:, first:] for part in self.parts]) for measure in self.parts[0]}
        loss, accuracy = scores.pop(LOSS, None), scores.pop(ACCURACY, None)
        axis = learner.axis if isinstance(learner, Judged) and first == 0 else ""
        return Evaluation(loss, accuracy, stated(learner, protocol), scores, axis, at[first:], headline)


def judged(learner: Learner, batch: Batch, steps: int | None, protocol: str) -> Iterator[tuple[int, Scores]]:
    """The scores of each task after each stage, or its loss alone."""
    if isinstance(learner, Judged):
        yield from learner.scores(batch, steps, protocol)
    else:
        yield 0, {LOSS: losses_of(learner, batch)}


def stated(learner: Learner, protocol: str) -> str:
    """The protocol, as far as it makes a difference; ``"unstated"`` of a learner that does not say."""
    if not isinstance(learner, Company):
        return "unstated"
    return protocol if learner.answers_together else "inductive"


def _drawn(tasks: Tasks, n_tasks: int, seed: int, device: torch.device | None) -> Iterable[Any]:
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    at_once = tasks.drawn_at_once if isinstance(tasks, Plentiful) else _DRAWN_AT_ONCE
    for start in range(0, n_tasks, at_once):
        yield tasks.sample(min(at_once, n_tasks - start), generator=generator, device=device)
