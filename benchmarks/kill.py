"""Killed at random moments and resumed each time, a training run ends with the very weights of one left alone.

    python benchmarks/kill.py [--kills 20] [--steps 1500] [--seed 0] [--quick]

A run is a process of its own that meta-trains a small ConvNet and writes a checkpoint every few steps. It is killed
with SIGKILL, which nothing can catch, after a random time; then the checkpoint is read, and a new process goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import multiprocessing
import multiprocessing.connection
import pathlib
import random
import sys
import tempfile
import time
from typing import Any

import torch

import metakit as mk
from metakit.files import read_checkpoint


@dataclasses.dataclass
class Record:
    """What the kills came upon: the outer step of each checkpoint found, and how the run ended."""

    steps: int
    moments_s: list[float] = dataclasses.field(default_factory=list)
    checkpoints: list[int | None] = dataclasses.field(default_factory=list)
    halves_left: int = 0
    unreadable: int = 0
    same_weights: bool = False
    same_history: bool = False

    @property
    def passed(self) -> bool:
        """Whether no checkpoint was unreadable and the ends agree bit for bit."""
        return self.unreadable == 0 and self.same_weights and self.same_history


def train(path: pathlib.Path, steps: int, ready: multiprocessing.connection.Connection) -> None:
    """The run: seeded, with a schedule and validation, so that all of its state counts; it says when it has begun."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images = torch.rand(120, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    tasks = mk.tasks.Episodes((images, torch.arange(120) % 12), 5, 1, 3)
    learner = mk.ProtoNet(mk.models.ConvNet(size=12, width=8, blocks=2))

    def tell(run: mk.Run) -> None:
        if not ready.closed:
            ready.send("under way")
            ready.close()

    options: dict[str, Any] = {"schedule": "CosineAnnealingLR", "keep": "best", "validate_every": max(1, steps // 5)}
    saving: dict[str, Any] = {"checkpoint": path, "checkpoint_every": 5, "resume": True, "callback": tell}
    mk.fit(learner, tasks, steps=steps, meta_batch=2, progress=False, **options, **saving)


def start(path: pathlib.Path, steps: int) -> multiprocessing.context.ForkServerProcess:
    """The run in a process of its own, once its first step is taken or it has ended."""
    processes = multiprocessing.get_context("forkserver")  # torch is imported once, then each start is quick
    processes.set_forkserver_preload(["metakit", "torch._dynamo"])
    waiting, ready = processes.Pipe(duplex=False)
    process = processes.Process(target=train, args=(path, steps, ready))
    process.start()
    ready.close()
    waiting.poll(None)
    waiting.close()
    return process


def finish(path: pathlib.Path, steps: int) -> float:
    """Let the run end by itself; the seconds it took after its first step."""
    process, began = start(path, steps), time.monotonic()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"the run ended with status {process.exitcode}; its message is above.")
    return time.monotonic() - began


def measure_kills(*, kills: int, steps: int, seed: int) -> Record:
    """Kill a run so many times, resume it each time, and compare it with one left alone."""
    moments, record = random.Random(seed), Record(steps)
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = pathlib.Path(folder) / "alone.pt", pathlib.Path(folder) / "killed.pt"
        seconds = finish(alone, steps)
        for _ in range(kills):
            moment = moments.uniform(0, 1.2 * seconds / kills)
            process = start(killed, steps)
            time.sleep(moment)
            process.kill()  # SIGKILL
            process.join()
            record.moments_s.append(moment)
            try:
                record.checkpoints.append(len(read_checkpoint(killed, "run")["loss"]))
            except FileNotFoundError:
                record.checkpoints.append(None)
            except ValueError:
                record.unreadable += 1
            record.halves_left = len(list(killed.parent.glob(".killed.pt.*")))
        finish(killed, steps)
        ours, theirs = (read_checkpoint(path, "run") for path in (killed, alone))
        record.same_weights = all(torch.equal(w, theirs["learner"][name]) for name, w in ours["learner"].items())
        record.same_history = all(ours[what] == theirs[what] for what in ("loss", "validation"))
    return record


def main() -> None:
    """Kill, resume, compare, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1500, help="outer steps of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--quick", action="store_true", help="3 kills of a short run: does it run")
    parser.add_argument("--output", type=pathlib.Path, help="JSON; .md goes beside; results/kill.json when left out")
    options = parser.parse_args()
    import measure  # here, so that the test of this file needs nothing that only benchmarks need

    kills, steps = (3, 200) if options.quick else (options.kills, options.steps)
    record = measure_kills(kills=kills, steps=steps, seed=options.seed)
    body = [
        (f"{moment:.2f}", "none yet" if step is None else step)
        for moment, step in zip(record.moments_s, record.checkpoints, strict=False)
    ]
    text = (
        f"A run of {steps} outer steps, killed with SIGKILL {kills} times and resumed each time.\n\n"
        f"- checkpoints that could not be read: {record.unreadable}\n"
        f"- weights at the end equal to those of the run left alone, bit for bit: {record.same_weights}\n"
        f"- losses and validations equal: {record.same_history}\n"
        f"- halves of files left beside the checkpoint: {record.halves_left}\n\n"
        + measure.table(("killed after (s)", "checkpoint found at step"), body)
    )
    facts = measure.machine(torch=torch.__version__, threads=1, seed=options.seed)
    measure.write(options.output or measure.RESULTS / "kill.json", "Killed and resumed", facts, [record], text)
    if not record.passed:
        sys.exit(1)


if __name__ == "__main__":
    main()
