"""A classifier of tables that needs no training: it reads the rows, and answers; by scikit-learn's interface."""

from __future__ import annotations

import copy
import functools
import pathlib
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from metakit.checks import whole
from metakit.learners.columns import Columns, Rows
from metakit.learners.in_context import InContext, point
from metakit.learners.shipped import shipped
from metakit.saving import load
from metakit.tasks.batch import TaskBatch
from metakit.tasks.table_prior import ready

_AT_ONCE = 2048  # query rows
_CODED = 16  # views at least where classes share the network's


class TableClassifier(ClassifierMixin, BaseEstimator):
    """A classifier that was trained once, on invented tables, and learns yours by reading it: nothing is fitted.

        p(class | x) = mean over views v of p_v(class | x, the rows)

    A view is the table with its columns and classes in another order, every second one with ranks in the place of
    numbers. Cells that are words are categories; missing ones (NaN, None) and infinite ones take the column's mean.
    More features than the network reads: its leading principal directions in half of the views, so many of the
    features by chance in the others. More rows than ``rows``: each view reads so many of them, classes in proportion.
    More classes than the network tells: in each view classes share its classes by chance, and a class gets the mean of
    the logarithms of what its shares get, in 16 views at least.

    Arguments:
        learner: an ``InContext`` learner with ``ways``, trained on ``TablePrior``; the one shipped when left out.
        views: views that are averaged.
        rows: rows that a view reads, at most.
        random_state: seed of the views.

    Raises:
        TypeError: if the learner is no ``InContext``.
        ValueError: if there are no rows, or targets are missing or are real numbers.

    Example:
        >>> clf = TableClassifier().fit([[0.0, 1.0], [0.2, 0.9], [1.0, 0.1], [0.9, 0.0]], ["a", "a", "b", "b"])
        >>> clf.predict([[0.1, 1.0], [1.0, 0.0]]).tolist(), clf.predict_proba([[0.1, 1.0]]).shape
        (['a', 'b'], (1, 2))

    Source: Hollmann, Mueller, Eggensperger and Hutter 2023 (TabPFN), sections 3 and 4; codes for many classes,
    Dietterich and Bakiri 1995.
    """

    def __init__(
        self, learner: InContext | None = None, *, views: int = 8, rows: int = 1000, random_state: int = 0
    ) -> None:
        self.learner, self.views, self.rows, self.random_state = learner, views, rows, random_state

    @classmethod
    def load(cls, source: str | pathlib.Path | None = None, *, sha256: str | None = None) -> TableClassifier:
        """The classifier with these weights: a file of ``mk.save``, an address to fetch one from, or the shipped ones.

        Arguments:
            source: a path, or an address that begins with ``https://``; the shipped weights when left out.
            sha256: checksum that the file must have; an address needs one.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file has another checksum, or holds no learner for tables.
        """
        return cls(_for_tables(load(shipped("tables.pt", source, sha256))))

    def fit(self, X: Any, y: Any) -> TableClassifier:
        """Keep the rows ``[n, D]`` and their classes ``[n]``; numbers, words and missing cells as they come."""
        whole("views", self.views), whole("rows", self.rows, least=2), whole("random_state", self.random_state, least=0)
        learner = _for_tables(_ours() if self.learner is None else self.learner)
        cells, y = Rows.of(self, X, y, reset=True)
        check_classification_targets(y)
        self.classes_, numbers = np.unique(y, return_inverse=True)
        self.learner_, self.columns_ = learner, Columns.of(cells)
        self.rows_, self.numbers_ = self.columns_.numbers(cells), torch.as_tensor(numbers.reshape(-1))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """The chance of each class of ``classes_`` for each row, ``[n, N]``."""
        check_is_fitted(self)
        queries = self.columns_.numbers(Rows.of(self, X, None, reset=False)[0])
        n_classes = len(self.classes_)
        if n_classes == 1:
            return np.ones((len(queries), 1))
        draw = np.random.default_rng(self.random_state)
        coded = n_classes > self.learner_.head.out_features
        number = max(self.views, _CODED) if coded else self.views
        total = torch.zeros(len(queries), n_classes, dtype=torch.float64)
        for view in range(number):
            total += self._view(view, queries, draw, coded)
        if coded:
            return (total / number).softmax(1).numpy()
        return (total / total.sum(1, keepdim=True)).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest class of each row, ``[n]``."""
        chances = self.predict_proba(X)
        return self.classes_[chances.argmax(1)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan, tags.input_tags.string, tags.input_tags.categorical = True, True, True
        return tags

    @torch.no_grad()
    def _view(self, view: int, queries: Tensor, draw: np.random.Generator, coded: bool) -> Tensor:
        """Chances of the classes in one view ``[n, N]``, or their logarithms where classes share the network's."""
        n, ways = len(self.classes_), min(len(self.classes_), self.learner_.head.out_features)
        code = torch.as_tensor(draw.permutation(np.arange(n) % ways))  # each class has rows, and so has each share
        chosen = self._some_rows(draw)
        context, asked = self.rows_[chosen], queries
        if view % 2:
            context, asked = ranks(context, context), ranks(context, asked)
        context, asked = self._columns(view, draw, context, asked)
        y, answers = code[self.numbers_[chosen]], []
        for part in asked.split(_AT_ONCE):
            batch = TaskBatch.trusted(context[None], y[None], part[None], y.new_zeros(1, len(part)), ways=ways)
            answers.append(point(self.learner_.respond(batch))[0, :, :ways].double())
        scores = torch.cat(answers).log_softmax(-1)[:, code]
        return scores if coded else scores.exp()

    def _some_rows(self, draw: np.random.Generator) -> Tensor:
        """Which rows a view reads: all, or so many of each class in proportion, one at least."""
        n = len(self.rows_)
        order = torch.as_tensor(draw.permutation(n))
        if n <= self.rows:
            return order
        numbers = self.numbers_[order]
        members = torch.nn.functional.one_hot(numbers, len(self.classes_)).cumsum(0)
        place = members.gather(1, numbers[:, None])[:, 0].double() - 1  # among its own class, from 0 on
        share = torch.where(place == 0, -1.0, place / members[-1][numbers])
        return order[share.argsort(stable=True)[: max(self.rows, len(self.classes_))]]

    def _columns(self, view: int, draw: np.random.Generator, context: Tensor, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Columns in the order and number of a view, ready for the network."""
        reader: Any = self.learner_.reader
        (width,) = reader.row_shape
        both = torch.cat([context, asked])
        order = torch.as_tensor(draw.permutation(both.shape[1]))
        if both.shape[1] > width and view % 4 < 2:
            z = ready(both, len(context))
            centre = z[: len(context)].mean(0)
            _, sizes, directions = torch.linalg.svd(z[: len(context)] - centre, full_matrices=False)
            there = (sizes > 1e-6 * sizes[0])[:width]  # what is left of rounding is no direction
            both = (z - centre) @ directions[:width][there].T
            order = torch.as_tensor(draw.permutation(both.shape[1]))
        z = ready(both[:, order[:width]], len(context)).float()
        z = torch.nn.functional.pad(z, (0, width - z.shape[1]))
        return z[: len(context)], z[len(context) :]


def ranks(known: Tensor, x: Tensor) -> Tensor:
    """How many of the known numbers of its column each number is above, as the normal number of that rank; NaN stays.

    Shapes: ``known [R, D]``, ``x [n, D]`` to ``[n, D]``.

    Example:
        >>> known = torch.tensor([[1.0], [2.0], [30.0]])
        >>> ranks(known, known)[:, 0]
        tensor([-0.9674,  0.0000,  0.9674])
    """
    columns = []
    for ours, theirs in zip(known.T, x.T, strict=True):
        there = ours[~ours.isnan()].sort().values
        low, high = (torch.searchsorted(there, theirs.contiguous(), side=side) for side in ("left", "right"))
        share = ((low + high) / 2 / max(len(there), 1)).clamp(0.5 / (len(there) + 1), 1 - 0.5 / (len(there) + 1))
        columns.append(torch.special.ndtri(share).to(x.dtype).masked_fill(theirs.isnan(), torch.nan))
    return torch.stack(columns, 1)


@functools.cache
def _ours() -> InContext:
    return load(shipped("tables.pt"))


def _for_tables(learner: Any) -> InContext:
    if not isinstance(learner, InContext):
        raise TypeError(
            f"the learner must be an InContext learner, got {type(learner).__name__}. Leave it out for ours."
        )
    if learner.ways is None or len(getattr(learner.reader, "row_shape", ())) != 1:
        raise ValueError(
            "the learner must tell classes of rows of numbers, and this one does not. Train one with "
            "`metakit train tables`, or leave it out for the one that is shipped."
        )
    return copy.deepcopy(learner).float().eval()
