"""Files that survive: written beside and renamed over, read as data only."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import tempfile
import zipfile
from typing import Any

import torch


def write_checkpoint(path: str | pathlib.Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all.

    The file is written beside ``path`` and renamed over it: a crash, a full disk or a kill leaves the previous one.

    Raises:
        OSError: if it cannot be written; the message says that the previous file is whole.
    """
    path = pathlib.Path(path)
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            beside = pathlib.Path(file.name)
            torch.save(content, buffer := io.BytesIO())  # in memory: of a full disk, a file's own write tells better
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if beside is not None:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        before = "The file from before is untouched." if path.exists() else "Nothing was left behind."
        raise OSError(
            f"{path} could not be written: {error}. {before} Free some space or choose another place."
        ) from error


def read_checkpoint(path: str | pathlib.Path, kind: str) -> dict[str, Any]:
    """Read a file of ``write_checkpoint``, tensors and plain values only: nothing in it is executed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds another kind of record than ``kind``.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}.")
    try:
        content = torch.load(_checked(path), map_location="cpu", weights_only=True)
    except Exception as error:  # Damage can make the reader stumble anywhere, by any kind of error.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} is damaged or not a metakit file: {reason}. Use an earlier copy.") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a metakit {kind}, but holds {found!r}.")
    return content


def _checked(path: pathlib.Path) -> io.BytesIO:
    """The archive once more, of members that match their checksums: torch itself compares none."""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy := io.BytesIO(), "w") as checked:
        for name in archive.namelist():
            checked.writestr(name, archive.read(name))
    copy.seek(0)
    return copy
