"""What is asked of numbers and other arguments where they come in, in one voice."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch

Device = torch.device | str | None
Option = TypeVar("Option")
Batch = TypeVar("Batch", bound=Any)


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """``value`` as an int of at least ``least``; numpy's ints too, but no booleans and no fractions."""
    value = _plain(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be a whole number, got {value!r}. Give an int of at least {least}.")
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}. Give a larger number.")
    return number


def real(name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> float:
    """``value`` as a finite float, from ``least`` (or just above ``above``) to ``most``; no booleans and no text."""
    value = _plain(value)
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a real number, got {value!r}. Give a float.")
    number = float(value)
    if not (math.isfinite(number) and least <= number <= most and number > above):
        bounds = (("at least", least), ("above", above), ("at most", most))
        rule = " and ".join(["finite", *(f"{words} {bound:g}" for words, bound in bounds if math.isfinite(bound))])
        raise ValueError(f"{name} must be {rule}, got {number:g}. Give a number in that range.")
    return number


def span(name: str, value: Any) -> tuple[float, float]:
    """``value`` as ``(low, high)``, finite, ``low <= high``."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise ValueError(f"{name} must be a pair (low, high), got {value!r}. For one value v, give (v, v).")
    low, high = (real(name, end) for end in value)
    if low > high:
        raise ValueError(f"{name} must be (low, high) with low <= high, got {value!r}. Swap the two.")
    return low, high


def whole_span(name: str, value: Any, *, least: int = 1) -> tuple[int, int]:
    """``value`` as whole numbers ``(low, high)``; one number n stands for ``(n, n)``."""
    if not isinstance(value, tuple | list):
        value = (value, value)
    low, high = span(name, [whole(name, end, least=least) for end in value])
    return int(low), int(high)


def choice(name: str, value: Any, options: Iterable[Option]) -> Option:
    """``value``, if it is one of the options."""
    value, options = _plain(value), tuple(options)
    for option in options:
        if type(value) is type(option) and value == option:
            return option
    raise ValueError(f"{name} must be one of {', '.join(map(str, options))}, got {value!r}. Use one of these.")


def in_words(message: str, check: Callable[[], Option]) -> Option:
    """What a check returns; where it refuses, an error in words that fit the place better."""
    try:
        return check()
    except (TypeError, ValueError):
        raise ValueError(message) from None


def _plain(value: Any) -> Any:
    """A single number of numpy or torch as Python's own; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () else value


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


def drawing(
    n_tasks: Any, generator: torch.Generator | None, seed: int | None, device: Device
) -> tuple[int, torch.Generator | None, torch.device | None, torch.device | None]:
    """What a ``sample`` is asked for: the number of tasks, the source of randomness, where it draws, where they go."""
    n_tasks, target = whole("n_tasks", n_tasks), as_device(device)
    generator = as_generator(generator, seed, target)
    return n_tasks, generator, target if generator is None else generator.device, target


def placed(batch: Batch, target: torch.device | None) -> Batch:
    """A batch where it shall be; it stays where it is if that is not said."""
    return batch if target is None or target == batch.device else batch.to(target)
