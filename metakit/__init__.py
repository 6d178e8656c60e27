"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from metakit import contracts, data, models, nn, recipes, search, tasks
from metakit.inner import SGD, Adam, Clipped, Decayed, LearnedSGD, Momentum, RMSProp, adapt
from metakit.judging import Comparison, Evaluation, compare, evaluate
from metakit.learners import MAML, FineTune, Matching, MultiStep, NearestNeighbour, ProtoNet, Reptile, Ridge
from metakit.outer import DivergedError, History, Run, Training, fit
from metakit.saving import load, save, saved
from metakit.tasks.batch import TaskBatch

__version__ = "0.2.0"
__all__ = [
    "MAML",
    "SGD",
    "Adam",
    "Clipped",
    "Comparison",
    "Decayed",
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
    "Training",
    "adapt",
    "compare",
    "contracts",
    "data",
    "evaluate",
    "fit",
    "load",
    "models",
    "nn",
    "recipes",
    "save",
    "saved",
    "search",
    "tasks",
]
