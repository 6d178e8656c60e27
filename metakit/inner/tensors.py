"""What a learned rule knows of the tensors that its weights are in."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The weight tensors of a network, laid side by side: ``[T, N]`` with N weights in P tensors.

    Arguments:
        sizes: weights of each tensor.
        about: what is known of each beforehand, ``[P, 4]``: log of its fan-in, whether it is a vector, its place among
            the others from 0 to 1, log of their number, 0 for four.
    """

    sizes: tuple[int, ...]
    about: Tensor

    @classmethod
    def of(cls, shapes: Sequence[torch.Size], like: Tensor) -> Tensors:
        """Of tensors of these shapes, in the order in which a network holds them."""
        return _made(tuple(shapes), like.dtype, like.device)

    @functools.cached_property
    def share(self) -> Tensor:
        """Four tensors, two layers, of those of the network, at most all: ``[P]``."""
        with torch.inference_mode(False):
            return 4 / (2 ** (self.about[:, 3] + 2)).clamp(min=4)

    def each(self) -> list[Tensors]:
        """Every tensor by itself."""
        return [Tensors((size,), self.about[i : i + 1]) for i, size in enumerate(self.sizes)]

    def means(self, x: Tensor) -> Tensor:
        """The mean over each tensor, ``[..., N]`` to ``[..., P]``."""
        if len(self.sizes) == 1:
            return x.mean(-1, keepdim=True)
        return x @ self.shares

    def spread(self, x: Tensor) -> Tensor:
        """One number for each tensor, given to each of its weights: ``[..., P]`` to ``[..., N]``."""
        return x if len(self.sizes) == 1 else x @ self.members

    @functools.cached_property
    def members(self) -> Tensor:
        """Which weight is of which tensor, ``[P, N]`` of zeros and ones."""
        with torch.inference_mode(False):
            numbers = torch.arange(len(self.sizes), device=self.about.device)
            owner = numbers.repeat_interleave(torch.tensor(self.sizes, device=self.about.device))
            return (owner == numbers[:, None]).to(self.about.dtype)

    @functools.cached_property
    def shares(self) -> Tensor:
        """What each weight is of the mean over its tensor, ``[N, P]``."""
        with torch.inference_mode(False):
            return (self.members / self.members.sum(1, keepdim=True)).mT.contiguous()


@functools.lru_cache(maxsize=64)
def _made(shapes: tuple[torch.Size, ...], dtype: torch.dtype, device: torch.device) -> Tensors:
    last = max(len(shapes) - 1, 1)
    about = [
        (math.log(max(shape[1:].numel(), 1)) / 5, float(len(shape) < 2), i / last, math.log2(len(shapes)) - 2)
        for i, shape in enumerate(shapes)
    ]
    with torch.inference_mode(False):
        known = torch.tensor(about, dtype=dtype, device=device)
    return Tensors(tuple(shape.numel() for shape in shapes), known)
