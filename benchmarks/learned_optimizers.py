"""A learned optimiser beside Adam and momentum, their rates tuned for each job, on jobs it was not trained on.

    python benchmarks/learned_optimizers.py [--quick] [--minutes 10] [--output FILE.json]

(a) One rule, trained for so many minutes on invented tables and characters, is given real tables, pictures, wider and
deeper networks and longer trainings. Each job has its own rows, order and start; the rivals meet the same. (b) A rule
for the quadratics of Andrychowicz et al. 2016. (c) What a step costs on a network of a million weights.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import statistics
import time
from typing import Any

import measure
import torch

import metakit as mk
from metakit.learners import TRAINING_LOSS
from metakit.recipes import optimizer as recipe

JOBS, SEED = 16, 7
ALIKE: dict[str, Any] = {"activation": "relu", "scale": (1.0, 1.0), "batch": 32}
FAIR = "Adam with cosine, tuned on other rows"
ADAM = tuple(0.001 * 2**i for i in range(9))  # to 0.256
MOMENTUM = tuple(0.004 * 2**i for i in range(9))  # to 1.02


def table(name: str) -> mk.tasks.LabelledData:
    """A table of scikit-learn, standardised."""
    import sklearn.datasets

    loaded = getattr(sklearn.datasets, f"load_{name}")()
    x = torch.as_tensor(loaded.data, dtype=torch.float32)
    return mk.tasks.LabelledData((x - x.mean(0)) / x.std(0), torch.as_tensor(loaded.target))


def columns() -> dict[str, tuple[mk.tasks.TrainingJobs, int]]:
    """Where it is tried: jobs, and steps of a training."""
    digits, cancer, wine = mk.tasks.digits(), table("breast_cancer"), table("wine")
    glyphs = mk.tasks.Glyphs(2, 10, 100, size=16, seed=99)

    def jobs(data: Any, width: int = 32, depth: int = 1, rows: int = 1000) -> mk.tasks.TrainingJobs:
        return mk.tasks.TrainingJobs(data, width=width, depth=depth, rows=rows, **ALIKE)

    return {
        "digits, 64-32-10": (jobs(digits), 100),
        "128 wide": (jobs(digits, width=128), 100),
        "deep, 4 x 32": (jobs(digits, depth=4), 100),
        "300 steps": (jobs(digits), 300),
        "breast cancer": (jobs(cancer, rows=400), 100),
        "glyphs": (jobs(glyphs, rows=800), 100),
        "wine": (jobs(wine, rows=120), 100),
    }


def scored(learner: Any, batch: Any, steps: int) -> dict[str, Any]:
    """The losses of each job at the end, and the training loss at each stage."""
    result = mk.evaluate(learner, batch, steps=steps)
    training = result.scores[TRAINING_LOSS]
    return {"training": training[:, -1], "other": result.loss[:, -1], "course": training, "at": result.at}


def rivals(batch: Any, steps: int) -> dict[str, dict[str, Any]]:
    """Adam and momentum tuned for each job, with and without a cosine course; the course is tuned by other rows."""
    momentum = {"rates": MOMENTUM}
    made = {
        "Adam, tuned": mk.Tuned(steps=steps, rates=ADAM),
        "momentum, tuned": mk.Tuned(mk.Momentum(lr=1.0), steps=steps, **momentum),
        "Adam with cosine, tuned": mk.Tuned(steps=steps, rates=ADAM, schedule="cosine"),
        FAIR: mk.Tuned(steps=steps, rates=ADAM, schedule="cosine", by="other"),
        "momentum with cosine, tuned": mk.Tuned(mk.Momentum(lr=1.0), steps=steps, schedule="cosine", **momentum),
    }
    return {name: scored(one, batch, steps) for name, one in made.items()}


def reached(course: torch.Tensor, at: Any, wanted: torch.Tensor) -> float:
    """The median step at which a job's training loss is that wanted."""
    steps = [
        next((k for k, loss in zip(at, row, strict=True) if loss <= w), math.inf)
        for row, w in zip(course, wanted, strict=True)
    ]
    return statistics.median(steps)


