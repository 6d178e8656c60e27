"""How time and peak memory of an outer step grow with inner steps K and tasks T, first and second order.

python benchmarks/scaling.py [--quick] [--threads 1] [--device cuda] [--output FILE.json] [--contenders metakit ...]
"""

from __future__ import annotations

import pathlib

import measure
import peers

STEPS, TASKS = (1, 2, 5, 10, 20), (1, 4, 16, 64)
# Tasks held while K varies, inner rate, and more numbers of tasks to try; K is 1 while T varies.
NETWORKS = {"mlp": {"tasks": 25, "lr": 0.01, "more": (256, 1024)}, "convnet": {"tasks": 4, "lr": 0.01, "more": ()}}


def problems(network: str) -> dict[str, list[peers.Problem]]:
    """The problems of each axis, ``K`` at a fixed T and ``T`` at K=1, in both orders."""
    tasks, lr, more = NETWORKS[network].values()
    axes = {"K": [(tasks, steps) for steps in STEPS], "T": [(count, 1) for count in (*TASKS, *more)]}
    return {
        axis: [peers.Problem(network, count, steps, order, lr) for order in (2, 1) for count, steps in grid]
        for axis, grid in axes.items()
    }


def section(rows: list[measure.Row], axis: str, network: str) -> str:
    """The table of one axis: a line for each contender, order and size."""
    key = {"K": "steps", "T": "tasks"}[axis]
    held = f"T={NETWORKS[network]['tasks']}" if axis == "K" else "K=1"
    body = [
        (
            f"{r.name}, order {r.problem['order']}",
            r.problem[key],
            measure.timing(r),
            f"{r.above_mb:.1f}",
            f"{r.error:.0e}",
        )
        for r in rows
        if r.rounds
    ]
    head = ("contender", axis, "ms per outer step (rounds)", "peak MB above start", "error")
    return f"## {network}, {held}\n\n{measure.table(head, body)}"


def draw(record: dict[tuple[str, str], list[measure.Row]], path: pathlib.Path) -> None:
    """Time above, memory below, against K and T of each network."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(4 * len(record), 6.4), layout="constrained")
    axes = figure.subplots(2, len(record), squeeze=False, sharex="col")
    for column, ((network, axis), rows) in enumerate(record.items()):
        key = {"K": "steps", "T": "tasks"}[axis]
        for name, order in dict.fromkeys((r.name, r.problem["order"]) for r in rows if r.rounds):
            line = [r for r in rows if r.rounds and (r.name, r.problem["order"]) == (name, order)]
            style = {"marker": "o", "linestyle": "-" if order == 2 else "--", "label": f"{name}, order {order}"}
            axes[0, column].plot([r.problem[key] for r in line], [r.ms for r in line], **style)
            axes[1, column].plot([r.problem[key] for r in line], [max(r.above_mb, 0.1) for r in line], **style)
        held = f"T={NETWORKS[network]['tasks']}" if axis == "K" else "K=1"
        axes[0, column].set(title=f"{network}, {held}", ylabel="ms per outer step")
        axes[1, column].set(xlabel={"K": "inner steps K", "T": "tasks T"}[axis], ylabel="peak MB above start")
        for ax in axes[:, column]:
            ax.set(xscale="log", yscale="log", xticks=sorted({r.problem[key] for r in rows}))
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            for side in (ax.xaxis, ax.yaxis):
                side.set_major_formatter("{x:g}")
            ax.minorticks_off()
            ax.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, draw, and write the results."""
    parser = measure.arguments("scaling", __doc__)
    parser.set_defaults(contenders=["metakit"])
    options = parser.parse_args()
    record, facts = {}, {}
    for network in NETWORKS:
        rounds, burst = (2, 1) if options.quick else (4, 10 if network == "mlp" else 1)
        setup = measure.Setup(options.device, options.threads, rounds, burst)
        for axis, grid in problems(network).items():
            rows = record[network, axis] = []
            for problem in grid if not options.quick else [p for p in grid if p.steps <= 5 and p.tasks <= 25]:
                compared, facts = measure.compare(problem, options.contenders, setup, strict=False)
                rows += compared
    output = options.output
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(record, output.with_suffix(".png"))
    picture = f"![time and memory against K and T]({output.stem}.png)"
    sections = [section(rows, axis, network) for (network, axis), rows in record.items()]
    every = [row for rows in record.values() for row in rows]
    measure.write(output, "Scaling", measure.machine(**facts), every, "\n\n".join([picture, *sections]))


if __name__ == "__main__":
    main()
