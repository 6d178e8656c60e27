"""The direct estimate as one piece: compiled for a CPU, recorded as a CUDA graph for a GPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from metakit.contracts import Estimate, Learner
from metakit.nn.lending import lent
from metakit.outer.estimate import direct
from metakit.tasks.batch import TaskBatch

Made = Callable[[dict[str, Tensor]], Estimate]


class Compiled:
    """The direct estimator, made into one piece for each shape of batch that it meets.

    Where that cannot be done it says so once, and goes on without.
    """

    def __init__(self) -> None:
        self._made: dict[Any, Made] = {}
        self._possible = True

    def __call__(self, learner: Learner, parameters: Mapping[str, Tensor], batch: Any, carry: Any) -> Estimate:
        if self._possible:
            try:
                return self._of(learner, parameters, batch)
            except Exception as error:
                lines = str(error).strip().splitlines() or [type(error).__name__]
                warnings.warn(f"compile=True is not possible here, going on without: {lines[0]}", stacklevel=5)
                self._possible = False
        return direct(learner, parameters, batch, carry)

    def _of(self, learner: Any, parameters: Mapping[str, Tensor], batch: Any) -> Estimate:
        if not isinstance(batch, TaskBatch):
            raise TypeError(f"tasks must be TaskBatch, got {type(batch).__name__}")
        tensors, _ = _tensors(batch)
        key = (batch.ways, *((name, t.shape, t.dtype) for name, t in tensors.items()))
        if key not in self._made:
            make = _recorded if batch.device.type == "cuda" else _fused
            with warnings.catch_warnings():  # the compiler's, about its own parts
                warnings.simplefilter("ignore")
                self._made[key] = make(learner, parameters, batch)
        return self._made[key](tensors)


def _fused(learner: nn.Module, parameters: Mapping[str, Tensor], batch: TaskBatch) -> Made:
    """The meta-gradient for batches like this one, as a compiled function: small operations become one.

    Tracing it whole, inner gradients included, leaves plain tensor operations that a compiler can fuse.
    """
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx  # a second to import, for those who compile

    names, (first, others) = list(parameters), _tensors(batch)

    def gradient(*arguments: Tensor) -> list[Tensor | None]:
        stand_ins = {n: p.detach().requires_grad_() for n, p in zip(names, arguments, strict=False)}
        tensors: dict[str, Any] = dict(zip(first, arguments[len(names) :], strict=True))
        tasks = type(batch).trusted(**tensors, **others)
        found = direct(lent(learner, stand_ins), stand_ins, tasks, None)
        return [found.loss, found.size, *found.grads]

    def arguments(tensors: dict[str, Tensor]) -> list[Tensor]:
        """In one layout, on which the compiled function counts."""
        return [*(p.detach() for p in parameters.values()), *(t.contiguous() for t in tensors.values())]

    with torch.no_grad():
        graph = _rewrite_products(make_fx(gradient)(*arguments(first)))
        compiled = torch._inductor.compile(graph, [*arguments(first)])

    def call(tensors: dict[str, Tensor]) -> Estimate:
        with torch.no_grad():
            loss, size, *grads = compiled(*arguments(tensors))
        return Estimate(loss, grads, size=size)

    return call


def _recorded(learner: nn.Module, parameters: Mapping[str, Tensor], batch: TaskBatch) -> Made:
    """The meta-gradient for batches like this one, as a CUDA graph: its kernels, recorded once, start all at once.

    Small tasks are bound by the time that Python takes to start each. The graph reads the parameters where they lie and
    the tasks in a place of its own; what it returns is written anew at each call.
    """
    held = batch.each(torch.clone)
    with torch.cuda.device(batch.device):
        graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # before they are recorded, libraries choose their kernels and make room
            for _ in range(2):
                direct(learner, parameters, held, None)
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = direct(learner, parameters, held, None)

    places, _ = _tensors(held)

    def call(tensors: dict[str, Tensor]) -> Estimate:
        for name, place in places.items():
            place.copy_(tensors[name])
        graph.replay()
        return result

    return call


def _tensors(batch: TaskBatch) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The fields of a batch that are tensors, and the others."""
    fields = vars(batch).items()
    tensors = {name: value for name, value in fields if isinstance(value, Tensor)}
    return tensors, {name: value for name, value in fields if name not in tensors}


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
