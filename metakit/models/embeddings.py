"""Small embeddings, and embeddings made better once they are trained: averaged over views, whitened."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metakit.checks import real, whole
from metakit.saving import saved

_ROWS = 500  # embedded at once, where there are many


@saved
class Views(nn.Module):
    """An embedding averaged over several views of each picture, so that it hangs less on how that was drawn.

        f(x) = mean over views v of e(x_v) / |e(x_v)|

    The views: as it is; turned to either side; stretched across, and down; sheared to either side; and in a second
    round all of these twice as far, and so on. Meant for what is trained already: each row costs seven times as much in
    one round, thirteen times in two.

    Shapes: ``x [..., C, H, W]`` to ``[..., D]``, as the embedding gives it.

    Arguments:
        embedding: the network e.
        turn: degrees.
        stretch: growth of the width, or of the height.
        shear: pixels sideways for each pixel down.
        rounds: 1 or more.

    Raises:
        ValueError: if a strength is negative or not finite, or ``rounds`` is out of its range.

    Example:
        >>> from metakit.models import ConvNet
        >>> Views(ConvNet(width=8))(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 8])

    Source: averaging over changed copies in testing, Krizhevsky, Sutskever and Hinton 2012, section 4.1.
    """

    stacks_tasks = True

    def __init__(
        self,
        embedding: nn.Module,
        *,
        turn: float = 7.0,
        stretch: float = 0.12,
        shear: float = 0.12,
        rounds: int = 1,
    ) -> None:
        super().__init__()
        self.embedding, self.rounds = embedding, whole("rounds", rounds)
        self.turn, self.stretch = real("turn", turn, least=0), real("stretch", stretch, least=0)
        self.shear = real("shear", shear, least=0)

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a row, if the embedding says it."""
        return getattr(self.embedding, "row_shape", None)

    def forward(self, x: Tensor) -> Tensor:
        pictures = x.reshape(-1, *x.shape[-3:])
        total, maps = self._direction(x), self._maps(x)
        for matrix in maps:
            grid = F.affine_grid(matrix.expand(len(pictures), 2, 3), list(pictures.shape), align_corners=False)
            total = total + self._direction(F.grid_sample(pictures, grid, align_corners=False).view(x.shape))
        return total / (len(maps) + 1)

    def _direction(self, x: Tensor) -> Tensor:
        return F.normalize(self.embedding(x).to(x.dtype), dim=-1)

    def _maps(self, like: Tensor) -> Tensor:
        """From a place in a view to the place in the picture that it shows, ``[6 rounds, 2, 3]``."""
        maps: list[list[float]] = []
        for times in range(1, self.rounds + 1):
            sin, cos = math.sin(math.radians(times * self.turn)), math.cos(math.radians(times * self.turn))
            less = 1 / (1 + times * self.stretch)
            maps += [[cos, s * sin, -s * sin, cos] for s in (1, -1)]
            maps += [[less, 0, 0, 1], [1, 0, 0, less]]
            maps += [[1, s * times * self.shear, 0, 1] for s in (1, -1)]
        height, width = like.shape[-2:]
        in_half_sides = like.new_tensor([[1, height / width], [width / height, 1]])
        return F.pad(like.new_tensor(maps).view(-1, 2, 2) * in_half_sides, (0, 1))

    def extra_repr(self) -> str:
        return f"turn={self.turn}, stretch={self.stretch}, shear={self.shear}, rounds={self.rounds}"


