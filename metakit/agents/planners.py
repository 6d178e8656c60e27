"""Planners: agents that learn nothing beforehand. They keep a belief about the world, and plan in what they believe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.agents.agent import Agent
from metakit.agents.trial import State
from metakit.checks import real, whole
from metakit.contracts import Scores, Worlds
from metakit.saving import saved
from metakit.tasks.mdps import MDPBatch, backward_induction


class _Planner(Agent):
    """What planners share: the belief about a decision process, with the prior of ``MDPs``.

    r(s, a) | told ~ N((1 + rewards there) / (1 + n), 1 / (1 + n)),    P(. | s, a) | told ~ Dirichlet(1 + moves)
    """

    carries_over = True

    def __init__(self, states: int, actions: int, horizon: int) -> None:
        super().__init__()
        self.states, self.actions = whole("states", states), whole("actions", actions, least=2)
        self.horizon = whole("horizon", horizon)

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        seen = None if observation is None else list(observation.shape)
        if arms not in (None, self.actions) or seen != [n_tasks, self.states]:
            raise ValueError(
                f"this {type(self).__name__} plans for {self.actions} actions and sees [{n_tasks}, {self.states}], one "
                f"of {self.states} states; the worlds have {arms} actions and show {seen}. Make it with their numbers."
            )
        nothing = torch.zeros(n_tasks, self.states, self.actions, device=device)
        told = {"tried": nothing, "paid": nothing, "moves": nothing[..., None].expand(-1, -1, -1, self.states)}
        now = {
            "at": torch.as_tensor(observation).argmax(-1),
            "h": torch.zeros(n_tasks, dtype=torch.int64, device=device),
        }
        return told | now | self.planned(told, now["h"] == 0, {})

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        assert observation is not None
        here = nn.functional.one_hot(state["at"] * self.actions + action, self.states * self.actions)
        here = here.unflatten(-1, (self.states, self.actions)).to(reward.dtype)
        ended = state["h"] + 1 == self.horizon
        ended = ended if done is None else ended | done
        # Where an episode ended, what is seen is the start of the next: nobody moved there.
        moved = here * ~ended[:, None, None]
        told = {
            "tried": state["tried"] + here,
            "paid": state["paid"] + here * reward[:, None, None],
            "moves": state["moves"] + moved[..., None] * observation[:, None, None],
        }
        now = {"at": observation.argmax(-1), "h": torch.where(ended, 0, state["h"] + 1)}
        return told | now | self.planned(told, ended, state)

    def planned(self, told: State, begins: Tensor, state: State) -> State:
        """What is kept of a plan, where an episode ``begins``, ``[T]``, and where it goes on."""
        return {}

    def worths(self, state: State) -> Tensor:
        """What each action seems worth now, ``[T, A]``."""
        raise NotImplementedError

    def choose(self, state: State, sample: bool) -> Tensor:
        return self.worths(state).argmax(-1)


def _belief(told: State) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of the mean rewards, ``[T, S, A]``; weights of the next states, ``[T, S, A, S]``."""
    n = 1 + told["tried"]
    return (1 + told["paid"]) / n, n.rsqrt(), 1 + told["moves"]


def _now(plan: Tensor, state: State) -> Tensor:
    """The row of a plan ``[T, H, S, A]`` that holds now, ``[T, A]``."""
    return plan[torch.arange(len(plan), device=plan.device), state["h"], state["at"]]


@saved
class PSRL(_Planner):
    """Posterior sampling: at the start of each episode it draws a world from its belief, and plays the best in that.

    Arguments:
        states, actions: number of states S and of actions A.
        horizon: steps H in an episode.

    Raises:
        ValueError: if a number is too small, or the worlds have other numbers.

    Example:
        >>> import metakit as mk
        >>> mk.evaluate(PSRL(3, 2, 5), mk.tasks.MDPs(3, 2, 5, episodes=4), n_tasks=20).at[-1]
        20

    Source: Strens 2000; Osband et al. 2013.
    """

    def planned(self, told: State, begins: Tensor, state: State) -> State:
        if state and not bool(begins.any()):
            return {"plan": state["plan"]}
        mean, spread, weights = _belief(told)
        chances = torch.distributions.Dirichlet(weights, validate_args=False).sample()
        plan = backward_induction(mean + spread * torch.randn_like(mean), chances, self.horizon)
        return {"plan": torch.where(begins[:, None, None, None], plan, state.get("plan", plan))}

    def worths(self, state: State) -> Tensor:
        return _now(state["plan"], state)


