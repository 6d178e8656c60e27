"""Which search strategy finds what, with which budget: two problems whose answers are known.

    python benchmarks/search_quality.py [--quick] [--output FILE.json]

(a) Data made by a hidden network of known size; 20 seeds, each with data of its own. (b) A table of 15,625 scores, 6
edges of 5 operations, with interactions and noise; 100 seeds, each with a table of its own. All strategies meet the
same data and tables, so differences to random search are paired.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import random
import statistics

import measure
import torch

import metakit as mk

S = mk.search
OPERATIONS = ("none", "skip", "conv1", "conv3", "pool")
EDGES = S.Space(**{f"edge_{i}": OPERATIONS for i in range(6)})
BUDGETS = (25, 50, 100, 200)
NOISE = 0.3
STRATEGIES = {
    "random": S.Random(20),
    "evolution": S.Evolution(20, 10),
    "cross-entropy": S.CrossEntropy(20),
    "reinforce": S.Reinforce(20),
}
TEACHER, ROWS, FEATURES = 4, 200, 5


def table(seed: int) -> dict[tuple[str, ...], float]:
    """Every candidate's true score: main effects, interactions of pairs, and for each triple beside each other."""
    draw = random.Random(seed)
    main = [{o: draw.gauss(0, 1) for o in OPERATIONS} for _ in range(6)]
    pairs = [
        (i, j, {k: draw.gauss(0, 0.5) for k in itertools.product(OPERATIONS, repeat=2)})
        for i, j in itertools.combinations(range(6), 2)
    ]
    triples = [(i, {k: draw.gauss(0, 0.5) for k in itertools.product(OPERATIONS, repeat=3)}) for i in range(4)]
    return {
        key: sum(effects[o] for effects, o in zip(main, key, strict=True))
        + sum(effects[key[i], key[j]] for i, j, effects in pairs)
        + sum(effects[key[i : i + 3]] for i, effects in triples)
        for key in itertools.product(OPERATIONS, repeat=6)
    }


def search_table(strategy: object, scores: dict[tuple[str, ...], float], seed: int) -> list[float]:
    """The regret, in standard deviations of the table, of the candidate that looks best after each budget."""
    noise, search = random.Random(seed), strategy.start(EDGES, seed=seed)
    least, spread, seen = min(scores.values()), statistics.pstdev(scores.values()), (math.inf, ())
    regrets = []
    for trained in range(1, BUDGETS[-1] + 1):
        (candidate,) = search.ask(1)
        key = EDGES.key(candidate)
        score = scores[key] + noise.gauss(0, NOISE)
        search.tell([candidate], [score])
        seen = min(seen, (score, key))
        if trained in BUDGETS:
            regrets.append((scores[seen[1]] - least) / spread)
    return regrets


def teacher_data(seed: int) -> tuple[mk.TaskBatch, mk.TaskBatch]:
    """Rows labelled by a tanh network of 4 hidden units with large weights; search rows and test rows."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * ROWS, FEATURES, generator=generator)
    w1 = 1.5 * torch.randn(FEATURES, TEACHER, generator=generator)
    w2 = torch.randn(TEACHER, 1, generator=generator)
    y = torch.tanh(x @ w1) @ w2 + 0.05 * torch.randn(3 * ROWS, 1, generator=generator)
    sides = [(x[i : i + ROWS][None], y[i : i + ROWS][None]) for i in range(0, 3 * ROWS, ROWS)]
    return mk.TaskBatch(*sides[0], *sides[1]), mk.TaskBatch(*sides[0], *sides[2])


def search_teacher(strategy: object, seed: int, rounds: int) -> dict[str, float]:
    """What the search chose, and its test loss."""
    batch, test = teacher_data(seed)
    space = S.Space(
        hidden_layers=(1, 3), units=(1, 16), activation=("relu", "tanh", "sigmoid"), learning_rate=S.log(1e-2, 5e-1)
    )
    options = {"rounds": rounds, "steps": 500, "seed": seed, "test": test, "progress": False}
    result = S.run(space, batch, strategy=strategy, **options)
    chosen = result.best.candidate
    return {
        "activation": chosen["activation"] == "tanh",
        "layers": chosen["hidden_layers"] == 1,
        "units": chosen["units"],
        "test": float(result.test.mean()),
        "steps": sum(trial.steps for trial in result.history),
    }


def against(ours: list[float], theirs: list[float]) -> str:
    """The mean paired difference with its 95% interval, and in how many seeds ours is less."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    half = 1.96 * statistics.stdev(gaps) / len(gaps) ** 0.5
    return f"{statistics.mean(gaps):+.3f} +- {half:.3f}; less in {sum(g < 0 for g in gaps)} of {len(gaps)}"


def interval(values: list[float]) -> str:
    """Mean with its 95% interval over seeds."""
    return f"{statistics.mean(values):.3f} +- {1.96 * statistics.stdev(values) / len(values) ** 0.5:.3f}"


def main() -> None:
    """Search, compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few seeds: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "search_quality.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, data_seeds, rounds = (5, 2, 2) if options.quick else (100, 20, 4)
    regrets = {name: [] for name in STRATEGIES}
    for seed in range(seeds):
        scores = table(seed)
        for name, strategy in STRATEGIES.items():
            regrets[name].append(search_table(strategy, scores, seed))
    body = [
        (
            name,
            *(interval([r[i] for r in each]) for i in range(len(BUDGETS))),
            "-" if name == "random" else against([r[-1] for r in each], [r[-1] for r in regrets["random"]]),
        )
        for name, each in regrets.items()
    ]
    head = ("strategy", *(f"regret at {b}" for b in BUDGETS), f"against random, at {BUDGETS[-1]}")
    parts = [f"## A table of 15,625 scores, {seeds} tables\n\n{measure.table(head, body)}"]

    # Halving starts more candidates for about the same number of gradient steps.
    strategies = {**STRATEGIES, "halving": S.SuccessiveHalving(60)}
    found = {name: [search_teacher(s, seed, rounds) for seed in range(data_seeds)] for name, s in strategies.items()}
    body = [
        (
            name,
            f"{sum(f['activation'] for f in each)} of {data_seeds}",
            f"{sum(f['layers'] for f in each)} of {data_seeds}",
            f"{statistics.median(f['units'] for f in each):.0f}",
            interval([f["test"] for f in each]),
            "-" if name == "random" else against([f["test"] for f in each], [f["test"] for f in found["random"]]),
            f"{statistics.mean(f['steps'] for f in each):,.0f}",
        )
        for name, each in found.items()
    ]
    head = (
        "strategy",
        "tanh chosen",
        "1 layer chosen",
        "median units",
        "test loss",
        "against random",
        "gradient steps",
    )
    title = f"## Data of a hidden network 5-4-1 with tanh, {data_seeds} data sets, {20 * rounds} candidates"
    parts.append(f"{title}\n\n{measure.table(head, body)}")
    parts.append("The noise of the targets alone gives a test loss of 0.0025.")
    facts = measure.machine(torch=torch.__version__)
    records = [{"problem": "table", "regret": regrets}, {"problem": "hidden network", "found": found}]
    measure.write(options.output, "Search quality", facts, records, "\n\n".join(parts))


if __name__ == "__main__":
    main()
