"""The inner loop: adapt a base learner's weights to every task of a batch at once."""

from metakit.contracts import InnerStep, Loss, Weights
from metakit.inner.applied import Applied
from metakit.inner.hypergradient import hypergradient
from metakit.inner.learned import LearnedOptimizer
from metakit.inner.problem import Hypergradient
from metakit.inner.rules import SGD, Adam, Clipped, Decayed, LearnedSGD, Momentum, RMSProp, prepared
from metakit.inner.unrolling import adapt, adaptable, trajectory, unfrozen
from metakit.losses import check_losses, task_loss, task_losses
from metakit.nn.lending import can_stack, run, stacked

__all__ = [
    "SGD",
    "Adam",
    "Applied",
    "Clipped",
    "Decayed",
    "Hypergradient",
    "InnerStep",
    "LearnedOptimizer",
    "LearnedSGD",
    "Loss",
    "Momentum",
    "RMSProp",
    "Weights",
    "adapt",
    "adaptable",
    "can_stack",
    "check_losses",
    "hypergradient",
    "prepared",
    "run",
    "stacked",
    "task_loss",
    "task_losses",
    "trajectory",
    "unfrozen",
]
