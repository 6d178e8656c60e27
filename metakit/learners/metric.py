"""Learners that compare: a query row belongs to the class whose support rows lie nearest in a learned embedding."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import in_words, whole
from metakit.contracts import Loss
from metakit.learners.common import check_ways, one_hot, without_absent
from metakit.learners.embedded import Embedded, check_positive, like
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch

_DISTANCES = ("euclidean", "cosine")


@saved
class ProtoNet(Embedded):
    """Prototypical network: a class is the mean of its embedded support rows, a query belongs to the nearest.

        c_n = mean of f(x) over support rows of class n,    score_n(q) = -|f(q) - c_n|^2

    With ``distance="cosine"`` the score is ``s cos(f(q), c_n)``, with a learned s that starts at 10. ``centred`` takes
    the mean prototype of the task off both sides first. ``refine`` goes on from there by soft k-means, with the K
    support rows of a class and the query rows in the shares that the scores give them:

        p_qn = softmax_n(score_n(q)),    c_n <- (K c_n + sum_q p_qn f(q)) / (K + sum_q p_qn),    c_n the first one

    Arguments:
        embedding: the network f, whose outputs are compared; nothing of it adapts.
        distance: ``"euclidean"`` (squared, as in the paper) or ``"cosine"``.
        centred: with ``"cosine"``, directions are seen from the mean prototype, not from the origin.
        refine: rounds of soft k-means. They let query rows answer together, so they are left out when the protocol is
            inductive, as it always is in ``predict``.
        loss: ``(scores, targets) -> [T]``; cross-entropy when left out.
        protocol: how batch norm treats the query set in training, as in ``MAML``, and whether the rounds are made.

    Raises:
        ValueError: if the targets are not class numbers, a class has no support row, or an option is unknown or out of
            its range.

    Example:
        >>> from metakit.models import MLP
        >>> x, y = torch.randn(4, 6, 3), torch.arange(6).remainder(2).expand(4, 6)
        >>> ProtoNet(MLP(3, [], 8))(TaskBatch(x, y, x, y)).shape
        torch.Size([4])

    Source: Snell, Swersky and Zemel 2017, equations (1) and (2); cosine with a learned scale, Gidaris and Komodakis
    2018, section 3.2; soft k-means, Ren et al. 2018, section 3.1.1, there with unlabelled rows beside the query.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        distance: str = "euclidean",
        centred: bool = False,
        refine: int = 0,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__(embedding, loss, protocol)
        if distance not in _DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(_DISTANCES)}, got {distance!r}.")
        if centred and distance != "cosine":
            raise ValueError(f'centred goes with distance="cosine": the {distance} one is the same from anywhere.')
        message = f"refine must be a whole number of rounds, 0 or more, got {refine!r}. 3 are enough."
        self.refine = in_words(message, lambda: whole("refine", refine, least=0))
        self.distance, self.centred = distance, centred
        self.log_scale = nn.Parameter(like(embedding, math.log(10))) if distance == "cosine" else None

    @property
    def answers_together(self) -> bool:
        return self.refine > 0 or super().answers_together

    def grasp(self, support: Tensor, batch: TaskBatch) -> tuple[Tensor, Tensor]:
        """Sum and number of the embedded support rows of each class, ``[T, N, D]`` and ``[T, N, 1]``."""
        members = one_hot(batch, support.dtype).mT  # [T, N, S]
        return members @ support, members.sum(-1, keepdim=True)

    def compare(self, query: Tensor, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        sums, counts = known
        scores = self._scores(query, sums / counts.clamp(min=1), counts, batch)
        for _ in range(self.refine if protocol == "transductive" else 0):
            shares = scores.softmax(-1).mT  # [T, N, Q]
            shares = shares if batch.query_mask is None else shares * batch.query_mask[:, None]
            total = (counts + shares.sum(-1, keepdim=True)).clamp(min=1)
            scores = self._scores(query, (sums + shares @ query) / total, counts, batch)
        return scores

    def _scores(self, query: Tensor, prototypes: Tensor, counts: Tensor, batch: TaskBatch) -> Tensor:
        if self.log_scale is None:
            scores = -_squared_distances(query, prototypes)
        else:
            if self.centred:  # an absent class lies at the origin, and does not count
                middle = prototypes.sum(1, keepdim=True) / (counts > 0).sum(1, keepdim=True)
                query, prototypes = query - middle, prototypes - middle
            scores = self.log_scale.exp() * _cosines(query, prototypes)
        return without_absent(scores, counts.squeeze(-1), batch)


@saved
class Matching(Embedded):
    """Matching network: a query row attends to the support rows; a class scores the log of its share of attention.

        a(q, i) = softmax_i(s cos(f(q), f(x_i))),    score_n(q) = log sum of a(q, i) over support rows i of class n

    Both sides use one embedding, and each row is embedded by itself: the full context embeddings of the paper are left
    out. The paper has s = 1 (``scale=1, learn_scale=False``), a soft attention in which even a perfect match gets
    little more than its share; s = 10, learned, is today's practice.

    Arguments:
        embedding: the network f.
        scale: s at the start, above 0.
        learn_scale: whether s is a meta-parameter.
        loss: ``(scores, targets) -> [T]``; cross-entropy when left out.
        protocol: how batch norm treats the query set in training, as in ``MAML``.

    Raises:
        ValueError: if the targets are not class numbers, or an option is out of its range.

    Example:
        >>> from metakit.models import MLP
        >>> x, y = torch.randn(4, 6, 3), torch.arange(6).remainder(2).expand(4, 6)
        >>> Matching(MLP(3, [], 8))(TaskBatch(x, y, x, y)).shape
        torch.Size([4])

    Source: Vinyals et al. 2016, equations (1) and (2); the scale, Gidaris and Komodakis 2018, section 3.2.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        scale: float = 10.0,
        learn_scale: bool = True,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__(embedding, loss, protocol)
        self.scale, self.learn_scale = check_positive("scale", scale), learn_scale
        self.log_scale = nn.Parameter(like(embedding, math.log(scale)), requires_grad=learn_scale)

    def grasp(self, support: Tensor, batch: TaskBatch) -> Tensor:
        check_ways(batch)
        return support

    def compare(self, query: Tensor, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        similar = self.log_scale.exp() * _cosines(query, known)  # [T, Q, S]
        if batch.support_mask is not None:
            similar = similar.masked_fill(~batch.support_mask[:, None], -math.inf)
        return _logsumexp(F.log_softmax(similar, -1), batch.support_y, check_ways(batch))


def _logsumexp(values: Tensor, classes: Tensor, ways: int) -> Tensor:
    """The log of the sum of exp(values) over the rows of each class: ``[T, Q, S]`` and ``[T, S]`` to ``[T, Q, N]``."""
    index = classes[:, None].expand_as(values)
    empty = values.new_full((*values.shape[:2], ways), -math.inf)
    top = empty.scatter_reduce(2, index, values.detach(), "amax").clamp(min=torch.finfo(values.dtype).min)
    sums = torch.zeros_like(empty).scatter_add(2, index, (values - top.gather(2, index)).exp())
    return sums.log() + top


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|^2``: ``[T, Q, D]`` and ``[T, N, D]`` to ``[T, Q, N]``."""
    squares = a.square().sum(-1)[..., None] + b.square().sum(-1)[:, None]
    return squares - 2 * a @ b.mT


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """``cos(a_i, b_j)``: ``[T, Q, D]`` and ``[T, N, D]`` to ``[T, Q, N]``."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT
