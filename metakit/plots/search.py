"""How a search went: best so far, structures and their scores, the model of good structures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from metakit.plots.figures import BLACK, CYCLE, DASHES, GREY, ORANGE, plain_log_axis
from metakit.records.words import count
from metakit.search import Result
from metakit.search.space import Choice, Number
from metakit.search.strategies import cells_of

_NORMAL_95 = 1.959964
_MARKERS = "osD^v<>P"


def draw_search(ax: Axes, results: Result | Mapping[str, Result | Sequence[Result]]) -> None:
    """Best validation loss so far against candidates trained, of one search or of several by name.

    Of several seeds, as ``search.compare`` gives them with random search among them: geometric mean, 95% interval.
    """
    named = {results.strategy: results} if isinstance(results, Result) else results
    for i, (name, given) in enumerate(named.items()):
        runs = [given] if isinstance(given, Result) else given
        curves = [run.best_so_far() for run in runs]
        size = min(map(len, curves))
        values = torch.tensor([curve[:size] for curve in curves], dtype=torch.float64)
        known = int((~torch.isfinite(values)).sum(1).max())  # none finished before
        trained, log = range(known + 1, size + 1), values[:, known:].clamp(min=1e-12).log()
        random = all(run.strategy == "Random" for run in runs)
        colour, style = (GREY, "--") if random else (CYCLE[i % len(CYCLE)], DASHES[i % 4])
        ax.plot(trained, log.mean(0).exp().tolist(), color=colour, ls=style, lw=2, label=name)
        if len(runs) > 1:
            half = _NORMAL_95 * log.std(0) / len(runs) ** 0.5
            low, high = ((log.mean(0) + side).exp().tolist() for side in (-half, half))
            ax.fill_between(trained, low, high, color=colour, alpha=0.2, lw=0)
    seeds = max(1 if isinstance(given, Result) else len(given) for given in named.values())
    ax.set(xlabel="candidates trained", ylabel="best validation loss so far")
    ax.set_title("Best so far" + (f", geometric mean of {seeds} seeds, 95% interval" if seeds > 1 else ""))
    plain_log_axis(ax)
    ax.legend(frameon=False, fontsize=8)


def draw_population(ax: Axes, result: Result, *, dimension: str | None = None) -> None:
    """Every candidate: one of its dimensions against its validation loss, shaded by the round; the best is ringed.

    The dimension is the one with the most values, whole numbers first, when left out. Candidates that
    diverged stand at the upper edge.
    """
    dimensions = result.space.dimensions
    name = dimension or max(dimensions, key=lambda n: (cells_of(dimensions[n]), math.isfinite(dimensions[n].count)))
    if name not in dimensions:
        raise ValueError(f"dimension must be one of {', '.join(dimensions)}, got {name!r}.")
    chosen = dimensions[name]
    finite = [t.score for t in result.history if math.isfinite(t.score)]
    top = max(finite) * 1.5
    kind = next((n for n, d in dimensions.items() if isinstance(d, Choice) and n != name), "")
    groups = dict.fromkeys(t.candidate.get(kind) for t in result.history)
    last = max(t.round for t in result.history)
    for marker, group in zip(itertools.cycle(_MARKERS), groups, strict=False):
        trials = [t for t in result.history if t.candidate.get(kind) == group]
        x = [_place(chosen, t.candidate[name]) for t in trials]
        y = [min(t.score, top) for t in trials]
        label = f"{kind} {group}" if kind else None
        options: dict[str, Any] = {"vmin": 1, "vmax": last + 1, "cmap": "viridis_r", "s": 22, "label": label}
        shades = ax.scatter(x, y, c=[t.round + 1 for t in trials], marker=marker, **options)
    best = result.best
    ax.scatter([_place(chosen, best.candidate[name])], [best.score], s=140, fc="none", ec=ORANGE, lw=2, label="best")
    if last:
        ax.figure.colorbar(shades, ax=ax, label="round", ticks=MaxNLocator(integer=True, nbins=6))
    ax.set(xlabel=name.replace("_", " "), ylabel="validation loss", title=count(len(result.history), "candidate"))
    if isinstance(chosen, Choice):
        ax.set_xticks(range(chosen.count), [str(v) for v in chosen.values])
    elif chosen.log:
        ax.set_xscale("log")
    plain_log_axis(ax)
    ax.legend(frameon=False, fontsize=8)


def draw_distribution(ax: Axes, result: Result) -> None:
    """The strategy's model before each round: a row a round, a column a value or cell, darker for more probable."""
    if not result.distributions:
        raise ValueError(f"{result.strategy} keeps no model to draw. Use CrossEntropy or Reinforce.")
    rounds = len(result.distributions)
    ticks, labels, middles = [], [], []
    for at, name in enumerate(result.distributions[0]):
        rows = torch.stack([model[name] for model in result.distributions]).numpy()
        cells = rows.shape[1]
        edges = [at + i / cells for i in range(cells + 1)]
        ax.pcolormesh(edges, range(rounds + 1), rows, cmap="Blues", vmin=0, vmax=1)
        ends = _ends(result.space.dimensions[name], cells)
        ticks += [at + (i + 0.5) / cells for i in ends]
        labels += list(ends.values())
        middles.append(at + 0.5)
        ax.axvline(at + 1, color=BLACK, lw=1)
    ax.set_xticks(ticks, labels, fontsize=8)
    ax.set_yticks([i + 0.5 for i in range(rounds)], [str(i + 1) for i in range(rounds)])
    ax.invert_yaxis()
    top = ax.secondary_xaxis("top")
    top.set_xticks(middles, [name.replace("_", " ") for name in result.distributions[0]], fontsize=9)
    top.tick_params(length=0)
    ax.set(ylabel="round", xlabel="value of a choice, cell of a range")
    ax.set_title("Probability of each value: white 0, dark 1")


def _place(dimension: Choice | Number, value: Any) -> float:
    return dimension.values.index(value) if isinstance(dimension, Choice) else value


def _ends(dimension: Choice | Number, cells: int) -> dict[int, str]:
    """Which columns to label: every value of a choice, the ends of a range."""
    if isinstance(dimension, Choice):
        return {i: str(value) for i, value in enumerate(dimension.values)}
    if dimension.whole and cells <= 4:
        return {i: str(dimension.value((i + 0.5) / cells)) for i in range(cells)}
    return {0: f"{dimension.low:g}", cells - 1: f"{dimension.high:g}"}
