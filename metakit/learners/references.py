"""What learning in context is measured by: exact Bayes where the prior has it, and least squares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from metakit.checks import whole
from metakit.learners.bins import Mixture
from metakit.learners.in_context import SIZES, Contextual
from metakit.tasks.batch import TaskBatch
from metakit.tasks.gaussian_processes import GaussianProcesses, ProcessBatch
from metakit.tasks.regression import LinearRegression

_NUMBERS = 1 << 22  # held at once in a stack of covariances
_LEAST_NOISE = 1e-4


class ExactGP(Contextual):
    """The exact posterior of a Gaussian process, told the hyperparameters of each task: no forecast does better.

    They come with the batch that ``GaussianProcesses`` draws; of rows of your own they are known where each range of
    the prior is one value. Nothing is trained.

    Arguments:
        prior: the processes.
        sizes: context sizes to judge at, beside the whole support set.

    Example:
        >>> prior = GaussianProcesses(lengthscale=1.0, noise=0.1)
        >>> x = torch.tensor([[0.0], [1.0]])
        >>> answer = ExactGP(prior).distribution(x, x, x)
        >>> [round(float(mean), 2) for mean in answer.mean]
        [0.01, 0.98]

    Source: Rasmussen and Williams 2006, equations (2.22) to (2.24).
    """

    def __init__(self, prior: GaussianProcesses, *, sizes: Sequence[int] = SIZES) -> None:
        super().__init__(sizes)
        self.prior = prior

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Mixture:
        mean, spread, _ = self.prior.posterior(self._hyper(batch), *first_rows(batch, rows))
        return Mixture(mean[..., None], spread[..., None], torch.zeros_like(mean)[..., None])

    def _hyper(self, batch: TaskBatch) -> Tensor:
        if isinstance(batch, ProcessBatch) and batch.hyper is not None:
            return batch.hyper
        grid, _ = self.prior.grid(2)
        if len(grid) > 1:
            raise ValueError(
                "the batch does not tell the hyperparameters of its tasks, and the prior has ranges of them. Take "
                "GridGP(prior), which averages over them, or a prior with one value for each."
            )
        return grid.to(batch.device)


class GridGP(Contextual):
    """Exact Bayes for a prior of Gaussian processes, whose hyperparameters are not told: a mixture over a grid of them.

        p(y | context) = sum_g w_g p(y | context, g),    w_g ~ prior_g p(context | g)

    It is the best forecast that a learner of this prior can make, up to the grid: of a smooth integrand 12 points a
    range are exact to some thousandths of a nat.

    Arguments:
        prior: the processes.
        points: points for each range of a hyperparameter, as ``GaussianProcesses.grid`` places them.
        sizes: context sizes to judge at, beside the whole support set.

    Example:
        >>> prior = GaussianProcesses().at(5)
        >>> GridGP(prior, points=4).respond(prior.sample(3, seed=0)).means.shape
        torch.Size([3, 24, 16])

    Source: Rasmussen and Williams 2006, section 5.2.
    """

    def __init__(self, prior: GaussianProcesses, *, points: int = 12, sizes: Sequence[int] = SIZES) -> None:
        super().__init__(sizes)
        self.prior, self.points = prior, whole("points", points)

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Mixture:
        grid, masses = (tensor.to(batch.device) for tensor in self.prior.grid(self.points))
        x, y, query, mask = (None if side is None else side[:, None] for side in first_rows(batch, rows))
        assert x is not None and y is not None and query is not None
        at_once = max(1, _NUMBERS // (len(x) * (x.shape[2] + 1) * (x.shape[2] + query.shape[2])))
        parts = [self.prior.posterior(some, x, y, query, mask) for some in grid[None].split(at_once, 1)]
        mean, spread, evidence = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        weights = (masses + evidence).log_softmax(1)
        return Mixture(mean.mT, spread.mT, weights[:, None])


class LeastSquares(Contextual):
    """Least squares: the shortest weights that fit the support rows best; numbers alone.

    Arguments:
        sizes: context sizes to judge at, beside the whole support set.

    Example:
        >>> x = torch.eye(2)
        >>> LeastSquares().predict(x, x.sum(1, keepdim=True), 2 * x).flatten()
        tensor([2., 2.])
    """

    def __init__(self, *, sizes: Sequence[int] = SIZES) -> None:
        super().__init__(sizes)

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Tensor:
        x, y, query, mask = first_rows(batch, rows)
        x, y = (side.double() if mask is None else side.double() * mask[..., None] for side in (x, y))
        return (query.double() @ torch.linalg.pinv(x) @ y).to(query.dtype)


class BayesLinear(Contextual):
    """Exact Bayes for ``LinearRegression``: ridge regression, and of sparse weights a mixture over where they may be.

        w | context, places ~ N(m, noise^2 A^-1),    A = X'X + noise^2 I,    m = A^-1 X'y,    X of these places alone

    Arguments:
        prior: the linear tasks; noise of 0 is taken for 0.0001, so that there is a density.
        sizes: context sizes to judge at, beside the whole support set.

    Raises:
        ValueError: if there are more than 20,000 sets of places for the weights that are not zero.

    Example:
        >>> prior = LinearRegression(rows=30, features=3)
        >>> batch = prior.sample(2, seed=0)
        >>> bool((BayesLinear(prior).respond(batch).mean - prior.ridge(batch)[..., 0]).abs().max() < 1e-5)
        True

    Source: Bishop 2006, section 3.3; sparse tasks, Garg et al. 2022, section 3.2.
    """

    def __init__(self, prior: LinearRegression, *, sizes: Sequence[int] = SIZES) -> None:
        super().__init__(sizes)
        self.prior, size = prior, prior.sparse or prior.features
        sets = math.comb(prior.features, size)
        if sets > 20_000:
            raise ValueError(
                f"weights at {size} of {prior.features} places have {sets} sets of places, too many to go through. "
                "Take fewer features, or LeastSquares() beside it."
            )
        self.places = torch.tensor(list(itertools.combinations(range(prior.features), size)))

    def respond(self, batch: TaskBatch, rows: int | None = None) -> Mixture:
        x, y, query, mask = first_rows(batch, rows)
        x, y = (side.double() if mask is None else side.double() * mask[..., None] for side in (x, y))
        parts = [
            self._of_places(some, x, y, query.double())
            for some in self.places.to(x.device).split(max(1, _NUMBERS // (8 * len(x) * query.shape[1])))
        ]
        mean, spread, evidence = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return Mixture(mean.mT, spread.mT, evidence.log_softmax(1)[:, None])

    def _of_places(self, places: Tensor, x: Tensor, y: Tensor, query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation ``[T, M, Q]`` under each of M sets of places, and log evidence ``[T, M]``.

        Of the evidence, what is the same for all sets is left out.
        """
        variance = max(self.prior.noise, _LEAST_NOISE) ** 2
        size = places.shape[1]
        products, against = (x.mT @ x)[:, places[:, :, None], places[:, None]], (x.mT @ y)[:, places]
        matrix = products + variance * torch.eye(size, dtype=x.dtype, device=x.device)
        factor = torch.linalg.cholesky_ex(matrix).L
        weights = torch.cholesky_solve(against, factor)  # [T, M, D, 1]
        asked = query[:, :, places].transpose(1, 2)  # [T, M, Q, D]
        mean = (asked @ weights)[..., 0]
        apart = torch.linalg.solve_triangular(factor, asked.mT, upper=False).square().sum(-2)
        unexplained = y.square().sum((1, 2))[:, None] - (against * weights).sum((-2, -1))
        logdet = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return mean, (variance * (1 + apart)).sqrt(), -(unexplained / variance + logdet) / 2


def first_rows(batch: TaskBatch, rows: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The first support rows, their targets, the query rows, and which of the former are real."""
    mask = batch.support_mask
    return batch.support_x[:, :rows], batch.support_y[:, :rows], batch.query_x, mask if mask is None else mask[:, :rows]
