"""Omniglot, 5-way 1-shot, from scratch: tasks a second, and the seconds of training until 98% on unseen characters.

    python benchmarks/time_to_accuracy.py [--quick] [--device cuda] [--seconds 60] [--seeds 3] [--output FILE.json]

Prototypes, and MAML of second order with one inner step, each with 32 tasks of 5 queries a class in an outer step and
the 64-wide ConvNet with batch norm. All contenders draw their tasks with the same sampler, on the device. The clock
runs while tasks are drawn and steps taken, and is stopped to validate, once in each second of it, on 200 tasks of the
validation characters; at the first time that their mean is 98% or more, or when the seconds are spent, a contender is
tested on 600 tasks of the test characters. The first three steps, in which compilers work, are not on the clock; they
are told apart. Each call adds its runs to the results, in the place of earlier ones of the same contender and seed.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import handwriting
import measure
import peers
import torch
import worker
from torch import Tensor, nn

import metakit as mk

TASKS, SHOTS, QUERIES, TARGET = 32, 1, 5, 0.98
WARMING, VALIDATION, TEST = 3, 200, 600
TITLE = "Omniglot from scratch: tasks a second, and the time to an accuracy"
TEXT = (
    f"{TASKS} tasks in an outer step, 5-way 1-shot, {QUERIES} queries a class; accuracies are transductive, by batch "
    f"norm. Validated once a second of training on {VALIDATION} tasks, tested in the end on {TEST}."
)
MAML = peers.Problem("convnet", tasks=TASKS, steps=1, lr=0.4)

# --- Prototypes: the same embedding and loss, in ways to compute them. ---


def _metakit(problem: peers.Problem, device: str, *, compile: bool = False) -> peers.TorchContender:
    net = embedding(problem)
    return peers.ours(mk.ProtoNet(net), net, problem, device, compile=compile)


def _metakit_compiled(problem: peers.Problem, device: str) -> peers.TorchContender:
    return _metakit(problem, device, compile=True)


def embedding(problem: peers.Problem) -> mk.models.ConvNet:
    """The blocks of the network, with its initial weights."""
    whole, blocks = peers.model(problem), mk.models.ConvNet(width=64)
    blocks.load_state_dict(whole.state_dict(), strict=False)
    return blocks


def _torch(problem: peers.Problem, device: str, *, apart: bool) -> peers.TorchContender:
    """Plain torch layers; an episode after the other, or all rows of a batch through them, and normalised, at once.

    Of one support row for each class, in their order, as the sampler gives them.
    """
    net, tasks = peers.plain(problem), peers.batch(problem).to(device)
    net.head = nn.Identity()
    net.to(device)

    def meta_backward(tasks: mk.TaskBatch) -> float:
        total = 0.0
        for piece in tasks.chunks(1) if apart else [tasks]:
            support, query = (net(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for x in (piece.support_x, piece.query_x))
            answers = -torch.cdist(query, support).square().flatten(0, 1)
            loss = nn.functional.cross_entropy(answers, piece.query_y.flatten()) * len(piece) / len(tasks)
            loss.backward()
            total = total + loss.detach()
        return float(total)

    return peers.around(net, tasks, meta_backward)


CONTENDERS: dict[str, dict[str, Callable[[peers.Problem, str], Any]]] = {
    "prototypes": {
        "metakit": _metakit,
        "metakit compiled": _metakit_compiled,
        "torch loop": lambda problem, device: _torch(problem, device, apart=True),
        "torch, one pass": lambda problem, device: _torch(problem, device, apart=False),
    },
    # As a layer of torch normalises under vmap, its meta-gradient is wrong: see convnet.
    "maml": {name: make for name, make in peers.CONTENDERS.items() if name != "torch vmap"},
}


def accuracy(
    learner: str, weights: dict[str, Tensor], tasks: mk.tasks.Episodes, count: int, device: str
) -> tuple[float, float]:
    """Of the trained weights on so many tasks, the query rows of each answered together: mean and half an interval."""
    net = peers.model(MAML) if learner == "maml" else embedding(MAML)
    net.load_state_dict(weights)
    judge = peers.maml(MAML, net) if learner == "maml" else mk.ProtoNet(net)
    return handwriting.accuracy(judge.to(device).eval(), tasks, "transductive", episodes=count)


class Clock:
    """Seconds while it runs, the device's queue emptied at both ends."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds, self._since = device, 0.0, 0.0

    def start(self) -> None:
        self._wait()
        self._since = time.perf_counter()

    def stop(self) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._since

    @property
    def now(self) -> float:
        return self.seconds + time.perf_counter() - self._since

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize()


