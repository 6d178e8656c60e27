"""What the one-shot benchmarks share: one recipe to train with, one way to judge."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import math
import pathlib
import time
from typing import Any

import measure
import torch
import torch.nn.functional as F
import worker

import metakit as mk
from metakit.data.augment import affine, move
from metakit.data.labelled import as_real

# One recipe for every set of alphabets. What makes another class of a class, and another drawing of a drawing:
WARP = mk.tasks.Augment(rotate=25, scale=0.35, shear=0.5, shift=0, elastic=2.5, pen=0)
AUGMENT = mk.tasks.Augment(rotate=15, scale=0.25, shear=0.3, shift=2, elastic=1.0, pen=0.4)
WAYS, LR, SMOOTHING = 80, 1e-2, 0.05
# Share of the minutes that is kept for the whitening, and the classes whose drawings it is estimated from, at most.
RESERVED, MOST = 0.075, 400
# How embedded drawings are compared once the embedding is trained.
HEAD: dict[str, Any] = {"distance": "cosine", "centred": True, "refine": 3, "protocol": "inductive"}
# Episodes to judge on, each with one query a class.
EPISODES = 1000


@dataclasses.dataclass(frozen=True)
class NewClasses:
    """Classes that were never drawn: each one warped, and a share of them then put together from two.

    Like the two parts of many a real character, one stands beside the other or above it, both narrower for that.
    """

    share: float = 0.75
    apart: float = 6.0  # pixels from the middle
    narrower: float = 0.45

    def __call__(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """``[classes, drawings, H, W]`` to the same."""
        x, place, count = WARP(x, generator), generator.device, round(self.share * len(x))
        first = torch.randperm(len(x), generator=generator, device=place)[:count]
        second = (first + torch.randint(1, len(x), (count,), generator=generator, device=place)) % len(x)
        angle = 2 * math.pi * torch.rand(count, generator=generator, device=place).to(x)
        to = torch.stack([angle.cos(), angle.sin()], 1)
        straight = torch.zeros_like(angle)
        matrix = affine(straight, 1 - self.narrower * to.abs(), straight)
        parts = move(x[first], matrix, -self.apart * to), move(x[second], matrix, self.apart * to)
        return x.index_copy(0, first, torch.maximum(*parts))


def both_ways(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of two drawings of each class, each must find the other: ``[T, N, N]``, labels ``0 .. N - 1``, to ``[T]``."""
    ways = (scores.mT, scores)  # the classes of a query, and the queries of a class, along dimension 1
    each = [F.cross_entropy(way, labels, reduction="none", label_smoothing=SMOOTHING).mean(1) for way in ways]
    return sum(each) / 2


def train(
    data: mk.tasks.LabelledData, options: argparse.Namespace, restyle: NewClasses | None = NewClasses()
) -> tuple[mk.ProtoNet, mk.History, float]:
    """A learner trained on episodes of many ways, ready for use; its run; and the minutes taken, whitening and all."""
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    embedding = mk.models.ResNet(frame=True)
    both = mk.tasks.LabelledData(torch.cat([data.x, data.x.flip(-1)]))  # mirrored ones are classes of their own
    history = mk.fit(
        mk.ProtoNet(embedding, distance="cosine", loss=both_ways),
        mk.tasks.Episodes(both, WAYS, 1, 1, restyle=restyle, augment=AUGMENT),
        minutes=(1 - RESERVED) * options.minutes,
        meta_batch=1,
        optimizer=Muon,
        lr=LR,
        schedule="OneCycleLR",
        autocast=torch.bfloat16,
        seed=options.seed,
        device=options.device,
        checkpoint=options.checkpoint,
        resume=options.checkpoint is not None and options.checkpoint.exists(),
    )
    trained = mk.ProtoNet(whitened(embedding, data, options.seed), **HEAD)
    return trained, history, (time.perf_counter() - start) / 60


def whitened(embedding: mk.models.ResNet, data: mk.tasks.LabelledData, seed: int) -> mk.models.Whitened:
    """The trained embedding, averaged over views and whitened by the drawings of at most so many training classes."""
    chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:MOST]
    x = as_real(data.x[chosen].flatten(0, 1).to(next(embedding.parameters()).device))
    y = torch.arange(len(chosen)).repeat_interleave(data.x.shape[1])
    better = mk.models.Whitened(mk.models.Views(embedding, rounds=2), embedding.features)
    with torch.autocast(x.device.type, torch.bfloat16):
        return better.estimate(x, y)


