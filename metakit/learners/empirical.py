"""A Gaussian process whose prior is learned in closed form, from tasks whose answers are all known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from metakit.checks import real, whole
from metakit.learners.bins import Mixture
from metakit.learners.in_context import SIZES, Contextual
from metakit.learners.references import first_rows
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch

_SAME = 1e-3  # two rows nearer than that are one


class Tables(Protocol):
    """The same M rows, answered in N tasks: ``settings [M, D]``, ``scores [N, M]``."""

    @property
    def settings(self) -> Tensor: ...

    @property
    def scores(self) -> Tensor: ...


@saved
class EmpiricalGP(Contextual):
    """Gaussian process over rows that are known beforehand, with mean, covariance and scales learned from other tasks.

        y_s = low + span z_s,    z ~ N(m, (1 - own) C + own diag(C) + noise I)

    m and C are mean and covariance of the N known tasks, each brought to [0, 1]; the pair (low, span) of a new task is
    that of one of them, all equally likely before its first rows are seen. So the answer is a mixture of N normals,
    weighted by how well each scale explains what was seen. Nothing is stepped through: the outer loop is ``estimate``.

    Arguments:
        rows: M, rows that are known.
        features: D, numbers of a row.
        tasks: N, tasks to learn from.
        own: share of a row's variance that no other row tells of, from 0 to 1.
        noise: variance of the noise, in units of span squared.
        sizes: context sizes to judge at, beside the whole support set.

    Raises:
        ValueError: if an option is out of its range; when asked, if a row is none of those known.

    Example:
        >>> import metakit as mk
        >>> wave = torch.linspace(0, 3, 8).sin() * torch.tensor([[1.0], [2.0], [4.0]])
        >>> tables = mk.tasks.TrialTables(
        ...     settings=torch.arange(8.0)[:, None], scores=wave, names=tuple("abc"), queries=3
        ... )
        >>> learner = EmpiricalGP.of(tables)
        >>> answer = learner.distribution(tables.settings[:2], 3 * wave[:1, :2].mT, tables.settings)
        >>> answer.means.shape
        torch.Size([8, 3])

    Source: the prior, Minka and Picard 1997, Learning how to learn is learning with point sets, section 3, whose
    covariance is likewise that of the known tasks; the mixture of scales is our own.
    """

    settings: Tensor
    centre: Tensor
    covariance: Tensor
    lows: Tensor
    spans: Tensor

    def __init__(
        self,
        rows: int,
        features: int,
        tasks: int,
        *,
        own: float = 0.1,
        noise: float = 1e-3,
        sizes: Sequence[int] = SIZES,
    ) -> None:
        super().__init__(sizes)
        self.rows, self.features, self.tasks = whole("rows", rows), whole("features", features), whole("tasks", tasks)
        self.own, self.noise = real("own", own, least=0.0, most=1.0), real("noise", noise, above=0.0)
        shapes = {
            "settings": (rows, features),
            "centre": (rows,),
            "covariance": (rows, rows),
            "lows": (tasks,),
            "spans": (tasks,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @classmethod
    def of(cls, tables: Tables, *, own: float = 0.1, noise: float = 1e-3, sizes: Sequence[int] = SIZES) -> EmpiricalGP:
        """The process learned from these tables."""
        (tasks, rows), features = tables.scores.shape, tables.settings.shape[1]
        return cls(rows, features, tasks, own=own, noise=noise, sizes=sizes).estimate(tables)

    def estimate(self, tables: Tables) -> EmpiricalGP:
        """Learn the prior from tables of as many rows and tasks; returns itself.

        Raises:
            ValueError: if the tables are of another size, or all scores of a task are the same.
        """
        scores = tables.scores.double()
        if scores.shape != (self.tasks, self.rows) or tables.settings.shape != self.settings.shape:
            raise ValueError(
                f"this learner takes {self.tasks} tables of {self.rows} rows, got {list(scores.shape)}. Make one by "
                "EmpiricalGP.of(tables)."
            )
        lows = scores.amin(1)
        spans = scores.amax(1) - lows
        if not bool((spans > 0).all()):
            raise ValueError(f"table {int(spans.argmin())} has one score for all rows: it tells nothing. Leave it out.")
        z = (scores - lows[:, None]) / spans[:, None]
        centre = z.mean(0)
        covariance = (z - centre).mT @ (z - centre) / len(z)
        alone = self.own * covariance.diagonal() + self.noise
        learned: dict[str, Any] = {
            "settings": tables.settings.double(),
            "centre": centre,
            "covariance": (1 - self.own) * covariance + alone.diag(),
            "lows": lows,
            "spans": spans,
        }
        for name, value in learned.items():
            getattr(self, name).copy_(value)
        return self

    def learned_from(self, scores: Tensor) -> bool:
        """Whether a table of these scores ``[M]`` was one of those that were learned from, by its lowest and span."""
        low, span = scores.double().min(), scores.double().max() - scores.double().min()
        return bool(((self.lows - low).abs() + (self.spans - span).abs() < 1e-9).any())

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Mixture:
        x, y, query, mask = first_rows(batch, rows)
        asked, answers = self.places(query), []
        for t in range(len(batch)):
            real_rows = slice(None) if mask is None else mask[t]
            answers.append(self._posterior(self.places(x[t, real_rows]), y[t, real_rows, 0].double(), asked[t]))
        return Mixture(*(torch.stack(part) for part in zip(*answers, strict=True)))

    def posterior(self, seen_x: Tensor, seen_y: Tensor, query_x: Tensor) -> Mixture:
        """What is known of one task's query rows ``[Q, D]`` once these rows ``[S, D]`` were seen, with their ``[S]``
        numbers; S may be 0.
        """
        return Mixture(*self._posterior(self.places(seen_x), seen_y.double(), self.places(query_x)))

    def _posterior(self, seen: Tensor, y: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means and spreads ``[Q, N]`` of scores, and log weights ``[1, N]`` of the scales."""
        z = (y - self.lows[:, None]) / self.spans[:, None]  # [N, S]: what was seen, if the scale were this one
        apart = z - self.centre[seen]
        factor = torch.linalg.cholesky(self.covariance[seen][:, seen])
        across = torch.linalg.solve_triangular(factor, self.covariance[seen][:, asked], upper=False)  # [S, Q]
        white = torch.linalg.solve_triangular(factor, apart.mT, upper=False)  # [S, N]
        means = self.centre[asked, None] + across.mT @ white
        variance = (self.covariance.diagonal()[asked] - across.square().sum(0)).clamp(min=1e-10)
        evidence = -white.square().sum(0) / 2 - len(seen) * self.spans.log()
        spreads = variance.sqrt()[:, None] * self.spans
        return self.lows + self.spans * means, spreads, evidence.log_softmax(0)[None]

    def places(self, x: Tensor) -> Tensor:
        """Which of the known rows these are, ``[..., D]`` to ``[...]``.

        Raises:
            ValueError: if one is none of them.
        """
        apart, places = torch.cdist(x.double(), self.settings, p=torch.inf).min(-1)
        if bool((apart > _SAME).any()):
            raise ValueError(
                f"a row must be one of the {self.rows} that were learned, got one {float(apart.max()):.3g} away from "
                "all of them. Ask for those in learner.settings."
            )
        return places
