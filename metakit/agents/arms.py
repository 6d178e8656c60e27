"""An agent for bandits of any number of arms: the same network for each arm, and what all arms say together."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from metakit.agents.agent import Agent
from metakit.agents.counts import Counting
from metakit.agents.trial import Played, State
from metakit.checks import choice, whole
from metakit.saving import saved
from metakit.tasks.bandits import KINDS

_EACH, _SHARED = 5, 5  # what is seen of an arm, and of the trial


@saved
class ArmsAgent(Counting, Agent):
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
        self.arm, self.trial = nn.Linear(_EACH, self.hidden), nn.Linear(_SHARED, self.hidden, bias=False)
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

    @property
    def counted_in(self) -> torch.dtype:  # type: ignore[override]
        """The precision of its weights."""
        return self.bonus.weight.dtype

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
        best, most = m.amax(-1), (m + s).amax(-1)
        each = [m, 4 * s, (pulled + 1).log() / 6, (m - best[..., None]) / s / 3, (m - most[..., None]) / s / 3]
        done = (pulled.sum(-1) + 1).log()
        clock = left.log().expand_as(best)
        shared = [
            best,
            4 * (most - best),
            clock / 6,
            (done - clock) / 6,
            torch.full_like(best, math.log(m.shape[-1]) / 4),
        ]
        about = torch.stack(shared, -1)
        rows = torch.relu(self.arm(torch.stack(each, -1).clamp(-3, 3)) + self.trial(about)[..., None, :])
        joint = self.joint(torch.cat([rows.mean(-2), rows.amax(-2)], -1))
        inside = torch.relu(self.apart(rows) + joint[..., None, :])
        index, joint = m + s * self.bonus(inside)[..., 0], torch.relu(joint)
        return index * (-self.log_tau(joint)).exp(), self.critic(joint)[..., 0] * left.sqrt()

    def _belief(self, pulled: Tensor, paid: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of what each arm pays, after what it paid."""
        if self.kind == "gaussian":
            return paid / (pulled + 1), (pulled + 1).rsqrt()
        mean = (paid + 1) / (pulled + 2)
        return mean, (mean * (1 - mean) / (pulled + 3)).sqrt()
