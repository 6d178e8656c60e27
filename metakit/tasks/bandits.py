"""Bandits: slot machines with hidden chances, the smallest worlds in which it pays to explore."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metakit.checks import Device, choice, drawing, placed, real, whole_span
from metakit.contracts import Turn

KINDS = ("bernoulli", "gaussian")


@dataclasses.dataclass(frozen=True)
class BanditBatch:
    """T bandits of one size, a ``contracts.Worlds``: what ``Bandits`` draws.

    Arguments:
        means: the mean reward of each arm, ``[T, arms]``, hidden from who plays.
        steps: pulls in a trial.
        kind: rewards are 0 or 1 (``"bernoulli"``), or normal about the mean (``"gaussian"``).
        noise: standard deviation of normal rewards.

    Example:
        >>> worlds = BanditBatch(torch.tensor([[0.0, 1.0]]), 10)
        >>> state, _ = worlds.begin()
        >>> worlds.step(state, torch.tensor([0]))[1].merit
        tensor([-1.])
    """

    means: Tensor
    steps: int
    kind: str = "bernoulli"
    noise: float = 1.0

    @property
    def actions(self) -> int:
        return self.means.shape[1]

    @property
    def best(self) -> Tensor:
        """The mean reward of each bandit's best arm, ``[T]``."""
        return self.means.amax(1)

    def begin(self) -> tuple[dict[str, Tensor], None]:
        return {}, None

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Turn]:
        mean = self.means.gather(1, action[:, None])[:, 0]
        reward = torch.bernoulli(mean) if self.kind == "bernoulli" else mean + self.noise * torch.randn_like(mean)
        return state, Turn(reward, merit=mean - self.best)

    def __len__(self) -> int:
        return len(self.means)

    def __getitem__(self, index: slice | Tensor) -> BanditBatch:
        return dataclasses.replace(self, means=self.means[index])

    def to(self, device: torch.device | str | None) -> BanditBatch:
        return dataclasses.replace(self, means=self.means.to(device))

    @property
    def device(self) -> torch.device:
        return self.means.device

    def numel(self) -> int:
        return self.means.numel()


@dataclasses.dataclass(frozen=True)
class Bandits:
    """A distribution of bandits: independent arms, theta ~ U[0, 1] a chance to be paid 1, or normal means and rewards.

    The bandits of a batch share arms and pulls, so that they are played at once; the next batch has others. For an
    interval over sizes too, judge on several batches.

    Arguments:
        arms: number of arms, or a range of it, drawn log-uniformly.
        pulls: actions in a trial, or a range of it, drawn log-uniformly.
        kind: ``"bernoulli"``: a chance theta ~ U[0, 1] for each arm. ``"gaussian"``: a mean N(0, 1), rewards about it.
        noise: standard deviation of the rewards of the second kind.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a range is empty, a number too small, or the kind is neither.

    Example:
        >>> worlds = Bandits(arms=(2, 5), pulls=10).sample(3, seed=0)
        >>> len(worlds), worlds.steps, 2 <= worlds.actions <= 5
        (3, 10, True)

    Source: the Bernoulli arms, Duan et al. 2016, section 3.1.
    """

    arms: Any = 5
    pulls: Any = 100
    _: dataclasses.KW_ONLY
    kind: str = "bernoulli"
    noise: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "arms", whole_span("arms", self.arms, least=2))
        object.__setattr__(self, "pulls", whole_span("pulls", self.pulls))
        object.__setattr__(self, "kind", choice("kind", self.kind, KINDS))
        object.__setattr__(self, "noise", real("noise", self.noise, least=0.0))

    @property
    def drawn_at_once(self) -> int:
        """Bandits to judge on at once: many, unless each batch has its own size."""
        return 50 if self.arms[0] < self.arms[1] or self.pulls[0] < self.pulls[1] else 500

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> BanditBatch:
        """T bandits of one size; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)

        def number(ends: Any) -> int:
            low, high = ends
            return (
                low
                if low == high
                else round(low * (high / low) ** float(torch.rand((), generator=generator, device=place)))
            )

        arms, pulls = number(self.arms), number(self.pulls)
        draw = torch.rand if self.kind == "bernoulli" else torch.randn
        batch = BanditBatch(draw(n_tasks, arms, generator=generator, device=place), pulls, self.kind, self.noise)
        return placed(batch, target)
