"""metakit: learn how machines learn to learn.

tasks.sample(T) -> TaskBatch -> learner(batch) -> losses [T] -> fit(...) -> evaluate(...)
"""

from metakit import models, nn, tasks
from metakit.batch import TaskBatch
from metakit.evaluation import Evaluation, evaluate
from metakit.inner import SGD, Adam, LearnedSGD, Momentum, RMSProp, adapt
from metakit.learners import MAML, ProtoNet, Reptile
from metakit.outer import DivergedError, History, Run, fit

__version__ = "0.1.0"
__all__ = [
    "MAML",
    "SGD",
    "Adam",
    "DivergedError",
    "Evaluation",
    "History",
    "LearnedSGD",
    "Momentum",
    "ProtoNet",
    "RMSProp",
    "Reptile",
    "Run",
    "TaskBatch",
    "adapt",
    "evaluate",
    "fit",
    "models",
    "nn",
    "tasks",
]
