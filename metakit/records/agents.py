"""Agents looked at: what they lose, what a memory holds, what each episode of a trial pays, and paths to a goal."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.agents import RL2, Agent, Played, play
from metakit.agents.gradient import PolicyMAML
from metakit.checks import real, whole
from metakit.contracts import Tasks, Worlds
from metakit.judging.evaluation import half_width
from metakit.learners import Scheduled
from metakit.nn.lending import shadow
from metakit.randomness import Dice, apart
from metakit.records.words import count
from metakit.tasks.bandits import BanditBatch
from metakit.tasks.mdps import MDPBatch
from metakit.tasks.navigation import NavigationBatch
from metakit.threads import threads_for_batch

_RIDGE = 1e-6  # of the hidden units' own size: early in a trial few states are told apart

# --- What players lose. ---


@dataclasses.dataclass(frozen=True)
class RegretCurves:
    """What P players were paid and lost, over the steps of a trial: means over the same worlds for all.

    Arguments:
        names: of the players, P of them.
        regret: lost against the best so far, in expectation, after each of L steps, ``[P, L]``.
        half: half of the 95% interval of that, ``[P, L]``.
        paid: paid so far, ``[P, L]``.
        worlds: how many were played.
        axis: what is counted along L.
    """

    names: tuple[str, ...]
    regret: Tensor
    half: Tensor
    paid: Tensor
    worlds: int
    axis: str = "pulls"

    @property
    def returns(self) -> dict[str, float]:
        """What each was paid in a whole trial."""
        return dict(zip(self.names, self.paid[:, -1].tolist(), strict=True))

    @property
    def lost(self) -> dict[str, float]:
        """The regret of each at the end."""
        return dict(zip(self.names, self.regret[:, -1].tolist(), strict=True))

    def __str__(self) -> str:
        half = dict(zip(self.names, self.half[:, -1].tolist(), strict=True))
        order = sorted(self.names, key=self.lost.__getitem__)
        told = ", ".join(f"{name} {self.lost[name]:.3g} +- {half[name]:.1g}" for name in order)
        return f"regret after {self.regret.shape[1]} {self.axis}, mean over {self.worlds} worlds: {told}."


def regret_curves(players: Mapping[str, Agent], tasks: Tasks, *, n_tasks: int = 1000, seed: int = 1) -> RegretCurves:
    """Let players play the same worlds, and keep what they lose step by step.

    Arguments:
        players: agents by name; each acts as it is judged, by its likeliest action.
        tasks: a distribution of worlds that know what an action is worth, as ``Bandits`` and ``MDPs``.
        n_tasks: number of worlds.
        seed: of the worlds and of the luck in them.

    Raises:
        ValueError: if there is no player, or the worlds do not say what an action is worth.

    Example:
        >>> import metakit as mk
        >>> record = regret_curves({"untrained": mk.ArmsAgent()}, mk.tasks.Bandits(2, 10), n_tasks=50)
        >>> record.regret.shape, record.lost["untrained"] < 2
        (torch.Size([1, 10]), True)
    """
    names, worlds = _named(players), _drawn(tasks, n_tasks, seed)
    regret, half, paid = [], [], []
    for name in names:
        played = _played(players[name], worlds, seed)
        if played.merits is None:
            raise ValueError(f"regret must be known, and {type(worlds).__name__} gives no merit. Take mk.evaluate.")
        lost = -played.merits.cpu().cumsum(1)
        regret.append(lost.mean(0))
        half.append(half_width(lost))
        paid.append(played.rewards.cpu().cumsum(1).mean(0))
    axis = str(players[names[0]].axis)
    return RegretCurves(names, torch.stack(regret), torch.stack(half), torch.stack(paid), len(worlds), axis)


# --- What a memory holds. ---


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """How well the posterior means of all arms can be read, by a linear map, from what an agent remembers.

    Arguments:
        pulls: after how many pulls, ``[M]``.
        trained, untrained: share of the variance that is explained on other trials, R^2, ``[M]`` each: of the agent,
            and of one with random weights that was told the same pulls and payments.
        trials: trials in all; half of them were fitted.
    """

    pulls: Tensor
    trained: Tensor
    untrained: Tensor
    trials: int

    def __str__(self) -> str:
        last = int(self.pulls[-1])
        told = f"{float(self.trained[-1]):.2f} of the trained state, {float(self.untrained[-1]):.2f} of an untrained"
        mean = f"mean over all pulls {float(self.trained.mean()):.2f} and {float(self.untrained.mean()):.2f}"
        return f"R^2 of the posterior means after {count(last, 'pull')}: {told}; {mean} ({self.trials} trials)."


def read_out(agent: RL2, tasks: Tasks, *, n_tasks: int = 2000, control: RL2 | None = None, seed: int = 1) -> ReadOut:
    """Fit the posterior means of the arms by least squares to an agent's hidden state, and judge it on other trials.

        (s_a + 1) / (s_a + f_a + 2) ~ W_k h_k + b_k,    for each number of pulls k < L by itself

    The control is told the same actions and rewards: any recurrent state of that size holds something of them.

    Arguments:
        agent: a trained ``RL2`` for bandits.
        tasks: Bernoulli bandits.
        n_tasks: trials in all; the first half is fitted, the other judged.
        control: an untrained agent; of the same sizes when left out.
        seed: of the bandits and the luck in them, and of the control's weights.

    Raises:
        ValueError: if the worlds are not Bernoulli bandits of two or more pulls.

    Example:
        >>> import metakit as mk
        >>> record = read_out(mk.RL2(2, hidden=4), mk.tasks.Bandits(2, 5), n_tasks=40)
        >>> record.pulls.tolist(), record.trained.shape
        ([1, 2, 3, 4], torch.Size([4]))

    Source: linear read-outs as probes, Alain and Bengio 2017; the posterior in a recurrent state, Mikulik et al. 2020.
    """
    worlds = _drawn(tasks, whole("n_tasks", n_tasks, least=4), seed)
    if not isinstance(worlds, BanditBatch) or worlds.kind != "bernoulli" or worlds.steps < 2:
        raise ValueError(
            f"the posterior is known of Bernoulli bandits of at least 2 pulls, got {type(worlds).__name__}. "
            'Give Bandits(kind="bernoulli").'
        )
    if control is None:
        sizes: dict[str, Any] = {"hidden": agent.hidden, "reward_mean": agent.reward_mean}
        with Dice(apart(seed)):
            control = RL2(agent.actions, **sizes, reward_spread=agent.reward_spread)
    played = _played(agent, worlds, seed)
    actions, rewards = played.actions.cpu(), played.rewards.cpu()
    which = torch.nn.functional.one_hot(actions, worlds.actions).double()
    pulled, paid = which.cumsum(1), (which * rewards[..., None]).cumsum(1)
    posterior = ((paid + 1) / (pulled + 2))[:, :-1]
    own, other = (_explained(_remembered(each, worlds, actions, rewards), posterior) for each in (agent, control))
    return ReadOut(torch.arange(1, worlds.steps), own, other, len(worlds))


def _remembered(agent: RL2, worlds: Worlds, actions: Tensor, rewards: Tensor) -> Tensor:
    """The hidden state after 1, ..., L - 1 pulls, ``[T, L - 1, H]``."""
    place, found = agent.head.weight.device, []
    actions, rewards = actions.to(place), rewards.to(place)
    with torch.no_grad():
        state = agent.started(len(worlds), worlds.actions, worlds.steps, None, place)
        for k in range(worlds.steps - 1):
            state = agent.moved(state, actions[:, k], rewards[:, k], None, None)
            found.append(state["hidden"].cpu())
    return torch.stack(found, 1).double()


def _explained(hidden: Tensor, truth: Tensor) -> Tensor:
    """R^2 on the second half of the trials of what was fitted on the first, over all arms, ``[M]``."""
    half = len(hidden) // 2
    h, y = hidden.transpose(0, 1), truth.transpose(0, 1)  # [M, T, ...]
    m, n = h[:, :half].mean(1, keepdim=True), y[:, :half].mean(1, keepdim=True)
    x, z = h[:, :half] - m, y[:, :half] - n
    gram = x.mT @ x + _RIDGE * half * torch.eye(x.shape[-1], dtype=x.dtype)
    told = (h[:, half:] - m) @ torch.linalg.solve(gram, x.mT @ z) + n
    away = y[:, half:] - y[:, half:].mean(1, keepdim=True)
    return 1 - (y[:, half:] - told).square().sum((1, 2)) / away.square().sum((1, 2))


# --- Episodes of a trial. ---


@dataclasses.dataclass(frozen=True)
class EpisodeReturns:
    """What P agents were paid in each of E episodes of a trial.

    Arguments:
        names: of the agents, P of them.
        mean: mean return of each episode over the trials, ``[P, E]``.
        half: half of the 95% interval, ``[P, E]``.
        best: the mean return of an episode of one who knows the world.
        trials: how many were played.
    """

    names: tuple[str, ...]
    mean: Tensor
    half: Tensor
    best: float
    trials: int

    def __str__(self) -> str:
        told = [
            f"{name} {float(mean[0]):.3g} in the first episode and {float(mean[-1]):.3g} +- {float(half[-1]):.1g} in "
            f"the last of {len(mean)}"
            for name, mean, half in zip(self.names, self.mean, self.half, strict=True)
        ]
        return f"{'; '.join(told)}; who knows the world earns {self.best:.3g} ({self.trials} trials)."


def episode_returns(agents: Mapping[str, Agent], tasks: Tasks, *, n_tasks: int = 500, seed: int = 1) -> EpisodeReturns:
    """Let agents play the same trials of several episodes, and keep what each episode pays.

    Arguments:
        agents: by name; ``agents.Forgetful(agent)`` is the same one with its memory lost after each episode.
        tasks: ``MDPs``.
        n_tasks: number of trials.
        seed: of the worlds and of the luck in them.

    Raises:
        TypeError: if the worlds are not decision processes with episodes of one length.
        ValueError: if there is no agent.

    Example:
        >>> from metakit.tasks.mdps import MDPs
        >>> record = episode_returns({"untrained": RL2(2, (3,))}, MDPs(3, 2, 5, episodes=4), n_tasks=20)
        >>> record.mean.shape
        torch.Size([1, 4])
    """
    names, worlds = _named(agents), _drawn(tasks, n_tasks, seed)
    if not isinstance(worlds, MDPBatch):
        raise TypeError(f"tasks must draw decision processes of a horizon, got {type(worlds).__name__}. Take MDPs.")
    mean, half = [], []
    for name in names:
        rewards = _played(agents[name], worlds, seed).rewards.cpu()
        paid = rewards.unflatten(1, (worlds.episodes, worlds.horizon)).sum(-1)
        mean.append(paid.mean(0))
        half.append(half_width(paid))
    best = float(worlds.optimum.mean()) / worlds.episodes
    return EpisodeReturns(names, torch.stack(mean), torch.stack(half), best, len(worlds))


# --- Paths to a goal. ---


@dataclasses.dataclass(frozen=True)
class NavigationPaths:
    """The paths of a policy to one hidden goal, before and after each of K inner steps.

    Arguments:
        goal: where it is, ``[2]``.
        paths: places at the beginning and after each of L moves of n episodes, ``[K + 1, n, L + 1, 2]``; who has
            reached the goal stays.
        returns: the return of each episode, ``[K + 1, n]``.
        best: the highest return that is possible.
        factor: by how much the inner rule's moves were multiplied.
    """

    goal: Tensor
    paths: Tensor
    returns: Tensor
    best: float
    factor: float

    @property
    def steps(self) -> int:
        """Inner steps K."""
        return len(self.paths) - 1

    @property
    def mean(self) -> Tensor:
        """The mean return after 0, 1, ..., K inner steps, ``[K + 1]``."""
        return self.returns.mean(1)

    def __str__(self) -> str:
        before, *after = self.mean.tolist()
        told = ", ".join(f"{value:.1f}" for value in after)
        adapted = f", then {told} after {count(self.steps, 'inner step')}" if after else ""
        goal = f"goal ({float(self.goal[0]):.2f}, {float(self.goal[1]):.2f})"
        return f"{goal}: mean return {before:.1f} before adaptation{adapted}; the best possible is {self.best:.1f}."


def navigation_paths(
    learner: PolicyMAML,
    goal: Sequence[float] | Tensor,
    steps: int = 3,
    *,
    factor: float = 1.0,
    length: int = 100,
    seed: int = 0,
) -> NavigationPaths:
    """Let a policy adapt to one goal, and keep its paths before and after each inner step.

    Arguments:
        learner: a ``PolicyMAML`` for ``Navigation``.
        goal: where it is, ``[2]``.
        steps: inner steps K, 0 or more.
        factor: multiplies the moves of the inner rule.
        length: most moves in an episode.
        seed: of the noise in the policy.

    Raises:
        TypeError: if a number is not a number.
        ValueError: if a number is out of its range, or the goal is not a place.

    Example:
        >>> from metakit.agents.gradient import GaussianPolicy
        >>> learner = PolicyMAML(GaussianPolicy(2, 2, std=0.1), episodes=4)
        >>> record = navigation_paths(learner, (0.3, 0.0), steps=1, length=10)
        >>> record.paths.shape, record.returns.shape
        (torch.Size([2, 4, 11, 2]), torch.Size([2, 4]))

    Source: Finn, Abbeel and Levine 2017, figure 4.
    """
    steps, factor = whole("steps", steps, least=0), real("factor", factor, least=0.0)
    place = next(learner.parameters()).device
    worlds = NavigationBatch(torch.as_tensor(goal, dtype=torch.float32)[None], length).to(place)
    tried = copy.deepcopy(learner)
    tried.rule = Scheduled(tried.rule, factor)
    with Dice(seed, place), threads_for_batch(worlds):
        rollouts = tried.rollouts(worlds, steps)
    paths = torch.stack([rollout.observations[0] for rollout in rollouts]).cpu()
    returns = torch.stack([rollout.returns[0] for rollout in rollouts]).cpu()
    return NavigationPaths(worlds.goals[0].cpu(), paths, returns, float(worlds.optimum()), factor)


# --- What all of them do. ---


def _named(agents: Mapping[str, Agent]) -> tuple[str, ...]:
    if not agents:
        raise ValueError('there must be an agent to play, got none. Give some by name: {"Thompson": Thompson()}.')
    return tuple(agents)


def _drawn(tasks: Tasks, n_tasks: int, seed: int) -> Any:
    """The same worlds for every agent, wherever it computes."""
    return tasks.sample(whole("n_tasks", n_tasks, least=2), generator=torch.Generator().manual_seed(seed))


def _played(agent: Agent, worlds: Any, seed: int) -> Played:
    parameter = next(agent.parameters(), None)
    place = torch.device("cpu") if parameter is None else parameter.device
    with Dice(apart(seed), place), threads_for_batch(worlds):
        return play(shadow(agent), worlds.to(place))[0]
