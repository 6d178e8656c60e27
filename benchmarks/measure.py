"""Compare contenders on one problem: each in its own process, in turns, so that drift hits all alike."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import peers

RESULTS = pathlib.Path(__file__).parent / "results"
# Relative error of a float32 meta-gradient against float64: rounding, and now and then a ReLU or maximum on its edge.
# On a GPU, torch convolves and JAX multiplies in TF32, with ten bits after the point, unless told otherwise.
TOLERANCE = {"cpu": {"mlp": 1e-4, "convnet": 1e-2}, "cuda": {"mlp": 1e-2, "convnet": 1e-1}}
# glibc, told to keep the memory it freed instead of handing it back and faulting it in again at the next step.
KEEP_PAGES = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_TOP_PAD_": str(2**26)}
# JAX, told not to take three quarters of a GPU's memory for itself: the contenders are on it together.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@dataclasses.dataclass
class Row:
    """A contender's record: times in ms (median of each round), memory in MB, relative error of its meta-gradient."""

    name: str
    problem: dict[str, Any]
    tolerance: float
    malloc: str = "default"
    rounds: list[float] = dataclasses.field(default_factory=list)
    error: float | None = None
    first_call_s: float | None = None
    start_mb: float | None = None
    above_mb: float | None = None
    steady_mb: float | None = None
    absolute_mb: float | None = None
    unable: str | None = None

    @property
    def ms(self) -> float:
        """Median over rounds."""
        return statistics.median(self.rounds)

    @property
    def exact(self) -> bool:
        """Whether the meta-gradient is that of the reference, to rounding."""
        return self.error is not None and self.error < self.tolerance


@dataclasses.dataclass(frozen=True)
class Setup:
    """How to measure: device, cores to use (``None`` for all), rounds, steps in a burst, glibc's pages kept or not."""

    device: str = "cpu"
    threads: int | None = None
    rounds: int = 10
    burst: int = 5
    keep_pages: bool = False


class Worker:
    """A contender in a process of its own."""

    def __init__(self, name: str, problem: peers.Problem, setup: Setup, *, double: bool = False) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.gradient_file = pathlib.Path(self.folder.name) / "gradient.npz"
        options = {"name": name, "problem": dataclasses.asdict(problem), "device": setup.device, "double": double}
        options |= {"threads": setup.threads, "gradient": str(self.gradient_file)}
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name("worker.py")), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **SHARE_GPU, **(KEEP_PAGES if setup.keep_pages else {})},
        )
        self.facts = self._answer()

    def step(self, count: int) -> list[float]:
        """Take steps; their times in ms."""
        print(count, file=self.process.stdin, flush=True)
        return self._answer()["ms"]

    def gradient(self) -> np.ndarray:
        """The meta-gradient, in one vector."""
        with np.load(self.gradient_file) as file:
            return np.concatenate([file[name].ravel().astype(np.float64) for name in sorted(file.files)])

    def close(self) -> dict[str, Any]:
        """End it; the memory it held."""
        self.process.stdin.close()
        memory = {} if "unable" in self.facts else self._answer()
        self.process.wait()
        self.process.stdout.close()
        self.folder.cleanup()
        return memory

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender ended early, with status {self.process.wait()}; its message is above.")
        return json.loads(line)


def compare(
    problem: peers.Problem, names: Iterable[str], setup: Setup, *, strict: bool = True
) -> tuple[list[Row], dict[str, Any]]:
    """Check each contender's meta-gradient against the float64 loop, then time them in turn; rows, and the facts.

    The first step of each burst is left out: it finds the caches full of the others' data. Unless ``strict``, an error
    above the tolerance is reported beside the time, not refused.
    """
    reference = Worker("torch loop", problem, setup, double=True)
    expected, facts = reference.gradient(), reference.facts
    reference.close()
    tolerance = TOLERANCE[setup.device.partition(":")[0]][problem.network]
    rows: list[Row] = []
    workers: list[tuple[Row, Worker]] = []
    with contextlib.ExitStack() as closing:
        for name in names:
            print(f"  {problem}: {name}", file=sys.stderr, flush=True)
            row = Row(name, dataclasses.asdict(problem), tolerance, "keeps pages" if setup.keep_pages else "default")
            worker = Worker(name, problem, setup)
            closing.callback(lambda row=row, worker=worker: vars(row).update(worker.close()))
            rows.append(row)
            row.unable = worker.facts.get("unable")
            if row.unable is None:
                row.error = float(np.linalg.norm(worker.gradient() - expected) / np.linalg.norm(expected))
                row.first_call_s = worker.facts["first_call_s"]
                workers.append((row, worker))
        if strict:
            _check(rows, problem)
        for _ in range(setup.rounds):
            for row, worker in workers:
                row.rounds.append(statistics.median(worker.step(1 + setup.burst)[1:]))
    return rows, {key: facts[key] for key in ("torch", "threads", "device")}


