"""Which pictures a folder holds, and of which class: by folders, or by a split file."""

from __future__ import annotations

import csv
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from metakit.data._decoding import ENDINGS

Listing = list[tuple[Path, str]]
_LAYOUTS = "class/picture.jpg, or train/class/picture.jpg with split='train', or train.csv (filename,label) and images/"


def listed(folder: Path, split: str | None) -> Listing:
    """Each picture with the name of its class, class after class, names sorted.

    Raises:
        FileNotFoundError: if there is no such folder, split, or picture.
        ValueError: if the folder is laid out otherwise, or holds one class only.
    """
    if not folder.is_dir():
        kind = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"folder must be a folder of pictures; {folder} {kind}. Unpack it, or check the path.")
    pictures = _of_classes(folder) if split is None else _of_split(folder, split)
    classes = sorted({name for _, name in pictures})
    if len(classes) < 2:
        raise ValueError(
            f"{folder} holds one class only, {classes[0]!r}, with {len(pictures)} pictures; telling apart takes two. "
            f"Add another class. Layouts: {_LAYOUTS}."
        )
    return sorted(pictures, key=lambda picture: picture[1])


def _of_split(folder: Path, split: str) -> Listing:
    if not isinstance(split, str) or split != os.path.basename(split) or split in ("", ".", ".."):
        raise ValueError(f"split must be the name of a part, such as 'train', got {split!r}. Give None for no parts.")
    inside, table = folder / split, folder / f"{split}.csv"
    if inside.is_dir() and (any(_folders(inside)) or not table.is_file()):
        return _of_classes(inside)
    if table.is_file():
        return _of_table(folder, split, table)
    parts = sorted({path.name for path in _folders(folder)} | {path.stem for path in folder.glob("*.csv")})
    raise FileNotFoundError(
        f"{folder} has neither {split}/ nor {split}.csv; it has {', '.join(parts[:10]) or 'nothing'}. "
        f"Name one of its parts. Layouts: {_LAYOUTS}."
    )


def _of_classes(folder: Path) -> Listing:
    """The pictures below the folder of each class."""
    found = {path.name: list(_pictures(path)) for path in _folders(folder)}
    empty = [name for name, pictures in found.items() if not pictures]
    if not found or len(empty) == len(found):
        raise FileNotFoundError(_nothing(folder, bool(found)))
    nested = [name for name in ("train", "val", "test") if any(_folders(folder / name))]
    if nested:
        raise ValueError(f"{folder} holds parts, {', '.join(nested)}. Name one: split={nested[0]!r}.")
    if empty:
        warnings.warn(f"{folder}: no picture in {', '.join(empty)}, which therefore is no class.", stacklevel=2)
    return [(path, name) for name, pictures in found.items() for path in pictures]


def _nothing(folder: Path, has_folders: bool) -> str:
    """What is said of a folder without classes of pictures: what it holds instead."""
    flat = sum(path.suffix.lower() in ENDINGS for path in folder.iterdir())
    if flat:
        return (
            f"{folder} holds {flat} pictures but no folder for each class. Put those of each class into a folder of "
            f"its own. Layouts: {_LAYOUTS}."
        )
    endings = Counter(path.suffix.lower() or path.name for path in folder.rglob("*") if path.is_file())
    held = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    where = "its folders" if has_folders else "it"
    return (
        f"{folder} holds no pictures ({', '.join(sorted(ENDINGS))}); in {where}: {held or 'nothing'}. "
        f"Check the path, or convert the files. Layouts: {_LAYOUTS}."
    )


def _folders(folder: Path) -> Iterator[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    if folder.is_dir():
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] not in "._")


def _pictures(folder: Path) -> Iterator[Path]:
    """The pictures below a folder at any depth, sorted, hidden ones left out."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for name in sorted(files):
            if name[0] != "." and os.path.splitext(name)[1].lower() in ENDINGS:
                yield Path(place, name)


def _of_table(folder: Path, split: str, table: Path) -> Listing:
    """The pictures that a split file lists, wherever the usual layouts put them."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            header = reader.fieldnames or []
            rows = [(row.get("filename") or "", row.get("label") or "") for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table} is no table of text: {error}. Save it as UTF-8 with commas.") from error
    if not {"filename", "label"} <= set(header):
        raise ValueError(f"{table} must begin with the line filename,label, got {','.join(header)!r}. Add it.")
    if not rows:
        raise ValueError(f"{table} lists no pictures. Write a line filename,label for each.")
    for line, (name, label) in enumerate(rows, 2):
        parts = name.replace("\\", "/").split("/")
        if not name or not label or ".." in parts or os.path.isabs(name) or ":" in parts[0]:
            raise ValueError(
                f"{table}, line {line}, must name a picture inside {folder} and its class, got {name!r}, {label!r}. "
                "Correct the line."
            )
    name, times = Counter(name for name, _ in rows).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{table} lists {name} {times} times; it would be learned from and asked. List it once.")
    return [(_place(folder, split, name, label), label) for name, label in rows]


def _place(folder: Path, split: str, name: str, label: str) -> Path:
    """Where a listed picture is; under ``images/`` if it is nowhere."""
    homes = (folder / "images", folder, folder / split, folder / "images" / label, folder / label)
    return next((home / name for home in homes if (home / name).is_file()), homes[0] / name)
