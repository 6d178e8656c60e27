"""Random changes of pictures: what a drawer, or a scanner, might have done otherwise."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from metakit.checks import real, whole

_GRID = 4  # elastic displacements are drawn on a grid of 4 x 4 and interpolated
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's grey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augment:
    """Random affine map, elastic distortion and pen width, another for each picture: ``augment(x, generator)``.

    A pixel p of the result, counted from the middle, shows what was at ``A^-1 (p - s) - e(p)`` (bilinear, paper 0
    outside): the picture is scaled, sheared and turned by ``A``, moved by ``s`` and bent by the smooth field ``e``.
    Then the pen: the ink x becomes ``(1 - w) x + w thick(x)``, where ``thick`` takes the largest ink of neighbours, or
    ``(1 - w) x + w x^2``, which eats at soft edges. One interpolation serves the whole motion.

    Arguments:
        rotate: angle, uniform in ``[-rotate, rotate]`` degrees, up to 180.
        scale: logarithm of the height's and of the width's factor, each uniform in ``[-scale, scale]``, below 1.
        shear: pixels sideways for each pixel down, uniform in ``[-shear, shear]``, up to 1.
        shift: pixels to the right, and down, each uniform in ``[-shift, shift]``.
        elastic: standard deviation of ``e`` at the points of a 4 x 4 grid, in pixels.
        pen: share of the thicker or thinner copy, w, uniform in ``[-pen, pen]``, negative for the thinner, up to 1.

    Strengths of 0 are off; with all at 0 the picture comes back as it is.

    Raises:
        TypeError: if a strength is not a number, or ``x`` not a tensor of real numbers.
        ValueError: if a strength is out of its range, or ``x`` is not ``[n, C, H, W]``.

    Example:
        >>> x = torch.zeros(5, 1, 28, 28)
        >>> x[..., 14, 4:24] = 1.0
        >>> augment = Augment(rotate=10, shift=1.5)
        >>> augment(x, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 1, 28, 28])

    Source: P. Simard, D. Steinkraus, J. Platt, Best Practices for Convolutional Neural Networks Applied to Visual
    Document Analysis, 2003, section 2. The defaults suit handwriting of 28 x 28 pixels.
    """

    rotate: float = 10.0
    scale: float = 0.15
    shear: float = 0.15
    shift: float = 1.5
    elastic: float = 0.7
    pen: float = 0.3

    def __post_init__(self) -> None:
        most = {"rotate": 180.0, "scale": 1.0, "shear": 1.0, "pen": 1.0}
        for name, value in vars(self).copy().items():
            object.__setattr__(self, name, real(name, value, least=0.0, most=most.get(name, math.inf)))

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Changed pictures, of the shape and on the device of ``x [n, C, H, W]``; randomness from the generator."""
        _check_pictures(x)
        n, place = len(x), x.device if generator is None else generator.device

        def spread(strength: float, *shape: int) -> Tensor:
            drawn = torch.rand(n, *shape, generator=generator, device=place).to(x)
            return (2 * drawn - 1) * strength

        turn, factor, shear = spread(math.radians(self.rotate)), spread(self.scale, 2).exp(), spread(self.shear)
        shift, pen = spread(self.shift, 2), spread(self.pen, 1, 1, 1)
        field = torch.randn(n, 2, _GRID, _GRID, generator=generator, device=place).to(x) * self.elastic
        if self.rotate or self.scale or self.shear or self.shift or self.elastic:
            x = move(x, affine(turn, factor, shear), shift, field if self.elastic else None)
        return thicken(x, pen) if self.pen else x


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentPhotos:
    """Random mirroring, crop and colours, others for each photograph: ``augment(x, generator)``, on its device.

    The photograph is mirrored, then moved by whole pixels, as a crop from the picture with a black rim is. Then, with
    factors b, c, s of its own, its mean m over pixels of the grey g, and its grey at each pixel:

        x <- b x,    x <- m + c (x - m),    x <- g + s (x - g),    and last x is cut to [0, 1].

    Arguments:
        flip: probability that left and right are exchanged.
        crop: width of the rim in pixels: the shift across, and down, is uniform in ``-crop, ..., crop``.
        brightness: b is uniform in ``[1 - brightness, 1 + brightness]``, up to 1.
        contrast: c, likewise.
        saturation: s, likewise; nothing to do for pictures of one channel.

    Strengths of 0 are off; with all at 0 the picture comes back as it is.

    Raises:
        TypeError: if a strength is not a number, ``crop`` no whole one, or ``x`` not a tensor of real numbers.
        ValueError: if a strength is out of its range, or ``x`` is not ``[..., C, H, W]`` with 1 or 3 channels.

    Example:
        >>> x = torch.rand(5, 20, 3, 32, 32)  # 5 classes of 20 photographs
        >>> AugmentPhotos(crop=4)(x, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 20, 3, 32, 32])

    Source: A. Krizhevsky, I. Sutskever, G. Hinton, ImageNet Classification with Deep Convolutional Neural Networks,
    2012, section 4.1; colours: A. Howard, Some Improvements on Deep Convolutional Neural Network Based Image
    Classification, 2013, section 2.2. The defaults suit photographs of 84 pixels; for 32, ``crop=4``.
    """

    flip: float = 0.5
    crop: int = 8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            checked = whole(name, value, least=0) if name == "crop" else real(name, value, least=0.0, most=1.0)
            object.__setattr__(self, name, checked)

    def __call__(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Changed photographs, of the shape and on the device of ``x``; randomness from the generator."""
        _check_reals(x)
        if x.dim() < 4 or x.shape[-3] not in (1, 3):
            raise ValueError(f"x must be [..., C, H, W], C 1 or 3, got {list(x.shape)}. One picture? Say x[None].")
        shape, x = x.shape, x.flatten(0, -4)
        n, place = len(x), x.device if generator is None else generator.device
        drawn = torch.rand(n, 6, generator=generator, device=place).to(x.device)
        if self.flip or self.crop:
            shift = ((2 * self.crop + 1) * drawn[:, 1:3]).long().clamp(max=2 * self.crop) - self.crop
            x = shifted(x, drawn[:, 0] < self.flip, shift)
        strengths = (self.brightness, self.contrast, self.saturation)
        if any(strengths):
            factors = 1 + (2 * drawn[:, 3:] - 1) * drawn.new_tensor(strengths)
            x = recoloured(x, *factors.to(x)[..., None, None, None].unbind(1))
        return x.view(shape)


def shifted(x: Tensor, mirror: Tensor, shift: Tensor) -> Tensor:
    """Pictures ``[n, C, H, W]``, mirrored where ``mirror [n]`` says so, then moved right and down by ``shift [n, 2]``.

    Whole pixels are taken as they are; what comes in over the edge is 0.
    """
    (height, width), rim = x.shape[-2:], int(shift.abs().max()) if len(shift) else 0
    column = torch.arange(width, device=x.device) - shift[:, :1]  # [n, W], where each column comes from
    column = torch.where(mirror[:, None], width - 1 - column, column) + rim
    row = torch.arange(height, device=x.device) - shift[:, 1:] + rim
    rows = F.pad(x, (rim, rim, rim, rim)).take_along_dim(row[:, None, :, None], 2)
    return rows.take_along_dim(column[:, None, None, :], 3)


def recoloured(x: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor) -> Tensor:
    """Photographs ``[n, C, H, W]`` in [0, 1] with factors ``[n, 1, 1, 1]``; 1 leaves a colour as it is."""
    x = brightness * x
    mean = _grey(x).mean((-2, -1), keepdim=True)
    x = mean + contrast * (x - mean)
    grey = _grey(x)
    return (grey + saturation * (x - grey)).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    """How bright each pixel looks, ``[n, 1, H, W]``: ``0.299 R + 0.587 G + 0.114 B``."""
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)


def affine(turn: Tensor, factor: Tensor, shear: Tensor) -> Tensor:
    """``A = R(turn) [[1, shear], [0, 1]] diag(factor)``, ``[n, 2, 2]``, on (x, y) with y down; radians clockwise."""
    cos, sin = turn.cos(), turn.sin()
    rotation = torch.stack([cos, -sin, sin, cos], 1).view(-1, 2, 2)
    zero, one = torch.zeros_like(shear), torch.ones_like(shear)
    return rotation @ torch.stack([one, shear, zero, one], 1).view(-1, 2, 2) * factor[:, None]


def move(x: Tensor, matrix: Tensor, shift: Tensor, field: Tensor | None = None) -> Tensor:
    """Pictures ``[n, C, H, W]`` mapped by ``matrix [n, 2, 2]`` about their middle, then by ``shift [n, 2]`` pixels.

    ``field [n, 2, h, w]``: displacements (x, y) in pixels, interpolated to the picture's size.
    """
    (height, width), inverse = x.shape[-2:], torch.linalg.inv_ex(matrix).inverse
    down, across = (torch.arange(side, device=x.device) + 0.5 - side / 2 for side in (height, width))
    offset = inverse @ shift[..., None]
    # A^-1 (p - s) - e(p), [n, 2, H, W], then in units of half a side
    source = inverse[..., :1, None] * across + (inverse[..., 1:, None] * down[:, None] - offset[..., None])
    if field is not None:
        source -= _cubic(field.shape[-2], height, x) @ field @ _cubic(field.shape[-1], width, x).mT
    source /= x.new_tensor([width / 2, height / 2])[:, None, None]
    return F.grid_sample(x, source.permute(0, 2, 3, 1), padding_mode="zeros", align_corners=False)


def _cubic(points: int, size: int, like: Tensor) -> Tensor:
    """Weights ``[size, points]`` that interpolate values at so many points, the outer ones on the picture's rim."""
    each = torch.eye(points, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(each, size=(size, points), mode="bicubic", align_corners=True)[0, 0]


def thicken(x: Tensor, share: Tensor) -> Tensor:
    """Ink in [0, 1] blended with a thicker copy by ``share [n, 1, 1, 1]``, or where negative with a thinner one."""
    wide, tall = F.pad(x, (1, 1)), F.pad(x, (0, 0, 1, 1))
    row = torch.maximum(wide[..., :-2], wide[..., 2:]).maximum(x)
    column = torch.maximum(tall[..., :-2, :], tall[..., 2:, :]).maximum(x)
    other = torch.where(share > 0, (row + column) / 2, x.square())
    return torch.lerp(x, other, share.abs())


def _check_reals(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must be a tensor of real numbers, got {kind}. Convert it: x.float() / 255.")


def _check_pictures(x: Tensor) -> None:
    _check_reals(x)
    if x.dim() != 4:
        raise ValueError(f"x must be [n, C, H, W], got {list(x.shape)}. One picture? Add a dimension: x[None].")
