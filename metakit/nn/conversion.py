"""Ordinary torch networks as ones of ``metakit.nn`` layers, with the same parameters and the same numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from metakit.nn.block import ConvBlock
from metakit.nn.layers import AdaptiveAvgPool2d, AvgPool2d, Conv2d, Flatten, Frame, Linear, MaxPool2d
from metakit.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm

_POOLS = {nn.MaxPool2d: MaxPool2d, nn.AvgPool2d: AvgPool2d, nn.AdaptiveAvgPool2d: AdaptiveAvgPool2d}
_PICTURES = {nn.Conv2d, Conv2d, nn.BatchNorm2d, BatchNorm2d, GroupNorm, ConvBlock, Frame, *_POOLS, *_POOLS.values()}
_VECTORS = {BatchNorm1d, Flatten}
_AS_THEY_CAME = ("activation", "batchnorm", "dropout", "linear", "normalization")  # dimensions that rows have
_KEEPS_DIMS = tuple(f"torch.nn.modules.{name}" for name in _AS_THEY_CAME)


def convert(network: nn.Module, *, row_shape: Sequence[int] | None = None) -> nn.Module:
    """A copy of a network's structure around the same parameters, its layers of torch those of ``metakit.nn``.

    Linear layers, convolutions, pooling and batch norm without running statistics become layers that run all tasks at
    once; so do group norm, batch norm of vectors and ``nn.Flatten()`` in an ``nn.Sequential`` whose layers before tell
    that rows are pictures there, or vectors. What has no exact counterpart stays as it is. A module with a forward of
    its own is converted inside, and still has to promise by ``stacks_tasks = True`` that it treats ``x [T, N, ...]``
    task by task.

    Arguments:
        network: any module; it is left as it was, and shares its parameters and buffers with the copy.
        row_shape: ``[C, H, W]`` or ``[D]``, for a network that begins with ``nn.Flatten()``. Without it, the rows of
            one that begins with a linear layer are taken for vectors.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(676, 5))
        >>> [type(layer).__module__.partition(".")[0] for layer in convert(network)]
        ['metakit', 'torch', 'metakit', 'metakit', 'metakit']
    """
    first = network
    while _in_order(first) and len(first._modules):
        first = next(first.children())
    dims = len(row_shape) if row_shape is not None else 1 if isinstance(first, nn.Linear) else None
    shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    return _convert(copy.deepcopy(network, shared), dims)[0]


def _in_order(layer: nn.Module) -> bool:
    return type(layer).forward is nn.Sequential.forward


def _convert(layer: Any, dims: int | None) -> tuple[nn.Module, int | None]:
    """The layer for rows of so many dimensions, and how many those have that it puts out; ``None`` where unknown."""
    kind, modules = type(layer), layer._modules
    if _in_order(layer):
        for name, child in modules.items():
            modules[name], dims = _convert(child, dims)
        return layer, dims
    for name, child in modules.items():
        modules[name] = None if child is None else _convert(child, None)[0]
    hooked = layer._forward_hooks or layer._forward_pre_hooks
    if kind is nn.Flatten and dims is not None and not hooked and (layer.start_dim, layer.end_dim) == (1, -1):
        return Flatten(dims).train(layer.training), 1
    # The same object, of another class: a module of one's own may hold it by several names.
    layer.__class__ = _counterpart(layer, dims)
    known = dims if kind.__module__.startswith(_KEEPS_DIMS) or isinstance(layer, nn.Linear) else None
    return layer, 3 if kind in _PICTURES else 1 if kind in _VECTORS else known


def _counterpart(layer: Any, dims: int | None) -> type[nn.Module]:
    """The class of ``metakit.nn`` that says the same for rows of so many dimensions, or the layer's own."""
    kind = type(layer)
    if kind is nn.Linear:
        return Linear
    if kind is nn.Conv2d and _is_plain(layer):
        return Conv2d
    if kind in _POOLS and not getattr(layer, "return_indices", False):
        return _POOLS[kind]
    if kind is nn.GroupNorm and layer.affine and dims == 3:
        return GroupNorm
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and layer.affine and layer.running_mean is None:
        if kind is nn.BatchNorm2d:
            return BatchNorm2d
        return BatchNorm1d if dims == 1 else kind
    return kind


def _is_plain(layer: nn.Conv2d) -> bool:
    """Whether it is square, with one stride and one padding of zeros, undivided and undilated."""
    pairs = (layer.kernel_size, layer.stride, layer.padding)
    square = all(isinstance(pair, tuple) and pair[0] == pair[1] for pair in pairs)
    return square and (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
