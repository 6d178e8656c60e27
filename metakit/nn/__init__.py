"""Ordinary torch layers that also accept weights stacked over tasks."""

from metakit.nn.layers import (
    LAYERS,
    BatchNorm2d,
    Conv2d,
    ConvBlock,
    Flatten,
    Frame,
    GroupNorm,
    Linear,
    in_full,
    statistics_from_first,
)

__all__ = [
    "LAYERS",
    "BatchNorm2d",
    "Conv2d",
    "ConvBlock",
    "Flatten",
    "Frame",
    "GroupNorm",
    "Linear",
    "in_full",
    "statistics_from_first",
]
