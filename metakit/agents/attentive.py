"""An agent that looks things up: it attends to what it noted of every earlier step of the trial."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.agents.agent import Agent
from metakit.agents.recurrent import check_arms, check_sight, clock, features_of, told_of
from metakit.agents.trial import Played, State
from metakit.checks import real, whole
from metakit.saving import saved

_CLOCK = 3
_SHARP = 1.5  # of the first layer's attention at the beginning


@saved
class Attentive(Agent):
    """An agent whose memory is a list of notes, one for each step of the trial, to which it attends.

        note_k = (observation_k, action_k, reward_k, observation_{k+1}),    look_k = (observation_k, clock)

    In each layer a look attends to all notes so far, and a note to itself and those before it. Where a recurrent state
    has to learn to keep what will be needed, a look finds the notes of the state that it is in. The trial costs the
    square of its length.

    Arguments:
        actions: number of actions A.
        observation: shape of what is seen; ``()`` in worlds without anything to see.
        width: numbers in a note.
        layers, heads: of the attention.
        body: as in ``RL2``.
        reward_mean, reward_spread: as in ``RL2``.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> agent = Attentive(3)
        >>> state = agent.start(2, pulls=10)
        >>> state = agent.observe(state, agent.act(state), torch.tensor([0.0, 1.0]))
        >>> agent.policy(state)[0].shape
        torch.Size([2, 3])

    Source: attention over a trial, Mishra et al. 2018; a transformer as the agent's memory, Melo 2022.
    """

    def __init__(
        self,
        actions: int,
        observation: tuple[int, ...] = (),
        *,
        width: int = 64,
        layers: int = 2,
        heads: int = 4,
        body: nn.Module | None = None,
        reward_mean: float = 0.5,
        reward_spread: float = 0.5,
    ) -> None:
        super().__init__()
        self.actions, self.observation = whole("actions", actions, least=2), tuple(observation)
        self.width, self.layers, self.heads = (
            whole(name, value) for name, value in (("width", width), ("layers", layers), ("heads", heads))
        )
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads, got {width} and {heads}. Take width={heads * 16}.")
        self.reward_mean = real("reward_mean", reward_mean)
        self.reward_spread = real("reward_spread", reward_spread, above=0.0)
        self.body = nn.Flatten() if body is None else body
        features = features_of(self.body, self.observation)
        self.note = nn.Linear(2 * features + 2 * self.actions + 2, self.width)
        self.look = nn.Linear(features + _CLOCK, self.width)
        self.first = nn.Parameter(torch.zeros(self.width))
        blocks = [_Block(self.width, self.heads) for _ in range(self.layers)]
        self.blocks = nn.ModuleList(blocks)
        self.last = nn.LayerNorm(self.width)
        self.head, self.critic = nn.Linear(self.width, self.actions), nn.Linear(self.width, 1)
        for tensor in (*self.head.parameters(), *self.critic.parameters()):
            nn.init.zeros_(tensor)
        with torch.no_grad():  # a look and a note of the same place begin alike, and attention as the search for it
            self.look.weight[:, :features].normal_()
            self.note.weight[:, :features] = self.look.weight[:, :features]
            blocks[0].search_alike()

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        check_arms(self, arms)
        check_sight(self.observation, observation, n_tasks)
        nothing = self.first.new_zeros(n_tasks, 0, self.width)
        look = self._look(self._seen(observation), clock(0, pulls, self.first).expand(n_tasks, -1))
        cache = [(nothing, nothing)] * self.layers
        return {"arms": self.actions} | self._read(cache, self._first(n_tasks), look[:, None], observation)

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        check_sight(self.observation, observation, len(action))
        before, now = self._seen(state["observation"]), self._seen(observation)
        note = self._note(before, action, reward, done, now)
        look = self._look(now, clock(state["k"] + 1, state["steps"], reward).expand(len(action), -1))
        return self._read(state["cache"], note[:, None], look[:, None], observation)

    def policy(self, state: State) -> tuple[Tensor, Tensor]:
        return self._heads(state["looked"], state["looked"].new_tensor(float(state["steps"] - state["k"])))

    def replay(self, played: Played) -> tuple[Tensor, Tensor]:
        start, (n_tasks, length) = played.start, played.actions.shape
        seen = [] if played.observations is None else [self._seen(played.observations.flatten(0, 1))[0]]
        seen = [x.unflatten(0, (n_tasks, length)) for x in seen]
        done = None if played.done is None else played.done[:, :-1]
        sides = [x[:, :-1] for x in seen], [x[:, 1:] for x in seen]
        notes = self._note(sides[0], played.actions[:, :-1], played.rewards[:, :-1], done, sides[1])
        ticks = torch.stack([clock(start["k"] + k, start["steps"], self.first) for k in range(length)])
        looks = self._look(seen, ticks.expand(n_tasks, -1, -1))
        cache = start["cache"]
        if start["k"] == 0:  # the first note is learned as well
            notes, cache = torch.cat([self._first(n_tasks), notes], 1), [(k[:, :0], v[:, :0]) for k, v in cache]
        looked, _ = self._attend(cache, notes, looks)
        left = start["steps"] - start["k"] - torch.arange(length, device=looked.device, dtype=looked.dtype)
        return self._heads(looked, left)

    def _read(self, cache: list[Any], notes: Tensor, looks: Tensor, observation: Tensor | None) -> State:
        looked, cache = self._attend(cache, notes, looks)
        return {"cache": cache, "looked": looked[:, 0], "observation": observation}

    def _attend(self, cache: list[Any], notes: Tensor, looks: Tensor) -> tuple[Tensor, list[Any]]:
        """What looks ``[T, M, width]`` find in notes before them; the last M - 1 of N new notes lie between them."""
        before, n, m = cache[0][0].shape[1], notes.shape[1], looks.shape[1]
        order = torch.arange(n, device=notes.device)
        known = torch.ones(n + m, before, dtype=torch.bool, device=notes.device)
        ends = torch.cat([order, torch.arange(m, device=notes.device) + n - m])
        mask = torch.cat([known, order <= ends[:, None]], 1)
        rows, kept = torch.cat([notes, looks], 1), []
        for block, (keys, values) in zip(self.blocks, cache, strict=True):
            rows, keys, values = block(rows, n, keys, values, mask)
            kept.append((keys, values))
        return rows[:, n:], kept

    def _first(self, n_tasks: int) -> Tensor:
        return self.first.expand(n_tasks, 1, -1)

    def _seen(self, observation: Tensor | None) -> list[Tensor]:
        return [] if observation is None else [self.body(observation)]

    def _note(
        self, before: list[Tensor], action: Tensor, reward: Tensor, done: Tensor | None, after: list[Tensor]
    ) -> Tensor:
        told = told_of(action, self.actions, (reward - self.reward_mean) / self.reward_spread, done)
        return self.note(torch.cat([*before, told, *after], -1))

    def _look(self, seen: list[Tensor], ticks: Tensor) -> Tensor:
        return self.look(torch.cat([*seen, ticks], -1))

    def _heads(self, looked: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        looked = self.last(looked)
        return self.head(looked), self.critic(looked)[..., 0] * left.sqrt()


class _Block(nn.Module):
    """Attention to notes, and a small network for each row, both added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.before, self.between = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.know, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.inside = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def search_alike(self) -> None:
        """Begin with keys and queries made alike."""
        nn.init.orthogonal_(self.ask.weight, gain=_SHARP)
        self.know.weight[: len(self.ask.weight)] = self.ask.weight

    def forward(
        self, rows: Tensor, notes: int, keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rows, of which the first are notes, after the block; and keys and values with those of the notes added."""
        x = self.before(rows)
        new = self.know(x[:, :notes]).chunk(2, -1)
        keys, values = torch.cat([keys, new[0]], 1), torch.cat([values, new[1]], 1)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (self.ask(x), keys, values))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
        rows = rows + self.out(found)
        return rows + self.inside(self.between(rows)), keys, values
