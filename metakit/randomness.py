"""torch's own generator, lent in turns: dropout and the like draw the same numbers whatever else draws from it."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_turns = threading.RLock()


def apart(seed: int) -> int:
    """A seed for what happens in tasks, other than the seed by which they are drawn: luck must not know the tasks."""
    return (seed + 0x5851F42D4C957F2D) % 2**63


class Dice:
    """One job's place in torch's own generator: ``with dice:`` goes on from there, and gives the generator back.

    Arguments:
        seed: where it starts.
        device: a GPU whose generator is lent as well.

    Example:
        >>> dice, again = Dice(3), Dice(3)
        >>> with dice:
        ...     first = torch.rand(2)
        >>> with again:
        ...     bool((torch.rand(2) == first).all())
        True
    """

    def __init__(self, seed: int, device: torch.device | str | None = None) -> None:
        self._device = torch.device(device) if device is not None and torch.device(device).type == "cuda" else None
        self._outside: list[list[Tensor]] = []
        self.state = [torch.Generator().manual_seed(seed).get_state()]
        if self._device is not None:
            self.state.append(torch.Generator(self._device).manual_seed(seed).get_state())

    def here(self) -> list[Tensor]:
        """Where the generators stand now, inside a turn."""
        gpu = [] if self._device is None else [torch.cuda.get_rng_state(self._device)]
        return [torch.get_rng_state(), *gpu]

    def __enter__(self) -> None:
        _turns.acquire()
        self._outside.append(self._exchange(self.state))

    def __exit__(self, *_: object) -> None:
        self.state = self._exchange(self._outside.pop())
        _turns.release()

    def _exchange(self, state: list[Tensor]) -> list[Tensor]:
        before = self.here()
        torch.set_rng_state(state[0])
        if self._device is not None and len(state) > 1:  # what a run kept on a CPU says nothing of a GPU
            torch.cuda.set_rng_state(state[1], self._device)
        return before
