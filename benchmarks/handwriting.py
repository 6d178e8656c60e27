"""What the one-shot benchmarks share: the recipe of ``metakit.recipes.handwriting``, and one way to judge."""

from __future__ import annotations

import argparse
import copy
import pathlib
import time
from typing import Any

import measure
import torch
import worker

import metakit as mk
from metakit.data.labelled import as_real
from metakit.recipes import handwriting as recipe

# Episodes to judge on, each with one query a class.
EPISODES = 1000


def trained(
    data: mk.tasks.LabelledData, options: argparse.Namespace, restyle: recipe.NewClasses | None
) -> tuple[mk.ProtoNet, mk.History, float]:
    """A learner trained by the recipe, its run, and the minutes taken, whitening and all."""
    start = time.perf_counter()
    run = {name: getattr(options, name) for name in ("minutes", "seed", "device", "checkpoint")}
    learner, history = recipe.train(data, restyle=restyle, **run)
    return learner, history, (time.perf_counter() - start) / 60


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
    learner, history, minutes = trained(data, options, recipe.NewClasses())
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
