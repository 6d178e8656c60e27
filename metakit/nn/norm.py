"""Norms that also accept weights stacked over tasks, and the one policy of batch norm's statistics."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.nn.convolution import on_gpu
from metakit.saving import saved

_first: contextvars.ContextVar[int | None] = contextvars.ContextVar("first", default=None)


@contextlib.contextmanager
def statistics_from_first(rows: int) -> Iterator[None]:
    """Let batch norm take its mean and variance from the first ``rows`` rows of each task only.

    With support and query rows in one input, support first, this is the *inductive* policy: each query row is
    normalised with the support set's statistics, so its answer depends on no other query row.
    """
    token = _first.set(rows)
    try:
        yield
    finally:
        _first.reset(token)


def statistics_rows() -> int | None:
    """How many rows, the first of each task, a layer's statistics are to come from; ``None`` for all of them.

    Every layer that mixes rows asks it in its forward, and says by ``mixes_rows = True`` that it mixes them.

    Example:
        >>> class Centre(nn.Module):
        ...     stacks_tasks = mixes_rows = True
        ...
        ...     def forward(self, x: Tensor) -> Tensor:  # [..., N, D]
        ...         return x - x[..., : statistics_rows(), :].mean(-2, keepdim=True)
        >>> with statistics_from_first(2):
        ...     Centre()(torch.tensor([[1.0], [3.0], [7.0]])).flatten()
        tensor([-1.,  1.,  5.])
    """
    return _first.get()


@saved(channels="num_features")
class BatchNorm2d(nn.Module):
    """Batch norm with one policy: the statistics of the rows at hand, support and query apart; nothing is remembered.

    ``y = gamma (x - mean) / sqrt(var + eps) + beta``, with the (biased) mean and variance over the rows and pixels of
    each task and channel. Equal to ``torch.nn.BatchNorm2d(channels, track_running_stats=False)``. Under
    ``statistics_from_first(rows)`` the mean and variance come from these rows alone.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight`` and ``bias`` ``[C]`` or ``[T, C]``.

    Source: Ioffe and Szegedy 2015, section 3.
    """

    stacks_tasks = True
    mixes_rows = True

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.num_features, self.eps = channels, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        z = _standardise(x, self.eps)
        return z * _per_channel(self.weight, z) + _per_channel(self.bias, z)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


@saved(features="num_features")
class BatchNorm1d(BatchNorm2d):
    """Batch norm of rows that are vectors: that of pictures of one pixel, ``BatchNorm2d``, policy and all.

    Equal to ``torch.nn.BatchNorm1d(features, track_running_stats=False)``.

    Shapes: ``x [N, D]`` or ``[T, N, D]``; ``weight`` and ``bias`` ``[D]`` or ``[T, D]``.

    Example:
        >>> BatchNorm1d(1)(torch.tensor([[1.0], [3.0]])).detach().flatten().round()
        tensor([-1.,  1.])

    Source: Ioffe and Szegedy 2015, section 3.
    """

    def __init__(self, features: int, *, eps: float = 1e-5) -> None:
        super().__init__(features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[..., None, None])[..., 0, 0]


@saved
class GroupNorm(nn.GroupNorm):
    """Group norm: each row by itself, over the pixels of some channels at a time; so no row depends on another.

    ``y = gamma (x - mean) / sqrt(var + eps) + beta``, with the (biased) mean and variance over the pixels and channels
    of a group in one row. Equal to ``torch.nn.GroupNorm``; rows of less than float32 are normalised in float32.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight`` and ``bias`` ``[C]`` or ``[T, C]``.

    Example:
        >>> GroupNorm(2, 8)(torch.randn(4, 5, 8, 3, 3)).shape
        torch.Size([4, 5, 8, 3, 3])

    Source: Wu and He 2018, equation (7).
    """

    stacks_tasks = True

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        rows = x.flatten(0, -4).to(torch.promote_types(x.dtype, weight.dtype))
        if not rows.requires_grad:  # torch 2.13 crashes on a CPU where then the channel lies innermost
            rows = rows.contiguous()
        if weight.dim() == bias.dim() == 1:
            z = F.group_norm(rows, self.num_groups, weight, bias, self.eps)
            return z.to(x.dtype).view(x.shape)
        z = F.group_norm(rows, self.num_groups, eps=self.eps).view(x.shape)
        return (z * _per_channel(weight, z) + _per_channel(bias, z)).to(x.dtype)


@saved
class LayerNorm(nn.LayerNorm):
    """Layer norm: each row by itself, over its own numbers; so no row depends on another.

    ``y = gamma (x - mean) / sqrt(var + eps) + beta``, with the (biased) mean and variance over the last dimensions.
    Equal to ``torch.nn.LayerNorm``; rows of less than float32 are normalised in float32.

    Shapes: ``x [..., D]`` with ``weight`` and ``bias`` ``[D]``, or ``x [T, ..., D]`` with ``[T, D]``.

    Example:
        >>> LayerNorm(8)(torch.randn(4, 5, 8)).shape
        torch.Size([4, 5, 8])

    Source: Ba, Kiros and Hinton 2016, equation (3).
    """

    stacks_tasks = True

    def forward(self, x: Tensor) -> Tensor:
        shape = self.normalized_shape
        affine: tuple[Tensor | None, ...] = (self.weight, self.bias)
        rows = x if self.weight is None else x.to(torch.promote_types(x.dtype, self.weight.dtype))
        if all(values is None or values.dim() == len(shape) for values in affine):
            return F.layer_norm(rows, shape, self.weight, self.bias, self.eps).to(x.dtype)
        z = F.layer_norm(rows, shape, eps=self.eps)
        weight, bias = (None if values is None else self._of_task(values, x) for values in affine)
        z = z if weight is None else z * weight
        return (z if bias is None else z + bias).to(x.dtype)

    def _of_task(self, values: Tensor, like: Tensor) -> Tensor:
        """Values of a row, ``[D]`` or ``[T, D]``, shaped to broadcast with ``like [T, ..., D]``."""
        own = len(self.normalized_shape)
        if values.dim() == own:
            return values
        return values.reshape(len(values), *[1] * (like.dim() - 1 - own), *values.shape[1:])


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Values per channel, ``[C]`` or ``[T, C]``, shaped to broadcast with ``like [T, N, C, H, W]``."""
    return values[:, None, :, None, None] if values.dim() == 2 else values[:, None, None]


def _standardise(x: Tensor, eps: float) -> Tensor:
    rows = statistics_rows()
    variance, mean = moments(x if rows is None else x[..., :rows, :, :, :])
    return (x - mean) * (variance + eps).rsqrt()


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each task's channel, ``[..., 1, C, 1, 1]``."""
    if on_gpu(x):
        return torch.var_mean(x, (-4, -2, -1), correction=0, keepdim=True)
    mean = x.mean((-4, -2, -1), keepdim=True)
    return (x - mean).square().mean((-4, -2, -1), keepdim=True), mean
