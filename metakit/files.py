"""Files that survive: written beside and renamed over, read as data only."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pathlib
import tempfile
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
            torch.save(content, buffer := io.BytesIO())
            file.write(_sealed(buffer.getvalue()))
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
        content = torch.load(io.BytesIO(_verified(path.read_bytes())), map_location="cpu", weights_only=True)
    except Exception as error:  # Damage can make the reader stumble anywhere, by any kind of error.
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} is damaged or not a metakit file: {reason}. Use an earlier copy.") from error
    if not isinstance(content, dict) or content.get("kind") != kind:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} must hold a metakit {kind}, but holds {found!r}.")
    return content


# torch does not compare checksums when it reads. So the whole file's stands in its zip comment, at the very end.
_DIGEST = hashlib.sha256


def _sealed(archive: bytes) -> bytes:
    digest = _DIGEST(archive).hexdigest().encode()
    return archive[:-2] + len(digest).to_bytes(2, "little") + digest


def _verified(file: bytes) -> bytes:
    """The file, if it matches its checksum or, written by torch alone, has none."""
    end = file.rfind(b"PK\5\6") + 22  # the last record of a zip archive ends with the length of its comment
    length = int.from_bytes(file[end - 2 : end], "little")
    if len(file) != end + length:
        raise ValueError("it is no archive, or cut short")
    if length and _DIGEST(file[: end - 2] + bytes(2)).hexdigest().encode() != file[end:]:
        raise ValueError("it does not match its checksum")
    return file
