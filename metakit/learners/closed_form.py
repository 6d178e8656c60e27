"""Learners whose inner loop is solved, not stepped through: ridge regression on a learned embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metakit.inner import Loss, check_model, task_loss
from metakit.learners.common import check_losses, check_positive, check_protocol, embedded, one_hot, predict
from metakit.nn import in_full
from metakit.tasks.batch import TaskBatch


class Ridge(nn.Module):
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

    optimizer, lr = torch.optim.Adam, 1e-3
    steps = 0

    def __init__(
        self,
        embedding: nn.Module,
        *,
        penalty: float = 1.0,
        scale: float = 10.0,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        check_model(embedding)
        self.embedding, self.loss, self.protocol = embedding, loss or task_loss, check_protocol(protocol)
        self.penalty, self.scale = check_positive("penalty", penalty), check_positive("scale", scale)
        one = torch.ones_like(next(embedding.parameters()).detach().flatten()[0])
        self.log_penalty = nn.Parameter(math.log(penalty) * one)
        self.alpha, self.beta = nn.Parameter(scale * one), nn.Parameter(0 * one)

    def forward(self, batch: TaskBatch) -> Tensor:
        (outputs,) = self.outputs(batch)
        return check_losses(self.loss(outputs, batch.query_y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows once, ``[T, Q, ...]``: there are no inner steps."""
        support, query = embedded(self.embedding, batch, protocol or self.protocol)
        penalty = self.log_penalty.exp()
        with in_full(support):
            if batch.ways is None:
                targets = batch.support_y if batch.support_y.dim() == 3 else batch.support_y[..., None]
                outputs = (query @ ridge(support, targets, penalty)).view(*query.shape[:2], *batch.support_y.shape[2:])
            else:
                weights = ridge(support, one_hot(batch, support.dtype), penalty)
                outputs = self.alpha * (query @ weights) + self.beta
        yield outputs

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Outputs for the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=None)


def ridge(z: Tensor, y: Tensor, penalty: Tensor) -> Tensor:
    """The weights that minimise ``|z W - y|^2 + penalty |W|^2``: ``[T, S, D]`` and ``[T, S, N]`` to ``[T, D, N]``."""
    rows, features = z.shape[1:]
    if rows < features:
        return z.mT @ torch.linalg.solve_ex(z @ z.mT + penalty * _eye(z, rows), y).result
    return torch.linalg.solve_ex(z.mT @ z + penalty * _eye(z, features), z.mT @ y).result


def _eye(like: Tensor, size: int) -> Tensor:
    return torch.eye(size, dtype=like.dtype, device=like.device)
