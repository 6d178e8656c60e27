"""Invented handwriting: alphabets without end, made on the device from a seed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from metakit.checks import Device, as_device, whole
from metakit.data._strokes import SEGMENTS, STROKES, Characters, Dice, characters, rasterise, trace
from metakit.data.labelled import LabelledData

_SIDE = 28  # pixels are counted on a canvas of this side, whatever the size asked for
_SAMPLES = 11  # points on a segment at that size: about one for every pixel
_BUDGET = (
    700_000  # numbers in a chunk's largest tensor on a CPU, so that it stays in the cache; 40 times that elsewhere
)
_PEN = 1.4  # pixels
_CANDIDATES = 3  # invented characters for each one kept


class Glyphs(LabelledData):
    """Invented alphabets in many hands: a stand-in for real handwriting, as much of it as you ask for.

    An alphabet draws a style: an inventory of strokes, how round they are, in which directions they go, how many make
    a character and how they join. A character is 1 to 4 strokes of the inventory, each hung on an earlier one. A
    drawer has a hand: slant, size, proportions, pen, tremor, care. A drawing is a character in a hand, a little
    different each time. As in :func:`~metakit.tasks.omniglot`, drawing d of an alphabet's characters is by one drawer.

    It is :class:`LabelledData`: ``x`` is uint8 ``[alphabets characters, drawers, 1, size, size]``, read as float32 in
    [0, 1], ink 1 and paper 0, with ``alphabet``, ``character``, ``names``. Alphabet i of a seed is the same however
    many are asked for; on another kind of device it is another one.

    Arguments:
        alphabets: number of alphabets.
        characters: characters in each, one class per character.
        drawers: drawings of each character, each by another drawer.
        size: height and width in pixels, at least 8.
        seed: which alphabets; the same seed on the same device gives the same bits.
        device: where they are made and stay; by default the CPU.
        progress: show a bar, one step an alphabet.

    Raises:
        TypeError: if a count or the seed is not a whole number.
        ValueError: if a count is below 1, the size below 8, the seed below 0, or the device unknown.

    Example:
        >>> data = Glyphs(alphabets=2, characters=5, drawers=4, seed=1)
        >>> data, data.names[5]
        (Glyphs(10 classes, 4 rows each, row [1, 28, 28] uint8, 2 alphabets), 'invented001/character01')

    Source: strokes hung on strokes follow B. Lake, R. Salakhutdinov, J. Tenenbaum, Human-level concept learning
    through probabilistic program induction, 2015, figure 3; nothing here is learned from drawings, but ranges were
    set by eye and by the ink, size and overlap of the drawings of Omniglot's part ``small1``.
    """

    def __init__(
        self,
        alphabets: int = 50,
        characters: int = 20,
        drawers: int = 20,
        size: int = 28,
        *,
        seed: int = 0,
        device: Device = None,
        progress: bool = False,
    ) -> None:
        alphabets, characters = whole("alphabets", alphabets), whole("characters", characters)
        drawers, size, seed = whole("drawers", drawers), whole("size", size, least=8), whole("seed", seed, least=0)
        place = as_device(device) or torch.device("cpu")
        x = torch.empty(alphabets, characters, drawers, 1, size, size, dtype=torch.uint8, device=place)
        for number in tqdm(range(alphabets), desc="alphabets", disable=not progress):
            # Randomness of its own, so that an alphabet does not depend on the others.
            own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            _write(x[number], Dice(torch.Generator(place).manual_seed(own)))
        which = torch.arange(alphabets * characters, device=place)
        titles = tuple(f"invented{number:03d}" for number in range(alphabets))
        super().__init__(
            x.flatten(0, 1),
            alphabet=which // characters,
            character=which % characters + 1,
            names=tuple(f"{title}/character{c + 1:02d}" for title in titles for c in range(characters)),
            alphabets=titles,
        )

    def __repr__(self) -> str:
        return super().__repr__().replace("LabelledData", "Glyphs")


@dataclasses.dataclass(frozen=True)
class _Hand:
    """How N drawings are written; pixels are of 28."""

    warp: Tensor  # [N, 2, 2], slant and proportions
    waves: Tensor  # [N, 2, 3], three smooth waves that bend the sheet: their frequencies,
    phase: Tensor  # [N, 1, 3]
    sway: Tensor  # [N, 3, 2], and how far they move a point
    scale: Tensor  # [N]
    shift: Tensor  # [N, 2], pixels
    pen: Tensor  # [N], pixels
    rounding: Tensor  # [N], which share of a segment a corner takes
    tremor: Tensor  # [N, 2], radians: size and phase


def _write(x: Tensor, dice: Dice) -> None:
    """Fill ``x [characters, drawers, 1, size, size]`` with the drawings of one alphabet."""
    count, drawers, _, size, _ = x.shape
    plan = _distinct(characters(_CANDIDATES * count, dice), count)
    habits = dice.normal(1, drawers, 8).expand(count, -1, -1).flatten(0, 1)
    care = (0.3 * habits[:, :1] + 0.3 * dice.normal(count * drawers, 1)).exp()
    written = _rendition(plan.map(lambda field: field.repeat_interleave(drawers, 0)), habits, care, dice)
    hand = _hand(habits, care, dice)
    samples = math.ceil(_SAMPLES * max(1.0, size / _SIDE))
    budget = _BUDGET if x.device.type == "cpu" else 40 * _BUDGET
    chunk = max(1, budget // (STROKES * SEGMENTS * samples * size))
    drawings = x.view(-1, size, size)
    for start in range(0, len(drawings), chunk):
        rows = slice(start, start + chunk)
        drawings[rows] = _draw(
            Characters(**{name: field[rows] for name, field in vars(written).items()}),
            _Hand(**{name: field[rows] for name, field in vars(hand).items()}),
            samples,
            size,
        )


def _distinct(plan: Characters, count: int) -> Characters:
    """The best of many candidates: unlike every earlier one, not written over itself, and not too small."""
    zero, one = torch.zeros_like(plan.height), torch.ones_like(plan.height)
    points, steps = trace(plan, 6, 0.1 * one, torch.stack([zero, zero], 1))
    points, steps, _ = _fit(points, steps, plan, one)
    laid = rasterise(points, steps, _PEN * one, _SIDE)
    seen = laid.clamp(max=1)
    crowded = 1 - seen.sum((1, 2)) / laid.sum((1, 2))
    blurred = F.avg_pool2d(seen[:, None], 5, 2, 2).flatten(1)
    blurred = blurred / blurred.norm(dim=1, keepdim=True)
    alike = (blurred @ blurred.T).tril(-1).amax(1)
    fault = 4 * (alike - 0.88).relu() + 4 * (crowded - 0.12).relu() + 25 * (0.04 - seen.mean((1, 2))).relu()
    return plan.map(lambda field: field[fault.argsort(stable=True)[:count]])


def _rendition(plan: Characters, habits: Tensor, care: Tensor, dice: Dice) -> Characters:
    """The characters ``[N]`` as written this time: strokes a little longer, rounder, turned, misplaced."""
    n, wide = len(care), care[..., None]
    stretch = 0.1 * dice.normal(n, STROKES, SEGMENTS) + 0.1 * dice.normal(n, STROKES, 1)
    overshoot = 0.05 * habits[:, 1, None, None] * (plan.lengths > 0)
    overshoot[..., :-1] = 0
    # Headings stray, one segment from the next; bends alone would let errors add up along a stroke.
    stray = 0.1 * wide * dice.normal(n, STROKES, SEGMENTS)
    stray = stray.diff(dim=-1, prepend=torch.zeros_like(stray[..., :1]))
    return dataclasses.replace(
        plan,
        lengths=plan.lengths * (wide * stretch).exp() + overshoot,
        bends=plan.bends * (1 + 0.1 * wide * dice.normal(n, STROKES, 1)) + stray,
        roundness=(plan.roundness + 0.15 * dice.normal(n, STROKES)).clamp(0, 1),
        heading=plan.heading + 0.05 * care * dice.normal(n, STROKES) + 0.03 * habits[:, 2, None],
        at=(plan.at + 0.05 * care * dice.normal(n, STROKES)).clamp(0, 1),
        by=(plan.by + 0.03 * care * dice.normal(n, STROKES)).clamp(0, 1),
        gap=plan.gap + 0.04 * wide * dice.normal(n, STROKES, 2) * (plan.lengths[..., :1] > 0),
    )


def _hand(habits: Tensor, care: Tensor, dice: Dice) -> _Hand:
    """The hands of N drawings: the habits ``[N, 8]`` of their drawers, and what differs each time."""
    n, z = len(habits), dice.normal(len(habits), 4)
    slant = 0.1 * habits[:, 3] + 0.04 * z[:, 0]
    aspect = (0.05 * habits[:, 4] + 0.03 * z[:, 1]).exp()
    return _Hand(
        warp=torch.stack([aspect, slant, 0.04 * z[:, 2], 1 / aspect], 1).view(n, 2, 2),
        waves=2.5 * dice.normal(n, 2, 3),
        phase=dice.uniform(0, 2 * math.pi, n, 1, 3),
        sway=0.04 * care[..., None] * dice.normal(n, 3, 2),
        scale=(0.09 * habits[:, 5] + 0.05 * z[:, 3]).exp(),
        shift=1.4 * dice.normal(n, 2),
        pen=_PEN * (0.06 * habits[:, 6]).exp(),
        rounding=(0.3 * (0.5 * habits[:, 7]).exp()).clamp(max=1),
        tremor=torch.cat([0.1 * care, dice.uniform(0, 2 * math.pi, n, 1)], 1),
    )


def _draw(plan: Characters, hand: _Hand, samples: int, size: int) -> Tensor:
    """The drawings, uint8 ``[N, size, size]``."""
    points, steps = trace(plan, samples, hand.rounding, hand.tremor)
    points, steps = points @ hand.warp.mT, steps @ hand.warp.mT
    phase = points @ hand.waves + hand.phase
    points, steps = points + phase.sin() @ hand.sway, steps + (phase.cos() * (steps @ hand.waves)) @ hand.sway
    points, steps, half = _fit(points, steps, plan, hand.scale)
    room = (_SIDE / 2 - 1 - half).relu()
    # Drawings of Omniglot sit a little above and left of the middle.
    points = points + (hand.shift.clamp(-room, room) - 0.4)[:, None]
    unit = size / _SIDE
    ink = rasterise(points * unit, steps * unit, hand.pen * unit, size)
    return ink.clamp_(max=1).mul_(255).round_().to(torch.uint8)


def _fit(points: Tensor, steps: Tensor, plan: Characters, scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points and steps in pixels of 28, centred, large ones shrunk to fit; half of width and height ``[N, 2]``."""
    stretch = torch.stack([plan.stretch.sqrt(), plan.stretch.rsqrt()], -1)
    low, high = points.amin(1) * stretch, points.amax(1) * stretch
    side = (high - low).amax(1).clamp(min=0.2)
    zoom = (plan.height * scale * side**-0.55).minimum(23 / side)[:, None]
    centre = (low + high) / 2 * zoom
    factor = (stretch * zoom)[:, None]
    return points * factor + (_SIDE / 2 - centre)[:, None], steps * factor, (high - low) / 2 * zoom
