"""Task distributions: what a learner is trained on and judged by, each with ``.sample(n_tasks) -> TaskBatch``."""

from metakit.tasks.augment import Augment
from metakit.tasks.clusters import kmeans
from metakit.tasks.datasets import digits, omniglot
from metakit.tasks.disjoint import check_disjoint
from metakit.tasks.episodes import Episodes
from metakit.tasks.glyphs import Glyphs
from metakit.tasks.labelled import LabelledData
from metakit.tasks.pooled import Pooled
from metakit.tasks.regression import LinearRegression, Sinusoids

__all__ = [
    "Augment",
    "Episodes",
    "Glyphs",
    "LabelledData",
    "LinearRegression",
    "Pooled",
    "Sinusoids",
    "check_disjoint",
    "digits",
    "kmeans",
    "omniglot",
]
