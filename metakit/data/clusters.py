"""Labels made from rows alone, so that tasks can be drawn from data without labels."""

from __future__ import annotations

import torch
from torch import Tensor

from metakit.checks import as_generator, whole


def kmeans(
    x: Tensor,
    clusters: int,
    *,
    rounds: int = 20,
    generator: torch.Generator | None = None,
    seed: int | None = None,
) -> Tensor:
    """The cluster of each row: k-means, begun at rows drawn at random.

        label_i = argmin_k |x_i - c_k|,    c_k = mean of x_i over rows i of cluster k

    Both lines are done in turn, ``rounds`` times. A cluster that loses all its rows keeps its centre.

    Arguments:
        x: rows ``[n, D]``.
        clusters: number of clusters.
        rounds: how often the centres move.
        generator, seed: which rows begin as centres.

    Returns:
        Numbers from 0 to ``clusters - 1``, ``[n]``; some may occur for no row.

    Raises:
        ValueError: if x is not ``[n, D]`` or there are more clusters than rows.

    Example:
        >>> labels = kmeans(torch.tensor([[0.0], [0.1], [9.0], [9.1]]), 2, seed=0)
        >>> bool(labels[0] == labels[1]), bool(labels[1] == labels[2])
        (True, False)

    Source: S. Lloyd, Least Squares Quantization in PCM, 1982; as labels for tasks, K. Hsu, S. Levine, C. Finn,
    Unsupervised Learning via Meta-Learning, 2019, section 2.2.
    """
    clusters, rounds = whole("clusters", clusters), whole("rounds", rounds)
    if x.dim() != 2:
        raise ValueError(f"x must be [n, D], one row of features each, got {list(x.shape)}. Flatten it: x.flatten(1).")
    if clusters > len(x):
        raise ValueError(f"clusters must be at most {len(x)}, the number of rows, got {clusters}. Lower it.")
    generator = as_generator(generator, seed, x.device)
    centres = x[torch.randperm(len(x), generator=generator, device=x.device)[:clusters]]
    for _ in range(rounds):
        labels = torch.cdist(x, centres).argmin(1)
        sums = torch.zeros_like(centres).index_add_(0, labels, x)
        counts = labels.bincount(minlength=clusters)[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return torch.cdist(x, centres).argmin(1)
