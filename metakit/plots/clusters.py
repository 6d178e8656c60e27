"""Clusters of pictures, a row of examples each."""

from __future__ import annotations

import dataclasses

import torch
from matplotlib.axes import Axes
from torch import Tensor

from metakit.plots.figures import count


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Pictures sorted into clusters without looking at their classes.

    Arguments:
        pictures: members of some clusters, a row each, ``[R, M, H, W]``; ink is 1, empty places are 0.
        classes: the true class of each picture shown, ``[R, M]``; -1 in an empty place.
        sizes: members of each cluster, ``[clusters]``.
        purity: share of all pictures whose class is the commonest one of their cluster.
        features: what was compared.
    """

    pictures: Tensor
    classes: Tensor
    sizes: Tensor
    purity: float
    features: str

    def __str__(self) -> str:
        small, large = int(self.sizes.min()), int(self.sizes.max())
        return (
            f"{count(len(self.sizes), 'cluster')} by {self.features}, of {small} to {large} drawings. Purity "
            f"{100 * self.purity:.0f}%: that share of the drawings is of the commonest class of its cluster."
        )


def draw_clusters(ax: Axes, record: Clusters) -> None:
    """A row of drawings for each cluster shown, dark where they are of the commonest class of the row."""
    rows, columns, side = record.pictures.shape[:3]
    modes = torch.stack([row[row >= 0].mode().values for row in record.classes])
    shade = torch.where(record.classes == modes[:, None], 1.0, 0.45)
    paper = 1 - record.pictures * shade[:, :, None, None]
    sheet = paper.permute(0, 2, 1, 3).reshape(rows * side, columns * side)
    ax.imshow(sheet.numpy(), cmap="gray", vmin=0, vmax=1, aspect="equal")
    for row in range(1, rows):
        ax.axhline(row * side - 0.5, color="#BBBBBB", lw=0.8)
    ax.set_yticks([(row + 0.5) * side for row in range(rows)], [f"cluster {row + 1}" for row in range(rows)])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.set_title(f"{rows} clusters by {record.features}; commonest class black, others grey")
