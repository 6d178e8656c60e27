"""What the one-shot benchmarks share: one recipe to train with, one way to judge."""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import measure
import torch
import torch.nn.functional as F

import metakit as mk
from metakit.tasks.augment import affine, move

# One recipe for every set of alphabets.
WIDTH, BLOCKS, ROWS, LR, SMOOTHING = 64, 3, 64, 4e-3, 0.1
AUGMENT = mk.tasks.Augment(rotate=10, scale=0.15, shear=0.2, shift=1.5, elastic=0.7, pen=0.3)
# Episodes to judge on, each with one query a class.
EPISODES = 1000


class CosineClassifier(torch.nn.Module):
    """Tell all training classes apart by the direction of their embedding: ``score_n(x) = s cos(f(x), w_n)``.

    Where classes are few, this teaches an embedding more than episodes do; a class of a new task is then the mean of
    its embedded support rows, as in a prototypical network. Source: Gidaris and Komodakis 2018, section 3.2.
    """

    optimizer, lr = torch.optim.AdamW, LR

    def __init__(self, embedding: mk.models.ConvNet, classes: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.directions = torch.nn.Parameter(0.05 * torch.randn(classes, embedding.features))
        self.scale = torch.nn.Parameter(torch.tensor(15.0))

    def forward(self, batch: mk.TaskBatch) -> torch.Tensor:
        x, y = torch.cat([batch.support_x, batch.query_x], 1), torch.cat([batch.support_y, batch.query_y], 1)
        scores = self.scale * F.normalize(self.embedding(x), dim=-1) @ F.normalize(self.directions, dim=-1).T
        each = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="none", label_smoothing=SMOOTHING)
        return each.view(y.shape).mean(1)


@dataclasses.dataclass(frozen=True)
class Augmented:
    """Batches of another distribution, each picture changed a little."""

    tasks: Any

    def sample(self, n_tasks: int, *, generator: torch.Generator, device: Any = None) -> mk.TaskBatch:
        """As the distribution's own."""
        batch = self.tasks.sample(n_tasks, generator=generator, device=device)
        sides = (AUGMENT(x.flatten(0, 1), generator).view_as(x) for x in (batch.support_x, batch.query_x))
        return dataclasses.replace(batch, **dict(zip(("support_x", "query_x"), sides, strict=True)))


def restyled(data: mk.tasks.LabelledData, copies: int, seed: int = 0) -> mk.tasks.LabelledData:
    """The data, and each alphabet again ``copies`` times: slanted, stretched or mirrored, all its classes alike."""
    generator, rows = torch.Generator().manual_seed(seed), data.x.shape[1]
    alphabets = int(data.alphabet.max()) + 1
    x, alphabet = [data.x], [data.alphabet]
    for copy in range(copies):
        turn, shear, wide, tall = (2 * torch.rand(alphabets, 4, generator=generator) - 1).unbind(1)
        matrix = affine(0.35 * turn, torch.stack([0.35 * wide, 0.35 * tall], 1).exp(), 0.6 * shear)
        matrix[:, :, 0] *= torch.where(torch.rand(alphabets, 1, generator=generator) < 0.5, -1.0, 1.0)
        each = matrix[data.alphabet].repeat_interleave(rows, 0)
        moved = move(data.rows.float() / 255, each, torch.zeros(len(each), 2))
        x.append((255 * moved.clamp(0, 1)).byte().view_as(data.x))
        alphabet.append(data.alphabet + alphabets * (copy + 1))
    return mk.tasks.LabelledData(torch.cat(x), alphabet=torch.cat(alphabet))


def train(data: mk.tasks.LabelledData, options: argparse.Namespace) -> tuple[mk.ProtoNet, mk.History]:
    """Train an embedding for so many minutes; what comes back compares by prototypes."""
    torch.manual_seed(options.seed)
    learner = CosineClassifier(mk.models.ConvNet(width=WIDTH, blocks=BLOCKS, frame=True), len(data))
    history = mk.fit(
        learner,
        Augmented(mk.tasks.Pooled(data, rows=ROWS)),
        minutes=options.minutes,
        meta_batch=1,
        schedule="OneCycleLR",
        seed=options.seed,
        device=options.device,
        checkpoint=options.checkpoint,
        resume=options.checkpoint is not None and options.checkpoint.exists(),
    )
    return mk.ProtoNet(learner.embedding, distance="cosine", protocol="inductive"), history


def judge(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Error of the saved learner, in percent, on characters of the 20 alphabets of Omniglot's evaluation part."""
    learner, unseen = mk.load(path), mk.tasks.omniglot(split="evaluation")
    pixels = mk.NearestNeighbour()
    problems = {
        "20-way 1-shot within an alphabet, one drawer's against another's": {"ways": 20, "drawers": "different"},
        "20-way 1-shot within an alphabet": {"ways": 20},
        "5-way 1-shot across alphabets": {"ways": 5, "within": None},
    }
    figures = {}
    for name, problem in problems.items():
        tasks = mk.tasks.Episodes(unseen, shots=1, queries=1, **{"within": "alphabet"} | problem)
        figures[name] = {"pixels, nearest neighbour": _error(pixels, tasks, "inductive")}
        figures[name] |= {protocol: _error(learner, tasks, protocol) for protocol in ("inductive", "transductive")}
    return figures


def accuracy(
    learner: Any, tasks: mk.tasks.Episodes, protocol: str, *, episodes: int = EPISODES, steps: int | None = None
) -> tuple[float, float]:
    """Mean accuracy over episodes and half its 95% interval, in percent."""
    result = mk.evaluate(learner, tasks, n_tasks=episodes, steps=steps, protocol=protocol, seed=1)
    low, high = result.interval()
    return 100 * float(result.mean()[-1]), 50 * float(high[-1] - low[-1])


def _error(learner: Any, tasks: mk.tasks.Episodes, protocol: str) -> tuple[float, float]:
    right, half = accuracy(learner, tasks, protocol)
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
    learner, history = train(data, options)
    mk.save(learner.cpu(), options.save)
    figures = judge(options.save)
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device=place)
    entries = measure.renewed(
        measure.RESULTS / f"{name}.json",
        {
            "entry": entry,
            "seed": options.seed,
            "minutes": history.seconds / 60,
            "outer_steps": history.steps,
            "loss": sum(history.loss[-100:]) / len(history.loss[-100:]),
            "saved_mb": options.save.stat().st_size / 1e6,
            "error": figures,
            "machine": facts,
        },
        ("entry", "seed"),
    )
    head = ("trained on", "seed", "minutes", "outer steps", "problem", "inductive %", "transductive %", "pixels %")
    body = [
        (e["entry"], e["seed"], f"{e['minutes']:.1f}", e["outer_steps"], problem, *map(_shown, _in_order(errors)))
        for e in entries
        for problem, errors in e["error"].items()
    ]
    text = f"{EPISODES} episodes of one query a class; error with its 95% interval over episodes. {note}"
    measure.write(measure.RESULTS / f"{name}.json", title, facts, entries, f"{text}\n\n{measure.table(head, body)}")


def _in_order(errors: dict[str, Any]) -> list[Any]:
    return [errors["inductive"], errors["transductive"], errors["pixels, nearest neighbour"]]


def _shown(error: tuple[float, float]) -> str:
    return f"{error[0]:.1f} +- {error[1]:.1f}"
