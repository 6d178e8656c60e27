"""Omniglot, N-way K-shot: accuracy on unseen characters after minutes of training, transductive and inductive.

    python benchmarks/omniglot.py --learner classifier --minutes 20 --seed 0 [--device cuda] [--quick]
    python benchmarks/omniglot.py --learner maml --ways 5 --shots 1 --minutes 40

Each call trains one learner from one seed, in one setting, and adds its figures to the results; ``classifier``, the
recipe of ``few_alphabets.py``, knows no setting: it is trained once and tested in all four. Reads the official archives
from the folder that METAKIT_DATA names, or downloads them. The classes are those of Vinyals et al. 2016, four rotations
each: 1,028 characters to train on, 423 others to test on.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from typing import Any

import handwriting
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
    """How to meta-train: ways (those of the test when 0), queries, tasks T, outer rate; and inner steps in testing."""

    ways: int
    queries: int
    meta_batch: int
    lr: float
    test_steps: int | None = None


RECIPES = {"protonet": Recipe(30, 5, 1, 2e-3), "maml": Recipe(0, 5, 8, 1e-3, test_steps=3)}


def learner(name: str, ways: int) -> torch.nn.Module:
    """A new learner: ProtoNet, or second-order MAML with one inner step at 0.4 (20-way: 0.1)."""
    if name == "protonet":
        return mk.ProtoNet(mk.models.ConvNet(width=64, frame=True))
    model = mk.models.ConvNet(width=64, outputs=ways, frame=True)
    return mk.MAML(model, rule=mk.SGD(0.4 if ways == 5 else 0.1), steps=1, order=2)


def train(options: argparse.Namespace) -> tuple[torch.nn.Module, mk.History]:
    """Train until the time is spent, at a rate that rises and falls (one cycle)."""
    data = mk.tasks.omniglot(split="train", rotations=True)
    if options.learner == "classifier":
        return handwriting.train(data, options)
    torch.manual_seed(options.seed)
    recipe, made = RECIPES[options.learner], learner(options.learner, options.ways)
    tasks = mk.tasks.Episodes(data, recipe.ways or options.ways, options.shots, recipe.queries)
    run = {"meta_batch": recipe.meta_batch, "lr": recipe.lr, "schedule": "OneCycleLR", "seed": options.seed}
    return made, mk.fit(made, tasks, minutes=options.minutes, device=options.device, **run)


def test(
    trained: torch.nn.Module, ways: int, shots: int, steps: int | None, episodes: int
) -> dict[str, tuple[float, float]]:
    """Accuracy on classes never trained on and half its 95% interval, in percent, under either protocol."""
    unseen = mk.tasks.omniglot(split="test", rotations=True)
    mk.tasks.check_disjoint(mk.tasks.omniglot(split="train"), unseen)
    tasks = mk.tasks.Episodes(unseen, ways, shots, 15)
    trained.eval()
    return {
        protocol: handwriting.accuracy(trained, tasks, protocol, episodes=episodes, steps=steps)
        for protocol in mk.learners.PROTOCOLS
    }


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
    parser.add_argument("--learner", choices=["classifier", *RECIPES], default="classifier")
    parser.add_argument("--ways", type=int, choices=(5, 20), default=5)
    parser.add_argument("--shots", type=int, choices=(1, 5), default=1)
    parser.add_argument("--minutes", type=float, default=20.0, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpoint", type=pathlib.Path, help="of the classifier: to keep the run in, and to go on")
    parser.add_argument("--quick", action="store_true", help="some seconds of training, 50 episodes: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "omniglot.json")
    options = parser.parse_args()
    episodes = 50 if options.quick else EPISODES
    if options.quick:
        options.minutes = 0.1

    trained, history = train(options)
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device=place)
    recipe = RECIPES.get(options.learner)
    settings = SETTINGS if recipe is None else [(options.ways, options.shots)]
    for ways, shots in settings:
        entry = {"learner": options.learner, "ways": ways, "shots": shots, "seed": options.seed}
        entry |= {"recipe": recipe and dataclasses.asdict(recipe), "outer_steps": history.steps}
        entry |= {"minutes": history.seconds / 60, "episodes": episodes, "machine": facts}
        entry["accuracy"] = test(trained, ways, shots, recipe and recipe.test_steps, episodes)
        entries = measure.renewed(options.output, entry, ("learner", "ways", "shots", "seed"))
        text = f"Accuracy in percent with its 95% interval over episodes of 15 queries a class.\n\n{shown(entries)}"
        measure.write(options.output, "Omniglot: unseen characters", facts, entries, text)


if __name__ == "__main__":
    main()
