"""The inner loop: adapt a base learner's weights to every task of a batch at once."""

from metakit.inner.loop import (
    SGD,
    Adam,
    LearnedSGD,
    Loss,
    Momentum,
    RMSProp,
    Weights,
    adapt,
    adaptable,
    can_stack,
    check_model,
    run,
    stacked,
    task_loss,
    trajectory,
)

__all__ = [
    "SGD",
    "Adam",
    "LearnedSGD",
    "Loss",
    "Momentum",
    "RMSProp",
    "Weights",
    "adapt",
    "adaptable",
    "can_stack",
    "check_model",
    "run",
    "stacked",
    "task_loss",
    "trajectory",
]
