"""One-shot handwriting: a residual network trained on episodes of many ways, in which each class is made anew.

Every drawing of a class is changed alike, which makes another class of it; then each is changed on its own, which makes
another drawing. Two drawings of each class must find each other among those of all others.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.checks import Device, real, whole
from metakit.data.augment import Augment, affine, move
from metakit.data.labelled import LabelledData, as_real
from metakit.learners import ProtoNet
from metakit.models import ResNet, Views, Whitened
from metakit.outer import History, fit
from metakit.outer.muon import Muon
from metakit.tasks.episodes import Augment as Change
from metakit.tasks.episodes import Episodes
from metakit.threads import autocast_for

# What makes another class of a class, and another drawing of a drawing:
WARP = Augment(rotate=25, scale=0.35, shear=0.5, shift=0, elastic=2.5, pen=0)
AUGMENT = Augment(rotate=15, scale=0.25, shear=0.3, shift=2, elastic=1.0, pen=0.4)
WAYS, LR, SMOOTHING = 80, 1e-2, 0.05
# Share of the minutes that is kept for the whitening, and the classes whose drawings it is estimated from, at most.
RESERVED, MOST = 0.075, 400
# How embedded drawings are compared once the embedding is trained.
HEAD: dict[str, Any] = {"distance": "cosine", "centred": True, "refine": 3, "protocol": "inductive"}


@dataclasses.dataclass(frozen=True)
class NewClasses:
    """Classes that were never drawn: each one warped, and a share of them then put together from two.

    Like the two parts of many a real character, one stands beside the other or above it, both narrower for that.

    Arguments:
        share: of the classes that are put together.
        apart: pixels of a part from the middle.
        narrower: how much narrower, or lower, a part is.
    """

    share: float = 0.75
    apart: float = 6.0
    narrower: float = 0.45

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``[classes, drawings, H, W]`` to the same."""
        x, count = WARP(x, generator), round(self.share * len(x))
        place = x.device if generator is None else generator.device
        first = torch.randperm(len(x), generator=generator, device=place)[:count]
        second = (first + torch.randint(1, len(x), (count,), generator=generator, device=place)) % len(x)
        angle = 2 * math.pi * torch.rand(count, generator=generator, device=place).to(x)
        to = torch.stack([angle.cos(), angle.sin()], 1)
        straight = torch.zeros_like(angle)
        matrix = affine(straight, 1 - self.narrower * to.abs(), straight)
        parts = move(x[first], matrix, -self.apart * to), move(x[second], matrix, self.apart * to)
        return x.index_copy(0, first, torch.maximum(*parts))


def both_ways(scores: Tensor, labels: Tensor) -> Tensor:
    """Of two drawings of each class, each must find the other: ``[T, N, N]``, labels ``0 .. N - 1``, to ``[T]``."""
    ways = (scores.mT, scores)  # the classes of a query, and the queries of a class, along dimension 1
    one, other = (F.cross_entropy(way, labels, reduction="none", label_smoothing=SMOOTHING).mean(1) for way in ways)
    return (one + other) / 2


def train(
    data: LabelledData,
    *,
    minutes: float = 10.0,
    seed: int = 0,
    device: Device = None,
    checkpoint: str | Path | None = None,
    restyle: Change | None = NewClasses(),
    progress: bool = True,
) -> tuple[ProtoNet, History]:
    """A learner trained on episodes of many ways, ready for use, and its run.

    Arguments:
        data: classes of drawings ``[1, 28, 28]``, at least 40, each with two drawings or more; ink 1 and paper 0.
        minutes: of training, whitening and all.
        seed: of the weights, the tasks and the classes that the whitening is estimated from.
        device: where to train; on a GPU the data go there once.
        checkpoint: file to keep the run in, and to go on from if it is there.
        restyle: what makes new classes of old ones; ``None`` for none.
        progress: show a bar.

    Raises:
        ValueError: if the minutes are not above 0, or the classes or their drawings too few.

    Example:
        >>> data = mk.tasks.omniglot(split="small1", rotations=True)  # doctest: +SKIP
        >>> learner, history = mk.recipes.handwriting.train(data, minutes=10, device="cuda")  # doctest: +SKIP
    """
    minutes, seed = real("minutes", minutes, above=0.0), whole("seed", seed, least=0)
    torch.manual_seed(seed)
    embedding, rows = ResNet(frame=True), data.rows
    y = torch.arange(len(data), device=data.device).repeat_interleave(data.counts)
    both = LabelledData(torch.cat([rows, rows.flip(-1)]), torch.cat([y, y + len(data)]))  # mirrored: other classes
    history = fit(
        ProtoNet(embedding, distance="cosine", loss=both_ways),
        Episodes(both, WAYS, 1, 1, restyle=restyle, augment=AUGMENT),
        minutes=(1 - RESERVED) * minutes,
        meta_batch=1,
        optimizer=Muon,
        lr=LR,
        schedule="OneCycleLR",
        autocast=autocast_for(torch.device(device or "cpu")),
        seed=seed,
        device=device,
        checkpoint=checkpoint,
        resume=checkpoint is not None and Path(checkpoint).exists(),
        progress=progress,
    )
    return ProtoNet(whitened(embedding, data, seed), **HEAD), history


def whitened(embedding: ResNet, data: LabelledData, seed: int) -> Whitened:
    """The trained embedding, averaged over views and whitened by the drawings of at most so many training classes."""
    some = data.classes(torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:MOST])
    x = as_real(some.rows.to(next(embedding.parameters()).device))
    y = torch.arange(len(some)).repeat_interleave(some.counts.cpu())
    better = Whitened(Views(embedding, rounds=2), embedding.features)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=autocast_for(x.device) is not None):
        return better.estimate(x, y)
