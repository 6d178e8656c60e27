"""What every task distribution asks of its arguments, in one voice."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch

Device = torch.device | str | None


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """``value`` as an int of at least ``least``; booleans and fractions are refused."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}. Give an int of at least {least}.")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}. Give a larger number.")
    return number


def real(name: str, value: Any, *, least: float = -math.inf) -> float:
    """``value`` as a finite float of at least ``least``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}. Give a float.") from None
    if not math.isfinite(number) or number < least:
        rule = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise ValueError(f"{name} must be {rule}, got {number}. Give a number in that range.")
    return number


def span(name: str, value: Any) -> tuple[float, float]:
    """``value`` as ``(low, high)``, finite, ``low <= high``."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{name} must be a pair (low, high), got {value!r}. For one value v, give (v, v).")
    low, high = (real(name, end) for end in value)
    if low > high:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value!r}. Swap the two.")
    return low, high


def as_device(device: Device) -> torch.device | None:
    """``device`` as a ``torch.device``, or ``None``."""
    if device is None or isinstance(device, torch.device):
        return device
    try:
        return torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"device must name a torch device, got {device!r}. Try 'cpu' or 'cuda'.") from None


def as_generator(
    generator: torch.Generator | None, seed: int | None, device: torch.device | None
) -> torch.Generator | None:
    """The one source of randomness: the generator, a new one on ``device`` from the seed, or torch's default."""
    given: object = generator
    if given is not None and not isinstance(given, torch.Generator):
        hint = "For a number, give seed= instead."
        raise TypeError(f"generator must be a torch.Generator, got {type(given).__name__}. {hint}")
    if seed is None:
        return generator
    if generator is not None:
        raise ValueError(f"give a generator or a seed, not both; got a generator and seed={seed!r}. Drop one.")
    return torch.Generator(device or "cpu").manual_seed(whole("seed", seed, least=0))
