"""Losses: one number per task, whatever loss is given and whichever rows are real."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.contracts import Loss
from metakit.saving import saved


@saved
def task_loss(outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """Loss of each task, averaged over its rows: cross-entropy for class numbers, mean squared error for real targets.

    Shapes: ``outputs [T, Q, ...]`` and ``targets [T, Q]`` (int64) or ``[T, Q, outputs]`` (real) to ``[T]``; ``mask
    [T, Q]`` says which rows are real, all of them when left out.

    Raises:
        ValueError: if the shapes do not fit.
    """
    if targets.is_floating_point():
        if outputs.shape != targets.shape:
            raise ValueError(
                f"outputs and targets must have one shape; got {list(outputs.shape)} and {list(targets.shape)}. "
                "Give the model as many outputs as a target has numbers."
            )
        squares = (outputs - targets).square()
        if mask is None:
            return squares.flatten(1).mean(1)
        return _mean(squares.flatten(2).mean(2), mask)
    if outputs.dim() != 3 or outputs.shape[:2] != targets.shape:
        raise ValueError(
            f"outputs must be [T, Q, N] scores for targets [T, Q]; got {list(outputs.shape)} and {list(targets.shape)}."
        )
    try:
        rows = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)
    except IndexError as error:
        raise ValueError(
            f"a class is beyond the {outputs.shape[2]} outputs of the model. Give it as many as a task has classes."
        ) from error
    return rows.mean(1) if mask is None else _mean(rows, mask)


def task_losses(loss: Loss, outputs: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
    """The loss of each task, ``[T]``, by any loss.

    A loss that gives one number per task, ``(outputs [T, Q, ...], targets [T, Q, ...]) -> [T]``, is called for all at
    once. One that averages all it is given into a single number, as those of torch do, is called for each task with its
    own rows ``[Q, ...]``; so is every loss but ``task_loss`` where rows are masked.

    Raises:
        ValueError: if it gives something else than one number per task.

    Example:
        >>> y = torch.tensor([[[0.0], [2.0]], [[1.0], [1.0]]])
        >>> task_losses(F.l1_loss, torch.zeros_like(y), y)
        tensor([1., 1.])
    """
    if loss is task_loss:
        return task_loss(outputs, targets, mask)
    if mask is None and not _is_torchs(loss):
        losses = _tried(loss, outputs, targets)
        if losses is not None and losses.dim():
            return check_losses(losses, len(targets))
    every = range(len(targets)) if mask is None else mask
    rows = [(o, t) if mask is None else _real(o, t, m) for o, t, m in zip(outputs, targets, every, strict=True)]
    return torch.stack([_of_one(loss, *pair) for pair in rows])


def _real(outputs: Tensor, targets: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The real rows of one task, with the scores of just the classes that it has."""
    outputs, targets = outputs[mask], targets[mask]
    if targets.is_floating_point() or outputs.dim() != 2:
        return outputs, targets
    return outputs[:, (outputs != -torch.inf).any(0)], targets


def check_losses(losses: Any, tasks: int) -> Tensor:
    """The losses, if there is one per task."""
    if not isinstance(losses, Tensor) or losses.shape != (tasks,):
        got = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ValueError(
            f"loss must give one number per task, shape [{tasks}], got {got}. Average over rows, not over tasks."
        )
    return losses


def _of_one(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of one task, by a loss of either kind."""
    alone = None if _is_torchs(loss) else _tried(loss, outputs[None], targets[None])
    if alone is not None and alone.shape == (1,):
        return alone[0]
    value = loss(outputs, targets)
    return value if isinstance(value, Tensor) and value.dim() == 0 else check_losses(value, 1)[0]


def _tried(loss: Loss, outputs: Tensor, targets: Tensor) -> Tensor | None:
    """What the loss makes of tasks side by side; ``None`` if it cannot, being made for rows alone."""
    try:
        value = loss(outputs, targets)
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # the call with the rows of one task, which follows, says what is wrong
    return value if isinstance(value, Tensor) else None


def _is_torchs(loss: Any) -> bool:
    while isinstance(loss, functools.partial):
        loss = loss.func
    return isinstance(loss, nn.modules.loss._Loss) or getattr(loss, "__module__", "") == F.__name__


def _mean(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean over real rows, ``[T, Q]`` to ``[T]``."""
    return torch.where(mask, rows, 0).sum(1) / mask.sum(1)
