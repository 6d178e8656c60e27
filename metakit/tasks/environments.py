"""Anybody's environments as hidden worlds, by the vector interface of gymnasium."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metakit.checks import Device, as_device, as_generator, whole
from metakit.contracts import Turn

_SEEDS = 1 << 31


class Running:
    """T environments side by side, and where they stand: whose state lies outside of torch.

    Arguments:
        env: a ``gymnasium.vector.VectorEnv``.
        seed: what its episodes are drawn from.
        steps: the most actions in a trial.
    """

    def __init__(self, env: Any, seed: int, steps: int) -> None:
        import gymnasium

        self.env, self.seed, self.steps = env, seed, steps
        space, seen = env.single_action_space, env.single_observation_space
        if not isinstance(space, gymnasium.spaces.Discrete) or space.n < 2:
            raise ValueError(f"agents choose among two or more actions, got {space}. Take a Discrete action space.")
        if not isinstance(seen, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
            raise ValueError(
                f"what is seen must be a Box or Discrete, got {type(seen).__name__}. Put "
                "gymnasium.wrappers.FlattenObservation around each environment."
            )
        modes = {mode.value: mode for mode in gymnasium.vector.AutoresetMode}
        told = env.metadata.get("autoreset_mode")
        self.mode = modes.get(getattr(told, "value", told))
        if self.mode is None:
            raise ValueError(
                f"metadata['autoreset_mode'] must say when an environment begins anew, got {told!r}. Set it to one of "
                "gymnasium.vector.AutoresetMode."
            )
        self.same_step = self.mode is gymnasium.vector.AutoresetMode.SAME_STEP
        self.by_hand = self.mode is gymnasium.vector.AutoresetMode.DISABLED
        self.first, self.actions = int(space.start), int(space.n)
        self.categories = (int(seen.start), int(seen.n)) if isinstance(seen, gymnasium.spaces.Discrete) else None
        self.shape: tuple[int, ...] = () if self.categories else tuple(seen.shape or ())
        self.k, self.done = 0, torch.zeros(env.num_envs, dtype=torch.bool)
        self.taken, self.last = torch.zeros(0), torch.zeros(0)

    def begin(self) -> Tensor:
        """Put all at the beginning of their trials; returns the first sight, ``[T, ...]``."""
        seen, _ = self.env.reset(seed=self.seed)
        self.k, self.done = 0, torch.zeros_like(self.done)
        # A buffer of this trial's own: states that were left behind keep theirs.
        self.taken = torch.zeros(self.env.num_envs, self.steps, dtype=torch.int32)
        self.last = self._sight(seen)
        return self.last

    def go(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rewards, what is seen, and whether an episode ended."""
        self.taken[:, self.k] = action.int()
        seen, reward, terminated, truncated, _ = self.env.step(action.numpy() + self.first)
        over = _tensor("terminated", terminated, self.done.shape).bool()
        over = over | _tensor("truncated", truncated, self.done.shape).bool()
        if self.by_hand and bool(over.any()):
            seen, _ = self.env.reset(options={"reset_mask": over.numpy()})
        # Where the first sight of an episode comes a step later, the episode ends with that step.
        ended, self.done = (over, over) if self.same_step or self.by_hand else (self.done, over)
        self.k, self.last = self.k + 1, self._sight(seen)
        return _tensor("reward", reward, self.done.shape).float(), self.last, ended

    def stand_at(self, state: dict[str, Tensor]) -> None:
        """Go to where a state says, playing its trial again if it is not here."""
        k, taken, last = int(state["k"]), state["taken"], state["last"].cpu()
        if taken is self.taken and k == self.k:
            return
        self.begin()
        for action in taken[:, :k].cpu().unbind(1):
            self.go(action.long())
        if not torch.equal(last, self.last):
            raise ValueError(
                f"a trial was to go on from step {k}, but these environments, made and reset by the same seeds, show "
                "something else there. Let all their chance come from the seeds; or train by stretches of a whole "
                f"trial, estimator=mk.PPO({self.steps}), so that no checkpoint is written within one."
            )

    def _sight(self, seen: Any) -> Tensor:
        found = _tensor("observation", seen, (self.env.num_envs, *self.shape))
        if self.categories:
            first, n = self.categories
            return nn.functional.one_hot(found.long() - first, n).float()
        if not bool(torch.isfinite(found).all()):
            raise ValueError(
                "an observation was NaN or infinite, so nothing can be learned from it. Look at the make=."
            )
        return found.float()


