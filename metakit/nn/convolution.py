"""Convolution with a kernel per task and its gradients: two maps, closed under differentiation.

And convolution, ReLU and 2x2 max pooling as one function of the kernels, closed likewise.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Rows, tasks, channels: the order in which a grouped convolution wants them.
_GROUPS = (1, 0, 2)
# Numbers in a patch up to which a GPU is asked for a product of patches.
_PATCH = 40


def on_gpu(x: Tensor) -> bool:
    """Whether a GPU works on it, which is fast with other layouts and kernels than a CPU. Exact are both on either."""
    return x.is_cuda


def in_full(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Products in the precision of their factors, whatever ``torch.autocast`` says: distances are small differences."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


def convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolution of ``x [T, N, C, H, W]`` with ``weight [T, O, C, k, k]``, to ``[T, N, O, H', W']``.

    Under ``torch.autocast`` both are cast first, as torch does with its own convolution.
    """
    x, weight = _for_autocast(x), _for_autocast(weight)
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
        wanted = ctx.needs_input_grad[:2]
        return *_ConvolveBackward.apply(grad, *ctx.saved_tensors, ctx.stride, ctx.padding, wanted), None, None


class _ConvolveBackward(torch.autograd.Function):
    """The gradients for data and kernels, ``D(grad, w)`` and ``W(grad, x)``, each linear in both of its arguments.

    With cotangents v and u of the two, what is to be differentiated is ``<grad, convolve(v, w) + convolve(x, u)>``: one
    convolution of both side by side, and the same two gradients, with v for x and u for w.
    """

    @staticmethod
    def forward(ctx, grad, x, weight, stride, padding, wanted):
        ctx.stride, ctx.padding = stride, padding
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(grad, x, weight)
        if wanted == (False, True):
            return None, weight_gradient(grad, x, weight.shape, stride, padding)
        to_x, to_weight = _backward(grad, to_groups(x), _kernels(weight), stride, padding, wanted)
        return (
            from_groups(to_x, len(x)) if wanted[0] else None,
            to_weight.unflatten(0, weight.shape[:2]) if wanted[1] else None,
        )

    @staticmethod
    def backward(ctx, v, u):
        grad, x, weight = ctx.saved_tensors
        need_grad, need_x, need_weight = ctx.needs_input_grad[:3]
        to_grad = to_x = to_weight = None
        pairs = [pair for pair in ((v, weight), (x, u)) if pair[0] is not None and pair[1] is not None]
        if pairs and need_grad:
            pairs = pairs if on_gpu(grad) else [_side_by_side(pairs)]  # a GPU is slow at kernels of many channels
            first, *others = (_Convolve.apply(*pair, ctx.stride, ctx.padding) for pair in pairs)
            to_grad = first + others[0] if others else first
        wanted = need_x and u is not None, need_weight and v is not None
        if any(wanted):
            like = x if v is None else v, weight if u is None else u
            to_x, to_weight = _ConvolveBackward.apply(grad, *like, ctx.stride, ctx.padding, wanted)
        return to_grad, to_x, to_weight, None, None, None


def convolve_relu_pool(x: Tensor, weight: Tensor, bias: Tensor, padding: int) -> Tensor:
    """``max over 2x2 patches of relu(convolve(x, weight, 1, padding) + bias)``, of data that need no gradient.

    What lies between, four times as large, is not kept: the gradient asks only which pixels won.

    Shapes: ``x [T, N, C, H, W]``, ``weight [T, O, C, k, k]``, ``bias [T, O]`` to ``[T, N, O, H' // 2, W' // 2]``.
    """
    return _ConvolveReluPool.apply(*map(_for_autocast, (x, weight, bias)), padding)[0]


class _ConvolveReluPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, padding):
        largest, index = pool(_convolve(x, weight, 1, padding, bias))
        y, ctx.shape, ctx.padding = largest.relu_(), weight.shape, padding
        ctx.mark_non_differentiable(index)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, index)
        return y, index

    @staticmethod
    def backward(ctx, grad, _):
        if grad is None:
            return None, None, None, None
        to_weight, to_bias = _ConvolveReluPoolBackward.apply(grad, *ctx.saved_tensors, ctx.shape, ctx.padding)
        return None, to_weight, to_bias, None