def summary(values: torch.Tensor) -> list[float]:
    """Mean and half of its 95% interval."""
    return [float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5]


def on_jobs(rules: list[Any], jobs: int) -> dict[str, Any]:
    """Each column: all contenders' losses with intervals over jobs, and ratios to Adam tuned."""
    rows = {}
    for name, (tasks, steps) in columns().items():
        batch = tasks.sample(jobs, seed=SEED)
        found = rivals(batch, steps)
        adam = found["Adam, tuned"]
        for i, rule in enumerate(rules):
            found[f"learned, seed {i}"] = scored(mk.Unroll(rule, steps=steps), batch, steps)
        rows[name] = {
            who: {
                "training": summary(one["training"]),
                "other": summary(one["other"]),
                "log ratio": summary((one["training"] / adam["training"]).log()),
                "step": reached(one["course"], one["at"], adam["training"]),
            }
            for who, one in found.items()
        }
        print(
            name,
            {who: [round(row["training"][0], 4), round(row["other"][0], 4)] for who, row in rows[name].items()},
            flush=True,
        )
    return rows


def on_quadratics(minutes: float, jobs: int) -> dict[str, Any]:
    """The mean loss after 20, 50 and 100 steps, of rules trained for it, of rates tuned once, and exactly."""
    tasks, at = mk.tasks.Quadratics(10), (20, 50, 100)
    rule = mk.LearnedOptimizer(lr=0.05)
    learner = mk.Unroll(rule, steps=100, objective="mean")
    mk.fit(
        learner, tasks, minutes=minutes, meta_batch=64, lr=1e-2, clip=1.0, schedule="CosineAnnealingLR", progress=False
    )
    found = {"learned": learner, "conjugate gradients": mk.ConjugateGradients(steps=100)}
    for name, kind in (("Adam", mk.Adam), ("momentum", mk.Momentum)):
        rates = [10 ** (-3 + i / 4) for i in range(12)]
        tried = [mk.Unroll(kind(lr=rate), steps=100) for rate in rates]
        trained = [
            float(mk.evaluate(one, tasks, n_tasks=jobs, seed=5).loss.nan_to_num(1e9)[:, -1].mean()) for one in tried
        ]
        found[f"{name}, one rate tuned"] = tried[trained.index(min(trained))]
    rows = {}
    for name, one in found.items():
        result = mk.evaluate(one, tasks, n_tasks=jobs, seed=SEED)
        rows[name] = [summary(result.loss[:, result.at.index(k)]) for k in at]
        print(name, rows[name], flush=True)
    return rows


def peer() -> Any:
    """The per-weight network of PyLO (Metz et al. 2022, 39 features, 32 units) with random weights, if it is there."""
    try:
        from pylo.models.Meta_MLP import MetaMLP
        from pylo.optim import AdafacLO_naive
    except ImportError:
        return None
    MetaMLP.from_pretrained = classmethod(lambda kind, key: kind(39, 32, 1))  # trained ones would be downloaded
    return AdafacLO_naive


def cost(rule: Any, rounds: int) -> dict[str, Any]:
    """Milliseconds of a step on a network of a million weights, in turns."""
    made: dict[str, Any] = {
        "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
        "Adam, foreach": lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
        "Adam, fused": lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        "learned": lambda p: rule.optimizer(p, steps=1000),
        "learned, compiled": lambda p: rule.optimizer(p, steps=1000, compile=True),
    }
    if (other := peer()) is not None:
        made["PyLO, per-weight network"] = other
    ready = {}
    for name, make in made.items():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(512, 1000), torch.nn.ReLU(), torch.nn.Linear(1000, 488))
        for p in network.parameters():
            p.grad = torch.randn_like(p)
        ready[name] = make(network.parameters())
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, one in ready.items():
            begun = time.perf_counter()
            one.step()
            times[name].append(1000 * (time.perf_counter() - begun))
    return {name: statistics.median(each[3:]) for name, each in times.items()}


