"""Gaussian processes as a prior over functions: tasks drawn from it, and their exact posterior."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metakit.checks import Device, choice, drawing, placed, real, span, whole, whole_span
from metakit.tasks.batch import TaskBatch
from metakit.tasks.steady import drawn_size
from metakit.threads import threads_for

_JITTER = 1e-9  # of the variance of the function
_RANGES = ("lengthscale", "noise", "outputscale", "period")  # the columns of what a batch tells of its tasks


def _rbf(r: Tensor) -> Tensor:
    return (-r.square() / 2).exp()


def _matern32(r: Tensor) -> Tensor:
    return (1 + math.sqrt(3) * r) * (-math.sqrt(3) * r).exp()


def _matern52(r: Tensor) -> Tensor:
    return (1 + math.sqrt(5) * r + 5 * r.square() / 3) * (-math.sqrt(5) * r).exp()


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"rbf": _rbf, "matern32": _matern32, "matern52": _matern52}
KERNELS = (*_KERNELS, "periodic")


@dataclasses.dataclass(frozen=True)
class ProcessBatch(TaskBatch):
    """A ``TaskBatch`` that tells which process each task was drawn from.

    Arguments:
        hyper: lengthscale, noise, outputscale and period of each task, ``[T, 4]``, float64; ``None`` if not known.

    Example:
        >>> batch = GaussianProcesses().sample(3, seed=0)
        >>> batch.hyper.shape, batch[:2].hyper.shape
        (torch.Size([3, 4]), torch.Size([2, 4]))
    """

    hyper: Tensor | None = None

    @classmethod
    def trusted(
        cls,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        *,
        ways: int | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        classes: Tensor | None = None,
        hyper: Tensor | None = None,
    ) -> ProcessBatch:
        masks = {"support_mask": support_mask, "query_mask": query_mask}
        batch = super().trusted(support_x, support_y, query_x, query_y, ways=ways, classes=classes, **masks)
        assert isinstance(batch, ProcessBatch)
        vars(batch)["hyper"] = hyper
        return batch

    @classmethod
    def pad(cls, batches: Sequence[TaskBatch]) -> TaskBatch:
        """As ``TaskBatch.pad``; the processes are told if all batches tell theirs."""
        padded = super().pad(batches)
        told = [batch.hyper for batch in batches if isinstance(batch, ProcessBatch) and batch.hyper is not None]
        vars(padded)["hyper"] = torch.cat(told) if len(told) == len(batches) else None
        return padded

    def task(self, t: int) -> TaskBatch:
        """As ``TaskBatch.task``; it tells its process."""
        one = super().task(t)
        vars(one)["hyper"] = None if self.hyper is None else self.hyper[[t]]
        return one


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianProcesses:
    """Functions drawn from Gaussian processes, each task one with hyperparameters of its own.

        y = f(x) + noise * eps,    f ~ GP(0, outputscale^2 kappa(r)),    r = |x - x'| / lengthscale

    kappa is ``exp(-r^2 / 2)`` of the ``"rbf"`` kernel, ``(1 + a) exp(-a)`` with ``a = sqrt(3) r`` of ``"matern32"``,
    ``(1 + a + a^2 / 3) exp(-a)`` with ``a = sqrt(5) r`` of ``"matern52"``; the ``"periodic"`` one is the first with
    ``r^2 = 4 sum_d sin^2(pi (x_d - x'_d) / period) / lengthscale^2``. Hyperparameters are log-uniform in their ranges,
    x is uniform in its domain. The tasks of a batch have one context size, uniform in its range; the next batch has
    another.

    Arguments:
        lengthscale: range ``(low, high)``, in units of x, above 0; one number v is ``(v, v)``, here and below.
        noise: range of the noise's standard deviation, above 0.
        outputscale: range of the function's standard deviation, above 0.
        period: range of the period, of the periodic kernel.
        kernel: ``"rbf"``, ``"matern32"``, ``"matern52"`` or ``"periodic"``.
        context: support rows S, or a range of them; 0 is an empty context.
        queries: query rows Q.
        inputs: features D.
        domain: range of each feature.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a range is not ``low <= high`` or goes beyond its limits, or the kernel is none of the four.

    Example:
        >>> batch = GaussianProcesses(context=(1, 25), queries=24).sample(8, seed=0)
        >>> batch.query_x.shape, 1 <= batch.support_x.shape[1] <= 25
        (torch.Size([8, 24, 1]), True)

    Source: C. Rasmussen and C. Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 4.2.
    """

    lengthscale: Any = (0.15, 1.5)
    noise: Any = (0.05, 0.3)
    outputscale: Any = 1.0
    period: Any = 1.0
    kernel: str = "rbf"
    context: Any = (1, 25)
    queries: int = 24
    inputs: int = 1
    domain: tuple[float, float] = (-2.0, 2.0)

    def __post_init__(self) -> None:
        for name in _RANGES:
            value = getattr(self, name)
            low, high = span(name, value if isinstance(value, tuple | list) else (value, value))
            object.__setattr__(self, name, (real(f"{name}, at its low end,", low, above=0.0), high))
        object.__setattr__(self, "kernel", choice("kernel", self.kernel, KERNELS))
        object.__setattr__(self, "context", whole_span("context", self.context, least=0))
        for name in ("queries", "inputs"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        object.__setattr__(self, "domain", span("domain", self.domain))

    @property
    def context_range(self) -> tuple[int, int]:
        """The smallest and the greatest context size."""
        low, high = self.context
        return low, high

    @property
    def query_rows(self) -> int:
        """Query rows of a task."""
        return self.queries

    @property
    def drawn_at_once(self) -> int:
        """Tasks to judge on at once: many, unless each batch has its own context size."""
        return 50 if self.context[0] < self.context[1] else 250

    def at(self, rows: int) -> GaussianProcesses:
        """The same processes with contexts of just so many rows."""
        return dataclasses.replace(self, context=rows)

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> ProcessBatch:
        """T tasks: ``support_x [T, S, D]``, ``query_x [T, Q, D]``, targets ``[T, S, 1]`` and ``[T, Q, 1]``, float32.

        Arguments and randomness as in ``Sinusoids.sample``.
        """
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        draw: dict[str, Any] = {"generator": generator, "device": place}
        rows = drawn_size(*self.context_range, generator)
        low, high = torch.tensor(self._ranges(), dtype=torch.float64, device=place).log().T
        hyper = torch.lerp(low, high, torch.rand(n_tasks, len(_RANGES), dtype=torch.float64, **draw)).exp()
        both = rows + self.queries
        x = torch.empty(n_tasks, both, self.inputs, device=place).uniform_(*self.domain, generator=generator)
        with threads_for(x.numel(), x.device):
            factor = self._factor(hyper, x.double())
            y = (factor @ torch.randn(n_tasks, both, 1, dtype=torch.float64, **draw)).float()
        batch = ProcessBatch.trusted(x[:, :rows], y[:, :rows], x[:, rows:], y[:, rows:], hyper=hyper)
        return placed(batch, target)

    def covariance(self, hyper: Tensor, a: Tensor, b: Tensor) -> Tensor:
        """The covariance of the functions' values, noise apart: ``[..., 4]``, ``[..., N, D]``, ``[..., M, D]`` to
        ``[..., N, M]``.

        Example:
            >>> x, prior = torch.tensor([[0.0], [1.0]]), GaussianProcesses()
            >>> prior.covariance(torch.tensor([1.0, 0.1, 1.0, 1.0]), x, x)[0]
            tensor([1.0000, 0.6065])
        """
        lengthscale, _, outputscale, period = hyper[..., None, None].unbind(-3)
        apart = a[..., :, None, :] - b[..., None, :, :]
        if self.kernel == "periodic":
            apart = 2 * (math.pi * apart / period[..., None]).sin()
        r = apart.square().sum(-1).sqrt() / lengthscale
        return outputscale.square() * _KERNELS.get(self.kernel, _rbf)(r)

    def posterior(
        self, hyper: Tensor, support_x: Tensor, support_y: Tensor, query_x: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and standard deviation of each query target ``[..., Q]``, and the log evidence of the support ``[...]``.

            mean = k' (K + noise^2 I)^-1 y,    variance = k(q, q) + noise^2 - k' (K + noise^2 I)^-1 k

        Shapes: ``hyper [..., 4]``, ``support_x [..., S, D]``, ``support_y [..., S, 1]``, ``query_x [..., Q, D]``, and
        ``mask [..., S]`` where rows are real; leading dimensions broadcast. All of it is worked out in float64.

        Source: Rasmussen and Williams 2006, algorithm 2.1.
        """
        hyper, x, y, q = (tensor.double() for tensor in (hyper, support_x, support_y, query_x))
        cross = self.covariance(hyper, x, q)
        if mask is None:
            mask = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        real_rows = mask[..., None].double()
        cross, y = cross * real_rows, y * real_rows
        factor = self._factor(hyper, x, real_rows)
        lead = torch.broadcast_shapes(factor.shape[:-2], cross.shape[:-2], y.shape[:-2])
        both = torch.cat([cross.expand(*lead, *cross.shape[-2:]), y.expand(*lead, *y.shape[-2:])], -1)
        solved = torch.linalg.solve_triangular(factor.expand(*lead, *factor.shape[-2:]), both, upper=False)
        known, told = solved[..., :-1], solved[..., -1]
        mean = (known * told[..., None]).sum(-2)
        before = hyper[..., 2].square() + hyper[..., 1].square()
        spread = (before[..., None] - known.square().sum(-2)).clamp(min=0).sqrt()
        halves = told.square().sum(-1) / 2 + factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return mean, spread, -halves - mask.sum(-1) * math.log(2 * math.pi) / 2

    def grid(self, points: int) -> tuple[Tensor, Tensor]:
        """Hyperparameters ``[G, 4]`` and log weights ``[G]`` that stand for the prior over them, ``points`` a range.

        Gauss-Legendre points in the logarithm: averages over the prior are exact for polynomials of it to the degree
        ``2 points - 1``. Ranges of one value take one point.

        Example:
            >>> GaussianProcesses().grid(8)[0].shape
            torch.Size([64, 4])
        """
        places, weights = np.polynomial.legendre.leggauss(whole("points", points))
        axes, masses = [], []
        for low, high in self._ranges():
            one = low == high
            at = [0.5] if one else (places + 1) / 2
            axes.append(math.log(low) + torch.as_tensor(at, dtype=torch.float64) * math.log(high / low))
            masses.append(torch.as_tensor([1.0] if one else weights / 2, dtype=torch.float64).log())
        return torch.cartesian_prod(*axes).exp(), torch.cartesian_prod(*masses).sum(-1)

    def _ranges(self) -> list[tuple[float, float]]:
        """The ranges of the four hyperparameters; that of the period one value where it plays no part."""
        period = self.period if self.kernel == "periodic" else (self.period[0],) * 2
        return [self.lengthscale, self.noise, self.outputscale, period]

    def _factor(self, hyper: Tensor, x: Tensor, real_rows: Tensor | None = None) -> Tensor:
        """The Cholesky factor of the covariance of noisy targets; rows that are not real stand by themselves."""
        covariance = self.covariance(hyper, x, x)
        # Noise makes it positive definite; the jitter serves noise of almost nothing.
        diagonal = hyper[..., 1].square() + _JITTER * hyper[..., 2].square()
        noise = diagonal[..., None].expand(covariance.shape[:-1])
        if real_rows is not None:
            covariance = covariance * real_rows * real_rows.mT
            noise = torch.where(real_rows[..., 0] > 0, noise, 1.0)
        return torch.linalg.cholesky_ex(covariance + torch.diag_embed(noise)).L
