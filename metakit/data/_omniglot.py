"""Reading Omniglot's drawings from an archive or a folder, and trusting neither."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from metakit.data._characters import Character

DRAWERS = 20
SIDE = 105
_LARGEST = 1 << 20  # bytes of one picture; the official ones have less than 1,000
_DRAWING = re.compile(r"([^/]+)/character(\d+)/\d+_(\d+)\.png")
_ADVICE = "Delete it and call omniglot(..., download=True), or fetch it again from github.com/brendenlake/omniglot."

Drawing = tuple[str, int, int]


@dataclasses.dataclass(frozen=True)
class Source:
    """An official archive, or the folder it unpacks to."""

    path: Path

    def fingerprint(self) -> str:
        """A text that changes when the content does: by content for an archive, by size and time for a folder."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        for folder, folders, files in os.walk(self.path):
            folders.sort()
            for entry in sorted(os.scandir(folder), key=lambda e: e.name) if files else ():
                state = entry.stat()
                relative = os.path.relpath(entry.path, self.path)
                digest.update(f"{relative} {state.st_size} {state.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def files(self, part: str) -> Iterator[tuple[str, bytes]]:
        """Name (below ``part/``, with slashes) and content of every drawing."""
        return self._archived(part) if self.path.is_file() else self._unpacked()

    def _archived(self, part: str) -> Iterator[tuple[str, bytes]]:
        member = ""
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = archive.infolist()
                for info in members:
                    _check_member(self.path, info)
                for info in members:
                    member = f", member {info.filename!r}"
                    if info.filename.startswith(f"{part}/") and info.filename.endswith(".png"):
                        yield info.filename.removeprefix(f"{part}/"), archive.read(info)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise ValueError(f"{self.path} is truncated or damaged{member}: {error}. {_ADVICE}") from error

    def _unpacked(self) -> Iterator[tuple[str, bytes]]:
        for file in sorted(self.path.glob("*/character*/*.png")):
            yield file.relative_to(self.path).as_posix(), file.read_bytes()


def read_drawings(source: Source, part: str, characters: list[Character], size: int) -> Tensor:
    """The drawings of some characters, uint8 ``[characters, drawers, 1, size, size]``, ink 255 and paper 0.

    Raises:
        FileNotFoundError: if drawings are missing, naming them.
        ValueError: if the archive is unsafe or damaged, or a picture is.
    """
    place = {character: i for i, character in enumerate(characters)}
    x = torch.empty(len(characters) * DRAWERS, 1, size, size, dtype=torch.uint8)
    seen: dict[Drawing, str] = {}
    pixels: list[Tensor] = []
    rows: list[int] = []

    def flush() -> None:
        if rows:
            x[rows] = _shrink(torch.stack(pixels), size)
            pixels.clear()
            rows.clear()

    for name, content in source.files(part):
        match = _DRAWING.fullmatch(name)
        if match is None:
            continue
        drawing = (match[1], int(match[2]), int(match[3]))
        if drawing in seen:
            raise ValueError(f"{source.path} holds one drawing twice: {seen[drawing]} and {name}. {_ADVICE}")
        seen[drawing] = name
        i = place.get(drawing[:2])
        if i is not None and 1 <= drawing[2] <= DRAWERS:
            pixels.append(_decode(content, f"{source.path}: {name}"))
            rows.append(i * DRAWERS + drawing[2] - 1)
            if len(rows) == 1000:
                flush()
    flush()
    _check_complete(source.path, characters, seen)
    return x.unflatten(0, (len(characters), DRAWERS))


def _check_member(path: Path, info: zipfile.ZipInfo) -> None:
    """Refuse a member that would leave the folder it is unpacked to, or that is no plain file of a sane size."""
    name = info.orig_filename.replace("\\", "/")
    leaves = name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name) or "\0" in name
    kind = stat.S_IFMT(info.external_attr >> 16)
    if leaves or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "leaves the folder it is unpacked to" if leaves else "is a link or a device"
        raise ValueError(f"{path} is refused: its member {info.orig_filename!r} {what}. {_ADVICE}")
    if name.endswith(".png") and info.file_size > _LARGEST:
        raise ValueError(f"{path} is refused: its member {name!r} would take {info.file_size:,} bytes. {_ADVICE}")


def _check_complete(path: Path, characters: list[Character], seen: dict[Drawing, str]) -> None:
    missing = []
    for alphabet, number in characters:
        drawers = [d for d in range(1, DRAWERS + 1) if (alphabet, number, d) not in seen]
        if drawers:
            which = "" if len(drawers) == DRAWERS else f" drawers {', '.join(map(str, drawers))}"
            missing.append(f"{alphabet}/character{number:02d}{which}")
    if missing:
        more = f"; and {len(missing) - 50} more" if len(missing) > 50 else ""
        raise FileNotFoundError(
            f"{path} is incomplete: {len(missing)} of {len(characters)} characters lack drawings "
            f"({DRAWERS} files <id>_<drawer>.png each): {'; '.join(missing[:50])}{more}. {_ADVICE}"
        )


def _decode(content: bytes, name: str) -> Tensor:
    """One picture, uint8 ``[105, 105]``, ink 255."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO(content)
    try:
        # verify() reads every checksum, which decoding alone does not; it leaves the image unusable.
        Image.open(file, formats=["PNG"]).verify()
        with Image.open(file, formats=["PNG"]) as image:
            picture = np.array(image.convert("L"))
    except (OSError, SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is damaged: {error}. {_ADVICE}") from error
    if picture.shape != (SIDE, SIDE):
        raise ValueError(f"{name} must be {SIDE} x {SIDE} pixels, got {picture.shape}. {_ADVICE}")
    return torch.from_numpy(255 - picture)


def _shrink(pixels: Tensor, size: int) -> Tensor:
    """Pictures ``[n, 105, 105]`` to ``[n, 1, size, size]`` by exact area averaging: ``W x W'``, uint8 to uint8."""
    if size == SIDE:
        return pixels.unsqueeze(1)
    edges = torch.arange(size + 1, dtype=torch.float64) * SIDE / size
    left = torch.arange(SIDE, dtype=torch.float64)
    # W[i, j] is the share of output pixel i that input pixel j covers.
    overlap = torch.minimum(edges[1:, None], left + 1) - torch.maximum(edges[:-1, None], left)
    w = (overlap.clamp(min=0) * size / SIDE).float()
    return (w @ pixels.float() @ w.T).round().clamp(0, 255).to(torch.uint8).unsqueeze(1)
