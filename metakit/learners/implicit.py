"""Implicit MAML: the meta-gradient at the minimum of an inner problem, without the way that led there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import real, whole
from metakit.contracts import InnerStep, Loss, Rule, Weights
from metakit.inner import adapt, adaptable, prepared, task_losses, trajectory, unfrozen
from metakit.inner.implicit import conjugate_gradients, pulled
from metakit.learners.chunks import in_chunks
from metakit.learners.common import (
    Supervised,
    by_protocol,
    check_batch,
    check_outputs,
    check_steps,
    chunk_size,
)
from metakit.nn.lending import Functional, check_network, stacked
from metakit.saving import saved
from metakit.tasks.batch import TaskBatch


@saved(adapt="adapted")
class ImplicitMAML(Supervised):
    """MAML whose inner loop stays near the initial weights and is differentiated at its end alone (iMAML).

        w_t = argmin_v L(v; support set t) + (penalty / 2) |v - w|^2,    loss_t = L(w_t; query set t)
        d loss_t / dw = (I + H_t / penalty)^-1 grad L(w_t; query set t),    H_t the Hessian of the support loss at w_t

    The minimum is sought by ``steps`` inner steps, the system solved by conjugate gradients, for all tasks at once.
    Nothing of the inner loop is kept, so the memory does not grow with the number of inner steps; the meta-gradient is
    as good as the minimum is near. A task whose penalised loss is found not to curve upwards goes on with what the
    solver has by then; a larger penalty mends that. With ``adapt="head"`` the inner problem is convex for the usual
    losses, and a small penalty will do. Layers that do not adapt get their exact share of the gradient, too: they move
    the minimum. The gradient cannot be differentiated again.

    Arguments:
        model, adapt, loss, inner_loss, protocol: as in ``MAML``.
        rule: the inner rule, one without parameters of its own; ``SGD(lr=0.01)`` when left out.
        steps: inner steps K.
        penalty: strength of the draw to the initial weights, above 0.
        solver_steps: steps of conjugate gradients; 0 is first-order MAML around the same inner loop.

    Raises:
        ValueError: if an option is out of its range, the rule has parameters of its own, or the model cannot be adapted
            exactly (the layer is named).

    Example:
        >>> from metakit.models import MLP
        >>> x = torch.randn(4, 10, 1)
        >>> ImplicitMAML(MLP(1, [8], 1), steps=20)(TaskBatch(x, x.sin(), x, x.sin())).shape
        torch.Size([4])

    Source: Rajeswaran, Finn, Kakade and Levine 2019, algorithms 1 and 2; the defaults are their Omniglot setting.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rule: Rule | None = None,
        steps: int = 16,
        penalty: float = 2.0,
        solver_steps: int = 5,
        adapt: str | Iterable[str] | None = None,
        loss: Loss | None = None,
        inner_loss: Loss | None = None,
        protocol: str = "transductive",
    ) -> None:
        check_network(model)
        super().__init__(loss, protocol, steps)
        self.model, self.inner_loss = model, inner_loss
        self.penalty = real("penalty", penalty, above=0.0)
        self.solver_steps = whole("solver_steps", solver_steps, least=0)
        self.adapted = tuple(adaptable(model, adapt))
        self.rule = prepared(rule, self.initial, self.steps)
        if any(True for _ in self.rule.parameters()):
            raise ValueError(
                "ImplicitMAML does not learn its rule, for the minimum is the same by any rule that finds it; a rule "
                "with parameters of its own needs MAML."
            )

    @property
    def network(self) -> nn.Module:
        return self.model

    @property
    def initial(self) -> dict[str, nn.Parameter]:
        """The learned initial weights of the layers that adapt."""
        named = dict(self.model.named_parameters())
        return unfrozen({name: named[name] for name in self.adapted})

    def adapt(self, batch: TaskBatch, steps: int | None = None) -> Weights:
        """The weights adapted to each task's support set, stacked, frozen ones as they are; without a gradient."""
        adapted = adapt(self._lent(batch), self._start(batch), *batch.tensors[:2], **self.inner(batch, steps))
        named = dict(self.model.named_parameters())
        return stacked({name: named[name] for name in self.adapted if name not in adapted}, len(batch)) | adapted

    know = adapt

    def answer(self, known: Weights, batch: TaskBatch, protocol: str) -> Tensor:
        return by_protocol(self._lent(batch), known, batch, protocol)[1]

    def forward(self, batch: TaskBatch) -> Tensor:
        network = self._lent(batch)
        weights = self._minimum(network, batch)
        learned_loss = isinstance(self.loss, nn.Module) and any(True for _ in self.loss.parameters())
        size = None if learned_loss else chunk_size(batch.query_x)

        def judge(piece: slice, weights: Weights) -> Tensor:
            tasks = batch[piece]
            return self.query_losses(by_protocol(network, weights, tasks, self.protocol)[1], tasks)

        if size is None or size >= len(batch):
            return judge(slice(None), weights)
        return in_chunks(judge, weights, self._shared(), size)

    def outputs(self, batch: TaskBatch, steps: int | None = None, protocol: str | None = None) -> Iterator[Tensor]:
        network = self._lent(batch)
        for adapted in trajectory(network, self._start(batch), *batch.tensors[:2], **self.inner(batch, steps)):
            yield by_protocol(network, adapted, batch, protocol or self.protocol)[1]

    def inner(self, batch: TaskBatch, steps: int | None = None) -> dict[str, Any]:
        """The options of its inner loop for a batch."""
        return {
            "rule": _Near(self.rule, self.penalty),
            "steps": self.steps if steps is None else check_steps(steps),
            "order": 1,
            "loss": self.inner_loss or self.loss,
            "mask": batch.support_mask,
        }

    def tasks_at_once(self, batch: TaskBatch, *, training: bool) -> int | None:
        """In training as many as their support sets allow: query sets are judged a few at a time there."""
        return chunk_size(batch.support_x) if training else super().tasks_at_once(batch, training=False)

    def _minimum(self, network: Functional, batch: TaskBatch) -> Weights:
        """The adapted weights, with the derivative of the minimum that they stand for."""
        adapted = adapt(network, self._start(batch), *batch.tensors[:2], **self.inner(batch))
        loss: Loss = self.inner_loss or self.loss
        others = [*self._shared().values()]
        if isinstance(loss, nn.Module):
            others += [p for p in loss.parameters() if p.requires_grad]

        def support_losses(weights: Weights) -> Tensor:
            outputs = network(weights, batch.support_x, batch.support_mask)
            return task_losses(loss, outputs, batch.support_y, batch.support_mask)

        how = _Solve(support_losses, self.penalty, self.solver_steps, tuple(adapted), tuple(others))
        start = stacked(self.initial, len(batch))
        found = _Minimum.apply(how, *adapted.values(), *start.values(), *others)
        return dict(zip(adapted, found, strict=True))

    def _start(self, batch: TaskBatch) -> Weights:
        return stacked({name: p.detach() for name, p in self.initial.items()}, len(batch))

    def _shared(self) -> dict[str, Tensor]:
        """The trained parameters of the network that do not adapt."""
        initial = self.initial
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad and name not in initial}

    def _lent(self, batch: TaskBatch) -> Functional:
        check_batch(self.model, batch)
        check_outputs(self.model, batch)
        return Functional(self.model)


