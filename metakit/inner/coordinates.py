"""The classic learned optimiser: an LSTM for each weight, the same for all of them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_UNITS, _SCALE = 20, 0.1
_SIZE = 10.0  # gradients below exp(-10) are told as multiples of exp(-10)


class CoordinateLSTM(nn.Module):
    """``w <- w + 0.1 LSTM(log |g|, sign g)``, two layers of 20 units, every weight with a state of its own.

    Source: Andrychowicz et al. 2016, section 2.1; the two numbers that stand for a gradient, appendix A.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(2, _UNITS), nn.LSTMCell(_UNITS, _UNITS)])
        self.out = nn.Linear(_UNITS, 1)
        with torch.no_grad():
            self.out.weight.mul_(0.1)
            self.out.bias.zero_()

    def begin(self, w: Tensor) -> dict[str, Tensor]:
        return {name: w.new_zeros(len(w), 2, w.shape[1], _UNITS) for name in ("hidden", "cell")}

    def move(
        self, w: Tensor, g: Tensor, state: dict[str, Tensor], k: int, steps: int | None, tensors: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Weights ``[T, N]`` and their gradients to the weights after step k."""
        x, hidden, cell = _told(g).flatten(0, 1), [], []
        for layer, inside in enumerate(self.cells):
            before = state["hidden"][:, layer].flatten(0, 1), state["cell"][:, layer].flatten(0, 1)
            x, kept = inside(x, before)
            hidden.append(x.unflatten(0, w.shape))
            cell.append(kept.unflatten(0, w.shape))
        state = {"hidden": torch.stack(hidden, 1), "cell": torch.stack(cell, 1)}
        return w + _SCALE * self.out(x).view(w.shape), state


def _told(g: Tensor) -> Tensor:
    """A gradient as two numbers of order one, whatever its size."""
    size = g.abs()
    large = size >= math.exp(-_SIZE)
    log = torch.where(large, size.clamp(min=math.exp(-_SIZE)).log() / _SIZE, -1)
    return torch.stack([log, torch.where(large, g.sign(), math.exp(_SIZE) * g)], -1)
