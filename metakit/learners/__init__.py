"""Learners: modules that turn a batch of tasks into one loss per task.

Each offers the same calls: ``learner(batch) -> [T]`` to be trained by, ``learner.outputs(batch, steps)`` to be judged
by (its answers to the query set after 0, 1, ..., K inner steps), and ``learner.predict(...)`` to be used.
``learner.optimizer`` and ``learner.lr`` are the outer optimiser of its kind and its rate, ``learner.steps`` the inner
steps it was made for, ``learner.protocol`` how batch norm treats its query rows in training.
"""

from metakit.learners.baselines import NearestNeighbour
from metakit.learners.closed_form import Ridge, ridge
from metakit.learners.common import (
    PROTOCOLS,
    answers_together,
    check_batch,
    check_losses,
    check_protocol,
    chunk_size,
    predict,
)
from metakit.learners.finetune import FineTune
from metakit.learners.gradient import MAML, Reptile
from metakit.learners.metric import Matching, ProtoNet
from metakit.learners.multistep import MultiStep

__all__ = [
    "MAML",
    "PROTOCOLS",
    "FineTune",
    "Matching",
    "MultiStep",
    "NearestNeighbour",
    "ProtoNet",
    "Reptile",
    "Ridge",
    "answers_together",
    "check_batch",
    "check_losses",
    "check_protocol",
    "chunk_size",
    "predict",
    "ridge",
]
