"""One outer step: the meta-gradient of a batch of tasks, and the optimiser's move; plain or compiled as a whole."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from metakit.batch import TaskBatch
from metakit.learners import chunk_size

Gradient = tuple[Tensor, list[Tensor | None]]


class OuterStep:
    """``w <- optimiser(w, grad_w mean_t loss_t(w))`` for a batch of T tasks, a chunk of tasks at a time.

    After a call ``finite`` says whether loss and gradient were; if not, the weights were left as they are.
    """

    def __init__(
        self, learner: nn.Module, optimizer: torch.optim.Optimizer, *, compile: bool = False, chunk: int | None = None
    ) -> None:
        self.learner, self.optimizer, self.chunk = learner, optimizer, chunk
        self.parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.finite = True
        self._compile = compile
        self._compiled: dict[Any, Callable[..., Gradient]] = {}

    def __call__(self, batch: TaskBatch) -> float:
        """Take the step; return the mean loss before it."""
        parameters = list(self.parameters.values())
        total = torch.zeros((), device=batch.device)
        self.optimizer.zero_grad(set_to_none=True)
        for piece in batch.chunks(self.chunk or chunk_size(batch)):
            loss, grads = self._gradient(piece)
            share = len(piece) / len(batch)
            total = total + share * loss
            for parameter, grad in zip(parameters, grads, strict=True):
                if grad is not None:
                    scaled = grad if share == 1 else share * grad
                    parameter.grad = scaled if parameter.grad is None else parameter.grad.add_(scaled)
        # A sum is finite only if every term is, and it costs one number a tensor.
        sums = [total, *(p.grad.sum() for p in parameters if p.grad is not None)]
        self.finite = bool(torch.isfinite(torch.stack([s.detach().float() for s in sums])).all())
        if self.finite:
            self.optimizer.step()
        return float(total)

    def _gradient(self, batch: TaskBatch) -> Gradient:
        if not self._compile:
            return meta_gradient(self.learner, list(self.parameters.values()), batch)
        key = (batch.ways, *((t.shape, t.dtype) for t in batch.tensors))
        arguments = [p.detach() for p in self.parameters.values()], list(batch.tensors)
        with torch.no_grad():
            try:
                if key not in self._compiled:
                    self._compiled[key] = self._trace(batch, *arguments)
                return self._compiled[key](*arguments)
            except Exception as error:
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                warnings.warn(f"compile=True is not possible here, going on without: {reason}", stacklevel=4)
                self._compile = False
        return meta_gradient(self.learner, list(self.parameters.values()), batch)

    def _trace(self, batch: TaskBatch, parameters: list[Tensor], tensors: list[Tensor]) -> Callable[..., Gradient]:
        """The meta-gradient as one compiled function of parameters and data.

        Tracing it whole, inner gradients included, leaves plain tensor operations that a compiler can fuse.
        """

        def gradient(parameters: list[Tensor], tensors: list[Tensor]) -> Gradient:
            leaves = [p.detach().requires_grad_() for p in parameters]
            stand_ins = dict(zip(self.parameters, leaves, strict=True))

            def losses(piece: TaskBatch) -> Tensor:
                return functional_call(self.learner, stand_ins, (piece,))

            return meta_gradient(losses, leaves, TaskBatch.trusted(*tensors, ways=batch.ways))

        graph = make_fx(gradient)(parameters, tensors)
        # Small tasks on a GPU are bound by the time to launch each kernel; a CUDA graph launches them all at once.
        return torch.compile(graph, fullgraph=True, mode="reduce-overhead" if batch.device.type == "cuda" else None)


def meta_gradient(learner: Callable[[TaskBatch], Tensor], parameters: list[Tensor], batch: TaskBatch) -> Gradient:
    """The mean loss over the tasks of a batch, and its gradient (``None`` for a parameter that plays no part)."""
    with torch.enable_grad():
        loss = learner(batch).mean()
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.detach(), list(grads)
