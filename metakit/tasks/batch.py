"""The one record that flows through everything: a batch of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

_SIDES = ("support", "query")


@dataclasses.dataclass(frozen=True)
class TaskBatch:
    """A batch of T tasks, each with a support set to learn from and a query set to be judged on.

    Arguments:
        support_x: inputs of the support rows, ``[T, S, ...]``.
        support_y: their targets, ``[T, S]`` integers for classes or ``[T, S, outputs]`` real numbers.
        query_x: inputs of the query rows, ``[T, Q, ...]``.
        query_y: their targets, as ``support_y``.
        ways: number of classes N of an N-way task; counted from the targets when not given, ``None`` in regression.

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

    def __post_init__(self) -> None:
        check_tasks(**{field: getattr(self, field) for field in _FIELDS})
        if self.support_y.is_floating_point():
            return
        if self.ways is None:
            object.__setattr__(self, "ways", check_classes(self.support_y, self.query_y))
        elif (last := max(int(y.max()) for y in (self.support_y, self.query_y))) >= self.ways:
            raise ValueError(
                f"ways must be above every class number, got {self.ways} and a class {last}. Leave it out."
            )

    @classmethod
    def trusted(
        cls,
        support_x: Tensor,
        support_y: Tensor,
        query_x: Tensor,
        query_y: Tensor,
        *,
        ways: int | None = None,
    ) -> TaskBatch:
        """A batch from tensors known to be valid, without checks: reading values would make a GPU wait."""
        batch = object.__new__(cls)
        values = (support_x, support_y, query_x, query_y, ways)
        for name, value in zip((*_FIELDS, "ways"), values, strict=True):
            object.__setattr__(batch, name, value)
        return batch

    @property
    def device(self) -> torch.device:
        """The device that holds the batch."""
        return self.support_x.device

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(support_x, support_y, query_x, query_y)``."""
        return self.support_x, self.support_y, self.query_x, self.query_y

    def __len__(self) -> int:
        return self.support_x.shape[0]

    def __getitem__(self, index: int | slice) -> TaskBatch:
        """Some of the tasks, still a batch: ``batch[0]`` has one task, ``batch[2:5]`` three."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"task index must be below {len(self)}, the number of tasks; got {index}.")
            index = slice(index, index + 1 or None)
        return self.trusted(*(tensor[index] for tensor in self.tensors), ways=self.ways)

    def chunks(self, size: int | None) -> Iterator[TaskBatch]:
        """The batch in pieces of at most ``size`` tasks; whole if ``size`` is ``None``."""
        if size is None or size >= len(self):
            yield self
            return
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> TaskBatch:
        """The same tasks on another device, or with real numbers of another dtype."""
        moved = (t.to(device=device, dtype=dtype if t.is_floating_point() else None) for t in self.tensors)
        return self.trusted(*moved, ways=self.ways)


_FIELDS = ("support_x", "support_y", "query_x", "query_y")


def check_tasks(support_x: Tensor, support_y: Tensor, query_x: Tensor, query_y: Tensor | None = None) -> None:
    """Refuse tensors that are not a batch of tasks, with the rule, the value and the next move."""
    given = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    if query_y is not None:
        given["query_y"] = query_y
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}. Use torch.as_tensor(...).")
        letter = "S" if name.startswith("support") else "Q"
        if tensor.dim() < 2 or (name.endswith("_x") and tensor.dim() < 3):
            shape = f"[T, {letter}, ...]" if name.endswith("_x") else f"[T, {letter}] or [T, {letter}, outputs]"
            raise ValueError(
                f"{name} must be {shape}, got {list(tensor.shape)}. One task? Add a leading dimension: {name}[None]."
            )
        if tensor.numel() == 0:
            raise ValueError(f"{name} must not be empty, got shape {list(tensor.shape)}. Give every set a row.")
        if tensor.device != support_x.device:
            raise ValueError(
                f"all tensors must be on one device; support_x is on {support_x.device}, {name} on {tensor.device}. "
                "Move them with .to(device)."
            )
        if tensor.shape[0] != support_x.shape[0]:
            raise ValueError(
                f"every tensor must hold the same number of tasks T; support_x has {support_x.shape[0]}, "
                f"{name} has {tensor.shape[0]}."
            )
    _check_sides(given)
    for name, tensor in given.items():
        _check_values(name, tensor)


def check_classes(*labels: Tensor) -> int:
    """The number of classes N, if each class 0 to N - 1 is in every task's support set, the first of ``labels``."""
    ways = max(int(y.max()) for y in labels) + 1
    support_y = labels[0]
    present = torch.zeros(support_y.shape[0], ways, dtype=torch.bool, device=support_y.device)
    missing = (~present.scatter_(1, support_y, True)).nonzero()
    if len(missing):
        task, label = missing[0].tolist()
        raise ValueError(
            f"class {label} of task {task} has no support row. Number the classes of a task from 0 to N - 1, and give "
            "each a row to learn from."
        )
    return ways


def _check_sides(given: dict[str, Tensor]) -> None:
    for side in _SIDES:
        x, y = given[f"{side}_x"], given.get(f"{side}_y")
        if y is not None and x.shape[1] != y.shape[1]:
            raise ValueError(f"{side}_x and {side}_y must have as many rows; got {x.shape[1]} and {y.shape[1]}.")
        if not x.is_floating_point():
            raise ValueError(f"{side}_x must hold real numbers, got {x.dtype}. Convert it: {side}_x.float().")
    support_x, query_x = given["support_x"], given["query_x"]
    if support_x.shape[2:] != query_x.shape[2:] or support_x.dtype != query_x.dtype:
        raise ValueError(
            "support_x and query_x must have rows of one shape and dtype; got "
            f"{list(support_x.shape[2:])} {support_x.dtype} and {list(query_x.shape[2:])} {query_x.dtype}."
        )
    support_y, query_y = given["support_y"], given.get("query_y")
    if query_y is None:
        return
    if support_y.dtype != query_y.dtype or support_y.shape[2:] != query_y.shape[2:]:
        raise ValueError(
            "support_y and query_y must have targets of one shape and dtype; got "
            f"{list(support_y.shape[2:])} {support_y.dtype} and {list(query_y.shape[2:])} {query_y.dtype}."
        )


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.is_floating_point():
        if not torch.isfinite(tensor).all():
            task = int((~torch.isfinite(tensor)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{name} must be finite; task {task} holds NaN or infinity. Clean the data first.")
    elif tensor.dtype != torch.int64:
        raise ValueError(f"{name} must hold class numbers as int64, got {tensor.dtype}. Convert it: {name}.long().")
    elif tensor.dim() != 2:
        raise ValueError(f"{name} must be [T, rows] when it holds class numbers, got {list(tensor.shape)}.")
    elif int(tensor.min()) < 0:
        raise ValueError(f"{name} must hold class numbers from 0, got {int(tensor.min())}. Renumber the classes.")
