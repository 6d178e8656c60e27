"""Omniglot, 5-way 1-shot: accuracy on unseen characters after minutes of training, transductive and inductive.

    python benchmarks/omniglot.py [--learner protonet maml] [--minutes 10] [--seeds 1] [--device cuda] [--quick]

Reads the official archives from the folder that METAKIT_DATA names, or downloads them. The classes are those of
Vinyals et al. 2016, four rotations each: 1,028 characters to train on, 423 others to test on.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from typing import Any

import measure
import torch

import metakit as mk

PUBLISHED = {
    "protonet": "98.8 (transductive, Snell, Swersky and Zemel 2017, trained 60-way)",
    "maml": "98.7 +- 0.4 (transductive, Finn, Abbeel and Levine 2017, 60,000 outer steps, tested with 3 inner steps)",
}
# Ways, queries and tasks of an outer step in training; inner steps in testing.
RECIPES = {
    "protonet": {"ways": 20, "queries": 5, "meta_batch": 1, "test_steps": None},
    "maml": {"ways": 5, "queries": 5, "meta_batch": 8, "test_steps": 3},
}


def learner(name: str) -> torch.nn.Module:
    """A new learner: ProtoNet, or second-order MAML with one inner step at 0.4."""
    if name == "protonet":
        return mk.ProtoNet(mk.models.ConvNet(channels=1, size=28, width=64, blocks=4))
    net = mk.models.ConvNet(channels=1, size=28, width=64, blocks=4, outputs=5)
    return mk.MAML(net, rule=mk.SGD(lr=0.4), steps=1, order=2)


def train(name: str, data: Any, *, minutes: float, seed: int, device: str) -> tuple[torch.nn.Module, mk.History]:
    """Meta-train until the time is spent."""
    torch.manual_seed(seed)
    recipe, trained = RECIPES[name], learner(name)
    tasks = mk.tasks.Episodes(data, ways=recipe["ways"], shots=1, queries=recipe["queries"])
    end = time.monotonic() + 60 * minutes

    def stop_in_time(run: mk.Run) -> None:
        if time.monotonic() >= end:
            run.stop()

    options = {"steps": 10**9, "meta_batch": recipe["meta_batch"], "progress": False}
    return trained, mk.fit(trained, tasks, seed=seed, device=device, callback=stop_in_time, **options)


def test(name: str, trained: torch.nn.Module, data: Any, *, episodes: int) -> dict[str, tuple[float, float]]:
    """Accuracy and half its 95% interval, in percent, under either protocol."""
    tasks = mk.tasks.Episodes(data, ways=5, shots=1, queries=15)
    steps, figures = RECIPES[name]["test_steps"], {}
    trained.eval()
    for protocol in ("transductive", "inductive"):
        result = mk.evaluate(trained, tasks, n_tasks=episodes, steps=steps, protocol=protocol, seed=1)
        mean, high = float(result.mean()[-1]), float(result.interval()[1][-1])
        figures[protocol] = (100 * mean, 100 * (high - mean))
    return figures


def main() -> None:
    """Train, test, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--learner", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--minutes", type=float, default=10.0, help="of meta-training, for each learner and seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many times to train, from seeds 0, 1, ...")
    parser.add_argument("--episodes", type=int, default=600, help="to test on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="some seconds of training, 50 episodes: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "omniglot.json")
    options = parser.parse_args()
    minutes, episodes = (0.1, 50) if options.quick else (options.minutes, options.episodes)

    background = mk.tasks.omniglot(split="train", rotations=True)
    unseen = mk.tasks.omniglot(split="test", rotations=True)
    results, body = [], []
    for name in options.learner:
        for seed in range(options.seeds):
            trained, history = train(name, background, minutes=minutes, seed=seed, device=options.device)
            figures = test(name, trained, unseen, episodes=episodes)
            record = {"learner": name, "seed": seed, "outer_steps": history.steps, "minutes": history.seconds / 60}
            results.append(record | {"recipe": RECIPES[name], "accuracy": figures})
            shown = [f"{mean:.2f} +- {half:.2f}" for mean, half in figures.values()]
            body.append((name, seed, f"{record['minutes']:.1f}", history.steps, *shown, PUBLISHED[name]))
    head = ("learner", "seed", "minutes", "outer steps", "transductive %", "inductive %", "published %")
    text = (
        f"{episodes} test episodes of 15 queries a class, of characters not trained on; mean and 95% interval over "
        f"episodes.\n\n{measure.table(head, body)}"
    )
    place = torch.cuda.get_device_name() if options.device.startswith("cuda") else "cpu"
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device=place)
    measure.write(options.output, "Omniglot, 5-way 1-shot", facts, results, text)


if __name__ == "__main__":
    main()
