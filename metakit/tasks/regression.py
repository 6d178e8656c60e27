"""Regression tasks whose answer is known: the sinusoids of the MAML paper, and linear tasks with a best prediction."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from metakit.checks import Device, as_device, as_generator, drawing, placed, real, span, whole, whole_span
from metakit.tasks.batch import TaskBatch
from metakit.tasks.steady import drawn_size
from metakit.threads import threads_for


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sinusoids:
    """Sine curves, each task one amplitude and one phase.

    ``y = amplitude * sin(x - phase) + noise * eps``, with amplitude, phase and x uniform in their ranges and ``eps``
    standard normal.

    Arguments:
        shots: support rows K (so S = K).
        queries: query rows Q.
        amplitude: range ``(low, high)`` of the amplitude, in units of y.
        phase: range of the phase, in radians.
        domain: range of x, in radians.
        noise: standard deviation of the noise on y.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a count is below 1, a range is not ``low <= high``, or the noise is negative.

    Example:
        >>> tasks = Sinusoids(shots=5, queries=20)
        >>> batch = tasks.sample(4, seed=0)
        >>> batch.support_x.shape, batch.query_y.shape
        (torch.Size([4, 5, 1]), torch.Size([4, 20, 1]))

    Source: C. Finn, P. Abbeel, S. Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017,
    section 5.1. The defaults are theirs.
    """

    shots: int = 10
    queries: int = 10
    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, math.pi)
    domain: tuple[float, float] = (-5.0, 5.0)
    noise: float = 0.0

    def __post_init__(self) -> None:
        for name in ("shots", "queries"):
            object.__setattr__(self, name, whole(name, getattr(self, name)))
        for name in ("amplitude", "phase", "domain"):
            object.__setattr__(self, name, span(name, getattr(self, name)))
        object.__setattr__(self, "noise", real("noise", self.noise, least=0.0))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T tasks: ``support_x [T, S, 1]``, ``query_x [T, Q, 1]`` and targets of the same shapes, float32.

        Arguments:
            n_tasks: number of tasks T.
            generator: source of randomness; drawn on its device, then moved.
            seed: a number instead of a generator; neither means torch's default generator.
            device: where the batch shall be; by default where it is drawn.

        Example:
            >>> tasks = Sinusoids()
            >>> bool((tasks.sample(2, seed=3).query_y == tasks.sample(2, seed=3).query_y).all())
            True
        """
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        amplitude = torch.empty(n_tasks, 1, 1, device=place).uniform_(*self.amplitude, generator=generator)
        phase = torch.empty(n_tasks, 1, 1, device=place).uniform_(*self.phase, generator=generator)
        return self._batch(amplitude, phase, generator, target)

    def task(
        self,
        *,
        amplitude: float,
        phase: float,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """A batch of the one task with this amplitude and this phase (inside or outside the ranges), x random.

        Example:
            >>> tasks = Sinusoids(shots=3)
            >>> batch = tasks.task(amplitude=2.0, phase=0.5, seed=0)
            >>> bool(torch.equal(batch.support_y, tasks.curve(2.0, 0.5, batch.support_x)))
            True
        """
        target = as_device(device)
        generator = as_generator(generator, seed, target)
        place = generator.device if generator is not None else target
        chosen = [real(name, value) for name, value in (("amplitude", amplitude), ("phase", phase))]
        a, p = (torch.full((1, 1, 1), value, device=place) for value in chosen)
        return self._batch(a, p, generator, target)

    @staticmethod
    def curve(amplitude: float | Tensor, phase: float | Tensor, x: Tensor) -> Tensor:
        """The curve without noise, ``amplitude * sin(x - phase)``, shaped as its arguments broadcast.

        Example:
            >>> Sinusoids.curve(2.0, 0.0, torch.tensor([0.0, math.pi / 2]))
            tensor([0., 2.])
        """
        return (x - phase).sin_().mul(amplitude)

    def _batch(
        self, amplitude: Tensor, phase: Tensor, generator: torch.Generator | None, device: torch.device | None
    ) -> TaskBatch:
        sides = []
        with threads_for(len(amplitude) * (self.shots + self.queries), amplitude.device):
            for rows in (self.shots, self.queries):
                x = torch.empty(len(amplitude), rows, 1, device=amplitude.device).uniform_(
                    *self.domain, generator=generator
                )
                y = self.curve(amplitude, phase, x)
                if self.noise:
                    y = y + self.noise * torch.empty_like(y).normal_(generator=generator)
                sides += [x, y]
        batch = TaskBatch.trusted(*sides)
        return batch if device is None or device == batch.device else batch.to(device)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearRegression:
    """Linear tasks with one weight vector each, whose best prediction is known.

    ``y = x w + noise * eps``, with ``w [D]``, ``x`` and ``eps`` standard normal. Sparse weights are zero but for some,
    each set of places as likely.

    Arguments:
        rows: support rows S, or a range ``(low, high)`` of them: each batch has one number, uniform in it.
        features: features D.
        noise: standard deviation of the noise on y.
        queries: query rows Q; as many as ``rows`` by default, the most of a range.
        sparse: how many weights are not zero; all of them when left out.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a count is below 1, more weights than features are not to be zero, or the noise is negative.

    Example:
        >>> tasks = LinearRegression(rows=20, features=3, noise=0.0)
        >>> batch = tasks.sample(4, seed=0)
        >>> batch.support_x.shape, bool((tasks.ridge(batch) - batch.query_y).abs().max() < 1e-4)
        (torch.Size([4, 20, 3]), True)
    """

    rows: int | tuple[int, int] = 100
    features: int = 10
    noise: float = 0.1
    queries: int | None = None
    sparse: int | None = None

    def __post_init__(self) -> None:
        low, high = whole_span("rows", self.rows)
        object.__setattr__(self, "rows", low if low == high else (low, high))
        object.__setattr__(self, "features", whole("features", self.features))
        queries = high if self.queries is None else whole("queries", self.queries)
        object.__setattr__(self, "queries", queries)
        object.__setattr__(self, "noise", real("noise", self.noise, least=0.0))
        if self.sparse is not None and whole("sparse", self.sparse) > self.features:
            raise ValueError(
                f"sparse must be at most the number of features, {self.features}, got {self.sparse}. Leave it out for "
                "weights without zeros."
            )

    @property
    def context_range(self) -> tuple[int, int]:
        """The smallest and the greatest number of support rows."""
        return self.rows if isinstance(self.rows, tuple) else (self.rows, self.rows)

    @property
    def query_rows(self) -> int:
        """Query rows of a task."""
        return self.queries or self.context_range[1]

    def at(self, rows: int) -> LinearRegression:
        """The same tasks with just so many support rows."""
        return dataclasses.replace(self, rows=rows)

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """T tasks: ``support_x [T, S, D]``, ``support_y [T, S, 1]``, the query likewise, float32.

        Arguments and randomness as in :meth:`Sinusoids.sample`.
        """
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=place)

        support = drawn_size(*self.context_range, generator)
        w = normal(n_tasks, self.features, 1)
        if self.sparse is not None:
            order = torch.rand(n_tasks, self.features, 1, generator=generator, device=place).argsort(1).argsort(1)
            w = w * (order < self.sparse)
        sides, numbers = [], n_tasks * self.features * (support + self.query_rows)
        with threads_for(numbers, w.device):
            for rows in (support, self.query_rows):
                x = normal(n_tasks, rows, self.features)
                y = x @ w
                sides += [x, y + self.noise * normal(n_tasks, rows, 1) if self.noise else y]
        batch = TaskBatch.trusted(*sides)
        return placed(batch, target)

    def ridge(self, batch: TaskBatch) -> Tensor:
        """The best prediction of ``query_y`` from the support set, ``[T, Q, 1]``: none has a smaller expected error.

        The weights are standard normal and the noise is normal, so their posterior mean is ridge regression with
        ``noise**2`` as its penalty, ``w = (X'X + noise^2 I)^-1 X'y``; as the noise goes to 0 it is the shortest ``w``
        that fits (the pseudo-inverse). Of sparse weights it is the best linear guess alone; see ``BayesLinear``.

        Source: C. Bishop, Pattern Recognition and Machine Learning, 2006, section 3.3.1.
        """
        # In float64: X'X squares the condition number, which float32 does not survive when S is close to D.
        x, y = batch.support_x.double(), batch.support_y.double()
        if self.noise:
            penalty = self.noise**2 * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            w = torch.linalg.solve(x.mT @ x + penalty, x.mT @ y)
        else:
            w = torch.linalg.pinv(x) @ y
        return (batch.query_x.double() @ w).to(batch.query_y.dtype)
