"""All classes at once, as ordinary training sees them: the counterpart of episodes."""

from __future__ import annotations

import torch

from metakit.checks import Device, as_device, as_generator, whole
from metakit.data.labelled import LabelledData, as_real
from metakit.tasks.batch import TaskBatch


class Pooled:
    """Batches of rows from all classes, each class under the same number every time.

    Each row is of a class drawn anew, all being equally likely. A batch is dressed as tasks, so that the same outer
    loop trains on it; a class may lack rows in it, and its two sides are drawn alike.

    Arguments:
        data: the classes; class numbers are theirs.
        rows: rows on each side of a task.

    Raises:
        TypeError: if ``data`` is not ``LabelledData``, or ``rows`` not a whole number.

    Example:
        >>> tasks = Pooled(LabelledData(torch.rand(30, 4, 2)), rows=16)
        >>> batch = tasks.sample(1, seed=0)
        >>> batch.query_x.shape, batch.ways
        (torch.Size([1, 16, 2]), 30)
    """

    def __init__(self, data: LabelledData, *, rows: int = 32) -> None:
        if not isinstance(data, LabelledData):
            raise TypeError(f"data must be LabelledData, got {type(data).__name__}. Try mk.tasks.LabelledData(x, y).")
        self.data, self.rows = data, whole("rows", rows)

    def sample(
        self,
        n_tasks: int,
        *,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        device: Device = None,
    ) -> TaskBatch:
        """``support_x [T, rows, ...]`` and ``support_y [T, rows]``, and the query likewise; see ``Episodes.sample``."""
        generator = as_generator(generator, seed, self.data.device)
        place = self.data.device if generator is None else generator.device
        counts = self.data.counts.to(place)
        sizes = (whole("n_tasks", n_tasks), 2 * self.rows)
        y = torch.randint(len(counts), sizes, generator=generator, device=place)
        share = torch.rand(sizes, dtype=torch.float64, generator=generator, device=place)
        index = (counts.cumsum(0) - counts)[y] + (share * counts[y]).long()
        x = as_real(self.data.rows[index.to(self.data.device)])
        target = as_device(device) or self.data.device
        (sx, qx), (sy, qy) = (side.to(target).split(self.rows, 1) for side in (x, y))
        classes = torch.arange(len(counts), device=target).expand(sizes[0], -1)
        return TaskBatch.trusted(sx, sy, qx, qy, ways=len(counts), classes=classes)
