"""The papers' block, and its fused functions: convolution, batch norm, ReLU and pooling in one or two."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.nn.convolution import convolve_relu_pool, from_groups, gather, in_full, on_gpu, pool, scatter, to_groups
from metakit.nn.layers import Conv2d
from metakit.nn.norm import BatchNorm2d, moments, statistics_rows
from metakit.saving import saved


@saved
class ConvBlock(nn.Module):
    """The papers' block: 3x3 convolution, batch norm, ReLU, 2x2 max pooling, the last three in one function.

    The convolution has no bias: batch norm would subtract it.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to ``[..., width, H // 2, W // 2]``.

    Source: Vinyals et al. 2016, section 4.1.1.
    """

    stacks_tasks = True

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.channels, self.width = channels, width
        self.conv = Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        tasks, norm = x if x.dim() == 5 else x[None], self.norm
        if _are_pictures(x):
            y = convolve_norm_relu_pool(tasks, self.conv.weight, norm.weight, norm.bias, norm.eps)
        else:
            y = norm_relu_pool(self.conv(tasks), norm.weight, norm.bias, norm.eps)
        return y if x.dim() == 5 else y[0]


def _are_pictures(x: Tensor) -> bool:
    """Whether ``convolve_norm_relu_pool`` can be asked, and pays: few channels, no gradient, a CPU."""
    return x.shape[-3] <= 3 and not x.requires_grad and not on_gpu(x)


def convolve_norm_relu_pool(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """``norm_relu_pool`` of a convolution of pictures, whose pixels need no gradient, with a margin of one pixel.

    A convolution's pixel is ``w . p``, w a kernel and p a patch of the picture. So its mean and variance follow from
    those of the patches, and batch norm becomes another kernel, ``a w``, and a bias, before anything is convolved:

        a = gamma / sqrt(w' <(p - <p>) p'> w + eps),    y = max over 2x2 patches of relu(a w . p + beta - a w . <p>)

    with ``<.>`` the mean over the rows that the statistics come from.

    Shapes: ``x [T, N, C, H, W]``, ``weight [O, C, 3, 3]`` or ``[T, O, C, 3, 3]`` to ``[T, N, O, H // 2, W // 2]``.
    """
    mean, covariance = _patch_moments(x[:, : statistics_rows()].to(weight.dtype))
    with in_full(x):
        kernels = weight.flatten(-3)
        variance = ((kernels @ covariance) * kernels).sum(-1).clamp(min=0)
        scaled = gamma[..., None] * (variance + eps).rsqrt()[..., None] * kernels
        bias = beta - (scaled @ mean).squeeze(-1)
    return convolve_relu_pool(x, scaled.unflatten(-1, weight.shape[-3:]), bias, 1)


def _patch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[T, 9 C, 1]`` and covariance ``[T, 9 C, 9 C]`` of the 3x3 patches around each pixel, zero outside."""
    tasks, rows, channels, height, width = x.shape
    with torch.no_grad(), in_full(x):
        windows = F.pad(x, (1, 1, 1, 1)).unfold(3, height, 1).unfold(4, width, 1)  # [T, N, C, 3, 3, H, W]
        patches = windows.reshape(tasks, rows, 9 * channels, height * width)
        mean = patches.mean((1, 3), keepdim=True)
        deviations = (patches - mean).flatten(0, 1)
        products = (deviations @ deviations.mT).unflatten(0, (tasks, rows)).sum(1)
    return mean.view(tasks, -1, 1), products / (rows * height * width)


# --- Batch norm, ReLU and 2x2 max pooling as one function, with its derivatives in closed form. ---


def norm_relu_pool(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """``max over 2x2 patches of relu(gamma xhat + beta)``, with xhat standardised over each task and channel.

    The maximum of an increasing function is the function of the maximum: so pooling comes first, and the rest works on
    a quarter of the pixels. Where gamma is negative, the smallest pixel wins: there both change their sign. Under
    ``statistics_from_first(rows)`` the mean and variance come from these rows alone.

    Shapes: ``x [T, N, C, H, W]`` to ``[T, N, C, H // 2, W // 2]``; ``gamma`` and ``beta`` ``[C]`` or ``[T, C]``.
    """
    shape = (x.shape[0], 1, x.shape[2], 1, 1)
    gamma, beta = gamma.to(x.dtype), beta.to(x.dtype)
    gamma, beta = (v.view(shape) if v.dim() == 2 else v[:, None, None].expand(shape) for v in (gamma, beta))
    return _NormReluPool.apply(x, gamma, beta, eps, statistics_rows() or x.shape[1])[0]


def _sign(gamma: Tensor) -> Tensor:
    """1 where gamma is zero, too: its gradient must not vanish there."""
    return torch.where(gamma.detach() < 0, -1.0, 1.0).to(gamma.dtype)


class _NormReluPool(torch.autograd.Function):
    """``y = relu(scale z + beta)``, ``z = G xhat``, ``xhat = r (x - <x>)``, ``r = sign / sqrt(<(x - <x>)^2> + eps)``.

    sign is that of gamma, ``scale = sign gamma``; G gathers the winner of each patch, its transpose S scatters; ``<.>``
    is the mean over the M pixels of a task's channel in the rows that the statistics come from, ``seen``. z, xhat and r
    are outputs too: the second derivative reaches x through them, so x need not be kept.

        dm = dy where y > 0,    dbeta = sum dm,    dgamma = sign sum dm z,    u = S(scale dm + dz) + dxhat,
        dx = r u,    in seen rows dx = r (u - (sum u + xhat (sum u xhat + r dr)) / M), with sums over all rows
    """

    @staticmethod
    def forward(ctx, x, gamma, beta, eps, rows):
        sign, ctx.rows = _sign(gamma), rows
        if on_gpu(x) or rows < x.shape[1]:
            variance, mean = moments(x[:, :rows])
            r = sign * (variance + eps).rsqrt()
            xhat = (x - mean) * r
        else:
            inputs = to_groups(x), sign.flatten(), None, None, None
            xhat, _, rsqrt = torch.native_batch_norm(*inputs, True, 0.0, eps)
            xhat, r = from_groups(xhat, len(x)), sign * rsqrt.view(sign.shape)
        z, index = pool(xhat)
        y = torch.addcmul(beta, z, gamma * sign).relu_()
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(index)
        ctx.save_for_backward(gamma, sign, y, z, xhat, r, index)
        return y, z, xhat, r, index

    @staticmethod
    def backward(ctx, dy, dz, dxhat, dr, _):
        gamma, sign, y, z, xhat, r, index = ctx.saved_tensors
        if dz is None and dxhat is None and dr is None:
            if dy is None:
                return None, None, None, None, None
            return *_NormReluPoolBackward.apply(dy, gamma, sign, y, z, xhat, r, index, ctx.rows), None, None
        m = _count(xhat, ctx.rows)
        dm = torch.zeros_like(y) if dy is None else torch.ops.aten.threshold_backward(dy, y, 0)
        to_z = dm * (gamma * sign) if dz is None else torch.addcmul(dz, dm, gamma * sign)
        u, sum_u, sum_uxhat = scatter(to_z, xhat.shape, index), _sum(to_z), _sum(to_z * z)
        if dxhat is not None:
            u, sum_u, sum_uxhat = u + dxhat, sum_u + _sum(dxhat), sum_uxhat + _sum(dxhat * xhat)
        along_xhat = sum_uxhat if dr is None else sum_uxhat + r * dr
        seen = torch.addcmul(u[:, : ctx.rows] - sum_u / m, xhat[:, : ctx.rows], along_xhat / -m)
        dx = r * (seen if ctx.rows == u.shape[1] else torch.cat([seen, u[:, ctx.rows :]], 1))
        return dx, sign * _sum(dm * z), _sum(dm), None, None


class _NormReluPoolBackward(torch.autograd.Function):
    """``dx``, ``dgamma`` and ``dbeta`` of ``_NormReluPool`` for dy alone; linear in dy.

    With cotangents v, a and b of the three and ``e = G v - <v> - z <v xhat>``, the sum to be differentiated is
    ``sum dm (r scale e + sign a z + b)``. It goes over all rows, ``<.>`` over those that the statistics come from.
    """

    @staticmethod
    def forward(ctx, dy, gamma, sign, y, z, xhat, r, index, rows):
        ctx.rows = rows
        ctx.save_for_backward(dy, gamma, sign, y, z, xhat, r, index)
        m = _count(xhat, rows)
        dm = torch.ops.aten.threshold_backward(dy, y, 0)
        dbeta, dscale, factor = _sum(dm), _sum(dm * z), r * (gamma * sign)
        dx = scatter(dm * factor, xhat.shape, index)
        dx[:, :rows].addcmul_(xhat[:, :rows], dscale * factor, value=-1 / m).sub_(dbeta * factor / m)
        return dx, sign * dscale, dbeta

    @staticmethod
    def backward(ctx, v, a, b):
        dy, gamma, sign, y, z, xhat, r, index = ctx.saved_tensors
        m, scale, a = _count(xhat, ctx.rows), gamma * sign, a * sign
        factor = r * scale
        dm = torch.ops.aten.threshold_backward(dy, y, 0)
        seen = v[:, : ctx.rows]
        mean_v, mean_vxhat = _sum(seen) / m, _sum(seen * xhat[:, : ctx.rows]) / m
        e = gather(v, index) - torch.addcmul(mean_v, z, mean_vxhat)
        to_dm = torch.addcmul(torch.addcmul(b, z, a), e, factor)
        to_factor = _sum(dm * e)
        to_z = dm * (a - factor * mean_vxhat)
        to_xhat = seen * (factor * _sum(dm * z) / -m)
        if ctx.rows < v.shape[1]:
            to_xhat = torch.cat([to_xhat, torch.zeros_like(v[:, ctx.rows :])], 1)
        to_dy = torch.ops.aten.threshold_backward(to_dm, y, 0)
        return to_dy, to_factor * r * sign, None, None, to_z, to_xhat, to_factor * scale, None, None


def _count(x: Tensor, rows: int) -> int:
    return rows * x.shape[3] * x.shape[4]


def _sum(x: Tensor) -> Tensor:
    return x.sum((1, 3, 4), keepdim=True)