def _tensor(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    found = torch.from_numpy(np.array(value))  # a copy: environments write over what they gave
    if found.shape != tuple(shape):
        raise ValueError(f"{name} must be {list(shape)}, a row for each environment, got {list(found.shape)}.")
    return found


@dataclasses.dataclass(frozen=True)
class EnvironmentBatch:
    """T outside environments, a ``contracts.Worlds``: what ``Environments`` draws.

    Their state lies in themselves. What is handed around is which actions led there: a trial that is left and gone on
    with later, or by another process, is played again up to that step.

    Arguments:
        running: the environments.
        steps: actions in a trial.
        device: where tensors shall be.
    """

    running: Running
    steps: int
    device: torch.device

    @property
    def actions(self) -> int:
        return self.running.actions

    def begin(self) -> tuple[dict[str, Tensor], Tensor]:
        seen = self.running.begin()
        return self._state(), seen.to(self.device)

    def step(self, state: dict[str, Tensor], action: Tensor) -> tuple[dict[str, Tensor], Turn]:
        self.running.stand_at(state)
        reward, seen, done = self.running.go(action.cpu())
        return self._state(), Turn(*(part.to(self.device) for part in (reward, seen, done)))

    def _state(self) -> dict[str, Tensor]:
        return {"k": torch.tensor(self.running.k), "taken": self.running.taken, "last": self.running.last}

    def __len__(self) -> int:
        return int(self.running.env.num_envs)

    def __getitem__(self, index: slice) -> EnvironmentBatch:
        if range(len(self))[index] != range(len(self)):
            raise ValueError(
                f"{len(self)} outside environments are stepped together and cannot be split, and [{index}] was asked "
                "for. Draw as many as you want; leave chunk= out."
            )
        return self

    def to(self, device: torch.device | str | None) -> EnvironmentBatch:
        return dataclasses.replace(self, device=as_device(device) or self.device)

    def numel(self) -> int:
        return self.running.last.numel()


@dataclasses.dataclass(frozen=True)
class Environments:
    """A distribution of anybody's environments: how to make T of them, each with something hidden of its own.

    ``done`` is told with the first sight of the next episode. Of environments that begin anew only with the step after
    an episode's last (gymnasium's NEXT_STEP), that is one step late: the last sight is shown first, and the action
    there does nothing. SAME_STEP spares that step, and so does DISABLED. An action's worth is not known here, so that
    training counts rewards.

    Arguments:
        make: called as ``make(n_tasks, seed)``, gives a ``gymnasium.vector.VectorEnv`` of so many environments with
            discrete actions. What is hidden is drawn there, from the seed, and must stay over the episodes of a trial.
        steps: actions in a trial, over as many episodes as fit into it.

    Raises:
        ImportError: when worlds are drawn without gymnasium.
        TypeError: if ``make`` cannot be called, or gives something else.
        ValueError: if the environments are of another number, or their actions are not discrete.

    Example:
        >>> import gymnasium
        >>> def make(n_tasks, seed):
        ...     env = gymnasium.make_vec("CartPole-v1", n_tasks, vectorization_mode="vector_entry_point")
        ...     env.unwrapped.gravity = np.random.default_rng(seed).uniform(2, 20, n_tasks)
        ...     return env
        >>> worlds = Environments(make, steps=30).sample(3, seed=0)
        >>> worlds.begin()[1].shape, worlds.actions
        (torch.Size([3, 4]), 2)

    Source: the vector interface, Towers et al. 2024.
    """

    make: Callable[[int, int], Any]
    _: dataclasses.KW_ONLY
    steps: int = 200

    def __post_init__(self) -> None:
        if not callable(self.make):
            raise TypeError(f"make must be a function make(n_tasks, seed), got {self.make!r}.")
        object.__setattr__(self, "steps", whole("steps", self.steps))

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> EnvironmentBatch:
        """T environments; the seeds of what is hidden and of their episodes come from the generator."""
        n_tasks, target = whole("n_tasks", n_tasks), as_device(device)
        try:
            import gymnasium
        except ImportError:
            raise ImportError("environments need gymnasium. Install it: pip install 'metakit[rl]'") from None
        generator = as_generator(generator, seed, None)
        place = "cpu" if generator is None else generator.device
        hidden, episodes = torch.randint(_SEEDS, (2,), generator=generator, device=place).tolist()
        env = self.make(n_tasks, hidden)
        if not isinstance(env, gymnasium.vector.VectorEnv):
            raise TypeError(
                f"make must give a gymnasium.vector.VectorEnv, got {type(env).__name__}. "
                "Put single environments into a gymnasium.vector.SyncVectorEnv."
            )
        if env.num_envs != n_tasks:
            raise ValueError(f"make was asked for {n_tasks} environments, and gave {env.num_envs}. Use its n_tasks.")
        return EnvironmentBatch(Running(env, episodes, self.steps), self.steps, target or torch.device("cpu"))
