"""Learners that compare: a query row belongs to the class whose support rows lie nearest in a learned embedding."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.inner import Loss, check_model, task_loss
from metakit.learners.common import check_losses, check_positive, check_protocol, embedded, one_hot, predict
from metakit.nn import in_full
from metakit.tasks.batch import TaskBatch

_DISTANCES = ("euclidean", "cosine")


class ProtoNet(nn.Module):
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

    optimizer, lr = torch.optim.Adam, 1e-3
    steps = 0

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
        super().__init__()
        check_model(embedding)
        if distance not in _DISTANCES:
            raise ValueError(f"distance must be one of {', '.join(_DISTANCES)}, got {distance!r}.")
        if centred and distance != "cosine":
            raise ValueError(f'centred goes with distance="cosine": the {distance} one is the same from anywhere.')
        if not isinstance(refine, int) or isinstance(refine, bool) or refine < 0:
            raise ValueError(f"refine must be a whole number of rounds, 0 or more, got {refine!r}. 3 are enough.")
        self.embedding, self.distance, self.centred, self.refine = embedding, distance, centred, refine
        self.loss, self.protocol = loss or task_loss, check_protocol(protocol)
        self.log_scale = nn.Parameter(_like(embedding, math.log(10))) if distance == "cosine" else None

    def forward(self, batch: TaskBatch) -> Tensor:
        (scores,) = self.outputs(batch)
        return check_losses(self.loss(scores, batch.query_y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the scores of the query rows once, ``[T, Q, N]``: there are no inner steps."""
        protocol = protocol or self.protocol
        support, query = embedded(self.embedding, batch, protocol)
        with in_full(support):
            members = one_hot(batch, support.dtype).mT  # [T, N, S]
            sums, counts = members @ support, members.sum(-1, keepdim=True)
            scores = self._scores(query, sums / counts)
            for _ in range(self.refine if protocol == "transductive" else 0):
                shares = scores.softmax(-1).mT  # [T, N, Q]
                scores = self._scores(query, (sums + shares @ query) / (counts + shares.sum(-1, keepdim=True)))
        yield scores

    def _scores(self, query: Tensor, prototypes: Tensor) -> Tensor:
        if self.log_scale is None:
            return -_squared_distances(query, prototypes)
        if self.centred:
            middle = prototypes.mean(1, keepdim=True)
            query, prototypes = query - middle, prototypes - middle
        return self.log_scale.exp() * _cosines(query, prototypes)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Scores of the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=None)


class Matching(nn.Module):
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

    optimizer, lr = torch.optim.Adam, 1e-3
    steps = 0

    def __init__(
        self,
        embedding: nn.Module,
        *,
        scale: float = 10.0,
        learn_scale: bool = True,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        check_model(embedding)
        self.embedding, self.loss, self.protocol = embedding, loss or task_loss, check_protocol(protocol)
        self.scale, self.learn_scale = check_positive("scale", scale), learn_scale
        self.log_scale = nn.Parameter(_like(embedding, math.log(scale)), requires_grad=learn_scale)

    def forward(self, batch: TaskBatch) -> Tensor:
        (scores,) = self.outputs(batch)
        return check_losses(self.loss(scores, batch.query_y), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the scores of the query rows once, ``[T, Q, N]``: there are no inner steps."""
        support, query = embedded(self.embedding, batch, protocol or self.protocol)
        strangers = one_hot(batch, support.dtype).mT[:, None] == 0  # [T, 1, N, S]
        with in_full(support):
            cosines = _cosines(query, support)
        attention = F.log_softmax(self.log_scale.exp() * cosines, -1)  # [T, Q, S]
        yield attention[:, :, None].masked_fill(strangers, -math.inf).logsumexp(-1)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Scores of the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=None)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``|a_i - b_j|^2``: ``[T, Q, D]`` and ``[T, N, D]`` to ``[T, Q, N]``."""
    squares = a.square().sum(-1)[..., None] + b.square().sum(-1)[:, None]
    return squares - 2 * a @ b.mT


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """``cos(a_i, b_j)``: ``[T, Q, D]`` and ``[T, N, D]`` to ``[T, Q, N]``."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).mT


def _like(module: nn.Module, value: float) -> Tensor:
    """One number, of the dtype and on the device of a module's parameters."""
    return torch.full_like(next(module.parameters()).detach().flatten()[0], value)
