"""Trained weights: those that come with the package, and others from a file or an address, by their checksum."""

from __future__ import annotations

import hashlib
import pathlib

_FOLDER = pathlib.Path(__file__).parent / "weights"


def shipped(name: str, source: str | pathlib.Path | None = None, sha256: str | None = None) -> pathlib.Path:
    """The file of weights: the package's own of this name, or another one in its place.

    Arguments:
        name: of the file in the package.
        source: a path, or an address that begins with ``https://``; what is fetched is kept in the user's cache.
        sha256: checksum that the file must have; an address needs one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if an address has no checksum, or the file has another one.

    Example:
        >>> shipped("tables.pt").name
        'tables.pt'
    """
    if source is None:
        return _FOLDER / name
    if str(source).startswith("https://"):
        if sha256 is None:
            raise ValueError("weights from an address need their checksum: give sha256= as their makers state it.")
        import pooch

        return pathlib.Path(pooch.retrieve(str(source), known_hash=f"sha256:{sha256}", path=pooch.os_cache("metakit")))
    path = pathlib.Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}. Give a file of mk.save, or leave it out for the weights shipped.")
    if sha256 is not None and (found := hashlib.sha256(path.read_bytes()).hexdigest()) != sha256.lower():
        raise ValueError(f"{path} has the checksum {found}, not {sha256}. It is another file, or a damaged one.")
    return path
