"""Base learners: ordinary modules built from ``metakit.nn`` layers, so that their weights can be stacked over tasks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.nn import Conv2d, ConvBlock, Flatten, Frame, GroupNorm, Linear

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}
_GROUPS = 8  # of channels, in group norm
_ROWS = 500  # embedded at once, where there are many


class MLP(nn.Sequential):
    """Fully connected network: linear layers with an activation between them; the last one is called ``head``.

    Shapes: ``x [..., inputs]`` to ``[..., outputs]``.

    Arguments:
        inputs: features D of a row.
        hidden: units of each hidden layer; ``[]`` makes the network linear.
        outputs: outputs of a row, one per class or target.
        activation: ``"relu"``, ``"tanh"``, ``"sigmoid"``, ``"gelu"`` or ``"silu"``.

    Raises:
        ValueError: if a size is not positive or the activation is not one of the five.

    Example:
        >>> import torch
        >>> MLP(1, [40, 40], 1)(torch.zeros(5, 1)).shape
        torch.Size([5, 1])

    Source: the network of the sinusoid experiment, Finn et al. 2017, section 5.1.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, activation: str = "relu") -> None:
        sizes = [inputs, *hidden, outputs]
        for size in sizes:
            _check_positive("every size of an MLP", size)
        if activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {activation!r}.")
        super().__init__()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes[:-1]), start=1):
            self.add_module(f"linear{i}", Linear(fan_in, fan_out))
            self.add_module(f"{activation}{i}", _ACTIVATIONS[activation]())
        self.head = Linear(sizes[-2], outputs)
        self.config = {"inputs": inputs, "hidden": list(hidden), "outputs": outputs, "activation": activation}


class ConvNet(nn.Module):
    """The four-block network of the few-shot papers; without ``outputs`` it is an embedding.

    Each block is a 3x3 convolution, batch norm, ReLU and 2x2 max pooling (``metakit.nn.ConvBlock``); ``head`` is a
    linear layer over the flattened features.

    Shapes: ``x [..., channels, size, size]`` to ``[..., outputs]``, or to the flat features without ``outputs``.

    Arguments:
        channels: channels C of an image.
        size: height and width of an image in pixels, at least ``2 ** blocks``.
        width: channels of each block.
        blocks: number of blocks.
        outputs: number of classes N, or ``None`` for an embedding.
        frame: bring the ink of each picture to the middle and to one spread first (``metakit.nn.Frame``).

    Raises:
        ValueError: if a size is not positive, or the image too small for the blocks.

    Example:
        >>> import torch
        >>> ConvNet(channels=1, size=28, width=8, blocks=4, outputs=5)(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 5])

    Source: Vinyals et al. 2016, section 4.1.1; Finn et al. 2017, section 5.2.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 28,
        width: int = 64,
        blocks: int = 4,
        outputs: int | None = None,
        frame: bool = False,
    ) -> None:
        config = {"channels": channels, "size": size, "width": width, "blocks": blocks, "outputs": outputs}
        for name, value in config.items():
            if value is not None:
                _check_positive(name, value)
        if size < 2**blocks:
            raise ValueError(
                f"size must be at least 2 ** blocks = {2**blocks} pixels, since each block halves it; got {size}. "
                f"Use {size.bit_length() - 1} blocks at most."
            )
        super().__init__()
        self.frame: nn.Module = Frame() if frame else nn.Identity()
        self.blocks = nn.Sequential(*(ConvBlock(channels if i == 0 else width, width) for i in range(blocks)))
        self.flatten = Flatten()
        self.features = width * (size >> blocks) ** 2
        self.head: nn.Module = nn.Identity() if outputs is None else Linear(self.features, outputs)
        self.config = {**config, "frame": frame}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.blocks(self.frame(x))))


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity: ``relu(x + norm(conv(relu(norm(conv(x))))))``, with group norm.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to the same, with ``width`` channels C, a multiple of 8.

    Source: He, Zhang, Ren and Sun 2016, figure 2.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = (GroupNorm(_GROUPS, width) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class Widen(nn.Module):
    """Convolution to another number of channels, 2x2 max pooling where ``pool`` says so, group norm, ReLU.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to ``[..., width, H', W']``, ``width`` a multiple of 8.
    """

    def __init__(self, channels: int, width: int, *, kernel_size: int = 3, stride: int = 1, pool: bool = True) -> None:
        super().__init__()
        margin = (kernel_size - stride) // 2
        self.conv = Conv2d(channels, width, kernel_size, stride=stride, padding=margin, bias=False)
        self.norm, self.pool = GroupNorm(_GROUPS, width), pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.pool:
            x = F.max_pool2d(x.flatten(0, -4), 2).unflatten(0, x.shape[:-3])
        return F.relu(self.norm(x))

    def extra_repr(self) -> str:
        return f"pool={self.pool}"


class ResNet(nn.Module):
    """A small residual network for pictures of handwriting's size; without ``outputs`` it is an embedding.

    The stem, a 6x6 convolution of stride 2, halves the picture; each further stage widens it and halves it by pooling;
    after each come so many residual blocks (``Residual``). Its norm is group norm: no answer depends on
    another row, so transductive and inductive are one.

    Shapes: ``x [..., channels, size, size]`` to ``[..., outputs]``, or to the flat features without ``outputs``.

    Arguments:
        channels: channels C of an image.
        size: height and width of an image in pixels, even, at least ``2 ** len(widths)``.
        widths: channels of each stage, multiples of 8.
        depths: residual blocks of each stage.
        outputs: number of classes N or of features, or ``None`` for the flat features themselves.
        frame: bring the ink of each picture to the middle and to one spread first (``metakit.nn.Frame``).

    Raises:
        ValueError: if widths and depths are not of one length, a width is no multiple of 8, another number is out of
            its range, or the image too small for the stages.

    Example:
        >>> import torch
        >>> ResNet(size=28, widths=[16, 32], depths=[1, 0])(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 1568])

    Source: He, Zhang, Ren and Sun 2016; as the embedding of few-shot learners, Mishra et al. 2018, section 4.
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 28,
        widths: Sequence[int] = (64, 128, 128),
        depths: Sequence[int] = (1, 1, 0),
        outputs: int | None = None,
        frame: bool = False,
    ) -> None:
        _check_stages(size, widths, depths)
        for name, value in {"channels": channels, "size": size, "outputs": outputs}.items():
            if value is not None:
                _check_positive(name, value)
        super().__init__()
        self.frame: nn.Module = Frame() if frame else nn.Identity()
        stages: list[nn.Module] = []
        for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stages.append(
                Widen(widths[i - 1], width) if i else Widen(channels, width, kernel_size=6, stride=2, pool=False)
            )
            stages += [Residual(width) for _ in range(depth)]
        self.stages = nn.Sequential(*stages)
        self.flatten = Flatten()
        self.features = widths[-1] * (size >> len(widths)) ** 2
        self.head: nn.Module = nn.Identity() if outputs is None else Linear(self.features, outputs)
        shape = {"widths": list(widths), "depths": list(depths)}
        self.config: dict[str, Any] = {"channels": channels, "size": size, **shape, "outputs": outputs, "frame": frame}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.stages(self.frame(x))))


