"""Sinusoid MAML: time of a whole outer step, 25 tasks, 10 shots, MLP 1-40-40-1, 1 and 5 inner steps.

    python benchmarks/sinusoid.py [--quick] [--threads 1] [--device cuda] [--output FILE.json]

Source of the task: Finn, Abbeel and Levine 2017, section 5.1.
"""

from __future__ import annotations

import measure
import peers

HEAD = (
    "contender",
    "ms per outer step (rounds)",
    "times metakit's",
    "speed-up over best loop library",
    "speed-up over jax",
    "error",
    "first s",
)


def section(rows: list[measure.Row], problem: peers.Problem) -> str:
    """The table of one problem: how many times faster than the best loop library and JAX each contender is."""
    loop, jax = measure.fastest(rows, peers.LOOP_LIBRARIES), measure.fastest(rows, ["jax"])
    ours = measure.fastest(rows, ["metakit"])
    body = []
    for row in rows:
        if row.unable:
            body.append((row.name, row.unable, *["-"] * (len(HEAD) - 2)))
            continue
        ratios = measure.ratio_text(row, ours), measure.ratio_text(loop, row), measure.ratio_text(jax, row)
        body.append((row.name, measure.timing(row), *ratios, f"{row.error:.0e}", f"{row.first_call_s:.1f}"))
    return f"## {problem}\n\n{measure.table(HEAD, body)}"


def main() -> None:
    """Measure, and write the results."""
    options = measure.arguments("sinusoid", __doc__).parse_args()
    rounds, burst = (3, 5) if options.quick else (10, 20)
    setup = measure.Setup(options.device, options.threads, rounds, burst)
    rows, sections, facts = [], [], {}
    for order in (2, 1):
        for steps in (1, 5):
            problem = peers.Problem("mlp", tasks=25, steps=steps, order=order)
            compared, facts = measure.compare(problem, options.contenders, setup)
            rows += compared
            sections.append(section(compared, problem))
    facts = measure.machine(**facts, rounds=rounds, steps_per_round=burst)
    measure.write(options.output, "Sinusoid: time of an outer step", facts, rows, "\n\n".join(sections))


if __name__ == "__main__":
    main()
