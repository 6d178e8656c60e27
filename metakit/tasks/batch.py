"""The one record that flows through everything: a batch of tasks."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.tasks.door import as_inputs, check_classes, check_numbers, check_tasks

__all__ = ["TaskBatch", "as_inputs", "check_classes", "check_tasks"]
_SIDES = ("support", "query")


@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """A batch of T tasks, each with a support set to learn from and a query set to be judged on.

    Tasks of unequal size stand in one batch by masks, in which True is a real row and False a place that was filled up;
    what lies there counts for nothing. :meth:`pad` puts them together.

    Arguments:
        support_x: inputs of the support rows, ``[T, S, ...]``: real numbers, or int64 (token ids), which stay as they
            are; bytes (uint8 pictures) become float32 in [0, 1].
        support_y: their targets, ``[T, S]`` class numbers (int64) or ``[T, S, outputs]`` real numbers. The N classes of
            a task are numbered from 0 to N - 1.
        query_x: inputs of the query rows, ``[T, Q, ...]``.
        query_y: their targets, as ``support_y``.
        ways: number of classes N of the task that has most; counted from the targets when not given, ``None`` in
            regression.
        support_mask: which support rows are real, ``[T, S]``; ``None`` if all are. Elsewhere class numbers are 0.
        query_mask: which query rows are real, ``[T, Q]``.
        classes: the number that each class of a task has in the data, ``[T, N]``, -1 where a task has fewer classes.

    Raises:
        TypeError: if a field is not a tensor.
        ValueError: if shapes, dtypes or devices disagree, a set is empty, a value is not finite, or a class has no
            support row or a number beyond ``ways``.

    Example:
        >>> x = torch.linspace(-1, 1, 6).reshape(2, 3, 1)
        >>> batch = TaskBatch(x, 2 * x, x, 2 * x)
        >>> len(batch), batch[0].support_x.shape
        (2, torch.Size([1, 3, 1]))
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    ways: int | None = None
    _: dataclasses.KW_ONLY
    support_mask: Tensor | None = None
    query_mask: Tensor | None = None
    classes: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("support_x", "query_x"):
            object.__setattr__(self, name, as_inputs(getattr(self, name)))
        check_tasks(*self.tensors, self.support_mask, self.query_mask)
        if not self.support_y.is_floating_point():
            ways = check_classes(self.support_y, self.query_y, self.support_mask, ways=self.ways)
            object.__setattr__(self, "ways", ways)
        if self.classes is not None:
            check_numbers(self.classes, len(self), self.ways, self.device)

    @classmethod
    def trusted(
        cls,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        *,
        ways: int | None = None,
        support_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> TaskBatch:
        """A batch from tensors known to be valid, without checks: reading values would make a GPU wait."""
        batch = object.__new__(cls)
        vars(batch).update(
            support_x=support_x,
            support_y=support_y,
            query_x=query_x,
            query_y=query_y,
            ways=ways,
            support_mask=support_mask,
            query_mask=query_mask,
            classes=classes,
        )
        return batch

    @classmethod
    def pad(cls, batches: Sequence[TaskBatch]) -> TaskBatch:
        """One batch of all the tasks of several, of unequal rows and ways: zeros fill up, and masks tell where.

        Raises:
            ValueError: if there is no batch, or they differ in the shape, dtype, device or kind of their rows.

        Example:
            >>> x, few = torch.ones(1, 5, 2), torch.ones(1, 3, 2)
            >>> batch = TaskBatch.pad([TaskBatch(x, x, x, x), TaskBatch(few, few, x, x)])
            >>> batch.support_x.shape, batch.support_mask.sum(1), batch.query_mask
            (torch.Size([2, 5, 2]), tensor([5, 3]), None)
        """
        batches = _alike(batches)
        fields: dict[str, Any] = {"ways": max(batch.ways or 0 for batch in batches) or None, "classes": None}
        told = len({batch.ways for batch in batches}) > 1  # without a mask every task has all classes
        for side in _SIDES:
            rows = {getattr(batch, f"{side}_x").shape[1] for batch in batches}
            masks = [getattr(batch, f"{side}_mask") for batch in batches]
            if told or len(rows) > 1 or any(mask is not None for mask in masks):
                fields[f"{side}_mask"] = torch.cat([_filled(batch._mask(side), max(rows)) for batch in batches])
            for name in (f"{side}_x", f"{side}_y"):
                fields[name] = torch.cat([_filled(getattr(batch, name), max(rows)) for batch in batches])
        known = [batch.classes for batch in batches if batch.classes is not None]
        if len(known) == len(batches):
            fields["classes"] = torch.cat([_filled(classes, fields["ways"], -1) for classes in known])
        return cls.trusted(**fields)

    @property
    def device(self) -> torch.device:
        """The device that holds the batch."""
        return self.support_x.device

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(support_x, support_y, query_x, query_y)``."""
        return self.support_x, self.support_y, self.query_x, self.query_y

    def numel(self) -> int:
        """How many numbers the inputs of both sides are."""
        return self.support_x.numel() + self.query_x.numel()

    def __len__(self) -> int:
        return self.support_x.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> TaskBatch:
        """Some of the tasks, still a batch: ``batch[0]`` has one task, ``batch[2:5]`` and ``batch[tensor]`` several."""
        if not isinstance(index, slice) and not (isinstance(index, Tensor) and index.dim()):
            index = operator.index(index)
            if not -len(self) <= index < len(self):
                raise IndexError(f"task index must be below {len(self)}, the number of tasks; got {index}.")
            index = slice(index, index + 1 or None)
        return self.each(lambda tensor: tensor[index])

    def task(self, t: int) -> TaskBatch:
        """The one task ``t`` as it is by itself: without what was filled up, ``ways`` its own number of classes.

        Example:
            >>> x, few = torch.ones(1, 5, 2), torch.ones(1, 3, 2)
            >>> TaskBatch.pad([TaskBatch(x, x, x, x), TaskBatch(few, few, x, x)]).task(1).support_x.shape
            torch.Size([1, 3, 2])
        """
        one, ways = self[t], None
        support, query = (one._mask(side)[0] for side in _SIDES)
        tensors = one.support_x[:, support], one.support_y[:, support], one.query_x[:, query], one.query_y[:, query]
        if one.classes is not None:
            ways = int((one.classes >= 0).sum())
        elif one.ways is not None:
            ways = 1 + int(torch.cat([one.support_y, one.query_y], 1).max())
        return self.trusted(*tensors, ways=ways, classes=None if one.classes is None else one.classes[:, :ways])

    def chunks(self, size: int | None) -> Iterator[TaskBatch]:
        """The batch in pieces of at most ``size`` tasks; whole if ``size`` is ``None``."""
        if size is None or size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """The same tasks on another device, or with real numbers of another dtype."""
        return self.each(lambda t: t.to(device=device, dtype=dtype if t.is_floating_point() else None))

    def each(self, change: Callable[[Tensor], Tensor]) -> TaskBatch:
        """The batch with every tensor of it changed alike, masks and all: ``batch.each(torch.clone)`` is a copy."""
        fields: dict[str, Any] = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in vars(self).items()
        }
        return self.trusted(**fields)

    def _mask(self, side: str) -> Tensor:
        """Which rows of a side are real, told even if all are."""
        mask, x = getattr(self, f"{side}_mask"), getattr(self, f"{side}_x")
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask


def _alike(batches: Sequence[TaskBatch]) -> list[TaskBatch]:
    batches = list(batches)
    if not batches:
        raise ValueError("pad puts batches together, got none. Give it at least one.")
    kinds = []
    for batch in batches:
        if not isinstance(batch, TaskBatch):
            raise TypeError(
                f"pad takes a list of TaskBatch, got {type(batch).__name__} in it. Draw one: tasks.sample(T)."
            )
        sides = [f"{list(t.shape[2:])} {t.dtype}" for t in (batch.support_x, batch.support_y)]
        kinds.append(f"rows {sides[0]}, targets {sides[1]}, on {batch.device}")
    if len(set(kinds)) > 1:
        first, other = list(dict.fromkeys(kinds))[:2]
        raise ValueError(f"batches put together must be alike; got {first}, and {other}. Convert one, or move it.")
    return batches


def _filled(tensor: Tensor, size: int, value: int = 0) -> Tensor:
    """``[T, rows, ...]`` with as many rows as asked for, those added all of one value."""
    return F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, size - tensor.shape[1]), value=value)
