"""Judging: what learners make of tasks that they have not seen."""

from metakit.judging.comparison import Comparison, compare
from metakit.judging.evaluation import Evaluation, evaluate

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]
