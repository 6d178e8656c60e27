"""Convolution with a kernel per task: three maps, each linear in either argument, closed under differentiation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution of ``x [T, N, C, H, W]`` with ``weight [T, O, C, k, k]``, to ``[T, N, O, H', W']``.

    Under ``torch.autocast`` both are cast first, as torch does with its own convolution.
    """
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight = x.to(dtype), weight.to(dtype)
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Convolve.apply(x, weight, stride, padding)
    return _convolve(x, weight, stride, padding)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, stride, padding):
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight, stride, padding)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad_x = _ConvolveData.apply(grad, weight, x.shape, ctx.stride, ctx.padding) if need_x else None
        grad_weight = _ConvolveWeight.apply(grad, x, weight.shape, ctx.stride, ctx.padding) if need_weight else None
        return grad_x, grad_weight, None, None


class _ConvolveData(torch.autograd.Function):
    """The gradient with respect to the data, itself linear in ``grad`` and in ``weight``."""

    @staticmethod
    def forward(ctx, grad, weight, shape, stride, padding):
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(grad, weight)
        return _convolve_backward(grad, grad.new_empty(()).expand(shape), weight, stride, padding, data=True)

    @staticmethod
    def backward(ctx, v):
        grad, weight = ctx.saved_tensors
        need_grad, need_weight = ctx.needs_input_grad[:2]
        to_grad = _Convolve.apply(v, weight, ctx.stride, ctx.padding) if need_grad else None
        to_weight = _ConvolveWeight.apply(grad, v, weight.shape, ctx.stride, ctx.padding) if need_weight else None
        return to_grad, to_weight, None, None, None


class _ConvolveWeight(torch.autograd.Function):
    """The gradient with respect to the kernels, itself linear in ``grad`` and in ``x``."""

    @staticmethod
    def forward(ctx, grad, x, shape, stride, padding):
        ctx.stride, ctx.padding = stride, padding
        ctx.save_for_backward(grad, x)
        return _convolve_backward(grad, x, grad.new_empty(()).expand(shape), stride, padding, data=False)

    @staticmethod
    def backward(ctx, v):
        grad, x = ctx.saved_tensors
        need_grad, need_x = ctx.needs_input_grad[:2]
        to_grad = _Convolve.apply(x, v, ctx.stride, ctx.padding) if need_grad else None
        to_x = _ConvolveData.apply(grad, v, x.shape, ctx.stride, ctx.padding) if need_x else None
        return to_grad, to_x, None, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    y = F.conv2d(to_groups(x), weight.flatten(0, 1), stride=stride, padding=padding, groups=len(x))
    return from_groups(y, len(x))


def _convolve_backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, *, data: bool) -> Tensor:
    """Gradient of a convolution for its data or its kernels; of the one not used only the shape is read."""
    tasks, tail = len(grad), ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0])
    inputs, kernels = (x.transpose(0, 1).flatten(1, 2) if data else to_groups(x)), weight.flatten(0, 1)
    mask = [data, not data, False]
    both = torch.ops.aten.convolution_backward(to_groups(grad), inputs, kernels, None, *tail, tasks, mask)
    return from_groups(both[0], tasks) if data else both[1].unflatten(0, (tasks, -1))


def to_groups(x: Tensor) -> Tensor:
    """``[T, N, C, H, W]`` to ``[N, T C, H, W]``, as a grouped convolution wants it.

    On a CPU with the channel innermost, which it convolves faster. What has come from ``from_groups`` and through
    elementwise operations lies in memory like that already, so nothing is copied.
    """
    x = x.transpose(0, 1).flatten(1, 2)
    if x.is_cuda:
        return x
    if x.shape[1] == 1:  # Both layouts hold the same numbers in the same order: say by the strides which one is meant.
        return x[:, 0].contiguous()[..., None].movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def from_groups(y: Tensor, tasks: int) -> Tensor:
    """``[N, T C, H, W]`` seen as ``[T, N, C, H, W]``."""
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)
