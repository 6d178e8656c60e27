"""Tasks whose context sizes vary from batch to batch, drawn so that the rows of a batch stay about as many."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch

from metakit.checks import Device, drawing


@runtime_checkable
class Ranged(Protocol):
    """Tasks with a range of context sizes, of which each batch has one."""

    @property
    def context_range(self) -> tuple[int, int]: ...

    @property
    def query_rows(self) -> int: ...

    def at(self, rows: int, /) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Steady:
    """The same tasks, more of them in a batch where their contexts are smaller: rows, and time, stay about the same.

    ``sample(T)`` draws one context size c for the batch, and ``T (C + Q) / (c + Q)`` tasks of it, rounded down, where C
    is the greatest context size and Q the number of query rows. For training: ``mk.fit(learner, Steady(prior))``.
    Judge on the tasks themselves, whose ``sample(T)`` draws T.

    Arguments:
        tasks: tasks with a range of context sizes: ``GaussianProcesses``, ``LinearRegression``.

    Raises:
        TypeError: if these tasks have no such range.

    Example:
        >>> import metakit as mk
        >>> batch = Steady(mk.tasks.LinearRegression(rows=(1, 40), queries=10)).sample(20, seed=0)
        >>> 950 < len(batch) * (batch.support_x.shape[1] + 10) <= 1000
        True
    """

    tasks: Ranged

    def __post_init__(self) -> None:
        if not isinstance(self.tasks, Ranged):
            raise TypeError(
                f"Steady takes tasks with a range of context sizes, got {type(self.tasks).__name__}. "
                "GaussianProcesses and LinearRegression are such."
            )

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> Any:
        """At least T tasks of one context size; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, _, target = drawing(n_tasks, generator, seed, device)
        (low, high), queries = self.tasks.context_range, self.tasks.query_rows
        rows = drawn_size(low, high, generator)
        n_tasks = n_tasks * (high + queries) // (rows + queries)
        return self.tasks.at(rows).sample(n_tasks, generator=generator, device=target)


def drawn_size(low: int, high: int, generator: torch.Generator | None) -> int:
    """A whole number from low to high, each as likely; nothing is drawn where there is one only."""
    if low == high:
        return low
    place = "cpu" if generator is None else generator.device
    return int(torch.randint(low, high + 1, (), generator=generator, device=place))