class Muon(torch.optim.Optimizer):
    """Momentum whose every matrix is replaced by the nearest one that turns and mirrors only.

        M <- b M + (1 - b) G,   O = nearest orthogonal matrix of (1 - b) G + b M,   W <- (1 - lr decay) W - lr r O

    A kernel ``[O, C, k, k]`` counts as a matrix ``[O, C k k]``; r = 0.2 sqrt(longer side) gives the step the size that
    Adam's has. Parameters of fewer than two dimensions take Adam's step. ``torch.optim.Muon`` takes matrices alone.

    Source: Jordan et al. 2024, "Muon"; the size of the step and the decay, Liu et al. 2025, section 2.2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        momentum: float = 0.95,
        decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.99),
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step by the gradients at hand."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    (self._turn if p.dim() > 1 else self._adam)(p, group)

    def _turn(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        mean = self.state[p].setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - group["momentum"])
        move = orthogonal(p.grad.lerp(mean, group["momentum"]).flatten(1))
        p.mul_(1 - group["lr"] * group["decay"]).add_(
            move.view_as(p), alpha=-0.2 * group["lr"] * max(move.shape) ** 0.5
        )

    def _adam(self, p: torch.Tensor, group: dict[str, Any]) -> None:
        state, (b1, b2) = self.state[p], group["betas"]
        k = state["steps"] = state.get("steps", 0) + 1
        mean = state.setdefault("mean", torch.zeros_like(p)).lerp_(p.grad, 1 - b1)
        square = state.setdefault("square", torch.zeros_like(p)).lerp_(p.grad.square(), 1 - b2)
        p.addcdiv_(mean / (1 - b1**k), (square / (1 - b2**k)).sqrt() + 1e-8, value=-group["lr"])


def orthogonal(matrix: torch.Tensor, rounds: int = 5) -> torch.Tensor:
    """About ``U V'`` of a matrix ``U S V'``: an odd polynomial, again and again, brings singular values near 1."""
    x = matrix.bfloat16()
    x = x.mT if len(matrix) > matrix.shape[1] else x
    x = x / (x.norm() + 1e-7)
    for _ in range(rounds):
        squares = x @ x.mT
        x = 3.4445 * x + (2.0315 * squares @ squares - 4.7750 * squares) @ x
    return (x.mT if len(matrix) > matrix.shape[1] else x).to(matrix.dtype)


class Known(torch.nn.Module):
    """What an embedding gives for each row of the data, looked up by the row's number."""

    def __init__(self, embedding: torch.nn.Module, rows: torch.Tensor) -> None:
        super().__init__()
        place = next(embedding.parameters()).device
        with torch.no_grad():
            table = torch.cat([embedding(as_real(some.to(place))) for some in rows.split(500)])
        self.table = torch.nn.Parameter(table, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table[x.squeeze(-1).long()]


def known(learner: mk.ProtoNet, data: mk.tasks.LabelledData) -> tuple[mk.ProtoNet, mk.tasks.LabelledData]:
    """The same answers on the same episodes, with every drawing embedded once, however often it is drawn.

    Only for an embedding in which no row depends on another.
    """
    numbers = torch.arange(len(data.rows), dtype=torch.float32).view(len(data), -1, 1)
    lookup = copy.deepcopy(learner)
    lookup.embedding = Known(learner.embedding, data.rows)
    return lookup, mk.tasks.LabelledData(numbers, alphabet=data.alphabet)


def judge(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Error of the saved learner, in percent, on characters of the 20 alphabets of Omniglot's evaluation part."""
    unseen = mk.tasks.omniglot(split="evaluation")
    learner, numbers = known(mk.load(path), unseen)
    pixels = mk.NearestNeighbour()
    problems = {
        "20-way 1-shot within an alphabet, one drawer's against another's": {"ways": 20, "drawers": "different"},
        "20-way 1-shot within an alphabet": {"ways": 20},
        "5-way 1-shot across alphabets": {"ways": 5, "within": None},
    }
    figures = {}
    for name, problem in problems.items():
        contenders = {"pixels, nearest neighbour": (pixels, unseen), "ours": (learner, numbers)}
        options = {"shots": 1, "queries": 1, "within": "alphabet"} | problem
        figures[name] = {
            c: _error(judged, mk.tasks.Episodes(data, **options)) for c, (judged, data) in contenders.items()
        }
    return figures


def accuracy(learner: Any, tasks: mk.tasks.Episodes, protocol: str, *, episodes: int = EPISODES) -> tuple[float, float]:
    """Mean accuracy over episodes and half its 95% interval, in percent."""
    result = mk.evaluate(learner, tasks, n_tasks=episodes, protocol=protocol, seed=1)
    low, high = result.interval()
    return 100 * float(result.mean()[-1]), 50 * float(high[-1] - low[-1])


def _error(learner: Any, tasks: mk.tasks.Episodes) -> tuple[float, float]:
    right, half = accuracy(learner, tasks, "inductive")
    return 100 - right, half


def arguments(about: str) -> argparse.ArgumentParser:
    """The options that both take."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="of training")
    parser.add_argument("--save", type=pathlib.Path, required=True, help="file for the trained learner")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--checkpoint", type=pathlib.Path, help="file to keep the run in, and to go on from if it is there"
    )
    return parser


def report(
    name: str, title: str, entry: str, data: mk.tasks.LabelledData, options: argparse.Namespace, note: str
) -> None:
    """Train, save, judge what was saved, and write or renew its entry in the results."""
    learner, history, minutes = train(data, options)
    mk.save(learner.cpu(), options.save)
    figures = judge(options.save)
    facts = measure.machine(**worker.facts(options.device))
    entries = measure.renewed(
        measure.RESULTS / f"{name}.json",
        {
            "entry": entry,
            "seed": options.seed,
            "minutes": minutes,
            "outer_steps": history.steps,
            "loss": sum(history.loss[-100:]) / len(history.loss[-100:]),
            "saved_mb": options.save.stat().st_size / 1e6,
            "error": figures,
            "machine": facts,
        },
        ("entry", "seed"),
    )
    head = ("trained on", "seed", "minutes", "outer steps", "problem", "error %", "pixels %")
    body = [
        (
            e["entry"],
            e["seed"],
            f"{e['minutes']:.1f}",
            e["outer_steps"],
            problem,
            *map(_shown, (errors["ours"], errors["pixels, nearest neighbour"])),
        )
        for e in entries
        for problem, errors in e["error"].items()
    ]
    text = f"{EPISODES} episodes of one query a class; error with its 95% interval over episodes. {note}"
    measure.write(measure.RESULTS / f"{name}.json", title, facts, entries, f"{text}\n\n{measure.table(head, body)}")


def _shown(error: tuple[float, float]) -> str:
    return f"{error[0]:.1f} +- {error[1]:.1f}"
