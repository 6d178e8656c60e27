"""A step of the learned rule for one large tensor, in place: in pieces that stay in the cache, or compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_AT_ONCE = 1 << 15  # weights whose features are held at once
_WORTH_COMPILING = 1 << 14  # weights of a tensor


@functools.cache
def compiled(step: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled once, for tensors of any length."""
    return torch.compile(step, dynamic=True)


def is_worth_compiling(w: Tensor) -> bool:
    """Whether a tensor is so large that a compiled step pays."""
    return w.numel() >= _WORTH_COMPILING


def remember(w: Tensor, g: Tensor, momenta: Tensor, fast: Tensor, slow: Tensor, shares: Tensor) -> Tensor:
    """Renew the running means in place, and return the sums that the controller sees, ``[9]``."""
    means, square = momenta + (g - momenta) * shares[:3, None], g * g
    of_square = fast + (square - fast) * shares[3], slow + (square - slow) * shares[4]
    sums = torch.stack([of_square[0].sum(), of_square[1].sum(), (w * w).sum()])
    seen = torch.cat([(means * means).sum(1), (g * means).sum(1), sums])
    momenta.copy_(means)
    fast.copy_(of_square[0])
    slow.copy_(of_square[1])
    return seen


def apply(
    w: Tensor,
    g: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    told: Tensor,
    units: Tensor,
    network: tuple[Tensor, Tensor, Tensor],
    limits: tuple[float, float],
) -> None:
    """Move the weights in place; the network is written out number by number, so that all of it becomes one loop."""
    momenta, fast, slow = state
    inside, bias, outside = network
    root = (slow * units[4] + units[5]).rsqrt()
    directions = [momenta[i] * units[i] * root for i in range(3)]
    ratio = (fast * units[3] + limits[1]).sqrt() * root
    features = [x.clamp(-limits[0], limits[0]) for x in (*directions, g * root, ratio, w * units[6])]
    move = told[4] * w + sum(told[1 + i] * d for i, d in enumerate(directions))
    for unit in range(len(inside)):
        total = bias[unit, 0] + sum(inside[unit, i] * x for i, x in enumerate(features))
        move = move + told[0] * outside[0, unit] * total.relu()
    w.sub_(move)


def remember_in_pieces(w: Tensor, g: Tensor, momenta: Tensor, fast: Tensor, slow: Tensor, shares: Tensor) -> Tensor:
    """``remember``, a piece at a time."""
    sums, numbers = w.new_zeros(9), shares.tolist()
    square = w.new_empty(min(_AT_ONCE, len(w)))
    for begin in range(0, len(w), _AT_ONCE):
        here, grad, *rows = (row[begin : begin + _AT_ONCE] for row in (w, g, *momenta, fast, slow))
        squared = torch.mul(grad, grad, out=square[: len(here)])
        for row, share, new in zip(rows, numbers, [grad, grad, grad, squared, squared], strict=True):
            row.lerp_(new, share)
        dots = [row.dot(row) for row in rows[:3]] + [grad.dot(row) for row in rows[:3]]
        sums += torch.stack([*dots, rows[3].sum(), rows[4].sum(), here.dot(here)])
    return sums


def apply_in_pieces(
    w: Tensor,
    g: Tensor,
    state: tuple[Tensor, Tensor, Tensor],
    told: Tensor,
    units: Tensor,
    network: tuple[Tensor, Tensor, Tensor],
    limits: tuple[float, float],
) -> None:
    """``apply``, a piece at a time, without new memory for any of them."""
    momenta, fast, slow = state
    inside, bias, outside = network
    size, numbers = min(_AT_ONCE, len(w)), units.tolist()
    room, hidden, early = w.new_empty(8, size), w.new_empty(len(inside), size), units[:3, None]
    mixture, outside = told[None, 1:4], told[0] * outside
    for begin in range(0, len(w), size):
        piece = slice(begin, begin + size)
        here = w[piece]
        features = room[:, : len(here)]
        root, move = features[6], features[7:]
        torch.mul(slow[piece], numbers[4], out=root).add_(numbers[5]).rsqrt_()
        torch.mul(momenta[:, piece], root, out=features[:3]).mul_(early)
        torch.mul(g[piece], root, out=features[3])
        torch.mul(fast[piece], numbers[3], out=features[4]).add_(limits[1]).sqrt_().mul_(root)
        torch.mul(here, numbers[6], out=features[5])
        torch.mm(mixture, features[:3], out=move)
        seen = features[:6].clamp_(-limits[0], limits[0])
        move.addmm_(outside, torch.addmm(bias, inside, seen, out=hidden[:, : len(here)]).relu_())
        here.mul_(1 - told[4]).sub_(move[0])
