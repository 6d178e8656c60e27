"""What every learner shares: answers to new tasks, batch norm by protocol, the checks of what comes in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from metakit.models import IMAGE_NETWORKS, MLP
from metakit.nn import BatchNorm2d, statistics_from_first
from metakit.tasks.batch import TaskBatch, check_classes, check_tasks

PROTOCOLS = ("transductive", "inductive")


def predict(
    learner: Any,
    support_x: Tensor,
    support_y: Tensor,
    query_x: Tensor,
    *,
    steps: int | None = None,
    protocol: str = "inductive",
) -> Tensor:
    """Answers to the query rows of one task or of a stack of tasks, learned from its support set.

    Real outputs in regression, a score for each class (logits) in classification: ``.argmax(-1)`` names the class.

    Shapes: one task ``[S, ...]``, ``[S]`` or ``[S, outputs]``, ``[Q, ...]`` to ``[Q, outputs]``; a stack has T in front
    of each.

    Arguments:
        steps: inner steps, the learner's own number when left out.
        protocol: ``"inductive"`` answers each query row by itself, ``"transductive"`` lets batch norm, and
            ``ProtoNet(refine=)``, see them all.

    Raises:
        ValueError: if shapes, dtypes or values are not those of a task.
    """
    single = isinstance(support_y, Tensor) and support_y.dim() == (2 if support_y.is_floating_point() else 1)
    if single:
        support_x, support_y, query_x = support_x[None], support_y[None], query_x[None]
    check_tasks(support_x, support_y, query_x)
    unknown = support_y.new_zeros(query_x.shape[:2] + support_y.shape[2:])
    ways = None if support_y.is_floating_point() else check_classes(support_y)
    batch = TaskBatch.trusted(support_x, support_y, query_x, unknown, ways=ways)
    answers = []
    with torch.no_grad():
        for chunk in batch.chunks(chunk_size(support_x, query_x)):
            for outputs in learner.outputs(chunk, steps, protocol):
                answer = outputs
            answers.append(answer)
    return torch.cat(answers)[0] if single else torch.cat(answers)


def chunk_size(*inputs: Tensor) -> int | None:
    """Tasks to run at once: all of them on a GPU, a few on a CPU, whose caches the images of many would overflow."""
    return None if inputs[0].is_cuda else max(1, 32_768 // sum(x[0].numel() for x in inputs))


def answers_together(learner: nn.Module) -> bool:
    """Whether an answer can depend on the other query rows, so that the protocol matters."""
    return uses_batch_norm(learner) or getattr(learner, "refine", 0) > 0


def uses_batch_norm(module: nn.Module) -> bool:
    """Whether any layer normalises rows together."""
    return any(isinstance(layer, BatchNorm2d | _BatchNorm) for layer in module.modules())


def check_protocol(protocol: str) -> str:
    """The protocol, if it is one of the two."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    return protocol


def by_protocol(
    network: Callable[[Tensor], Tensor], model: nn.Module, batch: TaskBatch, protocol: str
) -> tuple[Tensor | None, Tensor]:
    """Outputs for query rows alone (transductive), or with support rows in front (inductive), which come first."""
    if check_protocol(protocol) == "transductive" or not uses_batch_norm(model):
        return None, network(batch.query_x)
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm):
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) normalises query rows together, so it cannot answer them one "
                'by one. Use metakit.nn.BatchNorm2d, or protocol="transductive".'
            )
    rows = batch.support_x.shape[1]
    with statistics_from_first(rows):
        both = network(torch.cat([batch.support_x, batch.query_x], 1))
    return both[:, :rows], both[:, rows:]


def embedded(embedding: nn.Module, batch: TaskBatch, protocol: str) -> tuple[Tensor, Tensor]:
    """The support and query rows as vectors, ``[T, S, D]`` and ``[T, Q, D]``, of the rows' own precision."""
    check_batch(embedding, batch)
    if uses_batch_norm(embedding):
        support, query = by_protocol(embedding, embedding, batch, protocol)
        support = embedding(batch.support_x) if support is None else support
    else:  # no row depends on another: all of them at once
        rows = batch.support_x.shape[1]
        both = embedding(torch.cat([batch.support_x, batch.query_x], 1))
        support, query = both[:, :rows], both[:, rows:]
    return support.to(batch.support_x.dtype), query.to(batch.query_x.dtype)


def one_hot(batch: TaskBatch, dtype: torch.dtype) -> Tensor:
    """Which class each support row belongs to, ``[T, S, N]`` of zeros and ones.

    Raises:
        ValueError: if the targets are not class numbers.
    """
    classes = torch.arange(check_ways(batch), device=batch.device)
    return (batch.support_y[..., None] == classes).to(dtype)  # one_hot would read the numbers, and wait for a GPU


def check_ways(batch: TaskBatch) -> int:
    """The number of classes N, if the targets are class numbers."""
    if batch.ways is None:
        raise ValueError("this learner classifies: targets must be class numbers (int64). For regression use MAML.")
    return batch.ways


def check_positive(name: str, value: float) -> float:
    """The number, if it is finite and above 0."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}. 1.0 is a usual start.")
    return value


def check_steps(steps: int) -> int:
    """The number of inner steps, if it is one."""
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
        raise ValueError(f"steps must be a whole number of inner steps, 0 or more; got {steps!r}.")
    return steps


def check_is_batch(batch: TaskBatch) -> None:
    """Refuse what is not a batch of tasks."""
    if not isinstance(batch, TaskBatch):
        raise TypeError(f"a learner takes a TaskBatch, got {type(batch).__name__}. Draw one with tasks.sample(T).")


def check_batch(model: nn.Module, batch: TaskBatch) -> None:
    """Refuse a batch that the model cannot take: another device or dtype, other rows."""
    check_is_batch(batch)
    x, parameter = batch.support_x, next(model.parameters())
    if x.device != parameter.device:
        raise ValueError(f"the batch is on {x.device}, the model on {parameter.device}. Move one with .to(device).")
    if x.dtype != parameter.dtype:
        raise ValueError(f"the batch holds {x.dtype}, the model {parameter.dtype}. Convert one with .to(dtype=...).")
    config = getattr(model, "config", {})
    row = tuple(x.shape[2:])
    if isinstance(model, MLP) and row != (config["inputs"],):
        raise ValueError(f"this MLP takes rows of {config['inputs']} numbers, got rows of shape {list(row)}.")
    if isinstance(model, IMAGE_NETWORKS) and row != (config["channels"], config["size"], config["size"]):
        wanted = [config["channels"], config["size"], config["size"]]
        raise ValueError(
            f"this {type(model).__name__} takes images {wanted} (channels, height, width), got {list(row)}."
        )


def check_outputs(model: nn.Module, batch: TaskBatch) -> None:
    """Refuse a batch of more classes than the model has outputs."""
    outputs = getattr(model, "config", {}).get("outputs")
    if batch.ways is not None and (outputs or batch.ways) < batch.ways:
        raise ValueError(
            f"the model has {outputs} outputs, too few for a {batch.ways}-way task. Make it with outputs={batch.ways}."
        )


def check_losses(losses: Tensor, batch: TaskBatch) -> Tensor:
    """The losses, if there is one per task."""
    if losses.shape != (len(batch),):
        raise ValueError(
            f"loss must give one number per task, shape [{len(batch)}], got {list(losses.shape)}. "
            "Average over rows, not over tasks."
        )
    return losses
