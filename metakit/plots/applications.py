"""Applications drawn: what classifiers make of a question, and the race of hyperparameter settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

from metakit.plots.figures import BLACK, BLUE, DASHES, GREEN, GREY, ORANGE, PURPLE, RED
from metakit.records.applications import SettingsPlane, SettingsRace, TextAnswers
from metakit.records.words import count

_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, GREY)  # of contenders
_CLASS, _EXAMPLE = 15, 48  # characters of a class and of an example
_NAMED = 8  # places of an axis at most
_PERCENT, _LINEAR = (0, 0.5, 1, 2, 5, 10, 20, 50, 100), 1.0  # below which the scale is linear
_BAR = 0.36


def draw_text_scores(ax: Axes, record: TextAnswers) -> None:
    """The share of each class as bars, those of the contenders beneath each other; no bars where there is no answer."""
    names, thick = record.classes, 2 * _BAR / max(1, len(record.scores))
    for i, (name, shares) in enumerate(record.scores.items()):
        at = [n + (i - (len(record.scores) - 1) / 2) * thick for n in range(len(names))]
        percent = (100 * shares).tolist()
        ax.barh(at, percent, 0.9 * thick, color=_COLOURS[i % 5], label=name)
        for height, value in zip(at, percent, strict=True):
            ax.text(value + 1.5, height, f"{value:.0f}", va="center", fontsize=7)
    ax.set_yticks(range(len(names)), [_fitting(name, _CLASS) for name in names], fontsize=9, parse_math=False)
    ax.set(xlim=(0, 112), ylim=(max(len(names), 1) - 0.5, -0.5), xlabel="share of the class (%)")
    ax.set_title("What it is taken for")
    if not record.scores:
        ax.text(56, (max(len(names), 1) - 1) / 2, "no answer yet", ha="center", va="center", color=GREY)


def draw_near_examples(ax: Axes, record: TextAnswers) -> None:
    """The examples that the question lies nearest to, each above a bar for its cosine with it in each embedding."""
    near, thick = record.nearest, _BAR / max(1, len(record.scores))
    for row, example in enumerate(near):
        text = _fitting(f"{_fitting(example.label, _CLASS)}: {example.text}", _EXAMPLE)
        ax.text(0.006, row - 0.22, text, va="center", fontsize=8, parse_math=False)
        for i, (name, cosine) in enumerate(example.cosines.items()):
            height = row + 0.02 + (i + 0.5) * thick
            ax.barh(height, cosine, 0.9 * thick, color=_COLOURS[i % 5], label=None if row else name)
            ax.text(max(cosine, 0.0) + 0.012, height, f"{cosine:.2f}", va="center", fontsize=7)
    low = min((value for each in near for value in each.cosines.values()), default=0.0)
    ax.set(xlim=(min(0.0, low), 1.08), ylim=(max(len(near), 1) - 0.5, -0.5), xlabel="cosine with the question")
    ax.set_yticks([])
    ax.set_title("The nearest examples")


def draw_settings_regret(ax: Axes, record: SettingsRace) -> None:
    """The regret of each contender after each trial, on a scale of powers of ten but for the last per cent."""
    for i, (name, regret) in enumerate(record.regret.items()):
        style: dict[str, Any] = {"color": _COLOURS[i % 5], "ls": DASHES[i % 4], "marker": "o", "ms": 3}
        style["lw"] = 2.4 if name == record.contender else 1.4
        ax.plot(range(1, 1 + len(regret)), regret.tolist(), drawstyle="steps-post", label=name, **style)
    longest = max(map(len, record.regret.values()))
    ax.set_yscale("symlog", linthresh=_LINEAR)
    ax.yaxis.set(major_locator=FixedLocator(_PERCENT), minor_locator=NullLocator(), major_formatter="{x:g}")
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.set(xlim=(0.5, longest + 0.5), ylim=(-0.06, 130), xlabel="trials", ylabel="regret (% of the span)")
    ax.set_title(f"{record.name}: how far from the best")


def draw_settings_plane(ax: Axes, record: SettingsRace, plane: SettingsPlane) -> None:
    """The true score of each setting as a colour, the best of all framed, and the contender's trials numbered."""
    ends: dict[str, Any] = {"vmin": float(record.scores.min()), "vmax": float(record.scores.max())}
    ax.imshow(plane.best(record.scores).numpy(), origin="lower", aspect="auto", cmap="viridis", **ends)
    best = record.scores[plane.members] == record.scores.max()
    for row, column in plane.cells[best].unique(dim=0).tolist():
        ax.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, ec=RED, lw=2))
    numbered = _numbered(record.tried[record.contender], plane)
    across, up = [column for _, column in numbered], [row for row, _ in numbered]
    ax.plot(across, up, "o", color="white", mec=BLACK, mew=0.6, ms=9.5)
    for (row, column), numbers in numbered.items():
        ax.text(column, row, ",".join(map(str, numbers)), ha="center", va="center_baseline", fontsize=6.5)
    _name_places(ax.xaxis, plane.across, plane.columns)
    _name_places(ax.yaxis, plane.up, plane.rows)
    ax.tick_params(labelsize=7)
    ax.set_title(plane.kind or count(len(plane.members), "setting"), fontsize=9, y=1.0, pad=3)


def _numbered(order: Sequence[int], plane: SettingsPlane) -> dict[tuple[int, int], list[int]]:
    """The trials, from 1, that lie in each cell."""
    cells = dict(zip(plane.members.tolist(), map(tuple, plane.cells.tolist()), strict=True))
    found: dict[tuple[int, int], list[int]] = {}
    for number, setting in enumerate(order, 1):
        if setting in cells:
            found.setdefault(cells[setting], []).append(number)
    return found


def _name_places(axis: Axis, name: str, values: Sequence[Any]) -> None:
    """Whole numbers from 0 named by the values, not more of them than can be read."""
    places = list(range(0, len(values), -(-len(values) // _NAMED))) if name else []
    axis.set_major_locator(FixedLocator(places))
    axis.set_major_formatter(FixedFormatter([_in_short(values[i]) for i in places]))
    axis.set_label_text(name)


def _in_short(value: Any) -> str:
    return f"{float(f'{value:.3g}'):g}" if isinstance(value, float) else _fitting(str(value), _CLASS)


def _fitting(text: str, most: int) -> str:
    """At most so many characters of a text in one line; what the font has no picture of is an empty square."""
    known = get_font(findfont(FontProperties())).get_charmap()
    line = " ".join(text.split())
    line = line if len(line) <= most else line[: most - 1].rstrip() + "…"
    return "".join(letter if ord(letter) in known else "□" for letter in line)
