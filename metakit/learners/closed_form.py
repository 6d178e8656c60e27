"""Learners whose inner loop is solved, not stepped through: ridge and logistic regression on a learned embedding."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import whole
from metakit.contracts import Loss
from metakit.learners.common import one_hot, without_absent
from metakit.learners.embedded import Embedded, check_positive, like
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved
class Ridge(Embedded):
    """R2-D2: each task fits a ridge regression to its embedded support rows, exactly; gradients go through the fit.

        W = argmin_W |Z W - Y|^2 + lambda |W|^2 = (Z' Z + lambda I)^-1 Z' Y = Z' (Z Z' + lambda I)^-1 Y

    Z ``[S, D]`` holds the embedded support rows, Y their targets, one-hot for classes. The last form (Woodbury) solves
    S equations instead of D, and is used where there are fewer rows than features. The score of a query q is
    ``alpha W' f(q) + beta``; lambda, alpha and beta are meta-parameters. Real targets are answered by ``W' f(q)``
    itself: alpha and beta are there because cross-entropy wants scores on another scale than one-hot targets.

    Arguments:
        embedding: the network f, with D features.
        penalty: lambda at the start, above 0.
        scale: alpha at the start, above 0.
        loss: ``(outputs, targets) -> [T]``; by the target's dtype when left out, see ``task_loss``.
        protocol: how batch norm treats the query set in training, as in ``MAML``.

    Raises:
        ValueError: if an option is out of its range.

    Example:
        >>> from metakit.models import MLP
        >>> x, y = torch.randn(4, 6, 3), torch.arange(6).remainder(2).expand(4, 6)
        >>> Ridge(MLP(3, [], 8))(TaskBatch(x, y, x, y)).shape
        torch.Size([4])

    Source: Bertinetto, Henriques, Torr and Vedaldi 2019, equations (4) to (6).
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        penalty: float = 1.0,
        scale: float = 10.0,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__(embedding, loss, protocol)
        self.penalty, self.scale = check_positive("penalty", penalty), check_positive("scale", scale)
        self.log_penalty = nn.Parameter(like(embedding, math.log(penalty)))
        self.alpha, self.beta = nn.Parameter(like(embedding, scale)), nn.Parameter(like(embedding, 0))

    def grasp(self, support: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor | None]:
        """The weights W ``[T, D, N]``, and the support rows of each class ``[T, N]`` in classification."""
        targets = batch.support_y if batch.ways is None else one_hot(batch, support.dtype)
        counts = None if batch.ways is None else targets.sum(1)
        if batch.support_mask is not None:  # rows of zeros say nothing
            support, targets = (side * batch.support_mask[..., None] for side in (support, targets))
        return ridge(support, targets, self.log_penalty.exp()), counts

    def compare(self, query: Tensor, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        weights, counts = known
        if counts is None:
            return query @ weights
        return without_absent(self.alpha * (query @ weights) + self.beta, counts, batch)


@saved
class Logistic(Embedded):
    """Logistic regression of two classes, drawn to a learned start: hierarchical Bayes in its simplest form.

        w_t = argmin_w sum_i log(1 + exp(-s_i w' z_i)) + 1/2 sum_j lambda_j (w_j - m_j)^2,    s_i = 1 or -1

    over the support rows, z an embedded row with a 1 at its end. The start m and the strengths lambda, one for the
    weights and one for the last of them, the intercept, are meta-parameters. It is solved by Newton's method, whose
    steps are differentiated. Few rows leave w near m, many take it where they want.

    Arguments:
        embedding: the network that rows go through first, with D features; ``nn.Identity()`` for rows as they are.
        features: D.
        strength: lambda of the weights at the start, above 0.
        intercept: that of the intercept.
        newton: steps of Newton's method.
        loss, protocol: as in ``Ridge``.

    Raises:
        ValueError: if an option is out of its range; of tasks, if their classes are not two.

    Example:
        >>> x, y = torch.randn(4, 6, 3), torch.arange(6).remainder(2).expand(4, 6)
        >>> Logistic(nn.Identity(), 3)(TaskBatch(x, y, x, y)).shape
        torch.Size([4])

    Source: Bertinetto, Henriques, Torr and Vedaldi 2019, section 3.2 (LR-D2); the learned start, Grant, Finn, Levine,
    Darrell and Griffiths 2018, section 3.
    """

    def __init__(
        self,
        embedding: nn.Module,
        features: int,
        *,
        strength: float = 1.0,
        intercept: float = 1.0,
        newton: int = 10,
        loss: Loss | None = None,
        protocol: str = "inductive",
    ) -> None:
        super().__init__(embedding, loss, protocol)
        self.features, self.newton = whole("features", features), whole("newton", newton)
        self.strength, self.intercept = check_positive("strength", strength), check_positive("intercept", intercept)
        self.start = nn.Parameter(torch.zeros(self.features + 1))
        self.log_strengths = nn.Parameter(torch.tensor([strength, intercept]).log())

    def grasp(self, support: Tensor, batch: TaskBatch) -> Tensor:
        """The weights, the intercept last, ``[T, D + 1]``."""
        if batch.ways != 2:
            raise ValueError(f"Logistic tells two classes apart, got tasks of {batch.ways}. Ridge takes any number.")
        z, y = _with_one(support), batch.support_y.to(support.dtype)
        real_rows = torch.ones_like(y) if batch.support_mask is None else batch.support_mask.to(y)
        strengths = self.log_strengths.exp().to(z.dtype)
        strengths = torch.cat([strengths[:1].expand(self.features), strengths[1:]])
        weights = start = self.start.to(z.dtype).expand(len(z), -1)
        for _ in range(self.newton):
            chance = (z @ weights[..., None])[..., 0].sigmoid()
            gradient = ((real_rows * (chance - y))[:, None] @ z)[:, 0] + strengths * (weights - start)
            curved = z.mT @ ((real_rows * chance * (1 - chance))[..., None] * z) + strengths.diag()
            weights = weights - torch.linalg.solve_ex(curved, gradient).result
        return weights

    def compare(self, query: Tensor, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        score = (_with_one(query) @ known[..., None])[..., 0]
        return torch.stack([torch.zeros_like(score), score], -1)


def _with_one(z: Tensor) -> Tensor:
    return torch.cat([z, z.new_ones(*z.shape[:-1], 1)], -1)


def ridge(z: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """The weights that minimise ``|z W - y|^2 + penalty |W|^2``: ``[T, S, D]`` and ``[T, S, N]`` to ``[T, D, N]``."""
    rows, features = z.shape[1:]
    if rows < features:
        return z.mT @ torch.linalg.solve_ex(z @ z.mT + penalty * _eye(z, rows), y).result
    return torch.linalg.solve_ex(z.mT @ z + penalty * _eye(z, features), z.mT @ y).result


def _eye(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
