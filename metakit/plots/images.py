"""Few-shot classification of pictures: an episode, an embedding, and one drawing between others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from metakit.plots.figures import BLACK, BLUE, CYCLE, GREY, ORANGE, RED
from metakit.records.images import Drawn, EmbeddingMap, Episode

_MARKERS = "osD^vPX*"


def draw_episode(ax: Axes, record: Episode) -> None:
    """A row for each class: its support pictures, then its query pictures, framed by whether they were named rightly.

    A right answer has a thin blue frame, a wrong one a thick dashed red frame and the letter of the class it was
    taken for.
    """
    cells, filled = [], {("support", n): 0 for n in range(record.ways)}
    filled |= {("query", n): record.shots + 1 for n in range(record.ways)}  # a column is left free between the sides
    for side, labels in (("support", record.support_y), ("query", record.query_y)):
        for label in labels.tolist():
            cells.append((filled[side, label], label))
            filled[side, label] += 1
    _lay(ax, torch.cat([record.support_x, record.query_x]), cells)
    for (left, top), right, answer in zip(
        cells[len(record.support_y) :], record.right.tolist(), record.answers.tolist(), strict=True
    ):
        _frame(ax, left, top, right, answer)
    for label in range(record.ways):
        ax.text(-0.15, label + 0.5, _letter(label), ha="right", va="center", fontsize=11)
    first, last = record.shots + 1, max(filled.values())
    ax.axvline(first - 0.5, color=GREY, lw=1)
    ax.text(record.shots / 2, -0.1, "support", ha="center", va="bottom", fontsize=10)
    ax.text((first + last) / 2, -0.1, "query", ha="center", va="bottom", fontsize=10)
    _bare(ax, (-0.6, last + 0.05), (record.ways + 0.05, -0.5))
    ax.set_title(f"{record.learner}: {int(record.right.sum())} of {len(record.right)} right", fontsize=11)


def draw_embedding(ax: Axes, record: EmbeddingMap) -> None:
    """The points by class in colours and marks, and a picture of each class beside the middle of its points."""
    size = record.points.max(0).values - record.points.min(0).values
    side = 0.11 * float(size.max())
    for label, picture in enumerate(record.pictures):
        mine = record.points[record.labels == label]
        colour = CYCLE[label % len(CYCLE)]
        mark = _MARKERS[label % len(_MARKERS)]
        ax.plot(*mine.T.tolist(), ls="none", marker=mark, ms=5, color=colour, mec="white", mew=0.4)
        x, y = mine.mean(0).tolist()
        extent = (x - side / 2, x + side / 2, y - side / 2, y + side / 2)
        ax.imshow(1 - picture[0].numpy(), cmap="gray", vmin=0, vmax=1, extent=extent, zorder=4)
        ax.add_patch(Rectangle(extent[::2], side, side, fill=False, ec=colour, lw=2, zorder=5))
    (left, low), (right, high) = record.points.min(0).values.tolist(), record.points.max(0).values.tolist()
    ax.set(xlim=(left - side, right + side), ylim=(low - side, high + side), aspect="equal", xticks=[], yticks=[])
    ax.set(xlabel="first direction (no unit)", ylabel="second direction (no unit)")
    ax.set_title(f"{100 * record.spread:.0f} % of the spread is within classes")


def draw_drawn(ax: Axes, record: Drawn) -> None:
    """The drawing on the left; on the right each character with a bar for how likely it is the same."""
    n = len(record.names)
    cells = [(2, i) for i in range(n)]
    _lay(ax, torch.cat([record.support, record.query[None]]), [*cells, (0, (n - 1) // 2)])
    ax.text(0.5, (n - 1) // 2 - 0.05, "query", ha="center", va="bottom", fontsize=10)
    for i, (name, chance) in enumerate(zip(record.names, record.chances.tolist(), strict=True)):
        ax.text(1.9, i + 0.5, name, ha="right", va="center", fontsize=11)
        colour = BLUE if name == record.answer else ORANGE
        ax.add_patch(Rectangle((3.2, i + 0.3), 4 * chance, 0.4, color=colour))
        ax.text(3.3 + 4 * chance, i + 0.5, f"{100 * chance:.0f} %", va="center", fontsize=10)
    _bare(ax, (0, 8.4), (n + 0.1, -0.4))
    ax.set_title(f"It looks like {record.answer}", fontsize=11)


def _lay(ax: Axes, pictures: Tensor, cells: Sequence[tuple[int, int]]) -> None:
    """Pictures ``[n, 1, H, W]`` in cells (column, row) of side 1, rows counted down, dark on white: one image for all.

    One image draws many times faster than many.
    """
    height, width = pictures.shape[-2:]
    columns, rows = (max(place) + 1 for place in zip(*cells, strict=True))
    sheet = torch.zeros(rows * (height + 2), columns * (width + 2))
    for picture, (left, top) in zip(pictures, cells, strict=True):
        y, x = top * (height + 2), left * (width + 2)
        sheet[y : y + height + 2, x : x + width + 2] = 0.25  # a thin grey frame
        sheet[y + 1 : y + 1 + height, x + 1 : x + 1 + width] = picture[0]
    extent = (0, columns, rows, 0)
    ax.imshow((1 - sheet).numpy(), cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")


def _frame(ax: Axes, left: float, top: float, right: bool, answer: int) -> None:
    style: dict[str, Any] = {"ec": BLUE, "lw": 1.6} if right else {"ec": RED, "lw": 2.6, "ls": (0, (3, 1.5))}
    ax.add_patch(Rectangle((left + 0.06, top + 0.06), 0.88, 0.88, fill=False, **style))
    if not right:
        box = {"boxstyle": "square,pad=0.15", "fc": "white", "ec": "none"}
        ax.text(left + 0.88, top + 0.88, _letter(answer), ha="right", va="bottom", fontsize=8, color=BLACK, bbox=box)


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _bare(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y, aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)
