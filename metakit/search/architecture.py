"""The structure of a network that a search can choose."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.checks import choice, real, whole
from metakit.models import MLP

ACTIVATIONS = ("relu", "sigmoid", "tanh")  # Their derivatives are functions of their outputs.
_SEEDS = 1_000_003


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A network to be trained: units of each hidden layer, activation, learning rate.

    Example:
        >>> Architecture.of({"hidden_layers": 2, "units": 8, "activation": "tanh"})
        Architecture(hidden=(8, 8), activation='tanh', learning_rate=0.01)
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    learning_rate: float = 0.01

    @classmethod
    def of(cls, candidate: Mapping[str, Any]) -> Architecture:
        """The architecture that a candidate names by ``hidden_layers``, ``units`` (or ``units_1``, ``units_2``, ... of
        each layer), ``activation`` and ``learning_rate``; one hidden layer, ReLU and 0.01 where it does not say.

        Raises:
            ValueError: if a name is not one of these, the units are missing, or a value is out of its range.
        """
        layers = itertools.takewhile(candidate.__contains__, (f"units_{i}" for i in itertools.count(1)))
        each = [candidate[name] for name in layers]
        known = {"hidden_layers", "units", "activation", "learning_rate", *(f"units_{i + 1}" for i in range(len(each)))}
        if unknown := [name for name in candidate if name not in known]:
            raise ValueError(
                f"a network has hidden_layers, units (or units_1, units_2, ...), activation and learning_rate; got "
                f"{unknown[0]!r}. For another kind of search use strategy.start(space), ask and tell."
            )
        if bool(each) == ("units" in candidate):
            raise ValueError(f"a network needs units, or units_1, units_2, ..., not both; got {', '.join(candidate)}.")
        depth = candidate.get("hidden_layers", len(each) or 1)
        if whole("hidden_layers", depth, least=0) > (len(each) or math.inf):
            raise ValueError(f"hidden_layers must be from 0 to {len(each)}, the layers that have units, got {depth!r}.")
        hidden = tuple(each[:depth]) if each else (candidate["units"],) * depth
        named = {name: candidate[name] for name in ("activation", "learning_rate") if name in candidate}
        return cls(hidden, **named)

    def __post_init__(self) -> None:
        for units in self.hidden:
            whole("units", units)
        choice("activation", self.activation, ACTIVATIONS)
        real("learning_rate", self.learning_rate, least=0)

    def weights(self, inputs: int, outputs: int, *, seed: int, number: int) -> list[tuple[Tensor, Tensor]]:
        """The initial weights and biases of each layer, float32, of the candidate ``number`` of a search.

        Uniform in +-1/sqrt(fan in), as in ``torch.nn.Linear``. They depend on seed and number alone: not on the
        population, not on the device.
        """
        generator = torch.Generator().manual_seed((seed * _SEEDS + number) % (1 << 32))
        sizes = [inputs, *self.hidden, outputs]
        return [
            ((2 * drawn[:, :-1] - 1) / math.sqrt(i), (2 * drawn[:, -1] - 1) / math.sqrt(i))
            for i, drawn in ((i, torch.rand(o, i + 1, generator=generator)) for i, o in itertools.pairwise(sizes))
        ]

    def model(self, inputs: int, outputs: int, weights: Sequence[tuple[Tensor, Tensor]]) -> MLP:
        """The same network as an ordinary module with these weights."""
        made = MLP(inputs, self.hidden, outputs, activation=self.activation).to(weights[0][0].dtype)
        layers = [layer for name, layer in made.named_children() if name.startswith("linear")] + [made.head]
        with torch.no_grad():
            for layer, (weight, bias) in zip(layers, weights, strict=True):
                layer.get_parameter("weight").copy_(weight)
                layer.get_parameter("bias").copy_(bias)
        return made
