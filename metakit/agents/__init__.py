"""Agents: learners that act. They explore a hidden world, and use what they found while the trial lasts."""

from metakit.agents.agent import Agent
from metakit.agents.arms import ArmsAgent
from metakit.agents.ppo import PPO
from metakit.agents.recurrent import RL2
from metakit.agents.trial import Held, Played, play

__all__ = ["PPO", "RL2", "Agent", "ArmsAgent", "Held", "Played", "play"]
