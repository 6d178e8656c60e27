"""Learning in context beside exact Bayes: how far a trained transformer's answers are from the best that there are.

    python benchmarks/in_context.py [--parts gp linear wide] [--minutes 1 3 8 15] [--quick] [--output FILE.json]

gp: Gaussian processes, the divergence of the answer from exact Bayes on the answer's bins, after some minutes each.
linear: five features without noise. wide: twenty. Each part called renews its own figures in the results.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import measure
import torch

import metakit as mk
from metakit.contracts import LOSS
from metakit.learners import Binned, binned_divergence
from metakit.recipes import in_context as recipe

SIZES = (2, 5, 10, 20)
SEED = 77


def summary(values: torch.Tensor) -> list[float]:
    """Mean and half of its 95% interval."""
    return [float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5]


def apart(learner: mk.InContext, n_tasks: int) -> dict[str, Any]:
    """Divergence from exact Bayes, and the error beside its error, for each size of context."""
    rows = {}
    for size in SIZES:
        batch = recipe.PROCESSES.at(size).sample(n_tasks, seed=SEED)
        divergences, ours, exact = [], [], []
        for start in range(0, n_tasks, 50):
            part = batch[start : start + 50]
            with torch.no_grad():
                answer, best = learner.respond(part), mk.GridGP(recipe.PROCESSES, points=12).respond(part)
            assert isinstance(answer, Binned)
            divergences.append(binned_divergence(best, answer).mean(1))
            truth = part.query_y[..., 0]
            ours.append((answer.mean - truth).square().mean(1))
            exact.append((best.mean - truth).square().mean(1))
        ratio = float((torch.cat(ours).mean() / torch.cat(exact).mean()).sqrt())
        rows[str(size)] = {"divergence": summary(torch.cat(divergences)), "rmse": ratio}
    return rows


def on_processes(minutes: list[float], n_tasks: int) -> dict[str, Any]:
    """A learner trained for each of these times, from the start."""
    found = {}
    for time in minutes:
        learner, history = recipe.gp_learner(minutes=time, progress=False)
        found[f"{time:g}"] = {"rows": apart(learner, n_tasks), "steps": history.steps}
        print(time, found[f"{time:g}"], flush=True)
    return {"runs": found, "n_tasks": n_tasks}


def on_lines(features: int, minutes: float, n_tasks: int, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Squared error of a learner of linear tasks, of exact Bayes and of least squares, in units of the features."""
    prior = recipe.linear(features)
    learner, history = recipe.linear_learner(prior, minutes=minutes, progress=False)
    rows: dict[str, Any] = {}
    for name, contender in (
        ("ours", learner),
        ("exact Bayes", mk.BayesLinear(prior)),
        ("least squares", mk.LeastSquares()),
    ):
        contender.sizes = sizes
        result = mk.evaluate(contender, prior.at(max(sizes)), n_tasks=n_tasks, seed=SEED)
        rows[name] = {
            str(at): [number / features for number in summary(result.scores[LOSS][:, i])]
            for i, at in enumerate(result.at)
            if at in sizes
        }
        print(features, name, rows[name], flush=True)
    return {"rows": rows, "features": features, "minutes": minutes, "n_tasks": n_tasks, "steps": history.steps}


def text(found: dict[str, Any]) -> str:
    """The tables."""
    blocks = []
    if "gp" in found:
        runs, n_tasks = found["gp"]["runs"], found["gp"]["n_tasks"]
        about = (
            "Divergence (nats, on the answer's 100 bins) from exact Bayes for the prior, a mixture over 144 settings "
            f"of its hyperparameters; {n_tasks} tasks a size; in brackets the root mean squared error over that of "
            "exact Bayes."
        )
        rows = [
            [
                name,
                run["steps"],
                *(
                    f"{spread(run['rows'][str(size)]['divergence'])} ({run['rows'][str(size)]['rmse']:.3f})"
                    for size in SIZES
                ),
            ]
            for name, run in runs.items()
        ]
        head = ("minutes of one core", "steps", *(f"{size} rows" for size in SIZES))
        blocks.append(f"## Gaussian processes\n\n{about}\n\n{measure.table(head, rows)}")
    for part in ("linear", "wide"):
        if part in found:
            of = found[part]
            sizes = list(next(iter(of["rows"].values())))
            rows = [[name, *(spread(row[size]) for size in sizes)] for name, row in of["rows"].items()]
            about = (
                f"Squared error divided by the number of features, without noise; {of['n_tasks']} tasks; "
                f"{of['minutes']:g} minutes of one core, {of['steps']} steps."
            )
            body = measure.table(("rows", *sizes), rows)
            blocks.append(f"## Linear regression, {of['features']} features\n\n{about}\n\n{body}")
    return "\n\n".join(blocks)


def spread(pair: list[float]) -> str:
    """A mean and half of its interval."""
    return f"{pair[0]:.2g} +- {pair[1]:.1g}"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = ("gp", "linear", "wide")
    parser.add_argument("--parts", nargs="*", choices=parts, default=parts)
    parser.add_argument("--minutes", nargs="*", type=float, default=[1.0, 3.0, 8.0, 15.0], help="of the part gp")
    parser.add_argument("--wide-minutes", type=float, default=40.0, help="of the part wide")
    parser.add_argument("--quick", action="store_true", help="seconds of training, few tasks: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "in_context.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quick, found = options.quick, {}
    if options.output.exists():
        found = {entry["part"]: entry["found"] for entry in json.loads(options.output.read_text())["results"]}
    makers = {
        "gp": lambda: on_processes([0.05], 50) if quick else on_processes(options.minutes, 1000),
        "linear": lambda: on_lines(5, 0.05 if quick else 4.0, 50 if quick else 2000, (2, 5, 10, 15)),
        "wide": lambda: on_lines(20, 0.05 if quick else options.wide_minutes, 50 if quick else 1000, (10, 20, 40, 60)),
    }
    for part in options.parts:
        found[part] = makers[part]()
        facts = measure.machine(torch=torch.__version__, threads=1)
        results = [{"part": name, "found": found[name]} for name in parts if name in found]
        measure.write(options.output, "Learning in context", facts, results, text(found))


if __name__ == "__main__":
    main()
