"""One outer step: the meta-gradient of a batch of tasks is estimated, combined, and the optimiser moves."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metakit.checks import choice
from metakit.contracts import Capped, Combine, Estimate, Estimator, pieces
from metakit.outer.compiled import Compiled
from metakit.outer.estimate import direct
from metakit.outer.evolution import Evolution, PersistentEvolution, Truncated
from metakit.threads import threads_for_batch

_PASSED_OVER = 20  # batches in a row; of a learner whose tasks may diverge, fewer do not end the run
_NAMED: dict[str, Callable[[], Estimator]] = {
    "full": lambda: direct,
    "truncated": Truncated,
    "es": Evolution,
    "pes": PersistentEvolution,
}


def named_estimator(estimator: Any) -> Estimator | None:
    """The estimator of this name, or the one given."""
    return _NAMED[choice("estimator", estimator, _NAMED)]() if isinstance(estimator, str) else estimator


class OuterStep:
    """``w <- optimiser(w, grad_w mean_t loss_t(w))`` for a batch of T tasks, a chunk of tasks at a time.

    After a call ``finite`` says whether loss and gradient were; if not, the weights were left as they are. ``carry`` is
    what the estimator left for another move on the same batch, or ``None``; ``diverged`` how many inner loops diverged.
    A batch with a gradient that is not finite counts as diverged, and moves nothing, if the learner is ``Capped``.

    Arguments:
        learner, optimizer: what is trained, and what moves its parameters.
        estimator: how the meta-gradient is got, by name or a ``contracts.Estimator``; by autograd when left out.
        combine: changes the estimate of the whole batch before the move.
        compile: have the direct estimate compiled or recorded.
        chunk: tasks at a time; as many as the learner wants when left out.
        autocast: precision of products and convolutions.
        clip: greatest length of the meta-gradient, over all parameters together.
    """

    def __init__(
        self,
        learner: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        estimator: Estimator | str | None = None,
        combine: Combine | None = None,
        compile: bool = False,
        chunk: int | None = None,
        autocast: torch.dtype | None = None,
        clip: float | None = None,
    ) -> None:
        estimator = named_estimator(estimator)
        if compile and estimator is not None:
            raise ValueError("compile=True is for the direct estimate, and estimator= was given. Leave one out.")
        self.learner, self.optimizer, self.chunk, self.autocast = learner, optimizer, chunk, autocast
        self.parameters = {name: p for name, p in learner.named_parameters() if p.requires_grad}
        self.finite, self.clip, self.carry, self.diverged = True, clip, None, 0.0
        self._passed_over = 0  # batches in a row whose gradient was not finite
        self._estimate: Estimator = estimator or (Compiled() if compile else direct)
        self._combine, self._whole = combine, compile
        if all(p.device.type == "cpu" for p in self.parameters.values()):
            _keep_freed_memory()

    def __call__(self, batch: Any, carry: Any = None) -> float:
        """Take the step; return the mean loss before it."""
        with threads_for_batch(batch):
            found = self._of_chunks(batch, carry)
            if self._combine is not None:
                found = self._combine(found)
            loss = float(found.loss.detach())
            self.diverged = 0.0 if found.diverged is None else float(found.diverged)
            self.carry, self.finite = found.carry, math.isfinite(loss) and _is_finite(found)
            if self.finite:
                self._move(found)
                self._passed_over = 0
            elif isinstance(self.learner, Capped) and self._passed_over < _PASSED_OVER:
                self._passed_over, self.finite = self._passed_over + 1, True
                self.diverged, loss = float(len(batch)), self.learner.cap
        return loss

    def _of_chunks(self, batch: Any, carry: Any) -> Estimate:
        """The estimate of a whole batch: the mean of those of its chunks, each counted by its tasks."""
        chunks = list(pieces(self.learner, batch, training=True, size=self.chunk))
        if len(chunks) == 1:
            return self._of_chunk(batch, carry)
        total, carries = None, []
        for piece, left in zip(chunks, carry or [None] * len(chunks), strict=True):
            found = self._of_chunk(piece, left)
            carries.append(found.carry)
            total = _added(total, found, len(piece) / len(batch), self.parameters)
        assert total is not None
        done = [left is None for left in carries]
        if any(done) and not all(done):
            raise ValueError("an estimator must be done with all chunks of a batch at the same move. Or set chunk=T.")
        return dataclasses.replace(total, carry=None if all(done) else carries)

    def _of_chunk(self, piece: Any, carry: Any) -> Estimate:
        """What the estimator gives, if it is an estimate of these parameters' gradients."""
        with self._precision(piece.device) if self.autocast else contextlib.nullcontext():
            found: Any = self._estimate(self.learner, self.parameters, piece, carry)
        if not isinstance(found, Estimate) or len(found.grads) != len(self.parameters):
            told = f"{len(found.grads)} gradients" if isinstance(found, Estimate) else type(found).__name__
            raise TypeError(
                f"an estimator must give a contracts.Estimate with a gradient, or None, for each of the "
                f"{len(self.parameters)} parameters, got {told}."
            )
        if all(grad is None for grad in found.grads):
            raise ValueError(f"no parameter of {type(self.learner).__name__} plays a part in its loss. Is it detached?")
        return found

    def _move(self, found: Estimate) -> None:
        for parameter, grad in zip(self.parameters.values(), found.grads, strict=True):
            parameter.grad = None if grad is None else _in_layout(grad, parameter)
        if self.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip)
        self.optimizer.step()

    def _precision(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        # What is recorded must cast the weights again each time, not find those cast before.
        return torch.autocast(device.type, self.autocast, cache_enabled=not self._whole)


def _is_finite(found: Estimate) -> bool:
    size = found.size
    if size is None:
        size = torch.stack(torch._foreach_norm([grad for grad in found.grads if grad is not None])).sum()
    return math.isfinite(float(size))


def _added(total: Estimate | None, found: Estimate, share: float, parameters: Mapping[str, Tensor]) -> Estimate:
    """The sum so far and a share of what one more chunk found; gradients lie as their parameters do."""
    sums: list[Tensor | None] = [None] * len(found.grads) if total is None else list(total.grads)
    for i, (grad, parameter) in enumerate(zip(found.grads, parameters.values(), strict=True)):
        if grad is not None:
            before = sums[i]
            sums[i] = (torch.zeros_like(parameter) if before is None else before).add_(grad, alpha=share)
    far = [each.diverged for each in (total, found) if each is not None and each.diverged is not None]
    return Estimate(
        share * found.loss + (0 if total is None else total.loss),
        sums,
        diverged=torch.stack(far).sum() if far else None,
    )


def _in_layout(grad: Tensor, parameter: Tensor) -> Tensor:
    """The gradient in its parameter's own memory layout: fused optimisers pair numbers by their place."""
    return grad if grad.stride() == parameter.stride() else torch.empty_like(parameter).copy_(grad)


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
