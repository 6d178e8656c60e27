"""What learners of support and query rows share: scores, answers to new tasks, the protocol, the checks at the door."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import in_words, whole
from metakit.contracts import ACCURACY, LOSS, Loss, Scores, Weights
from metakit.inner import task_loss, task_losses
from metakit.nn import statistics_from_first
from metakit.nn.lending import Functional, check_rows_apart, lent, mixes_rows, shadow, spread
from metakit.tasks.batch import TaskBatch, as_inputs, check_classes, check_tasks

PROTOCOLS = ("transductive", "inductive")


class Supervised(nn.Module):
    """A learner of support and query rows. Its own are ``outputs``, to be trained and judged, ``know`` and ``answer``.

    Arguments:
        loss: one number per task, or one for all it is given; by the target's dtype when left out, see ``task_loss``.
        protocol: how rows that are normalised together are treated in training.
        steps: inner steps K.
    """

    axis = "inner steps"
    outer_optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    outer_lr = 1e-3
    loss: Loss

    def __init__(self, loss: Loss | None, protocol: str, steps: int = 0) -> None:
        super().__init__()
        self.loss, self.protocol, self.steps = loss or task_loss, check_protocol(protocol), check_steps(steps)

    @property
    def network(self) -> nn.Module:
        """The network that sees the rows."""
        raise NotImplementedError

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after each inner step, from 0 on, each ``[T, Q, ...]``."""
        raise NotImplementedError

    def know(self, batch: TaskBatch, steps: int | None) -> Any:
        """All that is learned from the support sets of a batch."""
        raise NotImplementedError

    def answer(self, known: Any, batch: TaskBatch, protocol: str) -> Tensor:
        """Outputs for the query rows from what is known of their support sets, ``[T, Q, ...]``."""
        raise NotImplementedError

    def forward(self, batch: TaskBatch) -> Tensor:
        *_, outputs = self.outputs(batch)
        return self.query_losses(outputs, batch)

    def query_losses(self, outputs: Tensor, batch: TaskBatch) -> Tensor:
        """The loss of each task's query rows, ``[T]``."""
        return task_losses(self.loss, outputs, batch.query_y, batch.query_mask)

    def scores(
        self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None
    ) -> Iterator[tuple[int, Scores]]:
        """Yield accuracy, where targets are classes, and loss of each task after each inner step."""
        for k, outputs in enumerate(self.outputs(batch, steps, protocol)):
            scores = {LOSS: self.query_losses(outputs, batch)}
            if not batch.query_y.is_floating_point():
                right, mask = (outputs.argmax(-1) == batch.query_y).float(), batch.query_mask
                share = right.mean(1) if mask is None else (right * mask).sum(1) / mask.sum(1)
                scores = {ACCURACY: share, **scores}
            yield k, scores

    @property
    def answers_together(self) -> bool:
        """Whether an answer can depend on the other query rows of a task, so that the protocol matters."""
        return mixes_rows(self.network)

    def tasks_at_once(self, batch: TaskBatch, *, training: bool) -> int | None:
        return chunk_size(batch.support_x, batch.query_x)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Learn from the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)

    def learn(self, support_x: Tensor, support_y: Tensor, *, steps: int | None = None) -> Learned:
        """Learn from the support set once; the result answers query rows, again and again: ``learned(query_x)``.

        Example:
            >>> import metakit as mk
            >>> learned = mk.ProtoNet(nn.Identity()).learn(torch.eye(3), torch.arange(3))
            >>> learned(torch.eye(3)[[2, 0]]).argmax(-1)
            tensor([2, 0])
        """
        return Learned(self, support_x, support_y, steps)


