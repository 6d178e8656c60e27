"""Labelled data: classes of rows, and where they come from."""

from metakit.data.augment import Augment, AugmentPhotos
from metakit.data.clusters import kmeans
from metakit.data.datasets import digits, omniglot
from metakit.data.folders import pictures
from metakit.data.glyphs import Glyphs
from metakit.data.labelled import LabelledData
from metakit.data.photographs import cifar_fs, fc100, mini_imagenet
from metakit.data.text import HashedNgrams, texts

__all__ = [
    "Augment",
    "AugmentPhotos",
    "Glyphs",
    "HashedNgrams",
    "LabelledData",
    "cifar_fs",
    "digits",
    "fc100",
    "kmeans",
    "mini_imagenet",
    "omniglot",
    "pictures",
    "texts",
]