def tables(columns: dict[str, Any], quadratics: dict[str, Any], costs: dict[str, float]) -> list[str]:
    """All of it as text."""
    names, cells = list(next(iter(columns.values()))), {}
    for which in ("training", "other"):
        rows = []
        for name in names:
            row = [name]
            for found in columns.values():
                (mean, half), step = found[name][which], found[name]["step"]
                early = f" ({step:g})" if which == "training" and name.startswith("learned") and step < math.inf else ""
                row.append(f"{mean:.3g} +- {half:.1g}{early}")
            rows.append(row)
        cells[which] = measure.table(("", *columns), rows)
    six = [found for name, found in columns.items() if name != "wine"]
    against = []
    for name in names:
        if name.startswith("learned"):
            of_jobs = math.exp(statistics.mean(found[name]["log ratio"][0] for found in six))
            logs = [math.log(found[name]["training"][0] / found["Adam, tuned"]["training"][0]) for found in six]
            others = sum(found[name]["other"][0] < found[FAIR]["other"][0] for found in six)
            means = math.exp(statistics.mean(logs))
            against.append(
                (name, f"{means:.2f}", f"{of_jobs:.2f}", f"{sum(log < 0 for log in logs)} of 6", f"{others} of 6")
            )
    head = ("", "ratio of means", "ratio job by job", "better on training loss", f"better on other rows than {FAIR}")
    steps = [(name, *(f"{mean:.3g} +- {half:.1g}" for mean, half in row)) for name, row in quadratics.items()]
    return [
        f"## Training loss at the end, and the median step that reaches that of Adam\n\n{cells['training']}",
        f"## Loss on rows not trained on\n\n{cells['other']}",
        f"## Against Adam tuned for each job, without wine\n\n{measure.table(head, against)}",
        f"## Quadratics of 10 dimensions, mean loss after steps\n\n{measure.table(('', '20', '50', '100'), steps)}",
        "## A step on a network of a million weights, one thread\n\n"
        + measure.table(("", "ms"), [(name, f"{ms:.2f}") for name, ms in costs.items()]),
    ]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few jobs and seconds of training: does it run")
    parser.add_argument("--minutes", type=float, default=10.0, help="training of each rule, on one core")
    parser.add_argument(
        "--rules", nargs="*", type=pathlib.Path, help="rules trained before by `metakit train optimizer`"
    )
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "learned_optimizers.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    minutes, jobs, seeds = (0.1, 2, 1) if options.quick else (options.minutes, JOBS, 3)
    if options.rules:
        rules = [mk.load(path) for path in options.rules]
    else:
        rules = [recipe.learned_optimizer(minutes=minutes, seed=seed)[0] for seed in range(seeds)]
    columns = on_jobs(rules, jobs)
    quadratics = on_quadratics(0.05 if options.quick else 5.0, 200 if options.quick else 1000)
    costs = cost(rules[0], 8 if options.quick else 40)
    facts = measure.machine(torch=torch.__version__, threads=1, minutes=minutes, rules=len(rules), jobs=jobs)
    results = [
        {"part": "jobs", "columns": columns},
        {"part": "quadratics", "rows": quadratics},
        {"part": "cost", "ms": costs},
    ]
    about = (
        f"{len(rules)} rules from {len(rules)} seeds, each trained for {minutes:g} minutes of one core on invented "
        f"tables and characters. A column is {jobs} jobs that none met; minibatches of 32, 100 steps unless named. "
        "Rivals: the best of nine rates for each job. Intervals are over jobs."
    )
    text = "\n\n".join([about, *tables(columns, quadratics, costs)])
    measure.write(options.output, "Learned optimisers", facts, results, text)


if __name__ == "__main__":
    main()
