"""Ordinary torch layers that also accept weights stacked over tasks.

Each layer is its torch namesake, with the same parameters and the same numbers. When its weights carry one more,
leading dimension (``[T, out, in]`` instead of ``[out, in]``), its input carries it too (``[T, N, ...]``) and task t is
computed with weights t. Every function here can be differentiated twice, exactly, as a second-order meta-gradient asks.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.nn.convolution import (
    convolve,
    convolve_relu_pool,
    from_groups,
    gather,
    on_gpu,
    pool,
    scatter,
    to_groups,
)

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


def in_full(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Products in the precision of their factors, whatever ``torch.autocast`` says: distances are small differences."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else contextlib.nullcontext()


class Linear(nn.Linear):
    """Affine map ``y = x W^T + b``; with stacked weights ``y[t] = x[t] W[t]^T + b[t]``.

    Shapes: ``x [..., in]`` with ``weight [out, in]``, or ``x [T, ..., in]`` with ``weight [T, out, in]``.

    Example:
        >>> Linear(3, 2)(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

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


class Conv2d(nn.Conv2d):
    """Two-dimensional convolution; with stacked weights, task t is convolved with kernels t.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]``; ``weight [O, C, k, k]`` or ``[T, O, C, k, k]``.
    """

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
        self.step, self.margin = stride, padding
        # A CPU convolves with the channel innermost; kept so, the kernels need no copy at each call.
        self.weight = nn.Parameter(self.weight.detach().contiguous(memory_format=torch.channels_last))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.dim() == 4:
            weight = weight.contiguous() if on_gpu(x) else weight
            y = F.conv2d(to_groups(x.flatten(0, -4)[None]), weight, bias, self.step, self.margin)
            return y.unflatten(0, x.shape[:-3])
        y = convolve(x, weight, self.step, self.margin)
        return y if bias is None else y + bias[:, None, :, None, None]


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

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        rows = x.flatten(0, -4).to(torch.promote_types(x.dtype, weight.dtype))
        if weight.dim() == 1:
            z = F.group_norm(rows, self.num_groups, weight, bias, self.eps)
            return z.to(x.dtype).view(x.shape)
        z = F.group_norm(rows, self.num_groups, eps=self.eps).view(x.shape)
        return (z * _per_channel(weight, z) + _per_channel(bias, z)).to(x.dtype)


class ConvBlock(nn.Module):
    """The papers' block: 3x3 convolution, batch norm, ReLU, 2x2 max pooling, the last three in one function.

    The convolution has no bias: batch norm would subtract it.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to ``[..., width, H // 2, W // 2]``.

    Source: Vinyals et al. 2016, section 4.1.1.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        tasks, norm = x if x.dim() == 5 else x[None], self.norm
        if _are_pictures(x):
            y = convolve_norm_relu_pool(tasks, self.conv.weight, norm.weight, norm.bias, norm.eps)
        else:
            y = norm_relu_pool(self.conv(tasks), norm.weight, norm.bias, norm.eps)
        return y if x.dim() == 5 else y[0]


class Flatten(nn.Module):
    """Flatten channels and pixels, keeping tasks and rows: ``[..., C, H, W]`` to ``[..., C H W]``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(-3)


class Frame(nn.Module):
    """Move and scale each picture so that its ink lies around the middle and spreads equally far in all of them.

    With the ink as weight, m is the mean place and s the standard deviation of places, over both directions:

        result(q) = x(m + (s / spread) q),    places in units of half a side, from the middle; paper 0 outside

    Proportions are kept, and a picture without ink stays as it is.

    Shapes: ``x [..., C, H, W]``, ink above 0, to the same.

    Arguments:
        spread: standard deviation of the ink in the result, in units of half a side.

    Raises:
        ValueError: if ``spread`` is not between 0 and 1.

    Example:
        >>> x = torch.zeros(1, 1, 28, 28)
        >>> x[..., 3:9, 3:5] = 1.0
        >>> [round(float(i.float().mean()), 1) for i in Frame()(x)[0, 0].nonzero().T]
        [13.5, 13.5]

    Source: the moment normalisation of handwriting, Casey 1970.
    """

    def __init__(self, spread: float = 0.4) -> None:
        super().__init__()
        if not isinstance(spread, int | float) or not 0 < spread < 1:
            raise ValueError(f"spread must be between 0 and 1 half sides, got {spread!r}. 0.4 fills the picture well.")
        self.spread = spread

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.reshape(-1, *x.shape[-3:])
        with torch.no_grad(), in_full(x):
            ink = pictures.clamp(min=0).sum(1)  # [n, H, W]
            mass = ink.sum((1, 2))
            places = (torch.arange(side, dtype=x.dtype, device=x.device) for side in x.shape[-2:])
            down, across = ((place + 0.5) * (2 / len(place)) - 1 for place in places)
            column, row = ink.sum(1), ink.sum(2)  # [n, W], [n, H]
            mx, my = column @ across / mass, row @ down / mass
            square = (column @ across.square() + row @ down.square()) / mass
            scale = ((square - mx.square() - my.square()) / 2).clamp(min=0).sqrt() / self.spread
            zero, one = torch.zeros_like(mass), torch.ones_like(mass)
            seen = torch.stack([scale, zero, mx, zero, scale, my], 1)
            as_it_is = torch.stack([one, zero, zero, zero, one, zero], 1)
            matrix = torch.where((mass > 0)[:, None] & (scale > 0)[:, None], seen, as_it_is).view(-1, 2, 3)
            grid = F.affine_grid(matrix, list(pictures.shape), align_corners=False)
        return F.grid_sample(pictures, grid, align_corners=False).view(x.shape)

    def extra_repr(self) -> str:
        return f"spread={self.spread}"


LAYERS = (Linear, Conv2d, BatchNorm2d, GroupNorm, ConvBlock, Flatten, Frame)


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Values per channel, ``[C]`` or ``[T, C]``, shaped to broadcast with ``like [T, N, C, H, W]``."""
    return values[:, None, :, None, None] if values.dim() == 2 else values[:, None, None]


def _standardise(x: Tensor, eps: float) -> Tensor:
    rows = _statistics_rows.get()
    variance, mean = _moments(x if rows is None else x[..., :rows, :, :, :])
    return (x - mean) * (variance + eps).rsqrt()


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each task's channel, ``[..., 1, C, 1, 1]``."""
    if on_gpu(x):
        return torch.var_mean(x, (-4, -2, -1), correction=0, keepdim=True)
    mean = x.mean((-4, -2, -1), keepdim=True)
    return (x - mean).square().mean((-4, -2, -1), keepdim=True), mean


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
    mean, covariance = _patch_moments(x[:, : _statistics_rows.get()].to(weight.dtype))
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
    if gamma.dim() == 2:
        gamma, beta = gamma.view(shape), beta.view(shape)
    else:
        gamma, beta = gamma[:, None, None].expand(shape), beta[:, None, None].expand(shape)
    return _NormReluPool.apply(x, gamma, beta, eps, _statistics_rows.get() or x.shape[1])[0]


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
            variance, mean = _moments(x[:, :rows])
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
