"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from typing import Any

from metakit import agents, contracts, data, models, nn, recipes, search, tasks
from metakit.agents import PPO, RL2, ArmsAgent, PolicyMAML
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
    BayesLinear,
    ConjugateGradients,
    EmpiricalGP,
    ExactGP,
    FineTune,
    GridGP,
    ImplicitMAML,
    InContext,
    LeastSquares,
    Logistic,
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
    "BayesLinear",
    "Clipped",
    "Comparison",
    "ConjugateGradients",
    "Decayed",
    "DivergedError",
    "EmpiricalGP",
    "Evaluation",
    "Evolution",
    "ExactGP",
    "FineTune",
    "GridGP",
    "History",
    "Hypergradient",
    "ImplicitMAML",
    "InContext",
    "LearnedOptimizer",
    "LearnedSGD",
    "LeastSquares",
    "Logistic",
    "Matching",
    "Momentum",
    "MultiStep",
    "NearestNeighbour",
    "PersistentEvolution",
    "PolicyMAML",
    "ProtoNet",
    "RMSProp",
    "Reptile",
    "Ridge",
    "Run",
    "TableClassifier",
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


def __getattr__(name: str) -> Any:
    """``TableClassifier``, which is read where it is asked for: it needs scikit-learn, and nothing else does."""
    if name != "TableClassifier":
        raise AttributeError(f"module 'metakit' has no attribute {name!r}")
    try:
        from metakit.learners.table_classifier import TableClassifier
    except ImportError as error:
        raise ImportError(f"TableClassifier needs scikit-learn ({error}): pip install 'metakit[lab]'.") from error
    return TableClassifier
