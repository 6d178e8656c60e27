"""One outer step: the meta-gradient of a batch of tasks, and the optimiser's move; plain or compiled as a whole."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from metakit.learners import chunk_size
from metakit.tasks.batch import TaskBatch
from metakit.threads import threads_for

Gradient = tuple[Tensor, Sequence[Tensor | None], Tensor]


class OuterStep:
    """``w <- optimiser(w, grad_w mean_t loss_t(w))`` for a batch of T tasks, a chunk of tasks at a time.

    After a call ``finite`` says whether loss and gradient were; if not, the weights were left as they are.
    """

    def __init__(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        compile: bool = False,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.learner, self.optimizer, self.chunk, self.autocast = learner, optimizer, chunk, autocast
        self.parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.finite = True
        self._compile = compile
        if all(p.device.type == "cpu" for p in self.parameters.values()):
            _keep_freed_memory()
        self._compiled: dict[Any, Callable[[TaskBatch], Gradient]] = {}

    def __call__(self, batch: TaskBatch) -> float:
        """Take the step; return the mean loss before it."""
        with threads_for(batch.support_x.numel() + batch.query_x.numel(), batch.device):
            total = self._accumulate(batch)
            if self.finite:
                self.optimizer.step()
        return total

    def _accumulate(self, batch: TaskBatch) -> float:
        """The mean loss; the meta-gradient is left in the parameters' ``grad``."""
        total, self.finite = 0.0, True
        for parameter in self.parameters.values():
            parameter.grad = None
        apart = not self._compile and hasattr(self.learner, "judge")
        held = (batch.support_x,) if apart else (batch.support_x, batch.query_x)
        for piece in batch.chunks(self.chunk or chunk_size(*held)):
            with self._precision(batch.device):
                loss, grads, size = self._gradient(piece)
            share = len(piece) / len(batch)
            total += share * float(loss)
            self.finite = self.finite and math.isfinite(total) and math.isfinite(float(size))
            for parameter, grad in zip(self.parameters.values(), grads, strict=True):
                if grad is not None:
                    _add_gradient(parameter, grad, share)
        return total

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        if not self.autocast:
            return contextlib.nullcontext()
        # What is recorded must cast the weights again each time, not find those cast before.
        return torch.autocast(device.type, self.autocast, cache_enabled=not self._compile)

    def _gradient(self, batch: TaskBatch) -> Gradient:
        if self._compile:
            key = (batch.ways, *((t.shape, t.dtype) for t in batch.tensors))
            try:
                if key not in self._compiled:
                    make = _recorded if batch.device.type == "cuda" else _fused
                    with warnings.catch_warnings():  # the compiler's, about its own parts
                        warnings.simplefilter("ignore")
                        self._compiled[key] = make(self.learner, self.parameters, batch)
                return self._compiled[key](batch)
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                warnings.warn(f"compile=True is not possible here, going on without: {lines[0]}", stacklevel=4)
                self._compile = False
        chunk = self.chunk or chunk_size(batch.query_x) if hasattr(self.learner, "judge") else None
        return meta_gradient(self.learner, list(self.parameters.values()), batch, chunk=chunk)


def _fused(
    learner: nn.Module, parameters: dict[str, nn.Parameter], batch: TaskBatch
) -> Callable[[TaskBatch], Gradient]:
    """The meta-gradient for batches like this one, as a compiled function: small operations become one.

    Tracing it whole, inner gradients included, leaves plain tensor operations that a compiler can fuse.
    """
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx  # a second to import, for those who compile

    def gradient(*arguments: Tensor) -> list[Tensor | None]:
        leaves = [p.detach().requires_grad_() for p in arguments[: len(parameters)]]
        stand_ins = dict(zip(parameters, leaves, strict=True))

        def losses(piece: TaskBatch) -> Tensor:
            return functional_call(learner, stand_ins, (piece,))

        tasks = TaskBatch.trusted(*arguments[len(parameters) :], ways=batch.ways)
        loss, grads, size = meta_gradient(losses, leaves, tasks)
        return [loss, size, *grads]

    def arguments(batch: TaskBatch) -> list[Tensor]:
        """In one layout, on which the compiled function counts."""
        return [*(p.detach() for p in parameters.values()), *(t.contiguous() for t in batch.tensors)]

    with torch.no_grad():
        graph = _rewrite_products(make_fx(gradient)(*arguments(batch)))
        compiled = torch._inductor.compile(graph, [*arguments(batch)])

    def call(batch: TaskBatch) -> Gradient:
        with torch.no_grad():
            loss, size, *grads = compiled(*arguments(batch))
        return loss, grads, size

    return call


