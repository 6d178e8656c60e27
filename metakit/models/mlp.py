"""The fully connected network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from metakit.checks import choice, whole
from metakit.nn import Linear
from metakit.saving import saved

_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}


@saved
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

    stacks_tasks = True

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, *, activation: str = "relu") -> None:
        sizes = [whole("every size of an MLP", size) for size in (inputs, *hidden, outputs)]
        activation = choice("activation", activation, _ACTIVATIONS)
        super().__init__()
        for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes[:-1]), start=1):
            self.add_module(f"linear{i}", Linear(fan_in, fan_out))
            self.add_module(f"{activation}{i}", _ACTIVATIONS[activation]())
        self.head = Linear(sizes[-2], sizes[-1])
        self.row_shape = (sizes[0],)
        self.config = {"inputs": sizes[0], "hidden": sizes[1:-1], "outputs": sizes[-1], "activation": activation}
