"""Where data come from and are kept: the folder of a user's data, downloads, and the user's cache."""

from __future__ import annotations

import contextlib
import os
import pickle
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

Made = TypeVar("Made")
Record = dict[str, Any]


def user_cache() -> Path:
    """The folder where this user's programs keep what can be made again."""
    import pooch

    return Path(pooch.os_cache("metakit"))


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder to look for data in: the one named, or that of ``METAKIT_DATA``, or the user's cache."""
    if root is None:
        root = os.environ.get("METAKIT_DATA") or user_cache()
    base = Path(root).expanduser()
    if base.exists() and not base.is_dir():
        raise ValueError(f"root must be a folder, got the file {base}. Give the folder that holds it.")
    return base


def fetch(url: str, md5: str | None, folder: Path) -> Path:
    """Download a file into a folder, and keep it only if it has the official checksum.

    Without a checksum the reader has to hold the contents against one.
    """
    import pooch

    name = url.rsplit("/", 1)[1]
    advice = f"Try again, or fetch it by hand and put it into {folder}."
    if not _writable(folder):
        raise FileNotFoundError(f"{name} is missing and {folder} is read-only. Give a root you can write to.")
    try:
        return Path(pooch.retrieve(url, known_hash=md5 and f"md5:{md5}", fname=name, path=folder))
    except ValueError as error:
        raise ConnectionError(f"{url} did not match its official checksum. {advice}") from error
    except OSError as error:
        raise ConnectionError(f"{url} could not be downloaded ({type(error).__name__}). {advice}") from error


def cached(name: str, read: Callable[[], Record], unpack: Callable[[Record], Made]) -> Made:
    """What ``unpack`` makes of the record in the user's cache, or of the one that is read and kept there now.

    ``name`` must change when the sources do.
    """
    path = user_cache() / name
    # A damaged cache, or one of a folder that is closed to us, is no loss: it is made again from the sources.
    with contextlib.suppress(OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError):
        return unpack(torch.load(path, weights_only=True))
    record = read()
    _keep(record, path)
    return unpack(record)


def located(base: Path, places: tuple[str, ...], url: str, md5: str | None, download: bool) -> Path:
    """The file at the first of these places under a folder; downloaded into the place's folder if that was asked for.

    Raises:
        FileNotFoundError: if it is not there and not to be downloaded.
    """
    found = next((base / place for place in places if (base / place).is_file()), None)
    if found:
        return found
    if download:
        return fetch(url, md5, (base / places[0]).parent)
    raise FileNotFoundError(
        f"{places[0]} not found in {base}. Call with download=True, or put {url} there. METAKIT_DATA or root= may name "
        "another folder."
    )


def _keep(record: Record, path: Path) -> None:
    """Write beside and rename over, so that no reader ever sees half a file; a full disk costs the cache, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".metakit-") as folder:
            torch.save(record, Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
    except (OSError, RuntimeError) as error:  # of a full disk torch speaks by a RuntimeError
        reason = str(error).partition("\n")[0]
        warnings.warn(
            f"the cache folder {path.parent} could not be written ({reason}). The data are read all the same, and "
            "will be read anew next time. Free some space there, or make it writable.",
            stacklevel=2,
        )


def _writable(folder: Path) -> bool:
    """Whether files may be made in a folder, or in the one where it would be made; asks the mode, as root may all."""
    while not folder.exists():
        folder = folder.parent
    return bool(folder.stat().st_mode & 0o222) and os.access(folder, os.W_OK)
