"""An agent for bandits of any number of arms: the same network for each arm, and what all arms say together."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from metakit.agents.agent import Agent
from metakit.agents.trial import Played, State
from metakit.checks import choice, whole
from metakit.saving import saved
from metakit.tasks.bandits import KINDS

_FEATURES = 9


@saved
class ArmsAgent(Agent):
    """One network for every number of arms and pulls: it learns how much not knowing an arm is worth.

        index_a = m_a + s_a f(arm a, all arms, pulls left),    pi(a) ~ exp(index_a / tau)

    m and s are the mean and spread of what an arm may pay, after what it paid so far (the posterior of a uniform
    chance, or of a normal mean). What is learned is f, how many spreads an arm is worth more than its mean, and tau.
    Since the arms' order plays no part, what it learned with five arms serves for fifty.

    Arguments:
        kind: the rewards, as in ``Bandits``: ``"bernoulli"`` or ``"gaussian"`` (means N(0, 1), noise 1).
        hidden: units of the network.

    Raises:
        ValueError: if the kind is neither, or a number is out of its range.

    Example:
        >>> agent = ArmsAgent()
        >>> state = agent.start(n_tasks=2, arms=3, pulls=10)
        >>> state = agent.observe(state, torch.tensor([0, 1]), torch.tensor([1.0, 0.0]))
        >>> agent.act(state).tolist()[0]
        0

    Source: a set of arms read without their order, Zaheer et al. 2017; the index, Gittins 1979.
    """

    axis = "pulls"
    carries_over = True

    def __init__(self, kind: str = "bernoulli", *, hidden: int = 32) -> None:
        super().__init__()
        self.kind, self.hidden = choice("kind", kind, KINDS), whole("hidden", hidden)
        self.arm = nn.Sequential(nn.Linear(_FEATURES, self.hidden), nn.Tanh())
        self.joint = nn.Linear(2 * self.hidden, self.hidden)
        self.apart = nn.Linear(self.hidden, self.hidden, bias=False)
        self.bonus, self.critic, self.log_tau = (
            nn.Linear(self.hidden, 1),
            nn.Linear(self.hidden, 1),
            nn.Linear(self.hidden, 1),
        )
        for layer in (self.bonus, self.critic, self.log_tau):
            nn.init.zeros_(layer.weight)
        nn.init.constant_(self.bonus.bias, 0.5)
        nn.init.constant_(self.log_tau.bias, math.log(0.03))

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        if arms is None:
            raise ValueError("an ArmsAgent is told the number of arms: start(n_tasks, arms=5, pulls=100).")
        if observation is not None:
            raise ValueError("an ArmsAgent sees nothing but its rewards; these worlds show something. Take mk.RL2.")
        return {"pulled": torch.zeros(n_tasks, arms, device=device), "paid": torch.zeros(n_tasks, arms, device=device)}

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        which = nn.functional.one_hot(action, state["pulled"].shape[-1]).to(reward.dtype)
        return {"pulled": state["pulled"] + which, "paid": state["paid"] + which * reward[..., None]}

    def policy(self, state: State) -> tuple[Tensor, Tensor]:
        left = state["pulled"].new_tensor(float(state["steps"] - state["k"]))
        return self._told(state["pulled"], state["paid"], left)

    def replay(self, played: Played) -> tuple[Tensor, Tensor]:
        start, length = played.start, played.actions.shape[1]
        which = nn.functional.one_hot(played.actions, start["pulled"].shape[-1]).to(played.rewards.dtype)
        pulled = start["pulled"][:, None] + which.cumsum(1) - which
        paid = (
            start["paid"][:, None] + (which * played.rewards[..., None]).cumsum(1) - which * played.rewards[..., None]
        )
        left = start["steps"] - start["k"] - torch.arange(length, device=paid.device, dtype=paid.dtype)
        return self._told(pulled, paid, left)

    def _told(self, pulled: Tensor, paid: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """Logits ``[..., arms]`` and values ``[...]`` from what was pulled and paid, ``[..., arms]``."""
        m, s = self._belief(pulled, paid)
        top = (m + s).amax(-1, keepdim=True)
        best = m.amax(-1, keepdim=True)
        log_left = (left.log() / 6)[..., None].expand_as(best)
        arms = torch.full_like(best, math.log(m.shape[-1]) / 4)
        each = [m, 4 * s, (pulled + 1).log() / 6, (best - m) / s / 3, (top - m) / s / 3]
        shared = [
            log_left,
            arms,
            best,
            ((pulled.sum(-1, keepdim=True) + 1) / left[..., None].expand_as(best)).log() / 6,
        ]
        rows = torch.stack([x.clamp(-3, 3) if x.shape == m.shape else x.expand_as(m) for x in (*each, *shared)], -1)
        rows = self.arm(rows)
        joint = self.joint(torch.cat([rows.mean(-2), rows.amax(-2)], -1))
        inside = torch.tanh(self.apart(rows) + joint[..., None, :])
        index = m + s * self.bonus(inside)[..., 0]
        both = torch.tanh(joint)
        return index * (-self.log_tau(both)).exp(), self.critic(both)[..., 0] * left.sqrt()

    def _belief(self, pulled: Tensor, paid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what each arm pays, after what it paid."""
        if self.kind == "gaussian":
            return paid / (pulled + 1), (pulled + 1).rsqrt()
        mean = (paid + 1) / (pulled + 2)
        return mean, (mean * (1 - mean) / (pulled + 3)).sqrt()
