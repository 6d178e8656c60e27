"""Task distributions: what a learner is trained on and judged by, each with ``.sample(n_tasks) -> TaskBatch``."""

from metakit.tasks.datasets import digits, omniglot
from metakit.tasks.episodes import Episodes
from metakit.tasks.labelled import LabelledData
from metakit.tasks.regression import LinearRegression, Sinusoids

__all__ = ["Episodes", "LabelledData", "LinearRegression", "Sinusoids", "digits", "omniglot"]
