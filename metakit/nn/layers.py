"""Ordinary torch layers that also accept weights stacked over tasks.

Each layer is its torch namesake, with the same parameters and the same numbers. When its weights carry one more,
leading dimension (``[T, out, in]`` instead of ``[out, in]``), its input carries it too (``[T, N, ...]``) and task t is
computed with weights t. Each can be differentiated twice, exactly, as a second-order meta-gradient asks. A class says
by ``stacks_tasks = True`` that it keeps this promise; its subclasses inherit it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import real
from metakit.nn.convolution import convolve, in_full, on_gpu, to_groups
from metakit.saving import saved


@saved
class Linear(nn.Linear):
    """Affine map ``y = x W^T + b``; with stacked weights ``y[t] = x[t] W[t]^T + b[t]``.

    Shapes: ``x [..., in]`` with ``weight [out, in]``, or ``x [T, ..., in]`` with ``weight [T, out, in]``.

    Example:
        >>> Linear(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    stacks_tasks = True

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        bias: Tensor | None = self.bias
        if bias is not None and bias.dim() == 2:
            bias = bias.reshape(bias.shape[0], *[1] * (x.dim() - 2), bias.shape[1])
        if weight.dim() == 2:
            return F.linear(x, weight, bias) if bias is None or bias.dim() == 1 else F.linear(x, weight) + bias
        if x.dim() == 3:
            return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)
        y = torch.bmm(x.flatten(1, -2), weight.mT).unflatten(1, x.shape[1:-1])
        return y if bias is None else y + bias


@saved
class Conv2d(nn.Conv2d):
    """Two-dimensional convolution; with stacked weights, task t is convolved with kernels t.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight [O, C, k, k]`` or ``[T, O, C, k, k]``.
    """

    stacks_tasks = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        # A CPU convolves with the channel innermost; kept so, the kernels need no copy at each call.
        self.weight = nn.Parameter(self.weight.detach().contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.dim() == 4:
            weight = weight.contiguous() if on_gpu(x) else weight
            shared = bias if bias is None or bias.dim() == 1 else None
            y = F.conv2d(to_groups(x.flatten(0, -4)[None]), weight, shared, self.stride, self.padding)
            y = y.unflatten(0, x.shape[:-3])
            return y if bias is None or shared is bias else y + bias[:, None, :, None, None]
        y = convolve(x, weight, self.stride[0], int(self.padding[0]))
        if bias is None:
            return y
        return y + (bias[:, None, None] if bias.dim() == 1 else bias[:, None, :, None, None])


class _OfPictures(nn.Module):
    """What torch does to ``[N, C, H, W]``, done to ``[..., C, H, W]``: no weights to stack, no row knows another."""

    stacks_tasks = True

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x.reshape(-1, *x.shape[-3:]))
        return y.reshape(*x.shape[:-3], *y.shape[1:])


@saved
class MaxPool2d(_OfPictures, nn.MaxPool2d):
    """The largest of each patch: ``[..., C, H, W]`` to ``[..., C, H', W']``.

    Example:
        >>> MaxPool2d(2)(torch.zeros(4, 5, 3, 28, 28)).shape
        torch.Size([4, 5, 3, 14, 14])
    """


@saved
class AvgPool2d(_OfPictures, nn.AvgPool2d):
    """The mean of each patch: ``[..., C, H, W]`` to ``[..., C, H', W']``."""


@saved
class AdaptiveAvgPool2d(_OfPictures, nn.AdaptiveAvgPool2d):
    """The mean of each of as many patches as shall come out: ``[..., C, H, W]`` to ``[..., C, H', W']``."""


@saved
class Flatten(nn.Module):
    """Flatten channels and pixels, keeping tasks and rows: ``[..., C, H, W]`` to ``[..., C H W]``.

    Arguments:
        dims: dimensions of a row, 3 of a picture.
    """

    stacks_tasks = True

    def __init__(self, dims: int = 3) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-self.dims)


@saved
class Frame(nn.Module):
    """Move and scale each picture so that its ink lies around the middle and spreads equally far in all of them.

    With the ink as weight, m is the mean place and s the standard deviation of places, over both directions:

        result(q) = x(m + (s / spread) q),    places in units of half the shorter side, from the middle; paper 0 outside

    Proportions are kept, and a picture without ink stays as it is.

    Shapes: ``x [..., C, H, W]``, ink above 0, to the same.

    Arguments:
        spread: standard deviation of the ink in the result, in units of half the shorter side.

    Raises:
        ValueError: if ``spread`` is not above 0 and at most 1.

    Example:
        >>> x = torch.zeros(1, 1, 28, 28)
        >>> x[..., 3:9, 3:5] = 1.0
        >>> [round(float(i.float().mean()), 1) for i in Frame()(x)[0, 0].nonzero().T]
        [13.5, 13.5]

    Source: the moment normalisation of handwriting, Casey 1970.
    """

    stacks_tasks = True

    def __init__(self, spread: float = 0.4) -> None:
        super().__init__()
        self.spread = real("spread", spread, above=0, most=1)

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.reshape(-1, *x.shape[-3:])
        with torch.no_grad(), in_full(x):
            ink = pictures.clamp(min=0).sum(1)  # [n, H, W]
            mass = ink.sum((1, 2))
            height, width = x.shape[-2:]
            short = min(height, width)
            places = (torch.arange(side, dtype=x.dtype, device=x.device) for side in (height, width))
            down, across = ((place + 0.5) * (2 / short) - len(place) / short for place in places)
            column, row = ink.sum(1), ink.sum(2)  # [n, W], [n, H]
            mx, my = column @ across / mass, row @ down / mass
            square = (column @ across.square() + row @ down.square()) / mass
            scale = ((square - mx.square() - my.square()) / 2).clamp(min=0).sqrt() / self.spread
            zero, one = torch.zeros_like(mass), torch.ones_like(mass)
            seen = torch.stack([scale, zero, mx * (short / width), zero, scale, my * (short / height)], 1)
            as_it_is = torch.stack([one, zero, zero, zero, one, zero], 1)
            matrix = torch.where((mass > 0)[:, None] & (scale > 0)[:, None], seen, as_it_is).view(-1, 2, 3)
            grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, align_corners=False).view(x.shape)

    def extra_repr(self) -> str:
        return f"spread={self.spread}"