IMAGE_NETWORKS = (ConvNet, ResNet)


class Views(nn.Module):
    """An embedding averaged over several views of each picture, so that it hangs less on how that was drawn.

        f(x) = mean over views v of e(x_v) / |e(x_v)|

    The views: as it is; turned to either side; stretched across, and down; sheared to either side; and in a second
    round all of these twice as far, and so on. Meant for what is trained already: each row costs seven times as much in
    one round, thirteen times in two.

    Shapes: ``x [..., C, H, W]``, square, to ``[..., D]``, as the embedding gives it.

    Arguments:
        embedding: the network e.
        turn: degrees.
        stretch: growth of the width, or of the height.
        shear: pixels sideways for each pixel down.
        rounds: 1 or more.

    Raises:
        ValueError: if a strength is negative or not finite, or ``rounds`` is out of its range.

    Example:
        >>> import torch
        >>> Views(ConvNet(width=8))(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 8])

    Source: averaging over changed copies in testing, Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """

    def __init__(
        self,
        embedding: nn.Module,
        *,
        turn: float = 7.0,
        stretch: float = 0.12,
        shear: float = 0.12,
        rounds: int = 1,
    ) -> None:
        for name, value in {"turn": turn, "stretch": stretch, "shear": shear}.items():
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} must be a finite number, 0 or more, got {value!r}. Leave it out.")
        _check_positive("rounds", rounds)
        super().__init__()
        self.embedding, self.turn, self.stretch, self.shear, self.rounds = embedding, turn, stretch, shear, rounds

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.reshape(-1, *x.shape[-3:])
        total, maps = self._direction(pictures), self._maps(pictures)
        for matrix in maps:
            grid = F.affine_grid(matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False)
            total = total + self._direction(F.grid_sample(pictures, grid, align_corners=False))
        return (total / (len(maps) + 1)).view(*x.shape[:-3], -1)

    def _direction(self, x: Tensor) -> Tensor:
        return F.normalize(self.embedding(x).to(x.dtype), dim=-1)

    def _maps(self, like: Tensor) -> Tensor:
        """From a place in a view to the place in the picture that it shows, ``[6 rounds, 2, 3]``."""
        maps: list[list[float]] = []
        for times in range(1, self.rounds + 1):
            sin, cos = math.sin(math.radians(times * self.turn)), math.cos(math.radians(times * self.turn))
            less = 1 / (1 + times * self.stretch)
            maps += [[cos, s * sin, -s * sin, cos] for s in (1, -1)]
            maps += [[less, 0, 0, 1], [1, 0, 0, less]]
            maps += [[1, s * times * self.shear, 0, 1] for s in (1, -1)]
        return F.pad(like.new_tensor(maps).view(-1, 2, 2), (0, 1))

    def extra_repr(self) -> str:
        return f"turn={self.turn}, stretch={self.stretch}, shear={self.shear}, rounds={self.rounds}"


