"""From a control to its picture: how long each explorer takes to compute, draw and encode after one control moved.

    python benchmarks/widgets.py [--quick] [--output FILE.json]

Each explorer stands at its defaults and one control is moved to and fro; a change is timed from the new value to the
finished PNG (of the canvas: to the answer), in the kernel alone. What a browser adds is not in it, nor what begins a
training or a search anew. The learners are untrained: training changes none of the work.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import measure
import torch

import metakit as mk
from metakit import widgets

TARGET_MS = 150


@dataclasses.dataclass
class Row:
    """An explorer, the control that was moved, and the time of each change in ms."""

    explorer: str
    control: str
    ms: list[float]


def sliders() -> list[tuple[Any, str, Sequence[Any]]]:
    """Each explorer at its defaults, a control, and the values that it is moved between."""
    waves = mk.MAML(mk.models.MLP(1, [40, 40], 1))
    images = mk.ProtoNet(mk.models.ConvNet(width=16))
    unseen = mk.tasks.Glyphs(alphabets=4, characters=12, drawers=10, seed=1000)
    reading = mk.InContext(mk.models.SetTransformer(1, width=48, layers=3), bins=100)
    moons = [widgets.preset_points("two moons", seed=seed) for seed in (1, 2)]
    gains, intents = mk.models.Gains(4096), {name: [f"{name} {i}" for i in range(5)] for name in ("card", "cash")}
    table = trials()
    search = widgets.SearchExplorer()
    for _ in range(2):
        search.next()
    return [
        (widgets.AdaptationExplorer(waves), "amplitude", (2.0, 4.0)),
        (widgets.OutsideExplorer(waves), "amplitude", (2.0, 8.0)),
        (widgets.RaceExplorer(), "steps", (10, 9)),
        (widgets.DescentExplorer(), "lr", (0.01, 0.1)),
        (widgets.SurfaceExplorer(), "inner_lr", (0.1, 0.3)),
        (search, "shown", ("evolution", "cross-entropy")),
        (widgets.EpisodeExplorer(images, unseen), "seed", (1, 2)),
        (widgets.ClusterExplorer(unseen), "clusters", (40, 60)),
        (widgets.ProcessExplorer(reading), "points", ([[-1.0, 0.5]], [[-1.0, 0.5], [1.0, -0.5]])),
        (widgets.TableExplorer(mk.TableClassifier.load()), "points", moons),
        (widgets.TextExplorer(mk.ProtoNet(gains, distance="cosine"), intents), "question", ("lost", "money")),
        (widgets.RaceOfSettings(table), "trials", (19, 20)),
    ]


def trials() -> mk.tasks.TrialTables:
    """Invented scores of as many settings as those of the support vector machine, on a grid of two values."""
    candidates = tuple({"C": 2.0**i, "gamma": 2.0**j} for i in range(12) for j in range(24))
    settings, scores = torch.rand(len(candidates), 2), torch.rand(50, len(candidates))
    names = tuple(f"set {i}" for i in range(len(scores)))
    return mk.tasks.TrialTables(settings=settings, scores=scores, names=names, candidates=candidates)


def time_changes(explorer: Any, change: Callable[[int], Any], repeats: int) -> list[float]:
    """Make two changes to warm up, then as many as asked for; their times in ms."""
    times = []
    for i in range(repeats + 2):
        began = time.perf_counter()
        change(i % 2)
        times.append(1000 * (time.perf_counter() - began))
        if explorer.error is not None:
            raise explorer.error
    return times[2:]


def moves(explorer: Any, name: str, values: Sequence[Any]) -> Callable[[int], Any]:
    """What moves a control to one of two values; the first is never where it stands."""
    control = explorer.controls[name]
    ends = values if control.value != values[0] else values[::-1]
    return lambda i: setattr(control, "value", ends[i])


def measure_widgets(repeats: int) -> list[Row]:
    """Time every explorer."""
    changes = [(explorer, name, moves(explorer, name, values)) for explorer, name, values in sliders()]
    steps = widgets.StepsExplorer()
    changes.append((steps, "Next and Back, seen before", lambda i: steps.back() if i else steps.next()))
    canvas = widgets.Canvas(mk.ProtoNet(mk.models.ConvNet(width=16)))
    strokes = [[[(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)]], [[(0.2, 0.2), (0.8, 0.2), (0.2, 0.8)]]]
    for place in "ABCDE":
        canvas.draw(place, strokes[0])
    changes.append((canvas, "a drawing on the query's pad", lambda i: canvas.draw("query", strokes[i])))
    return [Row(type(w).__name__, name, time_changes(w, change, repeats)) for w, name, change in changes]


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 changes each: does it run, roughly how fast")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "widgets.json")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)  # as the notebooks do
    rows = measure_widgets(repeats := 4 if options.quick else 20)
    body = [
        (f"`{row.explorer}`", row.control, measure.spread(statistics.median(row.ms), min(row.ms), max(row.ms), 0))
        for row in rows
    ]
    slow = [row.explorer for row in rows if statistics.median(row.ms) >= TARGET_MS]
    text = measure.table(("explorer", "control", f"ms, median of {repeats} (range)"), body)
    text += f"\n\nTarget: below {TARGET_MS} ms. Above it: {', '.join(slow) or 'none'}."
    facts = measure.machine(torch=torch.__version__, threads=1)
    measure.write(options.output, "From a control to its picture", facts, rows, text)


if __name__ == "__main__":
    main()
