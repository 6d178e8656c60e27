"""A map of an embedding: many pictures as points of one plane."""

from __future__ import annotations

import torch
from torch import nn

from metakit import records
from metakit.tasks import LabelledData


def embedding_map(embedding: nn.Module, data: LabelledData) -> records.EmbeddingMap:
    """Embed all rows of some classes and look at them along the two directions in which they spread most.

        Z - mean(Z) = U diag(s) V^T,    points = the first two columns of U diag(s)

    Batch norm sees all the rows together.

    Arguments:
        embedding: a network that turns rows into vectors ``[n, D]``, or ``nn.Flatten()`` for the pixels themselves.
        data: a few classes of pictures.

    Raises:
        ValueError: if there are fewer than two classes: nothing could lie apart.

    Example:
        >>> from metakit.tasks import Glyphs
        >>> embedding_map(nn.Flatten(), Glyphs(alphabets=1, characters=3, drawers=4)).points.shape
        torch.Size([12, 2])

    Source: principal component analysis, Pearson 1901.
    """
    if len(data) < 2:
        raise ValueError(f"a map needs at least 2 classes, got {len(data)}. Choose more with data.classes(...).")
    rows = [data[i] for i in range(len(data))]
    labels = torch.arange(len(data)).repeat_interleave(torch.tensor([len(each) for each in rows]))
    with torch.no_grad():
        z = embedding(torch.cat(rows)).cpu()
    z = z - z.mean(0)
    u, s, _ = torch.linalg.svd(z, full_matrices=False)
    within = torch.cat([z[labels == i] - z[labels == i].mean(0) for i in range(len(data))])
    variance = s.square()
    return records.EmbeddingMap(
        points=u[:, :2] * s[:2],
        labels=labels,
        pictures=torch.stack([each[0].cpu() for each in rows]),
        kept=float(variance[:2].sum() / variance.sum()),
        spread=float(within.square().sum() / z.square().sum()),
    )
