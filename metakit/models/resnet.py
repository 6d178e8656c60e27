"""A small residual network, and the parts that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import whole
from metakit.models.sizes import as_size, sides
from metakit.nn import Conv2d, Flatten, Frame, GroupNorm, Linear
from metakit.saving import saved

_GROUPS = 8  # of channels, in group norm


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity: ``relu(x + norm(conv(relu(norm(conv(x))))))``, with group norm.

    Shapes: ``x [N, C, H, W]`` or ``[T, N, C, H, W]`` to the same, with ``width`` channels C, a multiple of 8.

    Source: He, Zhang, Ren and Sun 2016, figure 2.
    """

    stacks_tasks = True

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

    stacks_tasks = True

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


@saved
class ResNet(nn.Module):
    """A small residual network for pictures of handwriting's size; without ``outputs`` it is an embedding.

    The stem, a 6x6 convolution of stride 2, halves the picture, rounding down; each further stage widens it and halves
    it by pooling; after each come so many residual blocks (``Residual``). Its norm is group norm: no answer depends on
    another row, so transductive and inductive are one.

    Shapes: ``x [..., channels, height, width]`` to ``[..., outputs]``, or to the flat features without ``outputs``.

    Arguments:
        channels: channels C of an image.
        size: height and width of an image in pixels, or one number for both; at least ``2 ** len(widths)``.
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

    stacks_tasks = True

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int | Sequence[int] = 28,
        widths: Sequence[int] = (64, 128, 128),
        depths: Sequence[int] = (1, 1, 0),
        outputs: int | None = None,
        frame: bool = False,
    ) -> None:
        channels, outputs = whole("channels", channels), None if outputs is None else whole("outputs", outputs)
        widths, depths = _stages(widths, depths)
        high, wide = sides(size, len(widths), "stages")
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
        self.features = widths[-1] * (high >> len(widths)) * (wide >> len(widths))
        self.head: nn.Module = nn.Identity() if outputs is None else Linear(self.features, outputs)
        self.row_shape = (channels, high, wide)
        shape = {"channels": channels, "size": as_size(high, wide), "widths": widths, "depths": depths}
        self.config: dict[str, Any] = {**shape, "outputs": outputs, "frame": frame}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.stages(self.frame(x))))


def _stages(widths: Sequence[int], depths: Sequence[int]) -> tuple[list[int], list[int]]:
    if not len(widths) or len(widths) != len(depths):
        raise ValueError(f"widths and depths need a number for each stage, got {list(widths)} and {list(depths)}.")
    widths = [whole("every width", width, least=_GROUPS) for width in widths]
    for width in widths:
        if width % _GROUPS:
            raise ValueError(
                f"every width must be a multiple of {_GROUPS}, the groups of its norm, got {width}. Round it."
            )
    return widths, [whole("every depth", depth, least=0) for depth in depths]