@saved
class Whitened(nn.Module):
    """An embedding in which classes spread equally far in every direction: within-class whitening.

        f(x) = (C + shrink tr(C) / D I)^(-1/2) (e(x) - m)

    with m the mean of the embedded training rows and C their covariance around the means of their classes. Directions
    in which drawings of one character differ count less then. Until ``estimate`` has seen data, f is e.

    Shapes: ``x [..., n, ...]`` to ``[..., n, D]``, as the embedding takes it.

    Arguments:
        embedding: the network e.
        features: D, the numbers that it gives for a row.
        shrink: how far C is drawn towards a multiple of the identity, in mean eigenvalues of C; above 0.

    Raises:
        ValueError: if ``features`` or ``shrink`` is out of its range.

    Example:
        >>> import torch
        >>> x, y = torch.randn(60, 4), torch.arange(60) % 6
        >>> f = Whitened(nn.Identity(), 4, shrink=1e-6).estimate(x, y)
        >>> within = torch.cat([f(x)[y == n] - f(x)[y == n].mean(0) for n in range(6)])
        >>> torch.allclose(within.T @ within / len(x), torch.eye(4), atol=1e-4)
        True

    Source: within-class covariance normalisation, Hatch, Kajarekar and Stolcke 2006.
    """

    stacks_tasks = True

    centre: Tensor
    matrix: Tensor

    def __init__(self, embedding: nn.Module, features: int, *, shrink: float = 3.0) -> None:
        super().__init__()
        self.embedding, self.features = embedding, whole("features", features)
        self.shrink = real("shrink", shrink, above=0)
        self.register_buffer("centre", torch.zeros(self.features))
        self.register_buffer("matrix", torch.eye(self.features))

    @property
    def row_shape(self) -> tuple[int, ...] | None:
        """Shape of a row, if the embedding says it."""
        return getattr(self.embedding, "row_shape", None)

    @torch.no_grad()
    def estimate(self, x: Tensor, y: Tensor) -> Whitened:
        """Take m and C from training rows ``x [n, ...]`` of classes ``y [n]``; returns itself."""
        if len(x) != len(y) or len(x) < 2:
            raise ValueError(f"estimate needs a class for each row, and two rows, got {len(x)} and {len(y)}.")
        e = torch.cat([self.embedding(rows).to(x.dtype) for rows in x.split(_ROWS)])
        if e.shape[1:] != (self.features,):
            raise ValueError(f"this was made for {self.features} features, the embedding gives {list(e.shape[1:])}.")
        _, number, counts = y.to(e.device).unique(return_inverse=True, return_counts=True)
        means = e.new_zeros(len(counts), self.features).index_add_(0, number, e) / counts[:, None]
        around = e - means[number]
        values, vectors = torch.linalg.eigh((around.mT @ around / len(e)).double())
        scaled = vectors * (values + self.shrink * values.mean()).rsqrt()
        self.centre, self.matrix = e.mean(0), (scaled @ vectors.mT).to(e.dtype)
        return self

    def forward(self, x: Tensor) -> Tensor:
        return (self.embedding(x) - self.centre) @ self.matrix

    def extra_repr(self) -> str:
        return f"features={self.features}, shrink={self.shrink}"


@saved
class Gains(nn.Module):
    """Rows times a gain for each of their features, brought to length 1: what counts of a text, and how much.

        f(x) = x exp(g) / |x exp(g)|

    Shapes: ``x [..., D]`` to the same.

    Arguments:
        features: D. The log gains ``g [D]`` start at 0.

    Example:
        >>> Gains(2)(torch.tensor([[3.0, 4.0]])).detach()
        tensor([[0.6000, 0.8000]])

    Source: weights of terms, Spärck Jones 1972, learned here instead of counted.
    """

    stacks_tasks = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = whole("features", features)
        self.log_gain = nn.Parameter(torch.zeros(self.features))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x * self.log_gain.exp(), dim=-1)


@saved
class Standardised(nn.Module):
    """Columns of a table brought to one scale, and beside each whether it was there: rows with missing cells.

        f(x) = [p (v - mean) / spread,  (1 - p - missed) / spread of missing],    each cut off at +-4

    A row holds C values v, 0 where missing, and then C marks p, 1 where there and 0 where missing.

    Shapes: ``x [..., 2 C]`` to the same.

    Arguments:
        columns: C. Mean 0 and spread 1 until ``estimate``.

    Raises:
        ValueError: if rows to estimate from are not ``[n, 2 C]``.

    Example:
        >>> rows = torch.tensor([[1.0, 1.0], [3.0, 1.0], [0.0, 0.0]])
        >>> Standardised(1).estimate(rows)(rows)[:2, 0]
        tensor([-1.,  1.])
    """

    stacks_tasks = True
    mean: Tensor
    spread: Tensor

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns = whole("columns", columns)
        self.register_buffer("mean", torch.zeros(2 * self.columns))
        self.register_buffer("spread", torch.ones(2 * self.columns))

    def estimate(self, x: Tensor) -> Standardised:
        """Take mean and spread from these rows ``[n, 2 C]``; returns itself."""
        if x.dim() != 2 or x.shape[1] != 2 * self.columns:
            raise ValueError(f"rows must be [n, {2 * self.columns}]: values, then marks; got {list(x.shape)}.")
        value, there = x.chunk(2, 1)
        known = there.sum(0).clamp(min=1)
        mean = (there * value).sum(0) / known
        variance = (there * (value - mean).square()).sum(0) / known
        missing = 1 - there
        self.mean.copy_(torch.cat([mean, missing.mean(0)]))
        self.spread.copy_(torch.cat([variance.sqrt(), missing.std(0, correction=0)]).clamp(min=0.05))
        return self

    def forward(self, x: Tensor) -> Tensor:
        value, there = x.chunk(2, -1)
        z = (torch.cat([value, 1 - there], -1) - self.mean) / self.spread
        return torch.cat([z[..., : self.columns] * there, z[..., self.columns :]], -1).clamp(-4, 4)
