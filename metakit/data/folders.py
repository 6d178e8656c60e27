"""Pictures in folders as labelled data."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from metakit.checks import choice, whole
from metakit.data import _store
from metakit.data._decoding import Unreadable, decode
from metakit.data._listing import Listing, listed
from metakit.data.labelled import LabelledData

_CHUNK = 64  # pictures between two looks at the bar


def pictures(
    folder: str | os.PathLike[str],
    size: int = 84,
    split: str | None = None,
    *,
    channels: int = 3,
    fit: str = "crop",
    unreadable: str = "refuse",
    progress: bool = True,
    cache: bool = False,
) -> LabelledData:
    """A folder of pictures of any size and colour: one class for each folder in it, or for each label of a split file.

    ``x`` is uint8, rows ``[channels, size, size]``, read as float32 in [0, 1], white 1; classes are sorted by name,
    their pictures by file name. Pictures are turned upright as their EXIF note says; what is transparent is laid on
    white; 16 bits become 8; of an animation the first picture counts. Hidden files and other kinds are passed over.

    Arguments:
        folder: holds ``class/picture.jpg``; with ``split="train"``, ``train/class/picture.jpg``, or ``train.csv`` with
            the columns ``filename,label`` beside the pictures, which are in ``images/`` or in the folder itself.
        size: height and width of what is returned, in pixels.
        split: the part to read, such as ``train``; ``None`` where the classes lie in the folder itself.
        channels: 3 for colour, 1 for grey.
        fit: ``"crop"`` takes the largest square in the middle, ``"squeeze"`` presses the whole picture into one.
        unreadable: ``"refuse"`` a file that cannot be read, or ``"skip"`` it and say how many there were.
        progress: show a bar when reading takes over two seconds.
        cache: keep what was read in the user's cache folder, for the next time; a change in the folder is noticed.

    Raises:
        TypeError: if ``size`` is not a whole number.
        FileNotFoundError: if there is no such folder or part, or no picture in it.
        ValueError: if there is one class only, a file is refused, a split file is wrong, or an option is unknown.

    Warns:
        UserWarning: if pictures were skipped, a folder holds none, or the cache cannot be written.

    Example:
        >>> data = pictures("flowers", size=64)  # doctest: +SKIP
        >>> data  # doctest: +SKIP
        LabelledData(17 classes, 80 rows each, row [3, 64, 64] uint8)
    """
    size, channels = whole("size", size), choice("channels", channels, (1, 3))
    fit, unreadable = choice("fit", fit, ("crop", "squeeze")), choice("unreadable", unreadable, ("refuse", "skip"))
    found = listed(Path(folder).expanduser(), split)

    def read() -> _store.Record:
        return _read(found, size, channels, fit, unreadable, progress)

    if not cache:
        return _unpack(read())
    options = f"{size}-{channels}-{fit}-{unreadable}"
    return _store.cached(f"metakit-pictures-{options}-{_fingerprint(found)}.pt", read, _unpack)


def _fingerprint(found: Listing) -> str:
    """A text that changes when a file is added, removed, moved to another class, or written anew."""
    digest = hashlib.sha256()
    for path, name in found:
        state = path.stat() if path.is_file() else None
        digest.update(f"{path.absolute()}\0{name}\0{state and (state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


def _read(found: Listing, size: int, channels: int, fit: str, unreadable: str, progress: bool) -> _store.Record:
    x = torch.empty(len(found), channels, size, size, dtype=torch.uint8)
    rows, skipped = x.numpy(), []

    def place(i: int) -> str:
        """Write the row of a picture; an empty text, or why it could not be read."""
        try:
            rows[i] = decode(found[i][0], size, channels, fit)
        except Unreadable as error:
            return f"{found[i][0]}: {error}"
        return ""

    for i, fault in enumerate(_each(place, len(found), progress)):
        if fault and unreadable == "refuse":
            raise ValueError(f"a picture cannot be read: {fault}. Remove or replace it, or give unreadable='skip'.")
        if fault:
            skipped.append((i, fault))
    note = ""
    if skipped:
        gone = {i for i, _ in skipped}
        kept = [i for i in range(len(found)) if i not in gone]
        note = _skipping(found, kept, [fault for _, fault in skipped])
        x, found = x[kept], [found[i] for i in kept]
    names = sorted({name for _, name in found})
    number = {name: i for i, name in enumerate(names)}
    return {"x": x, "y": torch.tensor([number[name] for _, name in found]), "names": names, "note": note}


def _each(place: Callable[[int], str], count: int, progress: bool) -> Iterator[str]:
    """What ``place`` says of each number, in order; Pillow lets go of Python's lock, so threads read side by side."""
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=count, unit="picture", delay=2, mininterval=0.5, disable=not progress) as bar,
    ):
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            yield from pool.map(place, chunk)
            bar.update(len(chunk))


def _skipping(found: Listing, kept: list[int], faults: list[str]) -> str:
    """What is said of the pictures that are skipped; refused if too little is left."""
    left = {found[i][1] for i in kept}
    lost = sorted({name for _, name in found} - left)
    named = "; ".join(faults[:5]) + ("; ..." if len(faults) > 5 else "")
    said = f"{len(faults)} of {len(found)} pictures cannot be read"
    if len(left) < 2:
        raise ValueError(f"{said}, and fewer than two classes are left: {named}. Replace the files.")
    return f"{said} and are skipped{', all of ' + ', '.join(lost) + ' among them' if lost else ''}: {named}."


def _unpack(record: _store.Record) -> LabelledData:
    if record["note"]:
        warnings.warn(record["note"], stacklevel=3)
    return LabelledData(record["x"], record["y"], names=tuple(record["names"]))
