"""Invented scripts as pen strokes: the style of an alphabet, its characters, its drawers, and the ink they leave.

A stroke is four segments, each with a length and a bend; its heading is the running sum of the bends. A character is
up to four strokes, each hung on an earlier one. Everything is a tensor over characters, or over drawings.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

STROKES, SEGMENTS = 4, 4
_QUARTER = math.pi / 2
_INVENTORY, _RING = 8, 6
_TREMBLE = 1.3  # waves of tremor in a segment
# A kind of stroke: how common, four lengths (1 is the height of a plain line), four bends in quarter turns.
_KINDS = (
    (1.0, (0.25, 0.25, 0.25, 0.25), (0.0, 0.0, 0.0, 0.0)),  # line
    (0.6, (0.28, 0.28, 0.28, 0.28), (0.2, 0.4, 0.4, 0.4)),  # bow
    (0.5, (0.40, 0.35, 0.35, 0.40), (0.1, 0.9, 0.9, 0.1)),  # cup
    (0.4, (0.40, 0.45, 0.45, 0.40), (0.9, 0.6, -1.5, -0.8)),  # wave
    (0.3, (0.45, 0.35, 0.35, 0.45), (0.0, 1.5, 0.0, -1.5)),  # zigzag
    (0.5, (0.35, 0.40, 0.25, 0.20), (0.0, 0.1, 1.0, 0.6)),  # hook
    (0.6, (0.45, 0.40, 0.45, 0.40), (1.0, 1.0, 1.0, 1.0)),  # ring
    (0.6, (0.35, 0.35, 0.30, 0.30), (0.0, 0.0, 1.1, 0.0)),  # knee
    (0.3, (0.65, 0.40, 0.40, 0.45), (0.1, 1.3, 1.2, 1.2)),  # tail with an eye
    (0.3, (0.50, 0.50, 0.50, 0.50), (1.3, 1.3, -2.3, 1.7)),  # two bellies
    (0.3, (0.45, 0.50, 0.50, 0.45), (0.3, 1.7, -1.7, 1.7)),  # ripple
    (-0.4, (0.03, 0.03, 0.03, 0.03), (0.0, 0.0, 0.0, 0.0)),  # dot
)
# A way to hang a stroke on an earlier one: how common; where on that one; which place of the new one; the gap between
# (across the stroke for a copy, sideways for a mirror image, anywhere else); 1 for a copy, -1 for a mirror image.
_JOINS = (
    (0.6, (1.0, 1.0), (0.0, 0.0), (0.0, 0.0), 0),  # goes on
    (0.8, (0.2, 0.8), (0.0, 0.0), (0.0, 0.0), 0),  # branches off
    (0.5, (0.3, 0.7), (0.3, 0.7), (0.0, 0.0), 0),  # crosses
    (0.5, (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 0),  # same start
    (0.2, (1.0, 1.0), (1.0, 1.0), (0.0, 0.0), 0),  # same end
    (0.3, (0.0, 0.0), (0.0, 0.0), (0.2, 0.5), 1),  # runs beside
    (0.2, (0.0, 0.0), (0.0, 0.0), (0.0, 0.7), -1),  # mirrors
    (0.5, (0.0, 1.0), (0.5, 0.5), (0.3, 0.6), 0),  # stands apart
)


class Dice:
    """Random tensors on the generator's device."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator, self.device = generator, generator.device

    def normal(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in ``[low, high)``."""
        return torch.rand(shape, generator=self.generator, device=self.device) * (high - low) + low

    def choose(self, logits: Tensor, *shape: int) -> Tensor:
        """Indices into ``logits [k]``, drawn by their softmax."""
        drawn = torch.multinomial(logits.softmax(0), math.prod(shape), replacement=True, generator=self.generator)
        return drawn.view(shape)


@dataclasses.dataclass(frozen=True)
class Characters:
    """C characters, or N drawings of them: stroke by stroke ``[C, STROKES, ...]``, in units of a line's height."""

    lengths: Tensor  # [C, STROKES, SEGMENTS]; 0 where there is no such stroke
    bends: Tensor  # [C, STROKES, SEGMENTS], radians
    roundness: Tensor  # [C, STROKES]; 0: bends are corners, 1: bends are arcs
    heading: Tensor  # [C, STROKES], radians, y pointing down
    onto: Tensor  # [C, STROKES], the earlier stroke that this one hangs on
    at: Tensor  # [C, STROKES], where on that one: 0 its start, 1 its end
    by: Tensor  # [C, STROKES], by which place of its own
    gap: Tensor  # [C, STROKES, 2]
    tied: Tensor  # [C, STROKES], whether its end is drawn to a point too: 1 on that stroke, -1 to its own start
    to: Tensor  # [C, STROKES], where on that stroke
    stretch: Tensor  # [C], width against height of the alphabet
    height: Tensor  # [C], pixels of 28 for a character of side 1

    def map(self, function: Callable[[Tensor], Tensor]) -> Characters:
        """The same with every field changed alike."""
        return Characters(**{name: function(value) for name, value in vars(self).items()})


def characters(count: int, dice: Dice) -> Characters:
    """The characters of a new alphabet: a style is drawn, an inventory of strokes in it, then how to combine them."""
    place = dice.device
    commonness, lengths, bends = (torch.tensor(column, device=place) for column in zip(*_KINDS, strict=True))
    # The style: which strokes, how round, in which directions.
    kind = dice.choose(commonness + 1.2 * dice.normal(len(_KINDS)), _INVENTORY)
    roundness = (2.5 * dice.normal(1)).sigmoid()
    grid = _QUARTER / dice.choose(torch.tensor([1.3, 1.0, 0.2], device=place), 1).add(1)  # 90, 45 or 30 degrees
    tilt, loose = 0.1 * dice.normal(1), dice.uniform(0.02, 0.2, 1)
    # The inventory.
    size = (0.25 * dice.normal(_INVENTORY, 1)).exp()
    part_lengths = lengths[kind] * size * (0.2 * dice.normal(_INVENTORY, SEGMENTS)).exp()
    part_bends = _QUARTER * bends[kind] * (1 + 0.2 * dice.normal(_INVENTORY, SEGMENTS))
    part_bends = part_bends + 0.08 * dice.normal(_INVENTORY, SEGMENTS)
    hand = dice.choose(dice.normal(2), _INVENTORY).mul(2).sub(1)  # bends to the left or to the right
    step = dice.choose(1.5 * dice.normal(8), _INVENTORY)
    heading = step * grid + tilt + loose * dice.normal(_INVENTORY)
    part_round = (roundness + 0.25 * dice.normal(_INVENTORY)).clamp(0, 1)
    closed = -(kind == _RING).to(heading)
    return _combine(count, dice, (part_lengths, part_bends * hand[:, None], part_round, heading, closed), grid)


def _combine(count: int, dice: Dice, parts: tuple[Tensor, ...], grid: Tensor) -> Characters:
    """Characters from an inventory: which parts, turned how, hung on which."""
    place, shape = dice.device, (count, STROKES)
    columns = [torch.tensor(column, device=place) for column in zip(*_JOINS, strict=True)]
    strokes = dice.choose(torch.tensor([-0.4, 1.0, 1.0, 0.6], device=place) + 0.7 * dice.normal(4), count) + 1
    part = dice.choose(0.7 * dice.normal(_INVENTORY), *shape)
    join = dice.choose(columns[0] + 0.9 * dice.normal(len(_JOINS)), *shape)
    ends, own, gaps, twin = (column[join] for column in columns[1:])
    turn = torch.randint(-1, 2, shape, generator=dice.generator, device=place) * (dice.uniform(0, 1, *shape) < 0.4)
    scale = (0.25 * dice.normal(*shape)).exp() * torch.linspace(1.1, 0.8, STROKES, device=place)
    lengths, bends, roundness, heading, tied = (value[part] for value in parts)
    lengths, heading = lengths * scale[..., None], heading + turn * grid
    for s in range(1, STROKES):  # a copy or mirror image takes after the stroke before it
        same = twin[:, s] != 0
        for value in (lengths, bends, roundness, heading, tied):
            value[:, s] = torch.where(same.view(-1, *[1] * (value.dim() - 2)), value[:, s - 1], value[:, s])
        mirrored = twin[:, s] < 0
        bends[:, s] = torch.where(mirrored[:, None], -bends[:, s], bends[:, s])
        heading[:, s] = torch.where(mirrored, math.pi - heading[:, s], heading[:, s])
    side = torch.where(twin > 0, heading + _QUARTER, torch.where(twin < 0, 0.0, dice.uniform(0, 2 * math.pi, *shape)))
    between = torch.lerp(gaps[..., 0], gaps[..., 1], dice.uniform(0, 1, *shape))
    before = torch.arange(STROKES, device=place).sub(1).clamp(min=0).expand(shape)
    back = (dice.uniform(0, 1, *shape) < dice.uniform(0, 0.6, 1)) & (twin == 0) & (tied == 0)
    back[:, 0] = False
    first = (dice.uniform(0, 1, *shape) < 0.35) & (twin == 0)
    there = torch.arange(STROKES, device=place) < strokes[:, None]
    return Characters(
        lengths=lengths * there[..., None],
        bends=bends,
        roundness=roundness,
        heading=heading,
        onto=torch.where(first, 0, before),
        at=torch.lerp(ends[..., 0], ends[..., 1], dice.uniform(0, 1, *shape)),
        by=torch.lerp(own[..., 0], own[..., 1], dice.uniform(0, 1, *shape)),
        gap=(between * there)[..., None] * torch.stack([side.cos(), side.sin()], -1),
        tied=torch.where(back, 1.0, tied),
        to=dice.choose(torch.zeros(5, device=place), *shape) / 4,
        stretch=(0.2 * dice.normal(1)).exp().expand(count),
        height=(15.5 * (0.1 * dice.normal(1)).exp()).expand(count),
    )


def trace(plan: Characters, samples: int, rounding: Tensor, tremor: Tensor) -> tuple[Tensor, Tensor]:
    """The pen's path: midpoints ``[N, P, 2]`` of its steps, and the steps, P = STROKES SEGMENTS samples.

    Within a segment the heading turns by ``bend``: the share ``1 - roundness`` of it at once (over the first
    ``rounding [N]`` of the segment), the rest evenly. ``tremor [N, 2]``: its size in radians, its phase.
    """
    n, place = len(plan.lengths), plan.lengths.device
    t = (torch.arange(samples, device=place) + 0.5) / samples
    corner = (t / rounding[:, None]).clamp(max=1)
    share = torch.lerp(corner[:, None], t, plan.roundness[..., None])  # [N, STROKES, samples]
    start = plan.heading[..., None] + plan.bends.cumsum(-1) - plan.bends
    size, phase = tremor.view(n, 2, 1, 1, 1).unbind(1)
    shake = size * (2 * math.pi * _TREMBLE * t + phase + 2 * start[..., None]).sin()
    angle = start[..., None] + plan.bends[..., None] * share[:, :, None] + shake  # [N, STROKES, SEGMENTS, samples]
    step = torch.stack([angle.cos(), angle.sin()], -1) * (plan.lengths / samples)[..., None, None]
    step = step.flatten(2, 3)
    path = step.cumsum(2)
    for s in range(STROKES):
        _hang(s, path, step, plan)
    return (path - step / 2).flatten(1, 2), step.flatten(1, 2)


def _hang(s: int, path: Tensor, step: Tensor, plan: Characters) -> None:
    """Move stroke s to where it hangs, and draw its end to where it is tied, in place."""
    rows, points = torch.arange(len(path), device=path.device), path.shape[2]

    def at(stroke: Tensor | int, fraction: Tensor) -> Tensor:
        return path[rows, stroke, (fraction * (points - 1)).round().long()]

    if s:
        path[:, s] += (at(plan.onto[:, s], plan.at[:, s]) + plan.gap[:, s] - at(s, plan.by[:, s]))[:, None]
    start = path[:, s, 0] - step[:, s, 0]
    goal = torch.where(plan.tied[:, s, None] < 0, start, at(plan.onto[:, s], plan.to[:, s]))
    drift = goal - path[:, s, -1]
    # Tie what ends near; what ends far would be bent out of shape.
    far = drift.norm(dim=1) / (0.4 * plan.lengths[:, s].sum(1) + 1e-6)
    pull = drift * (plan.tied[:, s].abs() * (2 - far).clamp(0, 1) / points)[:, None]
    step[:, s] += pull[:, None]
    path[:, s] += torch.arange(1, points + 1, device=path.device)[:, None] * pull[:, None]


def rasterise(points: Tensor, steps: Tensor, pen: Tensor, size: int) -> Tensor:
    """Ink ``[N, size, size]``, not yet cut at 1, of steps at ``points [N, P, 2]`` (x, y in pixels), pen width ``[N]``.

    ``ink(x, y) = sum_p w_p exp(-((x - x_p)^2 + (y - y_p)^2) / (2 sigma_p^2))``: a step leaves a Gaussian spot that
    holds its length times the pen's width, and spots add up to a soft line. A Gaussian is a product over x and y, so
    the sum is one matrix product.
    """
    length = steps.norm(dim=-1)
    # Wide enough that neighbours run together: a pen, a pixel, or a long step.
    sigma = torch.maximum((0.38 * pen).clamp(min=0.4)[:, None], 0.45 * length)
    unit = 1 / (sigma * math.sqrt(2))
    centres = torch.arange(size, device=points.device)[:, None] + 0.5
    # At most 30: on a CPU the exponential of a large negative number is slow.
    across, down = (
        ((centres - points[..., i][:, None]) * unit[:, None]).square_().clamp_(max=30).neg_().exp_() for i in (0, 1)
    )
    weight = length * pen[:, None] / (2 * math.pi * sigma**2)
    return down.mul_(weight[:, None]) @ across.mT