def race(learner: str, name: str, seed: int, parts: dict[str, mk.tasks.LabelledData], options: Any) -> dict[str, Any]:
    """Train one contender from one seed until the target or the end of its seconds; what came of it."""
    train, validation, test = (
        mk.tasks.Episodes(parts[part], peers.WAYS, SHOTS, QUERIES) for part in ("train", "val", "test")
    )
    problem = dataclasses.replace(MAML, seed=seed)
    contender = CONTENDERS[learner][name](problem, options.device)
    generator = torch.Generator(options.device).manual_seed(seed)
    clock, warming, steps, curve = Clock(options.device), Clock(options.device), 0, []

    def step() -> None:
        contender.tasks = train.sample(TASKS, generator=generator, device=options.device)
        contender.step()

    warming.start()
    for _ in range(WARMING):
        step()
    warming.stop()
    while clock.seconds < options.seconds and not (curve and curve[-1][1] >= TARGET):
        clock.start()
        until = clock.seconds + 1
        while clock.now < until:
            step()
            steps += 1
        clock.stop()
        validated, _ = accuracy(learner, contender.weights(), validation, VALIDATION, options.device)
        curve.append((round(clock.seconds, 3), round(validated / 100, 5)))
    return {
        "learner": learner,
        "contender": name,
        "seed": seed,
        "warming_s": warming.seconds,
        "steps": steps,
        "tasks_per_second": TASKS * steps / clock.seconds,
        "seconds": clock.seconds,
        "reached": curve[-1][1] >= TARGET,
        "test": accuracy(learner, contender.weights(), test, TEST, options.device),
        "curve": curve,
    }


def shown(entries: list[dict[str, Any]]) -> str:
    """A table for each learner: a line for each run, and its rate against the best peer's."""
    head = ("contender", "seed", "tasks a second", "times the best peer", f"seconds to {TARGET:.0%}")
    head += ("outer steps", "test accuracy %", "first three steps, s")
    sections = []
    for learner, contenders in CONTENDERS.items():
        runs = [e for e in entries if e["learner"] == learner]
        peer = max((e["tasks_per_second"] for e in runs if e["contender"] not in peers.OURS), default=None)
        body = []
        for e in sorted(runs, key=lambda e: (list(contenders).index(e["contender"]), e["seed"])):
            best = max(validated for _, validated in e["curve"])
            when = f"{e['seconds']:.0f}" if e["reached"] else f"not in {e['seconds']:.0f} ({100 * best:.1f}%)"
            rate, warm = e["tasks_per_second"], f"{e['warming_s']:.1f}"
            times = f"{rate / peer:.2f}" if peer else "-"
            test = "{:.2f} +- {:.2f}".format(*e["test"])
            body.append((e["contender"], e["seed"], f"{rate:.0f}", times, when, e["steps"], test, warm))
        sections.append(f"## {learner}\n\n{measure.table(head, body)}")
    return "\n\n".join(sections)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = list(dict.fromkeys(name for makers in CONTENDERS.values() for name in makers))
    parser.add_argument("--learners", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--contenders", nargs="+", choices=names, default=names)
    parser.add_argument("--seconds", type=float, default=60.0, help="of training, for each contender, at most")
    parser.add_argument("--seeds", type=int, default=3, help="of weights and tasks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="two seconds of each from one seed: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "time_to_accuracy.json")
    options = parser.parse_args()
    if options.quick:
        options.seconds, options.seeds = 2, 1
    parts = {part: mk.tasks.omniglot(split=part).rotations().to(options.device) for part in ("train", "val", "test")}
    facts = measure.machine(**worker.facts(options.device))
    for learner in options.learners:
        for name in (name for name in CONTENDERS[learner] if name in options.contenders):
            for seed in range(options.seeds):
                print(f"  {learner}: {name}, seed {seed}", file=sys.stderr, flush=True)
                entry = {"machine": facts, **race(learner, name, seed, parts, options)}
                entries = measure.renewed(options.output, entry, ("learner", "contender", "seed"))
                measure.write(options.output, TITLE, facts, entries, f"{TEXT}\n\n{shown(entries)}")


if __name__ == "__main__":
    main()