class Learned:
    """What a learner knows of the tasks that it has seen the support sets of; called, it answers their query rows.

    It is of the learner as it was then, whose weights it keeps. Nothing is written into it, so threads may share it.
    """

    def __init__(self, learner: Supervised, support_x: Tensor, support_y: Tensor, steps: int | None) -> None:
        reader = shadow(learner)
        self._batch, self._single = unanswered(support_x, support_y, support_x)
        with torch.no_grad():
            self._known = reader.know(self._batch, steps)
            self._learner = lent(reader, {name: p.clone() for name, p in reader.named_parameters()})

    def __call__(self, query_x: Tensor) -> Tensor:
        """Outputs for the query rows, each by itself: ``[Q, ...]`` to ``[Q, outputs]``, with T in front for a stack."""
        batch = self._batch
        query_x = as_inputs(query_x)
        given = query_x[None] if self._single else query_x
        check_tasks(batch.support_x, batch.support_y, given)
        with torch.no_grad():
            asked = _asked(batch.support_x, batch.support_y, given, batch.ways)
            answers = self._learner.answer(self._known, asked, "inductive")
        return answers[0] if self._single else answers


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

    Real outputs in regression, a score for each class (logits) in classification: ``.argmax(-1)`` names the class. The
    learner answers in evaluation mode, and nothing is written into it: threads may share one.

    Shapes: one task ``[S, ...]``, ``[S]`` or ``[S, outputs]``, ``[Q, ...]`` to ``[Q, outputs]``; a stack has T in front
    of each. Pictures as bytes are read as everywhere, as 0 to 1.

    Arguments:
        steps: inner steps, the learner's own number when left out.
        protocol: ``"inductive"`` answers each query row by itself, ``"transductive"`` lets batch norm, and
            ``ProtoNet(refine=)``, see them all.

    Raises:
        ValueError: if shapes, dtypes or values are not those of a task.
    """
    batch, single = unanswered(support_x, support_y, query_x)
    answers = answer_batch(learner, batch, steps=steps, protocol=protocol)
    return answers[0] if single else answers


def answer_batch(learner: Any, batch: TaskBatch, *, steps: int | None = None, protocol: str = "inductive") -> Tensor:
    """``predict`` for a batch, whose tasks may be unequal: ``[T, Q, ...]``; at masked rows it means nothing."""
    reader, answers = shadow(learner), []
    with torch.no_grad():
        for chunk in batch.chunks(chunk_size(batch.support_x, batch.query_x)):
            for outputs in reader.outputs(chunk, steps, protocol):
                answer = outputs
            answers.append(answer)
    return torch.cat(answers)


def unanswered(support_x: Tensor, support_y: Tensor, query_x: Tensor) -> tuple[TaskBatch, bool]:
    """The batch of these rows, checked, whose query targets are unknown; and whether it is of a single task."""
    support_x, query_x = as_inputs(support_x), as_inputs(query_x)
    real = isinstance(support_y, Tensor) and support_y.is_floating_point()
    if real and support_y.dim() == 2 and support_x.dim() > 2 and support_x.shape[:2] == support_y.shape:
        raise ValueError(
            f"support_y {list(support_y.shape)} beside support_x {list(support_x.shape)} may be several tasks or one; "
            "real targets of a stack are [T, S, outputs]: give support_y[..., None]. One task? Give each tensor [None]."
        )
    if real and support_y.dim() == 1:
        raise ValueError(
            f"support_y must be [S, outputs] when it holds real numbers, got {list(support_y.shape)}. Add a last "
            "dimension: support_y[..., None]."
        )
    single = isinstance(support_y, Tensor) and support_y.dim() == (2 if real else 1)
    if single:
        support_x, support_y, query_x = support_x[None], support_y[None], query_x[None]
    check_tasks(support_x, support_y, query_x)
    ways = None if support_y.is_floating_point() else check_classes(support_y)
    return _asked(support_x, support_y, query_x, ways), single


def _asked(support_x: Tensor, support_y: Tensor, query_x: Tensor, ways: int | None) -> TaskBatch:
    unknown = support_y.new_zeros(query_x.shape[:2] + support_y.shape[2:])
    return TaskBatch.trusted(support_x, support_y, query_x, unknown, ways=ways)


def chunk_size(*inputs: Tensor) -> int | None:
    """Tasks to run at once: all of them on a GPU, a few on a CPU, whose caches the images of many would overflow."""
    return None if inputs[0].is_cuda else max(1, 32_768 // sum(x[0].numel() for x in inputs))


# --- Rows through a network, by protocol. ---


def by_protocol(network: Functional, weights: Weights, batch: TaskBatch, protocol: str) -> tuple[Tensor | None, Tensor]:
    """Outputs for query rows alone (transductive), or with support rows in front (inductive), which come first."""
    if check_protocol(protocol) == "transductive" or not network.mixes:
        return None, network(weights, batch.query_x, batch.query_mask)
    check_rows_apart(network.model)
    if batch.support_mask is not None or batch.query_mask is not None:
        sides = []
        for t in range(len(batch)):
            own = {name: w[t : t + 1] for name, w in weights.items()}
            sides.append(by_protocol(network, own, batch.task(t), protocol))
        support, query = zip(*sides, strict=True)
        return _spread(support, batch.support_mask), _spread(query, batch.query_mask)
    rows = batch.support_x.shape[1]
    with statistics_from_first(rows):
        both = network(weights, torch.cat([batch.support_x, batch.query_x], 1))
    return both[:, :rows], both[:, rows:]


def _spread(sides: Any, mask: Tensor | None) -> Tensor:
    """The rows of each task, ``[1, n, ...]``, at the places of the real ones, ``[T, N, ...]``."""
    return (
        torch.cat(sides) if mask is None else torch.stack([spread(y[0], m) for y, m in zip(sides, mask, strict=True)])
    )


def embedded(embedding: nn.Module, batch: TaskBatch, protocol: str) -> tuple[Tensor, Tensor]:
    """The support and query rows as vectors, ``[T, S, D]`` and ``[T, Q, D]``, of the rows' own precision."""
    check_batch(embedding, batch)
    network = Functional(embedding)
    if network.stacks and not network.mixes:  # no row depends on another: all of them at once
        rows = batch.support_x.shape[1]
        both = network({}, torch.cat([batch.support_x, batch.query_x], 1))
        support, query = both[:, :rows], both[:, rows:]
    else:
        side, query = by_protocol(network, {}, batch, protocol)
        support = network({}, batch.support_x, batch.support_mask) if side is None else side
    return as_precise(support, batch.support_x), as_precise(query, batch.query_x)


