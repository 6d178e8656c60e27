"""Evaluation: what a learner makes of tasks it has not seen, step by step, with an interval over tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from metakit.inner import task_loss
from metakit.learners import answers_together, check_protocol, chunk_size
from metakit.tasks.batch import TaskBatch
from metakit.threads import threads_for

# Tasks are drawn this many at a time, whatever the chunk: the same seed gives the same tasks on any machine.
_DRAWN_AT_ONCE = 50
NORMAL_95 = 1.959964


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The query loss and accuracy of each task after 0, 1, ..., K inner steps.

    Arguments:
        loss: ``[n_tasks, K + 1]``.
        accuracy: share of query rows answered rightly, ``[n_tasks, K + 1]`` in 0..1; ``None`` in regression.
        protocol: ``"transductive"`` if the query rows of a task were answered together, else ``"inductive"``.

    Example:
        >>> result = Evaluation(torch.tensor([[2.0, 1.0], [4.0, 1.0]]), None, "inductive")
        >>> result.mean().tolist()
        [3.0, 1.0]
    """

    loss: Tensor
    accuracy: Tensor | None
    protocol: str

    @property
    def score(self) -> Tensor:
        """The accuracy where there is one, else the loss: ``[n_tasks, K + 1]``."""
        return self.loss if self.accuracy is None else self.accuracy

    def mean(self) -> Tensor:
        """Mean score over tasks after each step, ``[K + 1]``."""
        return self.score.mean(0)

    def interval(self) -> tuple[Tensor, Tensor]:
        """Low and high end of the 95% interval of the mean over tasks, ``[K + 1]`` each.

        ``mean +- 1.96 s / sqrt(n_tasks)``, with s the standard deviation over tasks: how far the mean would move had
        other tasks been drawn. It does not tell how far another training run would move it.
        """
        half = NORMAL_95 * self.score.std(0) / len(self.score) ** 0.5
        return self.mean() - half, self.mean() + half

    def __str__(self) -> str:
        low, high = self.interval()
        mean, half = float(self.mean()[-1]), float(high[-1] - low[-1]) / 2
        judged = f"{len(self.score)} tasks, {self.score.shape[1] - 1} inner steps"
        lost = int((~torch.isfinite(self.loss[:, -1])).sum())
        judged += f", {lost} of them diverged" if lost else ""
        if self.accuracy is None:
            return f"loss {mean:.3g} +- {half:.2g} ({judged})"
        return f"accuracy {100 * mean:.2f} +- {100 * half:.2f} % ({self.protocol}, {judged})"


def evaluate(
    learner: nn.Module,
    tasks: Any,
    *,
    n_tasks: int = 600,
    steps: int | None = None,
    seed: int = 1,
    protocol: str | None = None,
    chunk: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """Judge a learner on freshly drawn tasks, after each of its inner steps.

    Arguments:
        learner: anything with ``outputs(batch, steps, protocol)``, as the learners here; of another module that
            turns a batch into ``[T]`` losses, the losses are all that is reported.
        tasks: a task distribution, or a ``TaskBatch`` of fixed tasks.
        n_tasks: number of tasks to draw.
        steps: inner steps K; the learner's own number when left out.
        seed: the same seed draws the same tasks, for every learner.
        protocol: ``"transductive"`` or ``"inductive"``; the learner's own when left out. The result names it.
        chunk: tasks to run at once; chosen by the device and the size of a task when left out.
        progress: show a bar.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> import metakit as mk
        >>> learner = mk.MAML(mk.models.MLP(1, [8], 1), steps=1)
        >>> mk.evaluate(learner, mk.tasks.Sinusoids(), n_tasks=20, steps=3).loss.shape
        torch.Size([20, 4])
    """
    if not isinstance(n_tasks, int) or n_tasks < 2:
        raise ValueError(f"n_tasks must be at least 2 (an interval needs several), got {n_tasks!r}.")
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a positive number of tasks, got {chunk!r}.")
    protocol = check_protocol(str(protocol or getattr(learner, "protocol", "inductive")))
    parameter = next(learner.parameters(), None)
    device = None if parameter is None else parameter.device  # without parameters, where the tasks are
    losses: list[Tensor] = []
    accuracies: list[Tensor] = []
    batches = [tasks] if isinstance(tasks, TaskBatch) else _drawn(tasks, n_tasks, seed, device)
    with torch.no_grad(), tqdm(total=n_tasks, unit="task", delay=2, disable=not progress) as bar:
        for batch in batches:
            for piece in batch.chunks(chunk or chunk_size(batch.support_x, batch.query_x)):
                with threads_for(piece.support_x.numel() + piece.query_x.numel(), piece.device):
                    loss, accuracy = _judge(learner, piece, steps, protocol)
                losses.append(loss)
                if accuracy is not None:
                    accuracies.append(accuracy)
                bar.update(len(piece))
    named = protocol if answers_together(learner) else "inductive"
    return Evaluation(torch.cat(losses), torch.cat(accuracies) if accuracies else None, named)


def _drawn(tasks: Any, n_tasks: int, seed: int, device: torch.device | None) -> Iterable[TaskBatch]:
    generator = torch.Generator(device or "cpu").manual_seed(seed)
    for start in range(0, n_tasks, _DRAWN_AT_ONCE):
        yield tasks.sample(min(_DRAWN_AT_ONCE, n_tasks - start), generator=generator, device=device)


def _judge(learner: Any, batch: TaskBatch, steps: int | None, protocol: str) -> tuple[Tensor, Tensor | None]:
    """Loss and accuracy of each task after each step, ``[T, K + 1]``."""
    if not hasattr(learner, "outputs"):
        return learner(batch).cpu()[:, None], None
    loss = getattr(learner, "loss", task_loss)
    losses, accuracies = [], []
    for outputs in learner.outputs(batch, steps, protocol):
        losses.append(loss(outputs, batch.query_y))
        if not batch.query_y.is_floating_point():
            accuracies.append((outputs.argmax(-1) == batch.query_y).float().mean(1))
    return torch.stack(losses, 1).cpu(), torch.stack(accuracies, 1).cpu() if accuracies else None
