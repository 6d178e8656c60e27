"""What tensors must be to pass as a batch of tasks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metakit.checks import whole
from metakit.data.labelled import as_real


def as_inputs(x: Any) -> Any:
    """Bytes of pictures as float32 in [0, 1], as labelled data are read; anything else as it is."""
    return as_real(x) if isinstance(x, Tensor) and x.dtype == torch.uint8 else x


def check_tasks(
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    query_y: Tensor | None = None,
    support_mask: Tensor | None = None,
    query_mask: Tensor | None = None,
) -> None:
    """Refuse tensors that are not a batch of tasks, with the rule, the value and the next move."""
    given = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    optional = {"query_y": query_y, "support_mask": support_mask, "query_mask": query_mask}
    given |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    for name, tensor in given.items():
        _check_form(name, tensor)
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
    for name, tensor in given.items():
        side, _, kind = name.partition("_")
        rows = given[f"{side}_x"].shape[1]
        if tensor.shape[1] != rows:
            raise ValueError(f"{side}_x and {name} must have as many rows; got {rows} and {tensor.shape[1]}.")
        if kind == "x" or (kind == "y" and query_y is not None):
            _check_sides(kind, given[f"support_{kind}"], given[f"query_{kind}"])
    for name, tensor in given.items():
        _check_values(name, tensor, given.get(f"{name.partition('_')[0]}_mask"))


def check_classes(
    support_y: Tensor, query_y: Tensor | None = None, support_mask: Tensor | None = None, *, ways: int | None = None
) -> int:
    """``ways``, or the number of classes of the task that has most, if each class of a task has a support row in it."""
    labels = support_y if query_y is None else torch.cat([support_y, query_y], 1)
    own = labels.amax(1) + 1  # of each task; filled-up places say 0
    most = int(own.max())
    if ways is not None and most > whole("ways", ways):
        raise ValueError(f"ways must be above every class number, got {ways} and a class {most - 1}. Leave it out.")
    rows = torch.zeros(len(support_y), most, dtype=torch.int64, device=support_y.device)
    rows.scatter_add_(1, support_y, torch.ones_like(support_y) if support_mask is None else support_mask.long())
    missing = ((rows == 0) & (torch.arange(most, device=rows.device) < own[:, None])).nonzero()
    if len(missing):
        task, label = missing[0].tolist()
        raise ValueError(
            f"class {label} of task {task} has no support row. Number the classes of a task from 0 to N - 1, and give "
            "each a row to learn from."
        )
    return ways or most


def _check_form(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}. Use torch.as_tensor(...).")
    if tensor.is_nested or tensor.layout != torch.strided:
        kind = "nested" if tensor.is_nested else "sparse"
        raise ValueError(
            f"{name} must be a dense tensor, got a {kind} one. Make it dense: .to_dense(), or, for tasks of unequal "
            "size, a batch of each, put together: TaskBatch.pad([batch, ...])."
        )
    letter, kind = "S" if name.startswith("support") else "Q", name.rpartition("_")[2]
    shape = {"x": f"[T, {letter}, ...]", "mask": f"[T, {letter}]"}.get(kind, f"[T, {letter}] or [T, {letter}, outputs]")
    if tensor.dim() < (3 if kind == "x" else 2):
        raise ValueError(
            f"{name} must be {shape}, got {list(tensor.shape)}. One task? Add a leading dimension: {name}[None]."
        )
    if tensor.numel() == 0:
        raise ValueError(f"{name} must not be empty, got shape {list(tensor.shape)}. Give every set a row.")


def _check_sides(kind: str, support: Tensor, query: Tensor) -> None:
    if support.shape[2:] != query.shape[2:] or support.dtype != query.dtype:
        what = "rows" if kind == "x" else "targets"
        raise ValueError(
            f"support_{kind} and query_{kind} must have {what} of one shape and dtype; got "
            f"{list(support.shape[2:])} {support.dtype} and {list(query.shape[2:])} {query.dtype}."
        )


def _check_values(name: str, tensor: Tensor, mask: Tensor | None) -> None:
    side, _, kind = name.partition("_")
    if kind == "mask":
        if tensor.dtype != torch.bool or tensor.dim() != 2:
            raise ValueError(f"{name} must be bool [T, rows], got {tensor.dtype} {list(tensor.shape)}. Try {name} > 0.")
        if not tensor.any(1).all():
            empty = int((~tensor.any(1)).nonzero()[0])
            raise ValueError(f"{name} must leave every task a row; task {empty} has none. Leave that task out.")
    elif tensor.is_floating_point():
        if kind == "y" and tensor.dim() != 3:
            raise ValueError(
                f"{name} must be [T, rows, outputs] when it holds real numbers, got {list(tensor.shape)}. "
                f"One output? {name}[..., None]. More dimensions? {name}.flatten(2)."
            )
        if not torch.isfinite(tensor).all():
            task = int((~torch.isfinite(tensor)).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"{name} must be finite; task {task} holds NaN or infinity. Clean the data first.")
    elif tensor.dtype != torch.int64:
        kinds = "class numbers as int64" if kind == "y" else "real numbers, or whole ones as int64"
        raise ValueError(
            f"{name} must hold {kinds}, got {tensor.dtype}. Convert it: {name}.{'long' if kind == 'y' else 'float'}()."
        )
    elif kind == "y":
        if tensor.dim() != 2:
            raise ValueError(
                f"{name} must be [T, rows] when it holds class numbers, got {list(tensor.shape)}. "
                f"One-hot? {name}.argmax(-1)."
            )
        if int(tensor.min()) < 0:
            raise ValueError(f"{name} must hold class numbers from 0, got {int(tensor.min())}. Renumber the classes.")
        if mask is not None and tensor.masked_fill(mask, 0).any():
            raise ValueError(f"{name} must be 0 where {side}_mask is False. Multiply: {name} * {side}_mask.")


def check_numbers(classes: Tensor, tasks: int, ways: int | None, device: torch.device) -> None:
    """Refuse what is not the number in the data of each class of each task."""
    if not isinstance(classes, Tensor):
        raise TypeError(f"classes must be a torch.Tensor, got {type(classes).__name__}. Use torch.as_tensor(...).")
    if classes.dtype != torch.int64 or classes.shape != (tasks, ways) or classes.device != device:
        raise ValueError(
            f"classes must be int64 [{tasks}, {ways}] on {device}, got {classes.dtype} {list(classes.shape)} on "
            f"{classes.device}. Give the number in the data of each class of each task, or leave it out."
        )
