"""The sizes of pictures that a network takes."""

from __future__ import annotations

from collections.abc import Sequence

from metakit.checks import whole


def sides(size: int | Sequence[int], halvings: int, by: str) -> tuple[int, int]:
    """Height and width of pictures, large enough to be halved so many times, rounding down, ``by`` blocks or stages.

    Example:
        >>> sides(28, 4, "blocks"), sides([20, 30], 4, "blocks")
        ((28, 28), (20, 30))
    """
    pair = size if isinstance(size, Sequence) and len(size) == 2 else (size, size)
    height, width = (whole("size", side) for side in pair)
    short = min(height, width)
    if short < 2**halvings:
        raise ValueError(
            f"size must be at least {2**halvings} pixels, as {halvings} {by} halve it; got {short}. "
            f"Use {short.bit_length() - 1} {by} at most."
        )
    return height, width


def as_size(height: int, width: int) -> int | list[int]:
    """The two as ``size`` names them: one number of a square."""
    return height if height == width else [height, width]
