"""A population trained at once against its networks trained one by one: 10-h-1, h in 1 to 64, 100 rows, full batch.

    python benchmarks/search_population.py [--quick] [--output FILE.json]

The contenders take turns in one process, round after round; a ratio is the median over rounds of the ratio in a round.
Each may use all cores, starts from the same weights, and their losses are compared before anything is timed. The plain
loop at 512 candidates is timed on 32 of them and multiplied.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import measure
import torch
import torch.nn.functional as F
import worker

import metakit as mk
from metakit.search import Architecture, Population

WIDEST, FEATURES, RATE = 64, 10, 0.01


def architectures(count: int, widest: int = WIDEST) -> list[Architecture]:
    """Networks of one hidden layer, from 1 to ``widest`` units in equal numbers."""
    return [Architecture((1 + i % widest,), "relu", RATE) for i in range(0, count * 37, 37)]


def data() -> mk.TaskBatch:
    """One linear task of 100 rows."""
    return mk.tasks.LinearRegression(rows=100, features=FEATURES).sample(1, seed=0)


def plain(several: Sequence[Architecture], batch: mk.TaskBatch, steps: int) -> list[float]:
    """One network after another, with torch's own layers, autograd and optimiser."""
    x, y = batch.support_x[0], batch.support_y[0]
    losses = []
    for number, architecture in enumerate(several):
        start = architecture.weights(FEATURES, 1, seed=0, number=number)
        network = torch.nn.Sequential(
            torch.nn.Linear(FEATURES, architecture.hidden[0]),
            torch.nn.ReLU(),
            torch.nn.Linear(architecture.hidden[0], 1),
        )
        with torch.no_grad():
            for layer, (weight, bias) in zip((network[0], network[2]), start, strict=True):
                layer.weight.copy_(weight)
                layer.bias.copy_(bias)
        optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.mse_loss(network(x), y)
            loss.backward()
            optimizer.step()
        losses.append(float(F.mse_loss(network(x), y).detach()))
    return losses


def ours(several: Sequence[Architecture], batch: mk.TaskBatch, steps: int) -> list[float]:
    """The population of metakit, its making included."""
    population = Population(several, batch)
    population.train(steps)
    return population.losses(batch.support_x, batch.support_y)[:, 0].tolist()


def jax_contender(several: Sequence[Architecture], batch: mk.TaskBatch, steps: int) -> Callable[[], list[float]]:
    """Weights padded to the widest network, ``vmap`` over networks, ``scan`` over steps, one jitted function."""
    import jax
    import jax.numpy as jnp

    count, widest = len(several), max(a.hidden[0] for a in several)
    w1, b1, w2, b2 = (torch.zeros(count, *shape) for shape in ((FEATURES, widest), (widest,), (widest, 1), (1,)))
    for p, architecture in enumerate(several):
        (first, bias), (second, last) = architecture.weights(FEATURES, 1, seed=0, number=p)
        h = len(bias)
        w1[p, :, :h], b1[p, :h], w2[p, :h], b2[p] = first.T, bias, second.T, last
    x, y = (jnp.asarray(t[0].numpy()) for t in (batch.support_x, batch.support_y))

    def loss(weights: tuple) -> jax.Array:
        u1, c1, u2, c2 = weights
        return jnp.mean((jax.nn.relu(x @ u1 + c1) @ u2 + c2 - y) ** 2)

    def step(weights: tuple, _: None) -> tuple:
        return tuple(w - RATE * g for w, g in zip(weights, jax.grad(loss)(weights), strict=True)), None

    whole = jax.jit(jax.vmap(lambda weights: loss(jax.lax.scan(step, weights, None, length=steps)[0])))
    start = tuple(jnp.asarray(t.numpy()) for t in (w1, b1, w2, b2))
    return lambda: whole(start).tolist()


