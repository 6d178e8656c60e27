"""Pictures sorted into clusters without their classes."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from metakit.records.words import count


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

    @property
    def common(self) -> Tensor:
        """Which pictures shown are of the commonest class of their row, ``[R, M]``."""
        modes = torch.stack([row[row >= 0].mode().values for row in self.classes])
        return self.classes == modes[:, None]

    def __str__(self) -> str:
        small, large = int(self.sizes.min()), int(self.sizes.max())
        return (
            f"{count(len(self.sizes), 'cluster')} by {self.features}, of {small} to {large} drawings. Purity "
            f"{100 * self.purity:.0f}%: that share of the drawings is of the commonest class of its cluster."
        )
