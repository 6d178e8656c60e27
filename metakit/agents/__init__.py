"""Agents: learners that act. They explore a hidden world, and use what they found while the trial lasts."""

from metakit.agents.agent import Agent
from metakit.agents.arms import ArmsAgent
from metakit.agents.attentive import Attentive
from metakit.agents.counts import Counting
from metakit.agents.exact import BayesOptimal
from metakit.agents.forgetful import Forgetful
from metakit.agents.gittins import Gittins, gittins_index
from metakit.agents.gradient import GaussianPolicy, PolicyMAML, SoftmaxPolicy
from metakit.agents.planners import PSRL, KnownModel, PosteriorMean
from metakit.agents.players import UCB1, Optimistic, Player, Thompson
from metakit.agents.ppo import PPO
from metakit.agents.recurrent import RL2
from metakit.agents.trial import Held, Played, play

__all__ = [
    "PPO",
    "PSRL",
    "RL2",
    "UCB1",
    "Agent",
    "ArmsAgent",
    "Attentive",
    "BayesOptimal",
    "Counting",
    "Forgetful",
    "GaussianPolicy",
    "Gittins",
    "Held",
    "KnownModel",
    "Optimistic",
    "Played",
    "Player",
    "PolicyMAML",
    "PosteriorMean",
    "SoftmaxPolicy",
    "Thompson",
    "gittins_index",
    "play",
]
