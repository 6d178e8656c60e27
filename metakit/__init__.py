"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from metakit import agents, contracts, data, models, nn, recipes, search, tasks
from metakit.agents import PPO, RL2, ArmsAgent
from metakit.inner import (
    SGD,
    Adam,
    Clipped,
    Decayed,
    Hypergradient,
    LearnedOptimizer,
    LearnedSGD,
    Momentum,
    RMSProp,
    adapt,
    hypergradient,
)
from metakit.judging import Comparison, Evaluation, compare, evaluate
from metakit.learners import (
    MAML,
    ConjugateGradients,
    FineTune,
    ImplicitMAML,
    Matching,
    MultiStep,
    NearestNeighbour,
    ProtoNet,
    Reptile,
    Ridge,
    Tuned,
    Unroll,
)
from metakit.outer import DivergedError, Evolution, History, PersistentEvolution, Run, Training, Truncated, fit
from metakit.saving import load, save, saved
from metakit.tasks.batch import TaskBatch

__version__ = "0.2.0"
__all__ = [
    "MAML",
    "PPO",
    "RL2",
    "SGD",
    "Adam",
    "ArmsAgent",
    "Clipped",
    "Comparison",
    "ConjugateGradients",
    "Decayed",
    "DivergedError",
    "Evaluation",
    "Evolution",
    "FineTune",
    "History",
    "Hypergradient",
    "ImplicitMAML",
    "LearnedOptimizer",
    "LearnedSGD",
    "Matching",
    "Momentum",
    "MultiStep",
    "NearestNeighbour",
    "PersistentEvolution",
    "ProtoNet",
    "RMSProp",
    "Reptile",
    "Ridge",
    "Run",
    "TaskBatch",
    "Training",
    "Truncated",
    "Tuned",
    "Unroll",
    "adapt",
    "agents",
    "compare",
    "contracts",
    "data",
    "evaluate",
    "fit",
    "hypergradient",
    "load",
    "models",
    "nn",
    "recipes",
    "save",
    "saved",
    "search",
    "tasks",
]
