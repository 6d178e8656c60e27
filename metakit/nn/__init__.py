"""Ordinary torch layers that also accept weights stacked over tasks."""

from metakit.nn.block import ConvBlock
from metakit.nn.conversion import convert
from metakit.nn.convolution import in_full
from metakit.nn.layers import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Flatten, Frame, Linear, MaxPool2d
from metakit.nn.lending import Functional, can_stack, run, stacked
from metakit.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, statistics_from_first, statistics_rows

__all__ = [
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv2d",
    "ConvBlock",
    "Flatten",
    "Frame",
    "Functional",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "can_stack",
    "convert",
    "in_full",
    "run",
    "stacked",
    "statistics_from_first",
    "statistics_rows",
]
