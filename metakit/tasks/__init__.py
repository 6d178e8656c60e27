"""Task distributions: what a learner is trained on and judged by, each with ``.sample(n_tasks) -> TaskBatch``."""

from metakit.data.augment import Augment, AugmentPhotos
from metakit.data.clusters import kmeans
from metakit.data.datasets import digits, omniglot
from metakit.data.folders import pictures
from metakit.data.glyphs import Glyphs
from metakit.data.labelled import LabelledData
from metakit.data.patients import hospitals
from metakit.data.photographs import cifar_fs, fc100, mini_imagenet
from metakit.data.questions import banking77, clinc150
from metakit.data.text import HashedNgrams, texts
from metakit.tasks.bandits import BanditBatch, Bandits
from metakit.tasks.disjoint import check_disjoint
from metakit.tasks.environments import Environments
from metakit.tasks.episodes import Episodes
from metakit.tasks.gaussian_processes import GaussianProcesses, ProcessBatch
from metakit.tasks.jobs import JobBatch, Quadratics, TrainingJobs
from metakit.tasks.maze import Mazes
from metakit.tasks.mdps import MDPs
from metakit.tasks.navigation import Navigation
from metakit.tasks.pooled import Pooled
from metakit.tasks.regression import LinearRegression, Sinusoids
from metakit.tasks.steady import Steady
from metakit.tasks.table_prior import TablePrior
from metakit.tasks.tables import InventedTables
from metakit.tasks.trials import TrialTables, svm_trials
from metakit.tasks.volatility import MarketWindows, Series, markets

__all__ = [
    "Augment",
    "AugmentPhotos",
    "BanditBatch",
    "Bandits",
    "Environments",
    "Episodes",
    "GaussianProcesses",
    "Glyphs",
    "HashedNgrams",
    "InventedTables",
    "JobBatch",
    "LabelledData",
    "LinearRegression",
    "MDPs",
    "MarketWindows",
    "Mazes",
    "Navigation",
    "Pooled",
    "ProcessBatch",
    "Quadratics",
    "Series",
    "Sinusoids",
    "Steady",
    "TablePrior",
    "TrainingJobs",
    "TrialTables",
    "banking77",
    "check_disjoint",
    "cifar_fs",
    "clinc150",
    "digits",
    "fc100",
    "hospitals",
    "kmeans",
    "markets",
    "mini_imagenet",
    "omniglot",
    "pictures",
    "svm_trials",
    "texts",
]
