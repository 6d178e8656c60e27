"""A trial, played: T agents in T worlds, step by step, and what is kept of it."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from metakit.contracts import Turn, Worlds

State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Played:
    """What happened in T trials, or in a stretch of them: L steps.

    Arguments:
        actions, rewards: ``[T, L]``.
        observations: what was seen before each action, ``[T, L, ...]``; ``None`` in worlds without anything to see.
        done: whether an episode ended with the action, ``[T, L]``; ``None`` if none does.
        merits: how far the expected return of each action lies below the best, ``[T, L]``; ``None`` if unknown.
        start: the agent's state before the first action.
    """

    actions: Tensor
    rewards: Tensor
    observations: Tensor | None
    done: Tensor | None
    merits: Tensor | None
    start: State

    @property
    def payoffs(self) -> Tensor:
        """What training counts, ``[T, L]``: merits where they are known, since the luck of the draw is not in them."""
        return self.rewards if self.merits is None else self.merits


@dataclasses.dataclass(frozen=True)
class Held:
    """Where T trials stand: the state of the worlds and that of the agent, to go on from."""

    world: dict[str, Tensor]
    agent: State


@torch.no_grad()
def play(
    agent: Any, worlds: Worlds, *, sample: bool = False, held: Held | None = None, steps: int | None = None
) -> tuple[Played, Held]:
    """Play T trials, or so many steps of them from where they stand.

    Arguments:
        agent: who acts.
        worlds: T worlds.
        sample: draw actions from the policy; the likeliest when false.
        held: where the trials stand; at their beginning when left out.
        steps: how far to go; to the end of the trial when left out.

    Raises:
        ValueError: if the agent leaves the range of the actions, or the worlds answer in a wrong shape or with NaN.

    Example:
        >>> import metakit as mk
        >>> worlds = mk.tasks.Bandits(arms=3, pulls=7).sample(4, seed=0)
        >>> played, _ = play(mk.ArmsAgent(), worlds)
        >>> played.actions.shape
        torch.Size([4, 7])
    """
    n_tasks = len(worlds)
    if held is None:
        world, seen = worlds.begin()
        held = Held(world, agent.started(n_tasks, worlds.actions, worlds.steps, seen, worlds.device))
    world, state, turns, actions, seen_before = held.world, held.agent, [], [], []
    left = state["steps"] - state["k"]
    for _ in range(left if steps is None else min(steps, left)):
        action = agent.choose(state, sample)
        check_actions(action, worlds.actions, n_tasks)
        seen_before.append(state.get("observation"))
        world, turn = worlds.step(world, action)
        check_turn(turn, n_tasks)
        state = agent.moved(state, action, turn.reward, turn.observation, turn.done)
        actions.append(action)
        turns.append(turn)
    rewards = torch.stack([turn.reward for turn in turns], 1)
    check_finite(rewards, "reward")
    done, merits = (_stacked([getattr(turn, name) for turn in turns]) for name in ("done", "merit"))
    played = Played(torch.stack(actions, 1), rewards, _stacked(seen_before), done, merits, held.agent)
    return played, Held(world, state)


def drawn(logits: Tensor) -> Tensor:
    """One action of each row of logits, drawn by its chance: the largest of logits and Gumbel noise."""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(-1)


def check_actions(action: Tensor, actions: int | None, n_tasks: int | None = None) -> None:
    """Refuse what is no action."""
    if n_tasks is not None and action.shape != (n_tasks,):
        raise ValueError(f"an agent must give an action for each of {n_tasks} worlds, got {list(action.shape)}.")
    if action.is_floating_point() or action.is_complex() or action.dtype == torch.bool:
        raise ValueError(f"an action must be the whole number of an arm, got {action.dtype}. Give an int64 tensor.")
    if actions is None or action.device.type != "cpu":  # elsewhere it would wait for the device at each step
        return
    low, high = (int(end) for end in action.aminmax())
    if low < 0 or high >= actions:
        raise ValueError(
            f"there are {actions} actions, numbered from 0 to {actions - 1}, and one was {low if low < 0 else high}. "
            "Choose among them."
        )


def check_turn(turn: Any, n_tasks: int) -> None:
    """Refuse what worlds may not answer."""
    if not isinstance(turn, Turn):
        raise TypeError(f"worlds must answer a step with (state, contracts.Turn), got {type(turn).__name__}.")
    for name in ("reward", "done", "merit"):
        value = getattr(turn, name)
        if value is not None and value.shape != (n_tasks,):
            raise ValueError(f"{name} must be [{n_tasks}], one for each world, got {list(value.shape)}.")
    if turn.observation is not None and turn.observation.shape[0] != n_tasks:
        raise ValueError(f"observation must be [{n_tasks}, ...], got {list(turn.observation.shape)}.")


def log_chances(logits: Tensor, actions: Tensor) -> Tensor:
    """The logarithm of the chance of each action under its logits, ``[...]``."""
    return logits.log_softmax(-1).gather(-1, actions[..., None])[..., 0]


def check_going_on(state: State) -> None:
    """Refuse another step of a trial that has had all of them."""
    if state["k"] >= state["steps"]:
        raise ValueError(f"the trial of {state['steps']} steps is over. Begin another one with start(...).")


def check_finite(values: Tensor, name: str) -> None:
    """Refuse NaN and infinity."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(f"a {name} was NaN or infinite, so nothing can be learned from it. Look at the environment.")


def _stacked(parts: list[Any]) -> Tensor | None:
    return None if not parts or parts[0] is None else torch.stack(parts, 1)