class Whitened(nn.Module):
    """An embedding in which classes spread equally far in every direction: within-class whitening.

        f(x) = (C + shrink tr(C) / D I)^(-1/2) (e(x) - m)

    with m the mean of the embedded training rows and C their covariance around the means of their classes. Directions
    in which drawings of one character differ count less then. Until ``estimate`` has seen data, f is e.

    Shapes: ``x [n, ...]`` to ``[n, D]``.

    Arguments:
        embedding: the network e.
        features: D, the numbers that it gives for a row.
        shrink: how far C is drawn towards a multiple of the identity, in mean eigenvalues of C; above 0.

    Raises:
        ValueError: if ``features`` or ``shrink`` is out of its range.

    Example:
        >>> import torch
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 6
        >>> f = Whitened(nn.Identity(), 4, shrink=1e-6).estimate(x, y)
        >>> within = torch.cat([f(x)[y == n] - f(x)[y == n].mean(0) for n in range(6)])
        >>> torch.allclose(within.T @ within / len(x), torch.eye(4), atol=1e-4)
        True

    Source: within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006.
    """

    centre: Tensor
    matrix: Tensor

    def __init__(self, embedding: nn.Module, features: int, *, shrink: float = 3.0) -> None:
        _check_positive("features", features)
        if not isinstance(shrink, int | float) or not 0 < shrink < math.inf:
            raise ValueError(f"shrink must be a finite number above 0, got {shrink!r}. 3 suits a few hundred classes.")
        super().__init__()
        self.embedding, self.features, self.shrink = embedding, features, shrink
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("matrix", torch.eye(features))

    @torch.no_grad()
    def estimate(self, x: Tensor, y: Tensor) -> Whitened:
        """Take m and C from training rows ``x [n, ...]`` of classes ``y [n]``; returns itself."""
        if len(x) != len(y) or len(x) < 2:
            raise ValueError(f"estimate needs a class for each row, and two rows, got {len(x)} and {len(y)}.")
        e = torch.cat([self.embedding(rows).to(x.dtype) for rows in x.split(_ROWS)])
        if e.shape[1:] != (self.features,):
            raise ValueError(f"this was made for {self.features} features, the embedding gives {list(e.shape[1:])}.")
        _, number, counts = y.to(e.device).unique(return_inverse=True, return_counts=True)
        means = e.new_zeros(len(counts), self.features).index_add_(0, number, e) / counts[:, None]
        around = e - means[number]
        values, vectors = torch.linalg.eigh((around.mT @ around / len(e)).double())
        scaled = vectors * (values + self.shrink * values.mean()).rsqrt()
        self.centre, self.matrix = e.mean(0), (scaled @ vectors.mT).to(e.dtype)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (self.embedding(x) - self.centre) @ self.matrix

    def extra_repr(self) -> str:
        return f"features={self.features}, shrink={self.shrink}"


def _check_stages(size: int, widths: Sequence[int], depths: Sequence[int]) -> None:
    if not widths or len(widths) != len(depths):
        raise ValueError(f"widths and depths need a number for each stage, got {list(widths)} and {list(depths)}.")
    for width in widths:
        _check_positive("every width", width)
        if width % _GROUPS:
            raise ValueError(
                f"every width must be a multiple of {_GROUPS}, the groups of its norm, got {width}. Round it."
            )
    if any(not isinstance(depth, int) or isinstance(depth, bool) or depth < 0 for depth in depths):
        raise ValueError(f"every depth must be a whole number of blocks, 0 or more, got {list(depths)}.")
    if size % 2 or size < 2 ** len(widths):
        raise ValueError(
            f"size must be even and at least {2 ** len(widths)} pixels, as {len(widths)} stages halve it; got {size}."
        )


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
