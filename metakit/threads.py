"""What pays on this machine: one thread for small tensors, and half of the bits where they are built in."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import torch

# Numbers in a batch below which threads do not pay.
_SMALL = 1 << 14


def threads_for(numbers: int, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """One thread while so few numbers are worked on: several would spend their time waiting for each other.

    All the more where other processes want the cores too: a thread that has to wait for one holds up all.
    """
    small = numbers <= _SMALL and device.type == "cpu"
    return one_thread() if small and torch.get_num_threads() > 1 else contextlib.nullcontext()


def threads_for_batch(batch: Any) -> contextlib.AbstractContextManager[None]:
    """``threads_for`` the numbers of a batch, if it counts them as a ``contracts.Counted`` does."""
    return threads_for(batch.numel(), batch.device) if hasattr(batch, "numel") else contextlib.nullcontext()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Operations are not shared out between threads meanwhile, nor in threads that begin meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast_for(device: torch.device) -> torch.dtype | None:
    """``torch.bfloat16`` where the device multiplies sooner in it than in float32; without instructions for it a
    processor takes three times as long.

    Example:
        >>> autocast_for(torch.device("cpu")) in (torch.bfloat16, None)
        True
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    return torch.bfloat16 if _seconds(torch.bfloat16) < _seconds(torch.float32) else None


@functools.cache
def _seconds(dtype: torch.dtype) -> float:
    """The least of some trials of a product of matrices."""
    matrix, trials = torch.ones(768, 768, dtype=dtype), []
    for _ in range(4):
        start = time.perf_counter()
        matrix @ matrix
        trials.append(time.perf_counter() - start)
    return min(trials)