def timed(contender: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    contender()
    return time.perf_counter() - begin


def compare(count: int, steps: int, rounds: int) -> dict:
    """Seconds of each contender in each round, for ``count`` candidates and ``steps`` steps."""
    several, batch = architectures(count), data()
    sample = several[:32]
    contenders = {"metakit": lambda: ours(several, batch, steps), "torch loop": lambda: plain(sample, batch, steps)}
    try:
        contenders["jax vmap + scan"] = jax_contender(several, batch, steps)
    except ImportError:
        print("jax is not installed: left out", file=sys.stderr)
    losses = {name: contender()[:32] for name, contender in contenders.items()}
    for name, each in losses.items():
        worst = max(abs(a - b) for a, b in zip(each, losses["torch loop"], strict=True))
        assert worst < 1e-4, f"{name} differs by {worst} from the plain loop"
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            seconds[name].append(timed(contender) * (count / 32 if name == "torch loop" else 1))
    return {"candidates": count, "steps": steps, "seconds": seconds}


def peak(count: int) -> float:
    """Peak memory in MB above the start of a process that trains so many candidates."""
    code = f"import search_population as s; print(s.json.dumps(s.measured_peak({count})))"
    folder = pathlib.Path(__file__).parent
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


def measured_peak(count: int) -> float:
    """In this process: peak of resident memory above what it was before, in MB."""
    ours(architectures(1), data(), 1)
    before = worker.memory("VmRSS")
    ours(architectures(count), data(), 3)
    return worker.memory("VmHWM") - before


def section(record: dict) -> str:
    """The table of one number of candidates."""
    seconds = record["seconds"]
    body = []
    for name, each in seconds.items():
        ratios = [loop / own for loop, own in zip(seconds["torch loop"], each, strict=True)]
        spread = measure.spread(statistics.median(each), min(each), max(each))
        body.append((name, spread, measure.spread(statistics.median(ratios), min(ratios), max(ratios), 1)))
    head = ("contender", "seconds (rounds)", "times as fast as the loop")
    title = f"## {record['candidates']} candidates, {record['steps']} steps"
    return f"{title}\n\n{measure.table(head, body)}"


def costs(quick: bool) -> list[dict]:
    """Milliseconds of a step of the whole population, against candidates and greatest width."""
    batch, steps, rows = data(), 20, []
    for widest in (16, 64, 256):
        for count in (1, 8, 64, 512) if quick or widest == 256 else (1, 8, 64, 512, 4096):
            population = Population(architectures(count, widest), batch)
            population.train(2)
            seconds = min(timed(lambda p=population: p.train(steps)) for _ in range(2))
            rows.append({"widest": widest, "candidates": count, "ms": 1000 * seconds / steps})
    return rows


def lengths(quick: bool) -> list[dict]:
    """Seconds of a whole training of 64 candidates, the making of them included, against its steps."""
    several, batch = architectures(64), data()
    return [
        {"steps": n, "s": timed(lambda n=n: ours(several, batch, n))}
        for n in (1, 10, 100, *(() if quick else (1000, 10_000)))
    ]


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """A line for each width."""
    from metakit import plots

    fig, ax = plots.figure()
    for colour, widest in zip(plots.CYCLE, dict.fromkeys(r["widest"] for r in rows), strict=False):
        line = [r for r in rows if r["widest"] == widest]
        label = f"1 to {widest} units"
        ax.plot([r["candidates"] for r in line], [r["ms"] for r in line], marker="o", color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="candidates", ylabel="ms per step of all", title="Cost of a population")
    ax.legend(frameon=False)
    path.write_bytes(plots.png(fig))


def main() -> None:
    """Compare, measure costs and memory, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps and rounds: does it run, roughly how fast")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "search_population.json")
    options = parser.parse_args()
    sizes = [(32, 100, 2), (512, 20, 2)] if options.quick else [(32, 1000, 3), (512, 200, 3)]
    records = [compare(*size) for size in sizes]
    rows, long = costs(options.quick), lengths(options.quick)
    memory = peak(64 if options.quick else 4096)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, options.output.with_suffix(".png"))
    body = [
        (f"1 to {r['widest']}", r["candidates"], f"{r['ms']:.3f}", f"{r['ms'] / r['candidates']:.4f}") for r in rows
    ]
    table = measure.table(("units", "candidates", "ms per step", "ms per step and candidate"), body)
    parts = [section(record) for record in records]
    parts.append(f"## Cost against candidates and width\n\n![cost of a step]({options.output.stem}.png)\n\n{table}")
    body = [(f"{r['steps']:,}", f"{r['s']:.3f}", f"{1000 * r['s'] / r['steps']:.3f}") for r in long]
    parts.append(f"## Cost against steps, 64 candidates\n\n{measure.table(('steps', 'seconds', 'ms per step'), body)}")
    parts.append(f"Peak memory of {64 if options.quick else 4096:,} candidates: {memory:.0f} MB above the start.")
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads())
    everything = [*records, {"costs": rows}, {"lengths": long}, {"peak_mb": memory}]
    measure.write(options.output, "A population trained at once", facts, everything, "\n\n".join(parts))


if __name__ == "__main__":
    main()