def _recorded(
    learner: nn.Module, parameters: dict[str, nn.Parameter], batch: TaskBatch
) -> Callable[[TaskBatch], Gradient]:
    """The meta-gradient for batches like this one, as a CUDA graph: its kernels, recorded once, start all at once.

    Small tasks are bound by the time that Python takes to start each. The graph reads the parameters where they lie and
    the tasks in a place of its own; what it returns is written anew at each call.
    """
    held = TaskBatch.trusted(*(t.clone() for t in batch.tensors), ways=batch.ways)
    leaves = list(parameters.values())
    with torch.cuda.device(batch.device):
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # before they are recorded, libraries choose their kernels and make room
            for _ in range(2):
                meta_gradient(learner, leaves, held)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = meta_gradient(learner, leaves, held)

    def call(batch: TaskBatch) -> Gradient:
        for place, tensor in zip(held.tensors, batch.tensors, strict=True):
            place.copy_(tensor)
        graph.replay()
        return result

    return call


def _add_gradient(parameter: nn.Parameter, grad: Tensor, share: float) -> None:
    """Add to the parameter's gradient, kept in its own memory layout: fused optimisers pair numbers by their place."""
    if share == 1 and grad.stride() == parameter.stride():
        parameter.grad = grad
        return
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    parameter.grad.add_(grad, alpha=share)


@functools.cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks instead of handing them back to the system.

    Each step frees and asks again for the same tens of megabytes; mapped afresh, every page of them costs a fault.
    Elsewhere than on Linux with glibc nothing is done.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(trim_threshold, 1 << 30)
        mallopt(mmap_threshold, 1 << 25)


def _rewrite_products(graph: fx.GraphModule) -> fx.GraphModule:
    """Replace products that a CPU's library is slow at: of vectors, by sums that can be fused; tall ones, turned.

    A product of fewer columns than rows is computed as ``A B = (B^T A^T)^T``.
    """
    aten, nodes = torch.ops.aten, graph.graph
    for node in list(nodes.nodes):
        if node.target not in (aten.bmm.default, aten.baddbmm.default) or node.kwargs:
            continue
        *bias, a, b = node.args
        (_, rows, inner), columns = a.meta["val"].shape, b.meta["val"].shape[2]
        with nodes.inserting_before(node):
            if inner == 1:
                product = nodes.call_function(aten.mul.Tensor, (a, b))
            elif columns == 1:
                each = nodes.call_function(aten.mul.Tensor, (a, nodes.call_function(aten.transpose.int, (b, 1, 2))))
                product = nodes.call_function(aten.sum.dim_IntList, (each, [2], True))
            elif columns < rows:
                turned = tuple(nodes.call_function(aten.transpose.int, (factor, 1, 2)) for factor in (b, a))
                product = nodes.call_function(aten.transpose.int, (nodes.call_function(aten.bmm.default, turned), 1, 2))
            else:
                continue
            result = nodes.call_function(aten.add.Tensor, (product, *bias)) if bias else product
        node.replace_all_uses_with(result)
        nodes.erase_node(node)
    for node in nodes.find_nodes(op="call_function", target=aten.view.default):
        node.target = aten.reshape.default  # a product that was turned lies in memory otherwise than before
    graph.recompile()
    return graph


def meta_gradient(
    learner: Callable[[TaskBatch], Tensor], parameters: Sequence[Tensor], batch: TaskBatch, *, chunk: int | None = None
) -> Gradient:
    """The mean loss over the tasks of a batch, its gradient (``None`` for a parameter that plays no part), its norm.

    With ``chunk``, a learner that adapts and judges has its query sets judged so many tasks at a time.
    """
    with torch.enable_grad():
        if chunk is None or chunk >= len(batch):
            loss = learner(batch).mean()
            grads: Sequence[Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
        else:
            loss, grads = _pull_back(learner, parameters, batch, chunk)
    norms = torch._foreach_norm([grad.detach() for grad in grads if grad is not None])
    return loss.detach(), grads, torch.stack(norms).sum()


def _pull_back(
    learner: Any, parameters: Sequence[Tensor], batch: TaskBatch, chunk: int
) -> tuple[Tensor, list[Tensor | None]]:
    """The same loss and gradient in two parts: back to the adapted weights, then back through the inner steps.

    Only the support sets, small and all at once, need a graph of a graph; the query sets, large, are taken to first
    order, a chunk of tasks at a time, and one vector-Jacobian product pulls what they say back to the start.
    """
    adapted = learner.adapt(batch)
    loss, upstream = torch.zeros((), device=batch.device), [torch.zeros_like(w) for w in adapted.values()]
    direct: list[Tensor | None] = [None] * len(parameters)
    for start in range(0, len(batch), chunk):
        leaves = [w[start : start + chunk].detach().requires_grad_() for w in adapted.values()]
        piece = batch[start : start + chunk]
        value = learner.judge(dict(zip(adapted, leaves, strict=True)), piece).sum() / len(batch)
        grads = torch.autograd.grad(value, [*leaves, *parameters], allow_unused=True)
        for whole, grad in zip(upstream, grads, strict=False):
            if grad is not None:
                whole[start : start + chunk] = grad
        direct = [_plus(a, b) for a, b in zip(direct, grads[len(leaves) :], strict=True)]
        loss = loss + value.detach()
    pulled = torch.autograd.grad(list(adapted.values()), parameters, upstream, allow_unused=True)
    return loss, [_plus(a, b) for a, b in zip(direct, pulled, strict=True)]


def _plus(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b
