"""What a learned optimiser is measured by: ordinary ones, tuned for each job, and conjugate gradients on quadratics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import choice, real, whole
from metakit.contracts import LOSS, InnerStep, Jobs, Rule, Scores, Weights
from metakit.inner import Adam
from metakit.learners.unroll import TRAINING_LOSS, Unroll
from metakit.tasks.jobs import QuadraticBatch

NINE_RATES = tuple(0.001 * 2**i for i in range(9))  # to 0.256


class Scheduled(nn.Module):
    """Another rule whose moves are multiplied: by a rate for each task, and by a course over the steps.

        w <- w + rate_t c(k / K) (rule(w) - w),    c(s) = 1, or (1 + cos(pi s)) / 2 of a ``"cosine"`` course

    Arguments:
        rule: the rule that makes the moves, with a rate of 1.
        rates: the rates of the tasks, ``[T]``, or one for all.
        schedule: ``"constant"`` or ``"cosine"``.

    Example:
        >>> import metakit as mk
        >>> now = InnerStep({"w": torch.zeros(2, 1)}, {"w": torch.ones(2, 1)}, k=5, steps=10)
        >>> Scheduled(mk.SGD(lr=1.0), torch.tensor([0.1, 0.2]), "cosine").step(now, None)[0]["w"].tolist()
        [[-0.05...], [-0.1...]]
    """

    rates: Tensor

    def __init__(self, rule: Rule, rates: Tensor | float = 1.0, schedule: str = "constant") -> None:
        super().__init__()
        self.rule, self.schedule = rule, choice("schedule", schedule, ("constant", "cosine"))
        self.register_buffer("rates", torch.as_tensor(rates))

    def init_state(self, weights: Weights) -> Any:
        return self.rule.init_state(weights)

    def step(self, now: InnerStep, state: Any) -> tuple[Weights, Any]:
        after, state = self.rule.step(now, state)
        course = 1.0 if self.schedule == "constant" else (1 + math.cos(math.pi * now.k / (now.steps or 1))) / 2
        rates = course * self.rates
        moved = {}
        for name, w in now.weights.items():
            each = rates.view(-1, *[1] * (w.dim() - 1)).to(w) if rates.dim() else rates.to(w)
            moved[name] = w + each * (after[name] - w)
        return moved, state


class Tuned(nn.Module):
    """An ordinary optimiser, its rate tuned for each job by itself: the best of a grid, all of it in one stacked run.

    Nothing is learned, and much is given away: whoever trains a network by hand would have to train it nine times.

    Arguments:
        rule: the rule, with a rate of 1: ``mk.Adam(lr=1.0)`` when left out.
        steps: inner steps K.
        rates: the grid.
        schedule: ``"constant"`` or ``"cosine"``.
        by: which loss at the end the rate is chosen by, ``"training"`` or ``"other"`` rows.

    Example:
        >>> import metakit as mk
        >>> result = mk.evaluate(mk.Tuned(steps=20), mk.tasks.Quadratics(), n_tasks=10)
        >>> result.axis, bool(result.mean()[-1] < result.mean()[0])
        ('optimiser steps', True)
    """

    axis = "optimiser steps"

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        steps: int = 100,
        rates: Sequence[float] = NINE_RATES,
        schedule: str = "constant",
        by: str = "training",
    ) -> None:
        super().__init__()
        self.rule, self.steps = rule or Adam(lr=1.0), whole("steps", steps)
        self.rates = [real("every rate", rate, above=0.0) for rate in rates]
        self.schedule, self.by = schedule, choice("by", by, ("training", "other"))

    def forward(self, batch: Jobs) -> Tensor:
        *_, (_, scores) = self.scores(batch)
        return scores[LOSS]

    def scores(self, batch: Any, steps: int | None = None, protocol: str | None = None) -> Iterator[tuple[int, Scores]]:
        """Yield the losses of each job under the rate that is best for it at the end, after every stage."""
        stages, best = self._tried(batch, steps or self.steps)
        for k, scores in stages:
            yield k, {measure: loss.gather(1, best)[:, 0] for measure, loss in scores.items()}

    def chosen(self, batch: Any, steps: int | None = None) -> Tensor:
        """The rate that is best for each job, ``[T]``."""
        return torch.tensor(self.rates)[self._tried(batch, steps or self.steps)[1][:, 0].cpu()]

    def _tried(self, batch: Any, steps: int) -> tuple[list[tuple[int, dict[Any, Tensor]]], Tensor]:
        """The losses ``[T, rates]`` after every stage, and the number of the best rate, ``[T, 1]``."""
        jobs, rates = len(batch), torch.tensor(self.rates, device=batch.device)
        wide = batch[torch.arange(jobs, device=batch.device).repeat_interleave(len(rates))]
        unroll = Unroll(Scheduled(self.rule, rates.repeat(jobs), self.schedule), steps=steps)
        stages = [
            (k, {measure: loss.view(jobs, -1) for measure, loss in scores.items()})
            for k, scores in unroll.scores(wide, steps)
        ]
        measure = TRAINING_LOSS if self.by == "training" else LOSS
        return stages, stages[-1][1][measure].nan_to_num(nan=torch.inf).argmin(1, keepdim=True)


class ConjugateGradients(nn.Module):
    """Conjugate gradients on quadratics: D steps find the minimum of D dimensions, which no fixed rule can.

    Arguments:
        steps: inner steps K.

    Example:
        >>> import metakit as mk
        >>> tasks = mk.tasks.Quadratics(dimensions=4)
        >>> bool(mk.evaluate(ConjugateGradients(steps=4), tasks, n_tasks=10).mean()[-1] < 1e-3)
        True

    Source: Hestenes and Stiefel 1952.
    """

    axis = "optimiser steps"

    def __init__(self, *, steps: int = 100) -> None:
        super().__init__()
        self.steps = whole("steps", steps)

    def forward(self, batch: QuadraticBatch) -> Tensor:
        *_, (_, scores) = self.scores(batch)
        return scores[LOSS]

    def path(self, batch: QuadraticBatch, steps: int | None = None) -> Iterator[Tensor]:
        """Yield w after 0, 1, ..., K steps, ``[T, D]``."""
        w, matrix = batch.start["w"].double(), batch.matrix.double()
        hessian = matrix.mT @ matrix
        residual = (matrix.mT @ batch.target.double()[..., None])[..., 0] - (hessian @ w[..., None])[..., 0]
        direction, square = residual, residual.square().sum(1, keepdim=True)
        yield w.to(batch.target.dtype)
        for _ in range(steps or self.steps):
            curved = (hessian @ direction[..., None])[..., 0]
            rate = square / (direction * curved).sum(1, keepdim=True).clamp(min=1e-300)
            w, residual = w + rate * direction, residual - rate * curved
            after = residual.square().sum(1, keepdim=True)
            direction, square = residual + after / square.clamp(min=1e-300) * direction, after
            yield w.to(batch.target.dtype)

    def scores(
        self, batch: QuadraticBatch, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield the loss of each quadratic after every twentieth of the steps."""
        last = steps or self.steps
        for k, w in enumerate(self.path(batch, last)):
            if k % max(1, last // 20) == 0 or k == last:
                yield k, {LOSS: batch.judged({"w": w}, None)}