def _check(rows: list[Row], problem: peers.Problem) -> None:
    """Refuse to time what is another meta-gradient; all but ``vmap``, whose silent error is reported."""
    wrong = [row.name for row in rows if row.unable is None and not row.exact and row.name != "torch vmap"]
    if wrong:
        errors = ", ".join(f"{row.name} {row.error:.1e}" for row in rows if row.error is not None)
        raise AssertionError(f"meta-gradients differ on {problem}: {', '.join(wrong)} (relative errors: {errors})")


def ratio(over: Row, under: Row) -> tuple[float, float, float]:
    """How many times as long ``over`` takes as ``under``: median, least and most over rounds."""
    each = [a / b for a, b in zip(over.rounds, under.rounds, strict=True)]
    return statistics.median(each), min(each), max(each)


def fastest(rows: Iterable[Row], names: Sequence[str]) -> Row | None:
    """The fastest of these contenders that ran and is exact."""
    return min(
        (row for row in rows if row.name in names and row.rounds and row.exact), key=lambda r: r.ms, default=None
    )


# --- Reports. ---


def arguments(name: str, about: str) -> argparse.ArgumentParser:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run, roughly how fast")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, help="cores that a contender may use (Linux); all when left out")
    parser.add_argument("--contenders", nargs="+", choices=list(peers.CONTENDERS), default=list(peers.CONTENDERS))
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / f"{name}.json", help="JSON; .md goes beside")
    return parser


def machine(**facts: Any) -> dict[str, Any]:
    """Date and machine, with what else the figures depend on."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": platform.system(),
        "python": platform.python_version(),
        **facts,
    }


def table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> str:
    """A markdown table, first column to the left, the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *body]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def spread(middle: float, low: float, high: float, digits: int = 2) -> str:
    """``median (least to most)``."""
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def ratio_text(over: Row | None, under: Row | None) -> str:
    """``ratio`` as text, a dash where one of the two is missing."""
    return spread(*ratio(over, under)) if over and under and over.rounds and under.rounds else "-"


def timing(row: Row) -> str:
    """A row's time with its spread over rounds."""
    digits = 3 if row.ms < 10 else 1 if row.ms < 1000 else 0
    return spread(row.ms, min(row.rounds), max(row.rounds), digits)


def renewed(path: pathlib.Path, entry: dict[str, Any], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a results file with this one added, or in the place of an earlier one of the same keys."""
    before = json.loads(path.read_text())["results"] if path.exists() else []
    kept = [other for other in before if any(other[key] != entry[key] for key in keys)]
    return sorted([*kept, entry], key=lambda other: [str(other[key]) for key in keys])


def write(output: pathlib.Path, title: str, facts: dict[str, Any], results: Any, text: str) -> None:
    """Write the figures as JSON and, beside it, as markdown under the date and the machine."""
    output.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(r) if dataclasses.is_dataclass(r) else r for r in results]
    output.write_text(json.dumps({"machine": facts, "results": rows}, indent=1) + "\n")
    known = " · ".join(f"{key} {value}" for key, value in facts.items() if value is not None)
    output.with_suffix(".md").write_text(f"# {title}\n\n{known}\n\n{text}\n")
    print(f"{known}\n\n{text}\n\nwritten to {output} and {output.with_suffix('.md').name}")
