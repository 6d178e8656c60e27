"""Losses of many tasks, a few at a time: first-order graphs of large query sets need not be held all at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from metakit.contracts import Weights

Judge = Callable[[slice, Weights], Tensor]


def in_chunks(judge: Judge, weights: Weights, shared: Mapping[str, Tensor], size: int) -> Tensor:
    """``judge(all tasks, weights)``, ``[T]``, worked out ``size`` tasks at a time, with the same derivatives.

    The tasks are independent, so the gradient of the sum of their losses holds each one's own. It is taken beside the
    losses, piece by piece, and waits for what they are multiplied by: only the adapted weights, small, keep a graph
    that can be differentiated again. Where more is asked, of a second derivative or of tasks weighed unequally, it is
    worked out anew, all at once.

    Arguments:
        judge: losses of the tasks in a slice from their weights; where a name is missing, the network's own serve.
        weights: adapted weights, stacked: ``{name: [T, ...]}``.
        shared: the network's other parameters, the same for all tasks.
        size: tasks at a time, fewer than there are.
    """
    tasks = len(next(iter(weights.values())))
    if _get_current_dispatch_mode_stack():  # what is traced is compiled, as a whole
        return judge(slice(None), weights)
    if not torch.is_grad_enabled():
        pieces = [slice(start, start + size) for start in range(0, tasks, size)]
        return torch.cat([judge(piece, {name: w[piece] for name, w in weights.items()}) for piece in pieces])
    return _InChunks.apply(judge, list(weights), list(shared), size, *weights.values(), *shared.values())


class _InChunks(torch.autograd.Function):
    @staticmethod
    def forward(ctx, judge, names, others, size, *tensors):
        weights, shared = tensors[: len(names)], tensors[len(names) :]
        losses, upstream = [], [torch.zeros_like(w) for w in weights]
        totals = [torch.zeros_like(p) for p in shared]
        for start in range(0, len(weights[0]), size):
            piece = slice(start, start + size)
            with torch.enable_grad():
                leaves = [w[piece].detach().requires_grad_() for w in weights]
                losses.append(judge(piece, dict(zip(names, leaves, strict=True))))
                grads = torch.autograd.grad(losses[-1].sum(), [*leaves, *shared], materialize_grads=True)
            for whole, grad in zip(upstream, grads, strict=False):
                whole[piece] = grad
            for total, grad in zip(totals, grads[len(leaves) :], strict=True):
                total += grad
        ctx.judge, ctx.names, ctx.others = judge, names, others
        ctx.save_for_backward(*tensors, *upstream, *totals)
        return torch.cat(losses).detach()

    @staticmethod
    def backward(ctx, grad):
        half = len(ctx.saved_tensors) // 2
        tensors, grads = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        again, count = torch.is_grad_enabled(), len(ctx.names)
        if again or (ctx.others and not bool((grad == grad[0]).all())):
            with torch.enable_grad():
                apart = [t.view_as(t) for t in tensors]  # what they came from is not this function's
                lent = [*apart[:count], *(p.expand(len(grad), *p.shape) for p in apart[count:])]
                losses = ctx.judge(slice(None), dict(zip([*ctx.names, *ctx.others], lent, strict=True)))
                found = torch.autograd.grad(losses, apart, grad, create_graph=again, materialize_grads=True)
            return None, None, None, None, *found
        sides = [g * grad.view(-1, *[1] * (g.dim() - 1)) for g in grads[:count]]
        return None, None, None, None, *sides, *(total * grad[0] for total in grads[count:])
