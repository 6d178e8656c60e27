"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from metakit import models, nn, search, tasks
from metakit.inner import SGD, Adam, LearnedSGD, Momentum, RMSProp, adapt
from metakit.judging.comparison import Comparison, compare
from metakit.judging.evaluation import Evaluation, evaluate
from metakit.learners import MAML, FineTune, Matching, MultiStep, NearestNeighbour, ProtoNet, Reptile, Ridge
from metakit.outer import DivergedError, History, Run, fit
from metakit.saving import load, save
from metakit.tasks.batch import TaskBatch

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
