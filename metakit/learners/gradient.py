"""Learners whose inner loop takes gradient steps: MAML with its variants, and Reptile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metakit.inner import SGD, Loss, Weights, adapt, adaptable, check_model, run, stacked, task_loss, trajectory
from metakit.learners.common import (
    by_protocol,
    check_batch,
    check_losses,
    check_outputs,
    check_protocol,
    check_steps,
    predict,
)
from metakit.tasks.batch import TaskBatch


class MAML(nn.Module):
    """Model-agnostic meta-learning: learn the initial weights from which a few inner steps go a long way.

        w_t = U_K(w; support set t),    loss_t = L(w_t; query set t)

    U_K is K steps of ``rule``; the meta-gradient of the mean loss goes through all of them (``order=2``), or takes the
    inner gradients for constants (``order=1``, first-order MAML). ``adapt="head"`` makes it ANIL and
    ``rule=LearnedSGD()`` Meta-SGD.

    Arguments:
        model: the base learner, an ``nn.Module``; layers of ``metakit.nn`` run all tasks at once, others one by one.
        rule: the inner rule; ``SGD(lr=0.01)`` is the sinusoid setting of the paper.
        steps: inner steps K.
        order: 2 or 1.
        adapt: name or names of the layers to adapt; all of them when left out.
        loss: ``(outputs, targets) -> [T]``; by the target's dtype when left out, see ``task_loss``.
        protocol: how batch norm treats the query set in training, ``"transductive"`` (normalised together, as in the
            paper) or ``"inductive"`` (each row by itself, with the support set's statistics). Without batch norm both
            are the same.

    Raises:
        ValueError: if an option is out of its range or the model cannot be adapted exactly (the layer is named).

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> MAML(MLP(1, [8], 1), steps=2)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Finn, Abbeel and Levine 2017, algorithm 2; ANIL, Raghu et al. 2020; Meta-SGD, Li et al. 2017.
    """

    optimizer, lr = torch.optim.Adam, 1e-3

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Any = None,
        steps: int = 1,
        order: int = 2,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        check_model(model)
        if order not in (1, 2):
            raise ValueError(f"order must be 2 (exact meta-gradient) or 1 (first-order MAML), got {order!r}.")
        self.model, self.loss = model, loss or task_loss
        self.steps, self.order, self.protocol = check_steps(steps), order, check_protocol(protocol)
        self.adapted = tuple(adaptable(model, adapt))
        self.rule = prepared(rule, self.initial, steps)

    @property
    def initial(self) -> dict[str, nn.Parameter]:
        """The learned initial weights of the layers that adapt."""
        named = dict(self.model.named_parameters())
        return {name: named[name] for name in self.adapted}

    def adapt(self, batch: TaskBatch, steps: int | None = None) -> Weights:
        """The weights adapted to each task's support set, stacked: ``{name: [T, ...]}``."""
        _check(self.model, batch)
        return adapt(self.model, stacked(self.initial, len(batch)), *batch.tensors[:2], **self._inner(steps))

    def judge(self, weights: Weights, batch: TaskBatch) -> Tensor:
        """The query loss of each task under adapted weights, ``[T]``."""
        return check_losses(self.loss(answer(self.model, weights, batch, self.protocol), batch.query_y), batch)

    def forward(self, batch: TaskBatch) -> Tensor:
        return self.judge(self.adapt(batch), batch)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        _check(self.model, batch)
        weights = stacked(self.initial, len(batch))
        for adapted in trajectory(self.model, weights, *batch.tensors[:2], **self._inner(steps)):
            yield answer(self.model, adapted, batch, protocol or self.protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Adapt to the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)

    def _inner(self, steps: int | None) -> dict[str, Any]:
        steps = self.steps if steps is None else check_steps(steps)
        return {"rule": self.rule, "steps": steps, "order": self.order, "loss": self.loss}


class Reptile(nn.Module):
    """Move the initial weights towards where training on each task ends; no gradient goes through the inner loop.

        w_t = U_K(w; all rows of task t),    w <- w + epsilon mean_t (w_t - w)

    The outer step is plain SGD with ``lr = epsilon`` on the surrogate ``|w - w_t|^2 / 2``, so that it runs in the same
    outer loop; the value returned is the loss at w_t. It needs no split: training uses support and query rows alike.

    Arguments and errors: as ``MAML``.

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> Reptile(MLP(1, [8], 1), steps=3)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Nichol, Achiam and Schulman 2018, algorithm 2.
    """

    optimizer, lr = torch.optim.SGD, 0.1

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Any = None,
        steps: int = 5,
        loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        super().__init__()
        self.inner = MAML(model, rule=rule, steps=steps, order=1, loss=loss, protocol=protocol)
        if any(True for _ in self.inner.rule.parameters()):
            raise ValueError("Reptile learns initial weights only; a rule with parameters of its own needs MAML.")

    @property
    def model(self) -> nn.Module:
        return self.inner.model

    @property
    def rule(self) -> nn.Module:
        return self.inner.rule

    @property
    def steps(self) -> int:
        return self.inner.steps

    @property
    def protocol(self) -> str:
        return self.inner.protocol

    @property
    def loss(self) -> Loss:
        return self.inner.loss

    def forward(self, batch: TaskBatch) -> Tensor:
        _check(self.model, batch)
        x = torch.cat([batch.support_x, batch.query_x], 1)
        y = torch.cat([batch.support_y, batch.query_y], 1)
        initial = self.inner.initial
        with torch.no_grad():
            rows = TaskBatch.trusted(x, y, x, y, ways=batch.ways)
            adapted = self.inner.adapt(rows)
            value = check_losses(self.loss(run(self.model, adapted, x), y), batch)
        moves = [(initial[name] - w).square().flatten(1).sum(1) for name, w in adapted.items()]  # [T] for each tensor
        distance = torch.stack(moves).sum(0) / 2
        return value + (distance - distance.detach())

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        """Yield the outputs for the query rows after 0, 1, ..., K inner steps, each ``[T, Q, ...]``."""
        yield from self.inner.outputs(batch, steps, protocol)

    def predict(self, support_x: Tensor, support_y: Tensor, query_x: Tensor, *, steps: int | None = None) -> Tensor:
        """Adapt to the support set and answer the query rows, each by itself (inductive); see ``predict``."""
        return predict(self, support_x, support_y, query_x, steps=steps)


def answer(model: nn.Module, weights: Weights, batch: TaskBatch, protocol: str) -> Tensor:
    """Outputs for the query rows, ``[T, Q, ...]``."""
    return by_protocol(lambda x: run(model, weights, x), model, batch, protocol)[1]


def prepared(rule: Any, weights: dict[str, nn.Parameter], steps: int) -> nn.Module:
    """The rule, with its own parameters for these weights if it learns any."""
    rule = SGD() if rule is None else rule
    if not (isinstance(rule, nn.Module) and hasattr(rule, "init_state") and hasattr(rule, "step")):
        raise TypeError(f"rule must be an inner rule such as mk.SGD(lr=0.01), got {rule!r}.")
    make: Callable[..., nn.Module] | None = getattr(rule, "prepared", None)
    return rule if make is None else make(weights, steps)


def _check(model: nn.Module, batch: TaskBatch) -> None:
    check_batch(model, batch)
    check_outputs(model, batch)