class _ConvolveReluPoolBackward(torch.autograd.Function):
    """The gradient with respect to kernels and bias, linear in ``grad``: only winners above zero have any."""

    @staticmethod
    def forward(ctx, grad, x, y, index, shape, padding):
        ctx.padding = padding
        ctx.save_for_backward(x, y, index)
        sides = [side + 2 * padding - k + 1 for side, k in zip(x.shape[-2:], shape[-2:], strict=True)]
        values = torch.ops.aten.threshold_backward(grad, y, 0)
        full = scatter(values, (*values.shape[:3], *sides), index)
        return weight_gradient(full, x, shape, 1, padding), values.sum((1, 3, 4))

    @staticmethod
    def backward(ctx, v, b):
        return _ConvolveAtWinners.apply(v, b, *ctx.saved_tensors, ctx.padding), None, None, None, None, None


class _ConvolveAtWinners(torch.autograd.Function):
    """A convolution at the pixels that won in another, zero where these are not above zero; linear in both kinds."""

    @staticmethod
    def forward(ctx, weight, bias, x, y, index, padding):
        ctx.shape, ctx.padding = weight.shape, padding
        ctx.save_for_backward(x, y, index)
        return torch.ops.aten.threshold_backward(gather(_convolve(x, weight, 1, padding, bias), index), y, 0)

    @staticmethod
    def backward(ctx, grad):
        to_weight, to_bias = _ConvolveReluPoolBackward.apply(grad, *ctx.saved_tensors, ctx.shape, ctx.padding)
        return to_weight, to_bias, None, None, None, None


def pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of each 2x2 patch and its pixel: ``[T, N, C, H, W]`` to ``[T, N, C, H // 2, W // 2]`` twice."""
    order = _memory_order(x) if on_gpu(x) else _GROUPS
    largest, index = F.max_pool2d(_ordered(x, order), 2, return_indices=True)
    return _restored(largest, x.shape, order), _restored(index, x.shape, order)


def scatter(values: Tensor, shape: Sequence[int], index: Tensor) -> Tensor:
    """Each winner's value back at its pixel, zero elsewhere: ``[T, N, C, H // 2, W // 2]`` to ``[T, N, C, H, W]``."""
    if on_gpu(values):
        order = _memory_order(index)
        full = values.new_zeros([*(shape[d] for d in order), shape[3] * shape[4]])
        full = full.permute(*_inverse(order), 3).scatter_(3, index.flatten(3), values.flatten(3))
        return full.unflatten(3, shape[3:])
    tasks, rows, channels, *sides = shape
    unread = _unset((rows, tasks * channels, *sides), values)
    window = [2, 2], [2, 2], [0, 0], [1, 1], False
    full = torch.ops.aten.max_pool2d_with_indices_backward(to_groups(values), unread, *window, to_groups(index))
    return from_groups(full, len(values))


def gather(x: Tensor, index: Tensor) -> Tensor:
    """The values at the winners' pixels: ``[T, N, C, H, W]`` to ``[T, N, C, H // 2, W // 2]``."""
    if on_gpu(x):
        return x.flatten(3).gather(3, index.flatten(3)).unflatten(3, index.shape[3:])
    # On a CPU the channel lies innermost, and stays there.
    pixels, places = to_groups(x).flatten(2), to_groups(index).flatten(2)
    picked = pixels.mT.gather(1, places.mT).mT
    return from_groups(picked.unflatten(2, index.shape[3:]), len(x))


def _memory_order(x: Tensor) -> tuple[int, ...]:
    """Tasks, rows and channels, 0 to 2, in the order in which they lie in memory, the outermost first."""
    return tuple(sorted(range(3), key=lambda dim: x.stride()[dim], reverse=True))


def _ordered(x: Tensor, order: Sequence[int]) -> Tensor:
    """``[T, N, C, H, W]`` to ``[a, b c, H, W]``, with a, b and c those three in another order."""
    return to_groups(x) if order == _GROUPS else x.permute(*order, 3, 4).flatten(1, 2)


def _restored(y: Tensor, shape: Sequence[int], order: Sequence[int]) -> Tensor:
    return y.unflatten(1, [shape[dim] for dim in order[1:]]).permute(*_inverse(order), 3, 4)


def _inverse(order: Sequence[int]) -> list[int]:
    return [order.index(dim) for dim in range(3)]


def _for_autocast(x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int, bias: Tensor | None = None) -> Tensor:
    if _by_patches(x, weight.shape) and bias is None:
        patches, sides = _patches(x, weight.shape, stride, padding)
        return (weight.flatten(2)[:, None] @ patches).unflatten(3, sides)
    one = None if bias is None else bias.flatten()
    y = F.conv2d(to_groups(x), _kernels(weight), one, stride=stride, padding=padding, groups=len(x))
    return from_groups(y, len(x))


def weight_gradient(grad: Tensor, x: Tensor, shape: Sequence[int], stride: int, padding: int) -> Tensor:
    """Gradient of a convolution for its kernels, which had a shape."""
    if _by_patches(x, shape):
        patches, _ = _patches(x, shape, stride, padding)
        return (grad.flatten(3) @ patches.mT).sum(1).view(shape)
    unread = _unset((shape[0] * shape[1], *shape[2:]), grad)
    return _backward(grad, to_groups(x), unread, stride, padding, (False, True))[1].unflatten(0, shape[:2])


def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, wanted: Sequence[bool]
) -> tuple[Tensor, Tensor]:
    """The gradients for data and kernels that are wanted; of the one that is not, the other is read as a shape."""
    tail = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], len(grad), [*wanted, False])
    return torch.ops.aten.convolution_backward(to_groups(grad), x, weight, None, *tail)[:2]


