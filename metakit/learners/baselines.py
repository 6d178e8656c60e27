"""Baselines: what a practitioner would try before meta-learning."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from metakit.learners.common import Supervised, check_is_batch
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved
class NearestNeighbour(Supervised):
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

    def __init__(self) -> None:
        super().__init__(None, "inductive")

    @property
    def network(self) -> nn.Module:
        return self

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows once, ``[T, Q, ...]``: there are no inner steps."""
        check_is_batch(batch)
        yield self.answer(None, batch, "inductive")

    def know(self, batch: TaskBatch, steps: int | None) -> None:
        """The support rows themselves are all that it knows."""

    def answer(self, known: None, batch: TaskBatch, protocol: str) -> Tensor:
        query, support = (x.flatten(2) if x.is_floating_point() else x.flatten(2).float() for x in batch.tensors[2::-2])
        distances = torch.cdist(query, support)  # [T, Q, S]
        if batch.support_mask is not None:
            distances = distances.masked_fill(~batch.support_mask[:, None], torch.inf)
        if batch.ways is None:
            return torch.take_along_dim(batch.support_y, distances.argmin(-1)[..., None], 1)
        furthest = distances.new_full((*distances.shape[:2], batch.ways), torch.inf)
        classes = batch.support_y[:, None].expand_as(distances)
        return -furthest.scatter_reduce(2, classes, distances.square(), "amin")
