"""Omniglot, N-way K-shot: accuracy on unseen characters after minutes of training, transductive and inductive.

    python benchmarks/omniglot.py --learner protonet --ways 5 --shots 1 --minutes 20 --seed 0 [--device cuda] [--quick]

Each call trains one learner in one setting from one seed, and adds its figures to the results. Reads the official
archives from the folder that METAKIT_DATA names, or downloads them. The classes are those of Vinyals et al. 2016, four
rotations each: 1,028 characters to train on, 423 others to test on.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import measure
import torch

import metakit as mk

SETTINGS = ((5, 1), (5, 5), (20, 1), (20, 5))
# Accuracy in percent, by setting. Snell, Swersky and Zemel 2017, table 1 (trained 60-way); Finn, Abbeel and Levine
# 2017, table 1 (60,000 outer steps); Antoniou, Edwards and Storkey 2019, table 1.
PUBLISHED = {
    "ProtoNet": ("98.8", "99.7", "96.0", "98.9"),
    "MAML (transductive)": ("98.7 +- 0.4", "99.9 +- 0.1", "95.8 +- 0.3", "98.9 +- 0.2"),
    "MAML++": ("99.47", "99.93", "97.65", "99.33"),
}
EPISODES = 1000


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train: ways (those of the test when 0), queries, tasks T, outer rate; and inner steps in testing."""

    ways: int
    queries: int
    meta_batch: int
    lr: float
    test_steps: int | None = None


RECIPES = {"protonet": Recipe(30, 5, 1, 2e-3), "maml": Recipe(0, 5, 8, 1e-3, test_steps=3)}


def learner(name: str, ways: int) -> torch.nn.Module:
    """A new learner: ProtoNet, or second-order MAML with one inner step at 0.4 (20-way: 0.1)."""
    if name == "protonet":
        return mk.ProtoNet(mk.models.ConvNet(width=64))
    return mk.MAML(mk.models.ConvNet(width=64, outputs=ways), rule=mk.SGD(0.4 if ways == 5 else 0.1), steps=1, order=2)


def train(options: argparse.Namespace, minutes: float) -> tuple[torch.nn.Module, mk.History]:
    """Meta-train until the time is spent, at a rate that rises and falls (one cycle)."""
    torch.manual_seed(options.seed)
    recipe, made = RECIPES[options.learner], learner(options.learner, options.ways)
    data = mk.tasks.omniglot(split="train", rotations=True)
    tasks = mk.tasks.Episodes(data, recipe.ways or options.ways, options.shots, recipe.queries)
    run = {"meta_batch": recipe.meta_batch, "lr": recipe.lr, "schedule": "OneCycleLR", "seed": options.seed}
    return made, mk.fit(made, tasks, minutes=minutes, device=options.device, **run)


def test(options: argparse.Namespace, trained: torch.nn.Module, episodes: int) -> dict[str, tuple[float, float]]:
    """Accuracy on classes never trained on and half its 95% interval, in percent, under either protocol."""
    unseen = mk.tasks.omniglot(split="test", rotations=True)
    mk.tasks.check_disjoint(mk.tasks.omniglot(split="train"), unseen)
    tasks = mk.tasks.Episodes(unseen, options.ways, options.shots, 15)
    steps, figures = RECIPES[options.learner].test_steps, {}
    trained.eval()
    for protocol in mk.learners.PROTOCOLS:
        result = mk.evaluate(trained, tasks, n_tasks=episodes, steps=steps, protocol=protocol, seed=1)
        low, high = result.interval()
        figures[protocol] = (100 * float(result.mean()[-1]), 50 * float(high[-1] - low[-1]))
    return figures


def shown(entries: list[dict[str, Any]]) -> str:
    """The published figures, and below them every run."""
    head = ("learner", "protocol", "seed", "minutes", *(f"{ways}-way {shots}-shot" for ways, shots in SETTINGS))
    body: list[Any] = [(f"{name}, published", "", "", "", *row) for name, row in PUBLISHED.items()]
    for e in entries:
        for protocol, (mean, half) in e["accuracy"].items():
            cells = [f"{mean:.2f} +- {half:.2f}" if (e["ways"], e["shots"]) == setting else "" for setting in SETTINGS]
            body.append((e["learner"], protocol, e["seed"], f"{e['minutes']:.1f}", *cells))
    return measure.table(head, body)


def main() -> None:
    """Train, test, and add to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learner", choices=list(RECIPES), default="protonet")
    parser.add_argument("--ways", type=int, choices=(5, 20), default=5)
    parser.add_argument("--shots", type=int, choices=(1, 5), default=1)
    parser.add_argument("--minutes", type=float, default=20.0, help="of meta-training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="some seconds of training, 50 episodes: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "omniglot.json")
    options = parser.parse_args()
    minutes, episodes = (0.1, 50) if options.quick else (options.minutes, EPISODES)

    trained, history = train(options, minutes)
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device=place)
    entry = {key: getattr(options, key) for key in ("learner", "ways", "shots", "seed")}
    entry |= {"recipe": dataclasses.asdict(RECIPES[options.learner]), "outer_steps": history.steps}
    entry |= {"minutes": history.seconds / 60, "episodes": episodes, "machine": facts}
    entry["accuracy"] = test(options, trained, episodes)
    entries = measure.renewed(options.output, entry, ("learner", "ways", "shots", "seed"))
    text = f"Accuracy in percent with its 95% interval over episodes of 15 queries a class.\n\n{shown(entries)}"
    measure.write(options.output, "Omniglot: unseen characters", facts, entries, text)


if __name__ == "__main__":
    main()
