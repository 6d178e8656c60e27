"""Labelled data: classes of rows, and where they come from."""

from metakit.data.augment import Augment
from metakit.data.clusters import kmeans
from metakit.data.datasets import digits, omniglot
from metakit.data.glyphs import Glyphs
from metakit.data.labelled import LabelledData

__all__ = ["Augment", "Glyphs", "LabelledData", "digits", "kmeans", "omniglot"]
