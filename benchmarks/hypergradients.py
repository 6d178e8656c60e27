"""Hypergradients: error and memory of each way on a problem with a known answer, and implicit MAML beside MAML.

    python benchmarks/hypergradients.py [--quick] [--output FILE.json]

(a) Ridge regression, 50 features with a penalty for each, float64; and the same with one penalty for all, which forward
mode can carry. (b) What autograd keeps for the meta-gradient of 25 sinusoids against the number of inner steps K.
(c) Losses on unseen sinusoids after equal seconds of training on one core, MLP 1-40-40-1; contenders take turns.

Source of the tasks of (b) and (c): Finn, Abbeel and Levine 2017, section 5.1.
"""

from __future__ import annotations

import argparse
import pathlib
import statistics
import time
from typing import Any

import measure
import torch
from torch import Tensor

import metakit as mk
from metakit.course.challenges import peak_saved

FEATURES, ROWS, SOLVER_STEPS, HOLD = 50, 80, 50, 60
WAYS = (("unrolled", False), ("implicit", False), ("neumann", False), ("forward", True), ("implicit", True))
CONTENDERS = {
    "MAML, 5 steps": lambda m: mk.MAML(m, rule=mk.SGD(0.01), steps=5),
    "the same, first order": lambda m: mk.MAML(m, rule=mk.SGD(0.01), steps=5, order=1),
    "ANIL, 5 steps": lambda m: mk.MAML(m, rule=mk.SGD(0.01), steps=5, adapt="head"),
    "implicit, published penalty": lambda m: mk.ImplicitMAML(m, rule=mk.SGD(0.01), steps=16),
    "implicit, penalty 5": lambda m: mk.ImplicitMAML(m, rule=mk.SGD(0.01), steps=16, penalty=5.0, solver_steps=2),
    "implicit, head alone, penalty 0.5": lambda m: mk.ImplicitMAML(
        m, rule=mk.SGD(0.02), steps=20, penalty=0.5, adapt="head"
    ),
    "Ridge, for comparison": lambda m: mk.Ridge(mk.models.MLP(1, [40, 40], 40)),
}


class Ridge:
    """``|X w - y|^2 / 2n + sum_j p_j w_j^2 / 2``, judged on other rows; the penalties are one number or one each."""

    def __init__(self, seed: int, one: bool) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        truth, self.x, self.other_x = normal(FEATURES), normal(ROWS, FEATURES), normal(HOLD, FEATURES)
        self.y, self.other_y = self.x @ truth + normal(ROWS), self.other_x @ truth
        self.penalty = torch.full((1 if one else FEATURES,), 0.13, dtype=torch.float64)
        self.hessian = self.x.T @ self.x / ROWS + self.penalty.expand(FEATURES).diag()

    def inner(self, w: Tensor, p: Tensor) -> Tensor:
        """The inner loss."""
        return (self.x @ w - self.y).square().mean() / 2 + (p * w.square()).sum() / 2

    def outer(self, w: Tensor, p: Tensor) -> Tensor:
        """The outer loss."""
        return (self.other_x @ w - self.other_y).square().mean() / 2

    def exact(self) -> Tensor:
        """The hypergradient, in closed form."""
        w = torch.linalg.solve(self.hessian, self.x.T @ self.y / ROWS)
        slope = self.other_x.T @ (self.other_x @ w - self.other_y) / HOLD
        return (-torch.linalg.solve(self.hessian, slope) * w).sum_to_size(self.penalty.shape)

    def found(self, method: str, steps: int) -> Tensor:
        """The hypergradient by a method, after so many inner steps at the rate 1 / largest curvature."""
        rule, start = (
            mk.SGD(1 / float(torch.linalg.eigvalsh(self.hessian)[-1])),
            torch.zeros(FEATURES, dtype=torch.float64),
        )
        options: dict[str, Any] = {"method": method, "rule": rule, "steps": steps}
        options |= {"solver_steps": steps if method == "neumann" else SOLVER_STEPS, "tolerance": 1e-14}
        return mk.hypergradient(self.inner, self.outer, start, self.penalty, **options).grads


def ridge(method: str, one: bool, steps: int, seeds: int) -> dict[str, Any]:
    """Relative errors and times over seeds, and what autograd kept."""
    errors, times = [], []
    for seed in range(seeds):
        problem = Ridge(seed, one)
        exact, begun = problem.exact(), time.perf_counter()
        found = problem.found(method, steps)
        times.append(1000 * (time.perf_counter() - begun))
        errors.append(float((found - exact).norm() / exact.norm()))
    kept = peak_saved(lambda: problem.found(method, steps)) / 1000
    return {"method": method, "one": one, "steps": steps, "errors": errors, "kb": kept, "ms": times}


