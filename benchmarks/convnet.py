"""Few-shot ConvNet: time and peak memory of a whole outer step, 64 wide, 28x28, 5-way 1-shot, 15 queries a class.

    python benchmarks/convnet.py [--quick] [--threads 1] [--device cuda] [--output FILE.json]

Each problem is measured twice: with glibc's malloc as it comes, and told by its environment to keep freed pages, for
every contender alike, since page faults on freshly mapped memory are a good part of a step.
"""

from __future__ import annotations

import measure
import peers

PROBLEMS = (peers.Problem("convnet", tasks=8, steps=1, lr=0.1), peers.Problem("convnet", tasks=4, steps=5, lr=0.1))
HEAD = (
    "contender",
    "ms per outer step (rounds)",
    "speed-up over best loop library",
    "peak MB above start",
    "of best loop library's",
    "while stepping, MB",
    "absolute MB",
    "error",
    "first s",
)


def section(rows: list[measure.Row], title: str) -> str:
    """The table of one problem under one malloc; memory is compared with the loop library that needs least."""
    loop = measure.fastest(rows, peers.LOOP_LIBRARIES)
    least = min((r.above_mb for r in rows if r.name in peers.LOOP_LIBRARIES and r.above_mb), default=None)
    body = []
    for row in rows:
        if row.unable:
            body.append((row.name, row.unable, *["-"] * (len(HEAD) - 2)))
            continue
        memory = f"{row.above_mb:.0f}", f"{row.above_mb / least:.2f}" if least else "-"
        more = f"{row.steady_mb:.0f}", f"{row.absolute_mb:.0f}"
        error = f"{row.error:.0e}" if row.exact else f"**{row.error:.0e}, wrong**"
        ratio = measure.ratio_text(loop, row)
        body.append((row.name, measure.timing(row), ratio, *memory, *more, error, f"{row.first_call_s:.1f}"))
    return f"## {title}\n\n{measure.table(HEAD, body)}"


def main() -> None:
    """Measure, and write the results."""
    parser = measure.arguments("convnet", __doc__)
    # On a CPU, JAX takes seconds a step (XLA has no fast convolution with a kernel per task), and a compiled step takes
    # minutes to compile, to be no faster. Ask for them by name.
    parser.set_defaults(contenders=[name for name in peers.CONTENDERS if name not in ("jax", "metakit compiled")])
    options = parser.parse_args()
    rounds, burst = (2, 1) if options.quick else (6, 2)
    rows, sections, facts = [], [], {}
    for problem in PROBLEMS:
        for keep_pages in (False, True) if options.device == "cpu" else (False,):
            setup = measure.Setup(options.device, options.threads, rounds, burst, keep_pages)
            compared, facts = measure.compare(problem, options.contenders, setup)
            rows += compared
            sections.append(section(compared, f"{problem}; malloc {compared[0].malloc}"))
    facts = measure.machine(**facts, rounds=rounds, steps_per_round=burst)
    note = f"“Keeps pages” is {', '.join(f'`{k}={v}`' for k, v in measure.KEEP_PAGES.items())}."
    measure.write(
        options.output, "ConvNet: time and memory of an outer step", facts, rows, "\n\n".join([*sections, note])
    )


if __name__ == "__main__":
    main()
