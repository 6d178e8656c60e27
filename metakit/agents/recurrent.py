"""RL2: an agent whose learning is what a recurrent network does with its state in the course of a trial."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metakit.agents.agent import Agent
from metakit.agents.trial import Played, State
from metakit.checks import in_words, real, whole
from metakit.saving import saved

_CLOCK = 3


@saved
class RL2(Agent):
    """A recurrent agent: its weights are learned over many worlds, its state learns the one it is in.

        h_k = GRU(h_{k-1}; observation_k, action_{k-1}, reward_{k-1}, done_{k-1}, clock),    pi, V = heads(h_k)

    The state is kept where an episode ends, and begins anew with the trial: what was found out in one episode serves in
    the next. The previous action comes both by itself and times its reward, which binds the two.

    Arguments:
        actions: number of actions A.
        observation: shape of what is seen; ``()`` in worlds without anything to see.
        hidden: units of the GRU.
        body: a network from observations ``[B, *observation]`` to features ``[B, D]``; flattened when left out.
        reward_mean, reward_spread: the rewards' usual size, which is taken away and divided by.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> agent = RL2(3)
        >>> state = agent.start(2, pulls=10)
        >>> state = agent.observe(state, agent.act(state), torch.tensor([0.0, 1.0]))
        >>> agent.policy(state)[0].shape
        torch.Size([2, 3])

    Source: Duan et al. 2016; Wang et al. 2016.
    """

    def __init__(
        self,
        actions: int,
        observation: tuple[int, ...] = (),
        *,
        hidden: int = 64,
        body: nn.Module | None = None,
        reward_mean: float = 0.5,
        reward_spread: float = 0.5,
    ) -> None:
        super().__init__()
        self.actions, self.hidden = whole("actions", actions, least=2), whole("hidden", hidden)
        self.observation = tuple(in_words(f"observation must be a shape, got {observation!r}.", lambda: [*observation]))
        self.reward_mean = real("reward_mean", reward_mean)
        self.reward_spread = real("reward_spread", reward_spread, above=0.0)
        self.body = nn.Flatten() if body is None else body
        features = features_of(self.body, self.observation)
        self.memory = nn.GRU(features + 2 * self.actions + 2 + _CLOCK, self.hidden, batch_first=True)
        self.head, self.critic = nn.Linear(self.hidden, self.actions), nn.Linear(self.hidden, 1)
        for tensor in (*self.head.parameters(), *self.critic.parameters()):
            nn.init.zeros_(tensor)

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        check_arms(self, arms)
        check_sight(self.observation, observation, n_tasks)
        like = self.head.weight
        nothing, before = (like.new_zeros(n_tasks, size) for size in (2 * self.actions + 2, self.hidden))
        return self._read({"arms": self.actions}, before, nothing, observation, 0, pulls)

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        check_sight(self.observation, observation, len(action))
        told = self._told(action, reward, done)
        return self._read({}, state["hidden"], told, observation, state["k"] + 1, state["steps"])

    def policy(self, state: State) -> tuple[Tensor, Tensor]:
        return self._heads(state["hidden"], torch.tensor(float(state["steps"] - state["k"])))

    def replay(self, played: Played) -> tuple[Tensor, Tensor]:
        start, (n_tasks, length) = played.start, played.actions.shape
        done = None if played.done is None else played.done[:, :-1]
        told = self._told(played.actions[:, :-1], played.rewards[:, :-1], done)
        told = torch.cat([start["told"][:, None], told], 1)
        seen = played.observations
        features = [] if seen is None else [self.body(seen.flatten(0, 1)).unflatten(0, (n_tasks, length))]
        ticks = torch.stack([clock(start["k"] + k, start["steps"], told) for k in range(length)])
        rows = torch.cat([*features, told, ticks.expand(n_tasks, -1, -1)], -1)
        hidden, _ = self.memory(rows, start["before"][None])
        left = start["steps"] - start["k"] - torch.arange(length, device=rows.device, dtype=rows.dtype)
        return self._heads(hidden, left)

    def _read(
        self, state: State, before: Tensor, told: Tensor, observation: Tensor | None, k: int, steps: int
    ) -> State:
        features = [] if observation is None else [self.body(observation)]
        rows = torch.cat([*features, told, clock(k, steps, told).expand(len(told), -1)], -1)
        _, hidden = self.memory(rows[:, None], before[None])
        return state | {"before": before, "hidden": hidden[0], "told": told, "observation": observation}

    def _told(self, action: Tensor, reward: Tensor, done: Tensor | None) -> Tensor:
        return told_of(action, self.actions, (reward - self.reward_mean) / self.reward_spread, done)

    def _heads(self, hidden: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(hidden), self.critic(hidden)[..., 0] * left.sqrt()


def told_of(action: Tensor, actions: int, reward: Tensor, done: Tensor | None) -> Tensor:
    """What came of an action: itself, bound to its reward, the reward, whether an episode ended; ``[..., 2 A + 2]``."""
    which, reward = nn.functional.one_hot(action, actions).to(reward.dtype), reward[..., None]
    ended = torch.zeros_like(reward) if done is None else done[..., None].to(reward.dtype)
    return torch.cat([which, which * reward, reward, ended], -1)


def clock(k: int, steps: int, like: Tensor) -> Tensor:
    """What time of the trial it is, ``[3]``."""
    return like.new_tensor([k / steps, (1 + steps - k) ** -0.5, (1 + k) ** -0.5])


def check_arms(agent: Any, arms: int | None) -> None:
    """Refuse worlds of another number of actions than the agent was made for."""
    if arms not in (None, agent.actions):
        name = type(agent).__name__
        raise ValueError(
            f"this {name} was made for {agent.actions} actions, and the worlds have {arms}. Make {name}({arms})."
        )


def features_of(body: nn.Module, observation: tuple[int, ...]) -> int:
    """Numbers that a network makes of an observation of this shape."""
    if not observation:
        return 0
    with torch.no_grad():
        return int(body(torch.zeros(2, *observation)).shape[1])


def check_sight(wanted: tuple[int, ...], observation: Tensor | None, n_tasks: int) -> None:
    """Refuse an observation of another shape than the agent was made for."""
    shape = None if observation is None else tuple(observation.shape)
    if shape != ((n_tasks, *wanted) if wanted else None):
        told, got = (str([n_tasks, *wanted]) if wanted else "nothing"), ("nothing" if shape is None else str([*shape]))
        raise ValueError(f"this agent sees {told}, and got {got}. Make it with observation={shape and shape[1:]!r}.")