@dataclasses.dataclass(frozen=True)
class _Near:
    """A rule whose weights are drawn to where they started: ``g <- g + penalty (w - w_0)``."""

    rule: Rule
    penalty: float

    def init_state(self, weights: Weights) -> tuple[Weights, Any]:
        return weights, self.rule.init_state(weights)

    def step(self, now: InnerStep, state: tuple[Weights, Any]) -> tuple[Weights, tuple[Weights, Any]]:
        start, own = state
        grads = {name: g + self.penalty * (now.weights[name] - start[name]) for name, g in now.grads.items()}
        weights, own = self.rule.step(dataclasses.replace(now, grads=grads), own)
        return weights, (start, own)


@dataclasses.dataclass(frozen=True)
class _Solve:
    """What the derivative of a minimum asks for: the losses ``[T]`` that it is of, and what else they depend on."""

    losses: Callable[[Weights], Tensor]
    penalty: float
    steps: int
    names: tuple[str, ...]
    others: tuple[Tensor, ...]

    def shares(self, weights: Mapping[str, Tensor], upstream: Weights) -> tuple[Weights, list[Tensor | None]]:
        """The gradients for the initial weights and for what else the losses depend on.

        At the minimum ``grad L(v) + penalty (v - w) = 0``; its derivatives with respect to v, w and the others give
        ``u = (I + H / penalty)^-1 b`` for w and ``-(d grad L / d others)' u / penalty`` for the others.
        """
        if self.steps == 0 and not self.others:
            return upstream, []
        with torch.enable_grad():
            at = {name: w.detach().requires_grad_() for name, w in weights.items()}
            leaves, total = list(at.values()), self.losses(at).sum()
            grads = torch.autograd.grad(total, leaves, create_graph=True, materialize_grads=True)
        slopes = dict(zip(self.names, grads, strict=True))  # their graph serves all the products that follow

        def product(v: Weights) -> Weights:
            images = zip(v.items(), pulled(slopes, v, leaves), strict=True)
            return {name: part if h is None else part + h / self.penalty for (name, part), h in images}

        u = upstream if self.steps == 0 else conjugate_gradients(product, upstream, steps=self.steps).vector
        drawn = {name: -part / self.penalty for name, part in u.items()}
        return u, pulled(slopes, drawn, self.others) if self.others else []


class _Minimum(torch.autograd.Function):
    """The weights of a minimum, as a function of the initial weights and of whatever else the inner losses hold."""

    @staticmethod
    def forward(ctx: Any, how: _Solve, *tensors: Tensor) -> tuple[Tensor, ...]:
        adapted = tensors[: len(how.names)]
        ctx.how = how
        ctx.save_for_backward(*adapted)
        return tuple(w.clone() for w in adapted)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the gradient of ImplicitMAML can be taken, not differentiated again, got create_graph=True. Leave it "
                "out, or use mk.MAML."
            )
        how: _Solve = ctx.how
        weights = dict(zip(how.names, ctx.saved_tensors, strict=True))
        u, others = how.shares(weights, dict(zip(how.names, grads, strict=True)))
        return None, *[None] * len(how.names), *u.values(), *others
