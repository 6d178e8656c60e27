"""Learning in context looked at: beside exact Bayes, over the size of the context, and outside the prior."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import real, span, whole
from metakit.contracts import Measure, Tasks
from metakit.judging.evaluation import evaluate, half_width
from metakit.learners import Contextual, ExactGP
from metakit.learners.bins import Binned, Predictive, binned_divergence, check_share
from metakit.nn.lending import shadow
from metakit.records.words import count
from metakit.tasks.batch import TaskBatch
from metakit.tasks.steady import Ranged
from metakit.threads import threads_for_batch

_NO_BINS = (
    "the learner must answer with bins and the yardstick with a distribution. Take InContext(network, bins=100), and "
    "ExactGP or GridGP."
)

# --- One context, two answers. ---


@dataclasses.dataclass(frozen=True)
class Band:
    """A distribution at each of G places: its mean, and the ends of its middle share, ``[G]`` each."""

    mean: Tensor
    low: Tensor
    high: Tensor


@dataclasses.dataclass(frozen=True)
class PosteriorBands:
    """What a learner in context and exact Bayes make of the same points.

    Arguments:
        x: the places, ``[G]``.
        exact, learned: the two answers.
        divergence: how far the learned one is from the exact one, in nats, ``[G]``.
        support_x, support_y: the points, ``[S]``.
        told: what the exact answer was told.
        share: of the mass that is in the bands.
        truth: the function that the points come from, if it is known, ``[G]``.
    """

    x: Tensor
    exact: Band
    learned: Band
    divergence: Tensor
    support_x: Tensor
    support_y: Tensor
    told: str
    share: float
    truth: Tensor | None = None

    @property
    def kl(self) -> float:
        """The divergence, averaged over the places, in nats."""
        return float(self.divergence.mean())

    def __str__(self) -> str:
        points = count(len(self.support_x), "point")
        worst = int(self.divergence.argmax())
        most = f"at most {float(self.divergence[worst]):.3f}, at x = {float(self.x[worst]):.2f}"
        return f"{points}; exact posterior {self.told}. KL to it: {self.kl:.3f} nats, averaged over x; {most}."


def posterior_bands(
    learner: Contextual,
    exact: Contextual,
    x: Tensor,
    y: Tensor,
    grid: Tensor,
    *,
    told: str = "as the yardstick has it",
    share: float = 0.95,
    truth: Tensor | None = None,
) -> PosteriorBands:
    """Ask a learner and a yardstick for a whole curve, given some points of one feature.

        KL(x) = sum_b P_b log(P_b / p_b),    P_b, p_b the exact and the learned mass of bin b at x

    Arguments:
        learner: answers with bins: ``InContext(network, bins=...)``.
        exact: ``ExactGP`` or ``GridGP``.
        x, y: the points, ``[S]`` each; none is an empty context.
        grid: places to answer at, ``[G]``.
        told: what the yardstick was told, in words.
        share: of the mass that is in the bands.
        truth: the function that the points come from, ``[G]``.

    Raises:
        ValueError: if shapes disagree, a number is not finite, or the learner does not answer with bins.

    Example:
        >>> import metakit as mk
        >>> learner = mk.InContext(mk.models.SetTransformer(1, width=16, layers=2), bins=50)
        >>> exact, x = mk.GridGP(mk.tasks.GaussianProcesses(), points=3), torch.tensor([-1.0, 0.5])
        >>> record = posterior_bands(learner, exact, x, x, torch.linspace(-2, 2, 30))
        >>> record.learned.mean.shape, record.kl > 0
        (torch.Size([30]), True)

    Source: the comparison with the exact posterior, Mueller et al. 2022, section 5.1.
    """
    x, y, grid = (torch.as_tensor(side, dtype=torch.float32) for side in (x, y, grid))
    if x.dim() != 1 or y.shape != x.shape or grid.dim() != 1 or not len(grid):
        got = ", ".join(str(list(side.shape)) for side in (x, y, grid))
        raise ValueError(f"x, y and grid must be [S], [S] and [G], got {got}. One feature: drop its dimension.")
    if not bool(torch.cat([x, y, grid]).isfinite().all()):
        raise ValueError("x, y and grid must be finite, got a value that is not. Leave that point out.")
    check_share(share)
    answers = _answered((learner, exact), x, y, grid)
    if not isinstance(answers[0], Binned) or isinstance(answers[1], Tensor):
        raise ValueError(_NO_BINS)
    learned, right = (_band(answer, share) for answer in answers)
    divergence = binned_divergence(answers[1], answers[0]).float().cpu()
    return PosteriorBands(grid, right, learned, divergence, x, y, told, share, truth)


def _answered(learners: Sequence[Contextual], x: Tensor, y: Tensor, grid: Tensor) -> list[Any]:
    """The answers of several for the places of a grid, where the first of them computes."""
    place = next((p.device for p in learners[0].parameters()), x.device)
    sides = (side[None, :, None].to(place) for side in (x, y, grid, torch.zeros_like(grid)))
    batch = TaskBatch.trusted(*sides)  # which may be empty on the support side
    with torch.no_grad(), threads_for_batch(batch):
        return [
            answer if isinstance(answer, Tensor) else answer[0]
            for answer in (shadow(one).respond(batch) for one in learners)
        ]


def _band(answer: Predictive, share: float) -> Band:
    ends = ((1 - share) / 2, (1 + share) / 2)
    return Band(*(side.float().cpu() for side in (answer.mean, *map(answer.quantile, ends))))


# --- Over the size of the context. ---


@dataclasses.dataclass(frozen=True)
class ContextCurve:
    """The score of P learners and yardsticks on the same n tasks, from the first so many support rows of each.

    Arguments:
        names: of all of them, P in number, learners first.
        references: those of them that are yardsticks.
        sizes: of the context, M of them.
        scores: ``[P, n, M]``.
        measure: what is scored.
    """

    names: tuple[str, ...]
    references: tuple[str, ...]
    sizes: tuple[int, ...]
    scores: Tensor
    measure: Measure

    @property
    def mean(self) -> Tensor:
        """Mean over tasks, ``[P, M]``."""
        return self.scores.mean(1)

    @property
    def half(self) -> Tensor:
        """Half of the 95% interval of that, ``[P, M]``."""
        return half_width(self.scores.transpose(0, 1))

    def difference(self, name: str, reference: str) -> tuple[Tensor, Tensor]:
        """Mean of one's score minus the other's on the same task, and half of its 95% interval, ``[M]`` each."""
        ours, theirs = (self.scores[self.names.index(each)] for each in (name, reference))
        return (ours - theirs).mean(0), half_width(ours - theirs)

    def __str__(self) -> str:
        told = ", ".join(
            f"{name} {float(mean[-1]):.3g} +- {float(half[-1]):.1g}"
            for name, mean, half in zip(self.names, self.mean, self.half, strict=True)
        )
        rows, tasks = count(self.sizes[-1], "context row"), count(self.scores.shape[1], "task")
        return f"{self.measure} at {rows}, mean over the same {tasks}: {told}."


def context_curve(
    learners: Mapping[str, nn.Module],
    references: Mapping[str, nn.Module],
    prior: Tasks,
    sizes: Sequence[int],
    *,
    n_tasks: int = 500,
    seed: int = 1,
    measure: Measure | None = None,
) -> ContextCurve:
    """Judge learners and yardsticks on the same tasks, each time from the first so many support rows.

    Those that learn in context are judged as they are; any other one is given these rows as its support set.

    Arguments:
        learners: by name.
        references: yardsticks by name; may be none.
        prior: the tasks; where their context sizes have a range, contexts of the greatest of ``sizes`` are drawn.
        sizes: of the context.
        n_tasks: number of tasks.
        seed: of the tasks.
        measure: the score; the first that all have when left out.

    Raises:
        ValueError: if there is no learner or no size, the tasks have too few support rows, or no score is shared.

    Example:
        >>> import metakit as mk
        >>> prior, points = mk.tasks.LinearRegression(rows=(1, 9), features=2, noise=0.1), (0, 2, 8)
        >>> yardsticks = {"exact Bayes": mk.BayesLinear(prior), "least squares": mk.LeastSquares()}
        >>> record = context_curve({"untrained": mk.InContext(mk.models.SetTransformer(2), bins=50)}, yardsticks,
        ...                        prior, points, n_tasks=50)
        >>> str(record.measure), record.mean.shape, bool(record.mean[0, -1] > record.mean[1, -1])
        ('loss', torch.Size([3, 3]), True)
    """
    judged = {**learners, **references}
    if not learners or len(judged) < len(learners) + len(references):
        raise ValueError("there must be a learner, and every name once, those of the yardsticks too. Rename one.")
    if not sizes:
        raise ValueError("sizes must name a size of the context, got none. Give (1, 2, 5, 10).")
    at = tuple(sorted({whole("every size of a context", size, least=0) for size in sizes}))
    tasks = prior.at(at[-1]) if isinstance(prior, Ranged) else prior
    batch = tasks.sample(whole("n_tasks", n_tasks, least=2), generator=torch.Generator().manual_seed(seed))
    if batch.support_x.shape[1] < at[-1]:
        rows = count(batch.support_x.shape[1], "support row")
        raise ValueError(f"sizes must be at most what the tasks have, {rows}, got {at[-1]}. Draw tasks of more.")
    found = [_scores(learner, _first(batch, at[-1]), at) for learner in judged.values()]
    shared = [each for each in found[0] if all(each in scores for scores in found)]
    if not shared or measure not in (None, *shared):
        named = ", ".join(map(str, shared)) or "none"
        raise ValueError(f"measure must be a score that all have, got {measure}. They share: {named}.")
    chosen = shared[0] if measure is None else measure
    return ContextCurve(tuple(judged), tuple(references), at, torch.stack([each[chosen] for each in found]), chosen)


def _first(batch: TaskBatch, rows: int) -> TaskBatch:
    """The same tasks with the first support rows alone."""
    fields: dict[str, Any] = {
        name: value[:, :rows] if name.startswith("support_") and value is not None else value
        for name, value in vars(batch).items()
    }
    return batch.trusted(**fields)


def _scores(learner: nn.Module, batch: TaskBatch, sizes: tuple[int, ...]) -> dict[Measure, Tensor]:
    """Its scores from so many rows each, ``[n, M]``, in float64."""
    batch = batch.to(next((p.device for p in learner.parameters()), batch.device))
    if isinstance(learner, Contextual):
        learner = copy.copy(learner)
        learner.sizes = sizes
        scores = evaluate(learner, batch).scores
    else:
        results = [evaluate(learner, _first(batch, rows)).scores for rows in sizes]
        scores = {each: torch.stack([result[each][:, -1] for result in results], 1) for each in results[0]}
    return {each: score.double() for each, score in scores.items()}


# --- Outside the prior. ---


@dataclasses.dataclass(frozen=True)
class OutsidePrior:
    """How far a learner is from exact Bayes on tasks of which one property is varied, V values with n tasks each.

    Arguments:
        what: the property.
        at: its values, ascending, ``[V]``.
        learned: the divergence of each task, averaged over its query rows, in nats, ``[V, n]``.
        reference: that of exact Bayes under the training's prior, ``[V, n]``, if it was asked.
        trained: the range met in training.
        rows: of each context.
    """

    what: str
    at: Tensor
    learned: Tensor
    reference: Tensor | None
    trained: tuple[float, float]
    rows: int

    @property
    def inside(self) -> Tensor:
        """Which values lie in the range met in training, ``[V]``."""
        low, high = self.trained
        return (self.at >= low * (1 - 1e-6)) & (self.at <= high * (1 + 1e-6))

    def __str__(self) -> str:
        means, told = self.learned.mean(1), []
        for words, some in (("met in training", self.inside), ("not met", ~self.inside)):
            if some.any():
                worst = int(means.masked_fill(~some, -1).argmax())
                half = float(half_width(self.learned[worst]))
                told.append(
                    f"at most {float(means[worst]):.3f} +- {half:.1g} nats where {words} "
                    f"({self.what} {float(self.at[worst]):.3g})"
                )
        return f"KL to the exact posterior at {count(self.rows, 'context row')}: {', '.join(told)}."


def outside_prior(
    learner: Contextual,
    exact_of: Callable[[float], ExactGP],
    lengthscales: Sequence[float] | Tensor,
    *,
    trained: tuple[float, float],
    reference: Contextual | None = None,
    rows: int = 10,
    n_tasks: int = 200,
    seed: int = 1,
    what: str = "lengthscale",
) -> OutsidePrior:
    """Measure how far a learner is from exact Bayes, inside and outside the range that it was trained on.

    The exact posterior is told the hyperparameters of each task. A learner is not: what is left of its divergence
    inside the range is the price of not being told, and that alone for ``reference``.

    Arguments:
        learner: answers with bins.
        exact_of: makes the yardstick for one value of what is varied; tasks are drawn from its ``prior``.
        lengthscales: the values; of another property, if ``exact_of`` varies that.
        trained: the range met in training.
        reference: exact Bayes under the training's prior: ``GridGP(prior)``.
        rows: of each context.
        n_tasks: number of tasks for each value, the same draws for all.
        seed: of the tasks.
        what: the property in words.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if there is no value, or the learner does not answer with bins.

    Example:
        >>> import dataclasses, metakit as mk
        >>> learner = mk.InContext(mk.models.SetTransformer(1, width=16, layers=2), bins=50)
        >>> prior = mk.tasks.GaussianProcesses()
        >>> exact_of = lambda v: mk.ExactGP(dataclasses.replace(prior, lengthscale=v))
        >>> record = outside_prior(learner, exact_of, (0.05, 0.5), trained=prior.lengthscale, n_tasks=4)
        >>> record.learned.shape, record.inside.tolist()
        (torch.Size([2, 4]), [False, True])
    """
    at = sorted({real(f"every {what}", value) for value in lengthscales})
    if not at:
        raise ValueError(f"there must be a {what} to judge at, got none. Give (0.05, 0.15, 0.5, 1.5, 3.0).")
    rows, n_tasks = whole("rows", rows, least=0), whole("n_tasks", n_tasks, least=2)
    place = next((p.device for p in learner.parameters()), torch.device("cpu"))
    found = [_gaps(learner, exact_of(value), reference, rows, n_tasks, seed, place) for value in at]
    learned, other = (torch.stack([gaps[i] for gaps in found]) if found[0][i:] else None for i in range(2))
    assert learned is not None
    return OutsidePrior(what, torch.tensor(at, dtype=torch.float64), learned, other, span("trained", trained), rows)


def _gaps(
    learner: Contextual,
    exact: ExactGP,
    reference: Contextual | None,
    rows: int,
    n_tasks: int,
    seed: int,
    place: torch.device,
) -> list[Tensor]:
    """The divergence of each task, ``[n]``: the learner's, and the reference's on the learner's bins."""
    batch = exact.prior.at(rows).sample(n_tasks, generator=torch.Generator().manual_seed(seed)).to(place)
    with torch.no_grad(), threads_for_batch(batch):
        right, answer = exact.respond(batch), shadow(learner).respond(batch)
        other = None if reference is None else reference.respond(batch)
        if not isinstance(answer, Binned) or isinstance(other, Tensor):
            raise ValueError(_NO_BINS)
        answers = [answer] if other is None else [answer, _on_bins(other, answer)]
        return [binned_divergence(right, each).mean(1).cpu() for each in answers]


def _on_bins(answer: Predictive, bins: Binned) -> Binned:
    """The same distribution, told by its masses in these bins."""
    below = torch.stack([answer.cdf(border.double()) for border in bins.borders], -1)
    masses = F.pad(F.pad(below, (1, 0)), (0, 1), value=1.0).diff(dim=-1)
    return Binned(masses.clamp(min=1e-12).log(), bins.borders, bins.tails)