def ridge_table(rows: list[dict[str, Any]]) -> str:
    """The table of (a)."""
    body = []
    for row in rows:
        told = f"{row['method']}, {'one penalty' if row['one'] else f'{FEATURES} penalties'}"
        each = sorted(row["errors"])
        error = f"{statistics.median(each):.1e} ({each[0]:.0e} to {each[-1]:.0e})"
        body.append((told, row["steps"], error, f"{row['kb']:.0f}", f"{statistics.median(row['ms']):.0f}"))
    return measure.table(("way", "inner steps K", "relative error (seeds)", "kept, kB", "ms"), body)


def memory(steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """What autograd keeps for one meta-gradient of 25 sinusoids, in MB, for each K."""
    batch, rows = mk.tasks.Sinusoids().sample(25, seed=0), []
    for name, kind in (("MAML", mk.MAML), ("implicit MAML", mk.ImplicitMAML)):
        torch.manual_seed(0)
        model, kept = mk.models.MLP(1, [40, 40], 1), {}
        for k in steps:
            learner = kind(model, steps=k)
            kept[k] = peak_saved(lambda learner=learner: learner(batch).mean().backward()) / 1e6
        rows.append({"learner": name, "mb": kept})
    return rows


def trained(name: str, seed: int, seconds: float, tasks: int) -> dict[str, Any]:
    """Outer steps made in so many seconds, and the loss on unseen tasks after all inner steps."""
    torch.manual_seed(seed)
    learner, made = CONTENDERS[name](mk.models.MLP(1, [40, 40], 1)), 0
    options: dict[str, Any] = {"steps": 1_000_000, "meta_batch": 25, "lr": 0.003, "progress": False, "seed": seed}
    run = mk.Training(learner, mk.tasks.Sinusoids(), **options).start()
    end, failed = time.perf_counter() + seconds, None
    try:
        for _ in run:
            made += 1
            if time.perf_counter() > end:
                break
    except mk.DivergedError as error:
        failed = str(error)
    loss = float(mk.evaluate(learner, mk.tasks.Sinusoids(), n_tasks=tasks, seed=1000).mean()[-1])
    return {"learner": name, "seed": seed, "outer_steps": made, "loss": loss, "diverged": failed}


def race_table(runs: list[dict[str, Any]]) -> str:
    """The table of (c): mean over seeds with its 95% interval."""
    body = []
    for name in CONTENDERS:
        own = [run for run in runs if run["learner"] == name]
        losses, lost = [run["loss"] for run in own], sum(run["diverged"] is not None for run in own)
        half = 1.96 * statistics.stdev(losses) / len(losses) ** 0.5 if len(losses) > 1 else float("nan")
        steps = statistics.mean(run["outer_steps"] for run in own)
        body.append((name, f"{steps:.0f}", f"{statistics.mean(losses):.3f} +- {half:.3f}", f"{lost} of {len(own)}"))
    return measure.table(("learner", "outer steps", "loss on unseen sinusoids", "diverged"), body)


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "hypergradients.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    seeds, lengths, runs, seconds = (2, (10, 100), 2, 1.5) if options.quick else (5, (10, 100, 1000), 3, 16)
    rows = [ridge(method, one, steps, seeds) for method, one in WAYS for steps in lengths]
    parts = [f"## Ridge regression, {FEATURES} features, float64, {seeds} data sets\n\n{ridge_table(rows)}"]
    parts.append(
        f"Implicit: at most {SOLVER_STEPS} steps of conjugate gradients; Neumann: as many terms as inner steps."
    )
    steps = (10, 50) if options.quick else (10, 50, 100, 500)
    kept = memory(steps)
    head = ("MB kept for a meta-gradient", *(f"K = {k}" for k in steps))
    body = [(row["learner"], *(f"{mb:.1f}" for mb in row["mb"].values())) for row in kept]
    parts.append(f"## 25 sinusoids, MLP 1-40-40-1\n\n{measure.table(head, body)}")
    raced = [trained(name, seed, seconds, 100 if options.quick else 500) for seed in range(runs) for name in CONTENDERS]
    parts.append(f"## Sinusoids after {seconds:g} s of training, {runs} seeds\n\n{race_table(raced)}")
    parts.append("The outer optimiser is Adam at 0.003 for all. Ridge solves its head in closed form.")
    facts = measure.machine(torch=torch.__version__, threads=1)
    results = [{"part": "ridge", "rows": rows}, {"part": "memory", "rows": kept}, {"part": "race", "rows": raced}]
    measure.write(options.output, "Hypergradients and implicit MAML", facts, results, "\n\n".join(parts))


if __name__ == "__main__":
    main()
