"""Comparison: several learners on the very same episodes, so that their differences can be told from luck."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import in_words, whole
from metakit.contracts import ACCURACY, LOSS, Batch, Measure, Paired, Tasks
from metakit.judging.evaluation import Evaluation, evaluate, half_width


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The scores of several learners on the same E episodes.

    Arguments:
        scores: for each learner its score in each episode, ``[copies, E]``; all columns agree on the episode, a row is
            one trained copy.
        reference: the learner that the others are compared with.
        measure: what the scores say; ``True`` for accuracies in 0..1, ``False`` for losses.
        protocol: ``"transductive"`` if a learner answered the query rows of a task together, ``"unstated"`` if one does
            not say, else ``"inductive"``.

    Example:
        >>> scores = {"a": torch.tensor([[0.9, 0.8, 1.0]]), "b": torch.tensor([[0.7, 0.7, 0.8]])}
        >>> Comparison(scores, "a", True, "inductive").difference("b")[0]
        -0.16...
    """

    scores: Mapping[str, Tensor]
    reference: str
    measure: Measure
    protocol: str

    def __post_init__(self) -> None:
        if isinstance(self.measure, bool):
            object.__setattr__(self, "measure", ACCURACY if self.measure else LOSS)

    @property
    def accuracy(self) -> bool:
        """Whether the scores are accuracies."""
        return self.measure == ACCURACY

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return next(iter(self.scores.values())).shape[1]

    def mean(self, name: str) -> tuple[float, float]:
        """Mean score over copies and episodes, and half the width of its 95% interval over episodes."""
        return _interval(self.scores[name].mean(0))

    def difference(self, name: str) -> tuple[float, float]:
        """Mean of score minus the reference's in the same episode, and half the width of its 95% interval.

        ``d_e = s_e - r_e``, ``mean(d) +- 1.96 std(d) / sqrt(E)``. What makes an episode easy or hard for both cancels,
        so this interval is narrower than that of either mean. Zero outside it: the difference is no luck of the draw.
        """
        return _interval(self.scores[name].mean(0) - self.scores[self.reference].mean(0))

    def copies(self, name: str) -> list[float]:
        """Mean score of each trained copy: how far another training run moves it."""
        return self.scores[name].mean(1).tolist()

    def __str__(self) -> str:
        scale, digits = (100, 2) if self.measure.percent else (1, 3)
        head = (
            "learner",
            f"{self.measure} (%)" if self.measure.percent else str(self.measure),
            f"minus {self.reference}",
            "copies",
        )
        rows: list[tuple[str, ...]] = [head]
        for name in self.scores:
            each = [f"{scale * score:.{digits}f}" for score in self.copies(name)]
            pairs = [self.mean(name), self.difference(name)]
            shown = [f"{scale * mean:.{digits}f} +- {scale * half:.{digits}f}" for mean, half in pairs]
            if name == self.reference:
                shown[1] = "-"
            rows.append((name, *shown, ", ".join(each) if len(each) > 1 else "1"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        about = f"{self.episodes} episodes, the same for all; 95% intervals over episodes; {self.protocol}"
        return "\n".join(line.rstrip() for line in [*lines, about])


def compare(
    learners: Mapping[str, nn.Module | Sequence[nn.Module]],
    tasks: Tasks | Batch,
    *,
    n_tasks: int = 600,
    seeds: int = 3,
    steps: int | None = None,
    protocol: str = "inductive",
    reference: str | None = None,
) -> Comparison:
    """Judge several learners on the very same episodes, after their last inner step.

    The score is the first that all of them have: one by which a learner is best compared (``contracts.Paired``; agents
    by their regret, in which the luck of the rewards is not), then headlines.

    Arguments:
        learners: by name, each a learner or a list of copies of it, trained from different seeds.
        tasks: the task distribution, or a batch of fixed tasks.
        n_tasks: episodes drawn from each seed.
        seeds: episodes are drawn from the seeds 1, 2, ..., each of ``n_tasks``.
        steps: inner steps K; each learner's own number when left out.
        protocol: ``"inductive"`` or ``"transductive"``, one for all.
        reference: the learner to compare with; the best one when left out.

    Raises:
        ValueError: if no learner is given, they stand on different devices, or a number or name is out of its range.

    Example:
        >>> import metakit as mk
        >>> data = mk.tasks.LabelledData(torch.rand(6, 4, 5))
        >>> learners = {"pixels": mk.NearestNeighbour(), "prototypes": mk.ProtoNet(mk.models.MLP(5, [8], 8))}
        >>> result = mk.compare(learners, mk.tasks.Episodes(data, 3, 1, 2), n_tasks=20, seeds=2)
        >>> result.episodes, sorted(result.scores)
        (40, ['pixels', 'prototypes'])
    """
    copies = {name: [made] if isinstance(made, nn.Module) else list(made) for name, made in learners.items()}
    _check(copies, seeds=seeds, reference=reference)
    drawn = range(1, seeds + 1 if isinstance(tasks, Tasks) else 2)  # fixed tasks are the same whatever the seed
    options: dict[str, Any] = {"n_tasks": n_tasks, "steps": steps, "protocol": protocol}
    judged = {
        name: [[evaluate(one, tasks, seed=seed, **options) for seed in drawn] for one in made]
        for name, made in copies.items()
    }
    every = [result for made in judged.values() for results in made for result in results]
    wanted = [one.compared_by for made in copies.values() for one in made if isinstance(one, Paired)]
    measure = _shared_measure(every, wanted)
    scores = {
        name: torch.stack([torch.cat([result.scores[measure][:, -1] for result in results]) for results in made])
        for name, made in judged.items()
    }
    best = max(scores, key=lambda name: measure.sign * float(scores[name].mean()))
    protocols = {result.protocol for result in every}
    named = next((p for p in ("unstated", "transductive") if p in protocols), "inductive")
    return Comparison(scores, reference or best, measure, named)


def _shared_measure(results: Sequence[Evaluation], wanted: Sequence[Measure]) -> Measure:
    """The first measure that all results have: one that a learner wants, a headline, any other."""
    for measure in [
        *wanted,
        *(result.measure for result in results),
        *(m for result in results for m in result.scores),
    ]:
        if all(measure in result.scores for result in results):
            return measure
    names = sorted({str(result.measure) for result in results})
    raise ValueError(f"learners can only be compared by a score that all of them have, got {' and '.join(names)}.")


def _interval(values: Tensor) -> tuple[float, float]:
    return float(values.mean()), float(half_width(values))


def _check(copies: Mapping[str, list[nn.Module]], *, seeds: int, reference: str | None) -> None:
    if not copies or not all(copies.values()):
        raise ValueError('compare needs a learner for each name, as in {"maml": learner}; got none.')
    in_words(f"seeds must be a positive whole number, got {seeds!r}.", lambda: whole("seeds", seeds))
    if reference is not None and reference not in copies:
        raise ValueError(f"reference must be one of {', '.join(copies)}, got {reference!r}.")
    places = {str(p.device) for made in copies.values() for learner in made for p in learner.parameters()}
    if len(places) > 1:
        raise ValueError(
            f"the learners stand on {' and '.join(sorted(places))}, where one seed draws different episodes. "
            "Move them to one device with .to(device)."
        )