@saved
class PosteriorMean(_Planner):
    """It plays the best in the mean of its belief, with a bonus for what it does not know; it plans anew at each step.

        r+(s, a) = mean + bonus sqrt(steps left / 100) sd,    P+(s' | s, a) = (1 + moves there) / sum over s'

    The more steps are left, the longer what is found out can be used.

    Arguments:
        states, actions: number of states S and of actions A.
        horizon: steps H in an episode.
        bonus: what not knowing a reward is worth, in standard deviations of the belief, with 100 steps left; 0 plays
            greedily.

    Raises:
        ValueError: if a number is out of its range, or the worlds have other numbers.

    Example:
        >>> import metakit as mk
        >>> mk.evaluate(PosteriorMean(3, 2, 5), mk.tasks.MDPs(3, 2, 5, episodes=4), n_tasks=20).at[-1]
        20

    Source: a bonus on the mean of the belief, Kolter and Ng 2009; its form here is our own.
    """

    def __init__(self, states: int, actions: int, horizon: int, *, bonus: float = 1.0) -> None:
        super().__init__(states, actions, horizon)
        self.bonus = real("bonus", bonus, least=0.0)

    def worths(self, state: State) -> Tensor:
        mean, spread, weights = _belief(state)
        bonus = self.bonus * ((state["steps"] - state["k"]) / 100) ** 0.5
        chances = weights / weights.sum(-1, keepdim=True)
        return _now(backward_induction(mean + bonus * spread, chances, self.horizon), state)


class KnownModel(Agent):
    """Not an agent that could be: it is told the worlds, and plays the best in them. The ceiling of a comparison.

    It is told them where it is judged, ``scores(batch)``, or where it is made, to be played step by step.

    Arguments:
        worlds: the T decision processes that it will play; those that it is judged on when left out.

    Raises:
        TypeError: if the worlds do not say what their actions are worth, as an ``MDPBatch`` does.

    Example:
        >>> import metakit as mk
        >>> mk.evaluate(KnownModel(), mk.tasks.MDPs(), n_tasks=20).scores[mk.contracts.REGRET].max()
        tensor(0.)

    Source: Bellman 1957, chapter 3.
    """

    carries_over = True

    def __init__(self, worlds: MDPBatch | None = None) -> None:
        super().__init__()
        self.worlds = worlds

    def begin(self, n_tasks: int, arms: int | None, pulls: int, observation: Tensor | None, device: Any) -> State:
        if self.worlds is None or len(self.worlds) != n_tasks:
            known = 0 if self.worlds is None else len(self.worlds)
            raise ValueError(
                f"KnownModel must be told the {n_tasks} worlds that it plays, and was told {known}. Make it with "
                "KnownModel(worlds)."
            )
        return {
            "at": torch.as_tensor(observation).argmax(-1),
            "h": torch.zeros(n_tasks, dtype=torch.int64, device=device),
        }

    def remember(
        self, state: State, action: Tensor, reward: Tensor, observation: Tensor | None, done: Tensor | None
    ) -> State:
        assert observation is not None and done is not None
        return {"at": observation.argmax(-1), "h": torch.where(done, 0, state["h"] + 1)}

    def choose(self, state: State, sample: bool) -> Tensor:
        assert self.worlds is not None
        return _now(self.worlds.values, state).argmax(-1)

    def scores(
        self, batch: Worlds, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        if not isinstance(batch, MDPBatch):
            raise TypeError(f"KnownModel plays mk.tasks.MDPs, whose worth is known, got {type(batch).__name__}.")
        if self.worlds is None:
            yield from KnownModel(batch).scores(batch, steps, protocol)
        else:
            yield from super().scores(batch, steps, protocol)
