"""Invented handwriting: drawings a second, beside Pillow drawing the same strokes as lines.

    python benchmarks/glyphs_speed.py [--quick] [--threads 1] [--device cuda] [--output FILE.json]

Both draw the same finished strokes: Pillow as lines, one drawing after the other, twice as large and then halved, which
makes its edges smooth too. The time of ``Glyphs`` has everything in it: styles, characters, hands, strokes, ink.
"""

from __future__ import annotations

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import Any

import measure
import numpy as np
import torch
from PIL import Image, ImageDraw

import metakit as mk
from metakit.data import _strokes

SIZE, CHARACTERS, DRAWERS = 28, 20, 20


Lines = list[list[list[tuple[float, float]]]]


def strokes(count: int, device: str) -> tuple[torch.Tensor, torch.Tensor, Lines]:
    """As many characters: points and steps ``[n, P, 2]`` in pixels, and as Pillow wants them, on a canvas of 2 x 28."""
    plan = _strokes.characters(count, _strokes.Dice(torch.Generator().manual_seed(0)))
    points, steps = _strokes.trace(plan, 11, torch.full((count,), 0.3), torch.zeros(count, 2))
    low, high = points.amin(1, keepdim=True), points.amax(1, keepdim=True)
    zoom = 16 / (high - low).amax(2, keepdim=True).clamp(min=0.1)
    points, steps = (points - low) * zoom + 6, steps * zoom
    there = plan.lengths.sum(2) > 0
    split = (2 * points).unflatten(1, (_strokes.STROKES, -1)).numpy()
    lines = [[[tuple(p) for p in split[i, s].tolist()] for s in np.flatnonzero(there[i])] for i in range(count)]
    return points.to(device), steps.to(device), lines


def pillow(characters: Lines) -> np.ndarray:
    """The drawings ``[n, 28, 28]``, ink 255."""
    drawings = []
    for lines in characters:
        picture = Image.new("L", (2 * SIZE, 2 * SIZE))
        pen = ImageDraw.Draw(picture)
        for line in lines:
            pen.line(line, fill=255, width=3, joint="curve")
        drawings.append(np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BOX)))
    return np.stack(drawings)


def seconds(work: Callable[[], Any], device: str) -> float:
    """How long it takes, the device's queue emptied."""
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few repetitions: does it run, roughly how fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="torch's threads; its default when left out")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "glyphs_speed.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    rounds, alphabets = (3, 5) if options.quick else (9, 25)
    drawings, batch = alphabets * CHARACTERS * DRAWERS, 100 if options.device == "cpu" else 2000
    points, steps, lines = strokes(2000, options.device)

    def glyphs() -> mk.tasks.Glyphs:
        return mk.tasks.Glyphs(alphabets, CHARACTERS, DRAWERS, SIZE, device=options.device)

    def ink() -> list[torch.Tensor]:
        pen = torch.full((batch,), 1.4, device=options.device)
        pairs = zip(points.split(batch), steps.split(batch), strict=True)
        return [_strokes.rasterise(p, s, pen, SIZE).clamp_(max=1).mul_(255).round_().byte() for p, s in pairs]

    glyphs(), ink()
    rows = []
    for _ in range(rounds):  # in turns, so that drift of the machine hits all alike
        rows.append({"Glyphs, all of it": drawings / seconds(glyphs, options.device)})
        rows[-1]["metakit, the same strokes"] = len(lines) / seconds(ink, options.device)
        rows[-1]["Pillow, the same strokes"] = len(lines) / seconds(lambda: pillow(lines), "cpu")

    def text(column: list[float], digits: int) -> str:
        return measure.spread(float(np.median(column)), min(column), max(column), digits)

    body = []
    for name in rows[0]:
        ratios = [row[name] / row["Pillow, the same strokes"] for row in rows]
        body.append((name, text([row[name] for row in rows], 0), text(ratios, 2)))
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), device=options.device)
    facts |= {"rounds": rounds, "drawings": drawings}
    table = measure.table(("contender", "drawings a second (rounds)", "times Pillow's"), body)
    measure.write(options.output, "Invented handwriting: drawings a second, 28 x 28", facts, rows, table)


if __name__ == "__main__":
    main()
