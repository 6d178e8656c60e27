"""Agents as the published figures are met by them: networks, and how they are trained."""

from __future__ import annotations

from typing import Any

import torch

from metakit.agents import PPO, RL2, ArmsAgent, Attentive, GaussianPolicy, PolicyMAML
from metakit.checks import real, whole
from metakit.inner import LearnedSGD
from metakit.outer import History, fit
from metakit.tasks.bandits import Bandits
from metakit.tasks.mdps import MDPs

SHARED: dict[str, Any] = {"schedule": "CosineAnnealingLR", "clip": 1.0, "compile": False}
RECURRENT: dict[str, Any] = SHARED | {"meta_batch": 128, "lr": 3e-3}
SEARCHING: dict[str, Any] = SHARED | {"meta_batch": 64, "lr": 2e-3, "estimator": PPO(250, 4, smoothing=0.8)}
NAVIGATION: dict[str, Any] = SHARED | {"meta_batch": 20, "lr": 3e-3, "clip": 100.0}
MIXED = Bandits(arms=(4, 25), pulls=(10, 500))


def arms_agent(*, minutes: float = 5.0, seed: int = 0, **options: Any) -> tuple[ArmsAgent, History]:
    """One agent for bandits of 5 to 50 arms and 10 to 500 pulls, trained for so many minutes on fewer arms and pulls.

    Arguments:
        minutes: time to spend.
        seed: of the agent's start and of the bandits.
        options: of ``fit``, in place of those here.

    Example:
        >>> agent, history = arms_agent(minutes=0.01, progress=False)
        >>> history.steps > 0
        True
    """
    minutes, seed = real("minutes", minutes, above=0.0), whole("seed", seed, least=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        agent = ArmsAgent()
    usual: dict[str, Any] = SHARED | {"minutes": minutes, "seed": seed, "meta_batch": 128}
    estimator = PPO(50, 3, smoothing=0.97, entropy=0.0005)
    return agent, fit(agent, MIXED, **(usual | {"estimator": estimator} | options))


def rl2(tasks: MDPs, *, hidden: int = 128) -> RL2:
    """A recurrent agent for tabular decision processes; trained with ``RECURRENT``.

    Example:
        >>> rl2(MDPs(states=4, actions=2), hidden=8).actions
        2
    """
    return RL2(tasks.actions, (tasks.states,), hidden=hidden, reward_mean=1.0, reward_spread=1.4)


def attentive(tasks: MDPs) -> Attentive:
    """An attentive agent for tabular decision processes; trained with ``SEARCHING``.

    Example:
        >>> attentive(MDPs(states=4, actions=2)).observation
        (4,)
    """
    return Attentive(tasks.actions, (tasks.states,), reward_mean=1.0, reward_spread=1.4)


def navigator(*, order: int = 2, steps: int = 1) -> PolicyMAML:
    """A policy for ``Navigation`` adapted by its own gradient, at rates learned for each tensor; see ``NAVIGATION``.

    Arguments:
        order: 2 or 1.
        steps: inner steps in training; 0 trains one policy for all goals.

    Example:
        >>> navigator(order=1).order
        1
    """
    return PolicyMAML(GaussianPolicy(2, 2, std=0.1), rule=LearnedSGD(0.1, per="tensor"), steps=steps, order=order)
