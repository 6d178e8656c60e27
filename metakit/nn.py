"""Ordinary torch layers that also accept weights stacked over tasks.

Each layer is its torch namesake, with the same parameters and the same numbers. When its weights carry one more, leading
dimension (``[T, out, in]`` instead of ``[out, in]``), its input carries it too (``[T, N, ...]``) and task t is computed
with weights t. Every function here can be differentiated twice, exactly: that is what a second-order meta-gradient asks.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_statistics_rows: contextvars.ContextVar[int | None] = contextvars.ContextVar("statistics_rows", default=None)


@contextlib.contextmanager
def statistics_from_first(rows: int) -> Iterator[None]:
    """Let batch norm take its mean and variance from the first ``rows`` rows of each task only.

    With support and query rows in one input, support first, this is the *inductive* policy: each query row is
    normalised with the support set's statistics, so its answer depends on no other query row.
    """
    token = _statistics_rows.set(rows)
    try:
        yield
    finally:
        _statistics_rows.reset(token)


class Linear(nn.Linear):
    """Affine map ``y = x W^T + b``; with stacked weights ``y[t] = x[t] W[t]^T + b[t]``.

    Shapes: ``x [..., in]`` with ``weight [out, in]``, or ``x [T, ..., in]`` with ``weight [T, out, in]``.

    Example:
        >>> Linear(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if bias is not None and bias.dim() == 2:
            bias = bias.reshape(bias.shape[0], *[1] * (x.dim() - 2), bias.shape[1])
        if weight.dim() == 2:
            return F.linear(x, weight, bias) if bias is None or bias.dim() == 1 else F.linear(x, weight) + bias
        if x.dim() == 3:
            return torch.bmm(x, weight.mT) if bias is None else torch.baddbmm(bias, x, weight.mT)
        y = torch.bmm(x.flatten(1, -2), weight.mT).unflatten(1, x.shape[1:-1])
        return y if bias is None else y + bias


class Conv2d(nn.Conv2d):
    """Two-dimensional convolution; with stacked weights, task t is convolved with kernels t.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight [O, C, k, k]`` or ``[T, O, C, k, k]``.

    Raises:
        ValueError: for ``groups`` above 1 or a ``padding_mode`` other than zeros, which cannot be stacked exactly.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, stride: int = 1, padding: int = 0, bias=True
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        stacked, single = weight.dim() == 5, x.dim() == 4
        inputs = x if stacked else (x if single else x.flatten(0, 1))[None]
        y = convolve(inputs, weight if stacked else weight[None], self.stride[0], self.padding[0])
        if not stacked:
            y = y[0] if single else y[0].unflatten(0, x.shape[:2])
        if bias is None:
            return y
        return y + (bias[:, None, :, None, None] if bias.dim() == 2 else bias[:, None, None])


class BatchNorm2d(nn.Module):
    """Batch norm with one policy: the statistics of the rows at hand, support and query apart; nothing is remembered.

    ``y = gamma (x - mean) / sqrt(var + eps) + beta``, with the (biased) mean and variance over the rows and pixels of
    each task and channel. Equal to ``torch.nn.BatchNorm2d(channels, track_running_stats=False)``. Under
    ``statistics_from_first(rows)`` the mean and variance come from these rows alone.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight`` and ``bias`` ``[C]`` or ``[T, C]``.

    Source: Ioffe and Szegedy 2015, section 3.
    """

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        z = _standardise(x, self.eps)
        return z * _per_channel(self.weight, z) + _per_channel(self.bias, z)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[-1]}, eps={self.eps}"


class ConvBlock(nn.Module):
    """The papers' block: 3x3 convolution, batch norm, ReLU, 2x2 max pooling, the last three in one function.

    The maximum of an increasing function is the function of the maximum, so pooling comes first here and the affine
    part and the ReLU work on a quarter of the pixels. The convolution has no bias: batch norm would subtract it.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to ``[..., width, H // 2, W // 2]``.

    Source: Vinyals et al. 2016, section 4.1.1.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        gamma, beta = self.norm.weight, self.norm.bias
        sign = torch.where(gamma.detach() < 0, -1.0, 1.0).to(gamma.dtype)
        z = pooled_norm(self.conv(x), sign, self.norm.eps)
        return F.relu(z * _per_channel(gamma * sign, z) + _per_channel(beta, z))


class Flatten(nn.Module):
    """Flatten channels and pixels, keeping tasks and rows: ``[..., C, H, W]`` to ``[..., C H W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


LAYERS = (Linear, Conv2d, BatchNorm2d, ConvBlock, Flatten)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Values per channel, ``[C]`` or ``[T, C]``, shaped to broadcast with ``like [T, N, C, H, W]``."""
    return values[:, None, :, None, None] if values.dim() == 2 else values[:, None, None]


def _standardise(x: Tensor, eps: float) -> Tensor:
    rows = _statistics_rows.get()
    seen = x if rows is None else x[..., :rows, :, :, :]
    mean = seen.mean((-4, -2, -1), keepdim=True)
    variance = (seen - mean).square().mean((-4, -2, -1), keepdim=True)
    return (x - mean) * (variance + eps).rsqrt()


# --- Convolution with a kernel per task: three maps, each linear in either argument, closed under differentiation. ---


def convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution of ``x [T, N, C, H, W]`` with ``weight [T, O, C, k, k]``, to ``[T, N, O, H', W']``."""
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Convolve.apply(x, weight, stride, padding)
    return _convolve(x, weight, stride, padding)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, stride, padding):
        return _convolve(x, weight, stride, padding)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, weight, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(x, weight)

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
    def forward(grad, weight, shape, stride, padding):
        return _convolve_backward(grad, grad.new_empty(()).expand(shape), weight, stride, padding, data=True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, weight, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(grad, weight)

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
    def forward(grad, x, shape, stride, padding):
        return _convolve_backward(grad, x, grad.new_empty(()).expand(shape), stride, padding, data=False)

    @staticmethod
    def setup_context(ctx, inputs, output):
        grad, x, _, ctx.stride, ctx.padding = inputs
        ctx.save_for_backward(grad, x)

    @staticmethod
    def backward(ctx, v):
        grad, x = ctx.saved_tensors
        need_grad, need_x = ctx.needs_input_grad[:2]
        to_grad = _Convolve.apply(x, v, ctx.stride, ctx.padding) if need_grad else None
        to_x = _ConvolveData.apply(grad, v, x.shape, ctx.stride, ctx.padding) if need_x else None
        return to_grad, to_x, None, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if x.is_cuda and x.shape[0] > 1:
        y = F.conv2d(_to_groups(x), weight.flatten(0, 1), stride=stride, padding=padding, groups=x.shape[0])
        return _from_groups(y, x.shape[0])
    tasks = zip(x, weight, strict=True)
    return _stack_images([F.conv2d(_channels_last(a), b, stride=stride, padding=padding) for a, b in tasks])


def _convolve_backward(grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, *, data: bool) -> Tensor:
    """Gradient of a convolution for its data or its kernels; of the one not used only the shape is read."""
    tail = [stride] * 2, [padding] * 2, [1, 1], False, [0, 0]
    mask = [data, not data, False]
    if grad.is_cuda and grad.shape[0] > 1:
        count = grad.shape[0]
        inputs, kernels = _to_groups(x), weight.flatten(0, 1)
        both = torch.ops.aten.convolution_backward(_to_groups(grad), inputs, kernels, None, *tail, count, mask)
        return _from_groups(both[0], count) if data else both[1].unflatten(0, (count, -1))
    each = [
        torch.ops.aten.convolution_backward(_channels_last(g), _channels_last(a), b, None, *tail, 1, mask)[not data]
        for g, a, b in zip(grad, x, weight, strict=True)
    ]
    return _stack_images(each) if data else _stack(each)


def _channels_last(x: Tensor) -> Tensor:
    """Images with the channel innermost, which a CPU convolves faster; a GPU is left its own choice."""
    if x.is_cuda:
        return x
    if x.shape[1] == 1:  # Both layouts hold the same numbers in the same order: say by the strides which one is meant.
        return x[:, 0].contiguous()[..., None].movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def _stack(each: list[Tensor]) -> Tensor:
    return each[0][None] if len(each) == 1 else torch.stack(each)


def _stack_images(each: list[Tensor]) -> Tensor:
    if len(each) == 1:
        return each[0][None]
    return torch.stack([image.permute(0, 2, 3, 1) for image in each]).permute(0, 1, 4, 2, 3)


def _to_groups(x: Tensor) -> Tensor:
    """``[T, N, C, H, W]`` to ``[N, T C, H, W]``, as a grouped convolution wants it."""
    return x.transpose(0, 1).flatten(1, 2)


def _from_groups(y: Tensor, tasks: int) -> Tensor:
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)


# --- Standardise, then take the largest of each 2x2 patch: one function, with its derivatives in closed form. ---


def pooled_norm(x: Tensor, sign: Tensor, eps: float) -> Tensor:
    """``max over 2x2 patches of sign * (x - mean) / sqrt(var + eps)``, with statistics over each task and channel.

    ``sign`` is 1 or -1 per channel, ``[C]`` or ``[T, C]``: where batch norm multiplies by a negative number, the
    smallest pixel is the one that wins. Shapes: ``x [..., N, C, H, W]`` to ``[..., N, C, H // 2, W // 2]``.
    """
    if _statistics_rows.get() is None:
        tasks = x if x.dim() == 5 else x[None]
        z = _PooledNorm.apply(tasks, sign, eps)[0]
        return z if x.dim() == 5 else z[0]
    xhat = _standardise(x, eps)
    return F.max_pool2d((xhat * _per_channel(sign, xhat)).flatten(0, -4), 2).unflatten(0, x.shape[:-3])


class _PooledNorm(torch.autograd.Function):
    """``z = G xhat`` with ``xhat = r (x - <x>)``, ``r = sign / sqrt(<(x - <x>)^2> + eps)`` and G gathering the winners.

    ``<.>`` is the mean over the M rows and pixels of a task's channel, S the transpose of G (it scatters). xhat and r
    are outputs too, so that the second derivative can reach x through them and x itself need not be kept:

        dx = P(S dz) + P(dxhat) - r^2 xhat dr / M,   P(u) = r (u - <u> - xhat <u xhat>)
    """

    @staticmethod
    def forward(x, sign, eps):
        if x.is_cuda:
            variance, mean = torch.var_mean(x, (1, 3, 4), correction=0, keepdim=True)
            r = _per_channel(sign, x) * (variance + eps).rsqrt()
            xhat = (x - mean) * r
        else:
            signs = sign.expand(x.shape[0], -1)
            each = [torch.native_batch_norm(a, b, None, None, None, True, 0.0, eps) for a, b in zip(x, signs, strict=True)]
            xhat = _stack_images([out for out, _, _ in each])
            r = (_stack([rsqrt for _, _, rsqrt in each]) * signs)[:, None, :, None, None]
        z, index = F.max_pool2d(xhat.flatten(0, 1), 2, return_indices=True)
        return z.unflatten(0, x.shape[:2]), xhat, r, index

    @staticmethod
    def setup_context(ctx, inputs, output):
        z, xhat, r, index = output
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(z, xhat, r, index)

    @staticmethod
    def backward(ctx, dz, dxhat, dr, _):
        z, xhat, r, index = ctx.saved_tensors
        dx = None if dz is None else _PooledNormBackward.apply(dz, z, xhat, r, index)
        if dxhat is not None:
            through_xhat = r * (dxhat - _mean(dxhat) - xhat * _mean(dxhat * xhat))
            dx = through_xhat if dx is None else dx + through_xhat
        if dr is not None:
            through_r = -r.square() * xhat * (dr / _count(xhat))
            dx = through_r if dx is None else dx + through_r
        return dx, None, None


class _PooledNormBackward(torch.autograd.Function):
    """``dx = P(S dz) = r (S dz - <S dz> - xhat <S dz xhat>)``; the means need the winners only."""

    @staticmethod
    def forward(dz, z, xhat, r, index):
        m = _count(xhat)
        dx = _scatter(dz * r, xhat, index)
        dx.addcmul_(xhat, _sum(dz * z) * r, value=-1 / m)
        return dx.sub_(_sum(dz) * r / m)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, v):
        dz, z, xhat, r, index = ctx.saved_tensors
        m = _count(xhat)
        gathered = v.flatten(0, 1).flatten(2).gather(2, index.flatten(2)).reshape(z.shape)
        mean_u, mean_uxhat, mean_v, mean_vxhat = _sum(dz) / m, _sum(dz * z) / m, _mean(v), _mean(v * xhat)
        to_dz = r * (gathered - mean_v - z * mean_vxhat)
        to_xhat = -r * (mean_uxhat * v + mean_vxhat * _scatter(dz, xhat, index))
        to_r = _sum(gathered * dz) - m * (mean_v * mean_u + mean_vxhat * mean_uxhat)
        return to_dz, None, to_xhat, to_r, None


def _count(x: Tensor) -> int:
    return x.shape[1] * x.shape[3] * x.shape[4]


def _sum(x: Tensor) -> Tensor:
    return x.sum((1, 3, 4), keepdim=True)


def _mean(x: Tensor) -> Tensor:
    return x.mean((1, 3, 4), keepdim=True)


def _scatter(dz: Tensor, like: Tensor, index: Tensor) -> Tensor:
    """Each winner's value back at its pixel, zero elsewhere: ``[T, N, C, H // 2, W // 2]`` to ``[T, N, C, H, W]``."""
    window = [2, 2], [2, 2], [0, 0], [1, 1], False
    full = torch.ops.aten.max_pool2d_with_indices_backward(dz.flatten(0, 1), like.flatten(0, 1), *window, index)
    return full.unflatten(0, like.shape[:2])
