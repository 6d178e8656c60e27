"""The convolutional network of the few-shot papers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from metakit.checks import whole
from metakit.models.sizes import as_size, sides
from metakit.nn import ConvBlock, Flatten, Frame, Linear
from metakit.saving import saved


@saved
class ConvNet(nn.Module):
    """The four-block network of the few-shot papers; without ``outputs`` it is an embedding.

    Each block is a 3x3 convolution, batch norm, ReLU and 2x2 max pooling (``metakit.nn.ConvBlock``); ``head`` is a
    linear layer over the flattened features.

    Shapes: ``x [..., channels, height, width]`` to ``[..., outputs]``, or to the flat features without ``outputs``.

    Arguments:
        channels: channels C of an image.
        size: height and width of an image in pixels, or one number for both; at least ``2 ** blocks``.
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

    stacks_tasks = True

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int | Sequence[int] = 28,
        width: int = 64,
        blocks: int = 4,
        outputs: int | None = None,
        frame: bool = False,
    ) -> None:
        channels, width, blocks = whole("channels", channels), whole("width", width), whole("blocks", blocks)
        outputs = None if outputs is None else whole("outputs", outputs)
        high, wide = sides(size, blocks, "blocks")
        super().__init__()
        self.frame: nn.Module = Frame() if frame else nn.Identity()
        self.blocks = nn.Sequential(*(ConvBlock(channels if i == 0 else width, width) for i in range(blocks)))
        self.flatten = Flatten()
        self.features = width * (high >> blocks) * (wide >> blocks)
        self.head: nn.Module = nn.Identity() if outputs is None else Linear(self.features, outputs)
        self.row_shape = (channels, high, wide)
        shape = {"channels": channels, "size": as_size(high, wide), "width": width, "blocks": blocks}
        self.config: dict[str, Any] = {**shape, "outputs": outputs, "frame": frame}

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.blocks(self.frame(x))))
