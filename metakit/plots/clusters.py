"""Clusters of pictures, a row of examples each."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes

from metakit.records.clusters import Clusters


def draw_clusters(ax: Axes, record: Clusters) -> None:
    """A row of drawings for each cluster shown, dark where they are of the commonest class of the row."""
    rows, columns, side = record.pictures.shape[:3]
    shade = torch.where(record.common, 1.0, 0.45)
    paper = 1 - record.pictures * shade[:, :, None, None]
    sheet = paper.permute(0, 2, 1, 3).reshape(rows * side, columns * side)
    ax.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1, aspect="equal")
    for row in range(1, rows):
        ax.axhline(row * side - 0.5, color="#BBBBBB", lw=0.8)
    ax.set_yticks([(row + 0.5) * side for row in range(rows)], [f"cluster {row + 1}" for row in range(rows)])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.set_title(f"{rows} clusters by {record.features}; commonest class black, others grey")
