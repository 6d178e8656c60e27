"""Learners: modules that turn a batch of tasks into one loss per task.

Those of support and query rows offer the same calls: ``learner(batch) -> [T]`` to be trained by,
``learner.outputs(batch, steps)`` and ``learner.scores(batch, steps)`` to be judged by (after 0, 1, ..., K inner steps),
``learner.predict(...)`` and ``learner.learn(...)`` to be used. What the outer loop asks of any learner, one of your own
too, stands in ``metakit.contracts``.
"""

from metakit.learners.baselines import NearestNeighbour
from metakit.learners.bins import LOG_SCORE, Binned, Mixture, binned_divergence
from metakit.learners.closed_form import Logistic, Ridge, ridge
from metakit.learners.common import PROTOCOLS, Learned, Supervised, answer_batch, check_protocol, chunk_size, predict
from metakit.learners.embedded import Embedded
from metakit.learners.empirical import EmpiricalGP
from metakit.learners.finetune import FineTune
from metakit.learners.gradient import MAML, Reptile
from metakit.learners.implicit import ImplicitMAML
from metakit.learners.in_context import Contextual, InContext
from metakit.learners.metric import Matching, ProtoNet
from metakit.learners.multistep import MultiStep
from metakit.learners.references import BayesLinear, ExactGP, GridGP, LeastSquares
from metakit.learners.unroll import TRAINING_LOSS, Unroll
from metakit.learners.yardsticks import ConjugateGradients, Scheduled, Tuned

__all__ = [
    "LOG_SCORE",
    "MAML",
    "PROTOCOLS",
    "TRAINING_LOSS",
    "BayesLinear",
    "Binned",
    "ConjugateGradients",
    "Contextual",
    "Embedded",
    "EmpiricalGP",
    "ExactGP",
    "FineTune",
    "GridGP",
    "ImplicitMAML",
    "InContext",
    "Learned",
    "LeastSquares",
    "Logistic",
    "Matching",
    "Mixture",
    "MultiStep",
    "NearestNeighbour",
    "ProtoNet",
    "Reptile",
    "Ridge",
    "Scheduled",
    "Supervised",
    "Tuned",
    "Unroll",
    "answer_batch",
    "binned_divergence",
    "check_protocol",
    "chunk_size",
    "predict",
    "ridge",
]