def as_precise(vectors: Tensor, rows: Tensor) -> Tensor:
    """Vectors in the precision of the rows that they are of, where those are real numbers."""
    return vectors.to(rows.dtype) if rows.is_floating_point() else vectors


def one_hot(batch: TaskBatch, dtype: torch.dtype) -> Tensor:
    """Which class each real support row belongs to, ``[T, S, N]`` of zeros and ones.

    Raises:
        ValueError: if the targets are not class numbers.
    """
    classes = torch.arange(check_ways(batch), device=batch.device)
    members = batch.support_y[..., None] == classes  # one_hot would read the numbers, and wait for a GPU
    return (members if batch.support_mask is None else members & batch.support_mask[..., None]).to(dtype)


def without_absent(scores: Tensor, counts: Tensor, batch: TaskBatch) -> Tensor:
    """Scores ``[T, Q, N]``, with minus infinity for classes of which a task has no row: ``counts [T, N]`` is 0."""
    return scores if batch.support_mask is None else scores.masked_fill(counts[:, None] == 0, -torch.inf)


# --- Checks at the door. ---


def check_protocol(protocol: str) -> str:
    """The protocol, if it is one of the two."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
    return protocol


def check_ways(batch: TaskBatch) -> int:
    """The number of classes N, if the targets are class numbers."""
    if batch.ways is None:
        raise ValueError("this learner classifies: targets must be class numbers (int64). For regression use MAML.")
    return batch.ways


def check_steps(steps: Any) -> int:
    """The number of inner steps, if it is one."""
    message = f"steps must be a whole number of inner steps, 0 or more; got {steps!r}."
    return in_words(message, lambda: whole("steps", steps, least=0))


def check_is_batch(batch: Any) -> None:
    """Refuse what is not a batch of tasks."""
    if not isinstance(batch, TaskBatch):
        raise TypeError(f"a learner takes a TaskBatch, got {type(batch).__name__}. Draw one with tasks.sample(T).")


def check_batch(model: nn.Module, batch: TaskBatch) -> None:
    """Refuse a batch that the model cannot take: another device or dtype, other rows, more classes than outputs."""
    check_is_batch(batch)
    x, parameter = batch.support_x, next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and x.device != parameter.device:
        raise ValueError(f"the batch is on {x.device}, the model on {parameter.device}. Move one with .to(device).")
    if parameter is not None and x.is_floating_point() and x.dtype != parameter.dtype:
        raise ValueError(
            f"the batch holds {x.dtype}, the model {parameter.dtype}. Convert the data, x.float(), or the batch or the "
            "model with .to(dtype=...)."
        )
    wanted, row = row_shape(model), tuple(x.shape[2:])
    if wanted is not None and row != wanted:
        takes = (
            f"rows of {wanted[0]} numbers" if len(wanted) == 1 else f"images {list(wanted)} (channels, height, width)"
        )
        raise ValueError(f"this {type(model).__name__} takes {takes}, got rows of shape {list(row)}.")


def row_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The rows that a model says it takes, by its own ``row_shape`` or that of the first module inside it."""
    own = getattr(model, "row_shape", None)
    if own is None and isinstance(model, nn.Sequential) and len(model):
        return row_shape(model[0])
    return own


def check_outputs(model: nn.Module, batch: TaskBatch) -> None:
    """Refuse a batch of more classes than the model has outputs."""
    outputs = getattr(model, "config", {}).get("outputs")
    if batch.ways is not None and (outputs or batch.ways) < batch.ways:
        raise ValueError(
            f"the model has {outputs} outputs, too few for a {batch.ways}-way task. Make it with outputs={batch.ways}."
        )
