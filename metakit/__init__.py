"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from metakit import models, nn, search, tasks
from metakit.batch import TaskBatch
from metakit.comparison import Comparison, compare
from metakit.evaluation import Evaluation, evaluate
from metakit.inner import SGD, Adam, LearnedSGD, Momentum, RMSProp, adapt
from metakit.learners import MAML, FineTune, Matching, MultiStep, NearestNeighbour, ProtoNet, Reptile, Ridge
from metakit.outer import DivergedError, History, Run, fit
from metakit.saving import load, save

__version__ = "0.1.0"
__all__ = [
    "MAML",
    "SGD",
    "Adam",
    "Comparison",
    "DivergedError",
    "Evaluation",
    "FineTune",
    "History",
    "LearnedSGD",
    "Matching",
    "Momentum",
    "MultiStep",
    "NearestNeighbour",
    "ProtoNet",
    "RMSProp",
    "Reptile",
    "Ridge",
    "Run",
    "TaskBatch",
    "adapt",
    "compare",
    "evaluate",
    "fit",
    "load",
    "models",
    "nn",
    "save",
    "search",
    "tasks",
]
