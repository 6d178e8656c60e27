"""How many threads pay: small tensors are sooner done by one than shared out."""

from __future__ import annotations

import contextlib
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
