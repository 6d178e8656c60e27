"""Base learners: ordinary modules built from ``metakit.nn`` layers, so that their weights can be stacked over tasks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn

from metakit.nn import ConvBlock, Flatten, Frame, Linear

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}


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


def _check_positive(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}.")
