"""Baselines: what a practitioner would try before meta-learning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metakit.inner import task_loss
from metakit.learners.common import check_is_batch, check_losses, one_hot, predict
from metakit.tasks.batch import TaskBatch


class NearestNeighbour(nn.Module):
    """The answer of the nearest support row, by Euclidean distance of the raw rows (pixels): nothing is learned.

        score_n(q) = -min |q - x_i|^2 over support rows i of class n

    For real targets it answers with the target of the nearest row. There is nothing to train: ``evaluate`` and
    ``predict`` work at once, ``fit`` refuses.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1])
        >>> NearestNeighbour().predict(x, y, torch.tensor([[0.9]])).argmax(-1)
        tensor([1])

    Source: Cover and Hart 1967.
    """

    steps = 0
    protocol = "inductive"

    def __init__(self) -> None:
        super().__init__()
        self.loss = task_loss

    def forward(self, batch: TaskBatch) -> Tensor:
        (outputs,) = self.outputs(batch)
        return check_losses(self.loss(outputs, batch.query_y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows once, ``[T, Q, ...]``: there are no inner steps."""
        check_is_batch(batch)
        distances = torch.cdist(batch.query_x.flatten(2), batch.support_x.flatten(2))  # [T, Q, S]
        if batch.ways is None:
            nearest = distances.argmin(-1)  # [T, Q]
            yield torch.stack([y[rows] for y, rows in zip(batch.support_y, nearest, strict=True)])
        else:
            strangers = one_hot(batch, distances.dtype).mT[:, None] == 0  # [T, 1, N, S]
            yield -distances.square()[:, :, None].masked_fill(strangers, torch.inf).amin(-1)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Outputs for the query rows, each by itself; see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=None)