def _side_by_side(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Data and kernels of several convolutions whose results are added, one beside the other in their channels."""
    if len(pairs) == 1:
        return pairs[0]
    data, kernels = zip(*pairs, strict=True)
    return _innermost(data, (0, 2)), _innermost(kernels, (2,))


def _innermost(tensors: tuple[Tensor, ...], dims: tuple[int, ...]) -> Tensor:
    """Put together along dimension 2, which is to lie innermost with what else is told."""
    last = tuple(range(-len(dims), 0))
    return torch.cat([each.movedim(dims, last) for each in tensors], -1).movedim(last, dims)


def _by_patches(x: Tensor, shape: Sequence[int]) -> bool:
    """Whether a product of patches and kernels is faster: on a GPU, of few channels."""
    return on_gpu(x) and math.prod(shape[2:]) <= _PATCH


def _patches(x: Tensor, shape: Sequence[int], stride: int, padding: int) -> tuple[Tensor, Sequence[int]]:
    """What kernels of a shape see at each place, ``[T, N, C k k, H' W']``, and the result's sides."""
    windows = F.pad(x, [padding] * 4).unfold(3, shape[3], stride).unfold(4, shape[4], stride)
    return windows.permute(0, 1, 2, 5, 6, 3, 4).flatten(2, 4).flatten(3), windows.shape[3:5]


def _kernels(weight: Tensor) -> Tensor:
    """``[T, O, C, k, k]`` to ``[T O, C, k, k]``, in memory as the pictures that ``to_groups`` gives."""
    one = weight.flatten(0, 1)
    return one.contiguous() if on_gpu(weight) else one


def _unset(shape: Sequence[int], like: Tensor) -> Tensor:
    layout = torch.contiguous_format if on_gpu(like) else torch.channels_last
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def to_groups(x: Tensor) -> Tensor:
    """``[T, N, C, H, W]`` to ``[N, T C, H, W]``, as a grouped convolution wants it.

    On a CPU with the channel innermost, which it convolves faster. What has come from ``from_groups`` and through
    elementwise operations lies in memory like that already, so nothing is copied.
    """
    x = x.transpose(0, 1).flatten(1, 2)
    if on_gpu(x):
        return x
    if x.shape[1] == 1:  # Both layouts hold the same numbers in the same order: say by the strides which one is meant.
        return x[:, 0].contiguous()[..., None].movedim(-1, 1)
    return x.contiguous(memory_format=torch.channels_last)


def from_groups(y: Tensor, tasks: int) -> Tensor:
    """``[N, T C, H, W]`` seen as ``[T, N, C, H, W]``."""
    return y.unflatten(1, (tasks, -1)).transpose(0, 1)
