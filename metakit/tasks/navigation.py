"""Navigation: a point on a plane must reach a goal that it cannot see, and learns of it by its rewards alone."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metakit.checks import Device, drawing, real, whole
from metakit.contracts import Turn

SPEED = 0.1  # greatest velocity along each axis, in lengths per step
_NEAR = 0.01  # distance at which the goal is reached


@dataclasses.dataclass(frozen=True)
class NavigationBatch:
    """T planes with a hidden goal each, entered n times side by side: what ``Navigation`` draws.

        x_0 = 0,    x_{k+1} = x_k + clip(a_k, -0.1, 0.1),    r_k = - |x_{k+1} - goal|

    An episode ends within 0.01 of the goal, or after ``steps``. What is seen is the place x.

    Arguments:
        goals: ``[T, 2]``, hidden from who acts.
        steps: most steps in an episode.

    Raises:
        ValueError: if the goals are not finite places ``[T, 2]``.

    Example:
        >>> worlds = NavigationBatch(torch.tensor([[0.3, 0.0]]), 10)
        >>> state, _ = worlds.begin(1)
        >>> state, turn = worlds.step(state, torch.tensor([[[5.0, 0.0]]]))
        >>> turn.reward, turn.observation
        (tensor([[-0.2000]]), tensor([[[0.1000, 0.0000]]]))
    """

    goals: Tensor
    steps: int = 100

    def __post_init__(self) -> None:
        shape = list(self.goals.shape)
        if len(shape) != 2 or shape[1] != 2:
            raise ValueError(f"goals must be [T, 2], got {shape}. One goal? Add a leading dimension: goals[None].")
        if not bool(torch.isfinite(self.goals).all()):
            raise ValueError("goals must be finite, got NaN or infinity. Look at where they come from.")
        object.__setattr__(self, "steps", whole("steps", self.steps))

    def begin(self, n: int) -> tuple[dict[str, Tensor], Tensor]:
        """The state at the start of n episodes in each plane, and the first sight of them, ``[T, n, 2]``."""
        place = self.goals.new_zeros(len(self), n, 2)
        return {"place": place}, place

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Turn]:
        """The state after velocities ``[T, n, 2]``, and what came of them: rewards and ends are ``[T, n]``."""
        place = state["place"] + action.clamp(-SPEED, SPEED)
        away = torch.linalg.vector_norm(place - self.goals[:, None], dim=-1)
        return {"place": place}, Turn(-away, place, away < _NEAR)

    def optimum(self) -> Tensor:
        """The best possible return of an episode, ``[T]``: greatest speed along each axis until it is at the goal's.

            - sum_k | max(|goal| - 0.1 k, 0) |,    k = 1 .. steps

        The axes are independent, so this way is the nearest possible after every single step, and the first to end.
        """
        k = torch.arange(1, self.steps + 1, dtype=self.goals.dtype, device=self.device)
        left = (self.goals.abs()[:, None] - SPEED * k[:, None]).clamp(min=0)
        return -torch.linalg.vector_norm(left, dim=-1).sum(1)

    def __len__(self) -> int:
        return len(self.goals)

    def __getitem__(self, index: slice | Tensor) -> NavigationBatch:
        return dataclasses.replace(self, goals=self.goals[index])

    def to(self, device: torch.device | str | None) -> NavigationBatch:
        return dataclasses.replace(self, goals=self.goals.to(device))

    @property
    def device(self) -> torch.device:
        return self.goals.device

    def numel(self) -> int:
        return self.goals.numel()


@dataclasses.dataclass(frozen=True)
class Navigation:
    """A distribution of planes with a hidden goal, drawn uniformly from a square about the start.

    The rewards are minus the distance: so does the code of the paper, whose figures are of that size (to stay at the
    start pays -38), where its text says the distance squared.

    Arguments:
        steps: most steps in an episode.
        half_side: goals lie in ``[-half_side, half_side]^2``.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a number is out of its range.

    Example:
        >>> worlds = Navigation().sample(3, seed=0)
        >>> len(worlds), worlds.steps, bool((worlds.goals.abs() <= 0.5).all())
        (3, 100, True)

    Source: Finn, Abbeel and Levine 2017, section 5.3.
    """

    steps: int = 100
    _: dataclasses.KW_ONLY
    half_side: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole("steps", self.steps))
        object.__setattr__(self, "half_side", real("half_side", self.half_side, above=0.0))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> NavigationBatch:
        """T planes; randomness as in ``Sinusoids.sample``."""
        n_tasks, generator, place, target = drawing(n_tasks, generator, seed, device)
        goals = self.half_side * (2 * torch.rand(n_tasks, 2, generator=generator, device=place) - 1)
        return NavigationBatch(goals if target is None else goals.to(target), self.steps)
