"""Picture files of any size, colour and depth as bytes of one size."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

ENDINGS = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"))
# Only formats that are pictures and nothing else: others call programs, or hold pages.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
# What Pillow raises of damaged files, by format and place.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, struct.error, zlib.error)


class Unreadable(ValueError):
    """A file that cannot be read as a picture."""


def decode(path: Path, size: int, channels: int, fit: str) -> np.ndarray:
    """One picture, uint8 ``[channels, size, size]``, upright, on white where it is transparent.

    Raises:
        Unreadable: if it cannot be read as a picture, saying why in a few words.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as image:
            # Of a JPEG, decode no more than is needed: twice what is asked for, so that the shrinking stays exact.
            image.draft(None, (2 * size, 2 * size))
            ImageOps.exif_transpose(image, in_place=True)
            upright = plain(image)
            if channels == 1:
                upright = upright.convert("L")
            box = _middle(upright.size) if fit == "crop" else None
            small = upright.resize((size, size), Image.Resampling.BILINEAR, box)
            if channels == 3:
                small = small.convert("RGB")
    except (*_DAMAGE, Image.DecompressionBombError) as error:
        reason = "no picture" if isinstance(error, UnidentifiedImageError) else str(error) or "damaged"
        raise Unreadable(reason.replace(str(path), path.name)) from error
    pixels = np.asarray(small)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _middle(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest square in the middle: left, top, right, bottom."""
    width, height = size
    side = min(size)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def plain(image: Image) -> Image:
    """The picture in mode L or RGB: 16 bits scaled to 8, palettes resolved, transparent parts on white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are real numbers of unknown range")
    if image.mode in _DEEP:
        return Image.fromarray(_in_bytes(np.asarray(image)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")


def _in_bytes(pixels: np.ndarray) -> np.ndarray:
    """Grey of 16 bits as 8: ``round(v / 257)``, so that the largest stays the largest."""
    low, high = int(pixels.min()), int(pixels.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its pixels go from {low} to {high}, beyond 16 bits")
    return ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
