"""Real handwriting: Omniglot (found, downloaded, checked, read and cached) and scikit-learn's digits."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from metakit.checks import choice, whole
from metakit.data import _store
from metakit.data._characters import SPLITS, Character, wanted
from metakit.data._omniglot import DRAWERS, Source, read_drawings
from metakit.data.labelled import LabelledData

_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
# The official checksums: of the downloads, not of what a user has packed anew.
_MD5 = {
    "images_background": "68d2efa1b9178cc56df9314c21c6e718",
    "images_evaluation": "6b91aef0f799c5bb55b94e3f2daec811",
    "images_background_small1": "e704a628b5459e08445c13499850abc4",
    "images_background_small2": "b75a71a51d3b13f821f212756fe481fd",
}


def omniglot(
    root: str | os.PathLike[str] | None = None,
    *,
    split: str = "background",
    size: int = 28,
    download: bool = True,
    rotations: bool = False,
) -> LabelledData:
    """Omniglot: 1,623 handwritten characters of 50 alphabets, each drawn by 20 people; one class per character.

    ``x`` is uint8 ``[characters, 20, 1, size, size]``, read as float32 in [0, 1], ink 1 and paper 0, area-averaged
    from 105 x 105 pixels. Drawings are in drawer order: within an alphabet, drawing d is by the same person.

    Arguments:
        root: the folder of the archives (``images_background.zip``, ...) or of their unpacked folders, or one that
            holds it as ``omniglot``, ``omniglot-py`` (torchvision) or ``python``. By default the environment variable
            ``METAKIT_DATA``, or else a cache folder of the user. Nothing but a download is ever written there: the
            drawings that were read are kept in the user's cache folder for the next time.
        split: ``background`` (964 characters), ``evaluation`` (659), ``small1`` (136), ``small2`` (156): the official
            parts; ``train`` (1,028), ``val`` (172), ``test`` (423): the split of Vinyals et al., by published list.
        size: height and width in pixels, 1 to 105.
        download: fetch what is missing (15 MB at most) and verify it by the official checksum.
        rotations: add each character turned by 90, 180 and 270 degrees as classes of their own.

    Raises:
        TypeError: if ``size`` is not a whole number.
        FileNotFoundError: if something is missing; it names every file expected, and where it was looked for.
        ValueError: if the split is unknown, the size out of range, or an archive or picture is damaged or unsafe.
        ConnectionError: if a download fails.

    Warns:
        UserWarning: if the cache cannot be written.

    Example:
        >>> data = omniglot(split="test", rotations=True)  # doctest: +SKIP
        >>> data  # doctest: +SKIP
        LabelledData(1692 classes, 20 rows each, row [1, 28, 28] uint8, 52 alphabets)

    Source: B. Lake, R. Salakhutdinov, J. Tenenbaum, Human-level concept learning through probabilistic program
    induction, Science, 2015; split: O. Vinyals et al., Matching Networks for One Shot Learning, 2016, section 4.1.
    """
    split, size = choice("split", split, SPLITS), whole("size", size)
    if size > 105:
        raise ValueError(f"size must be at most 105, the size of the drawings, got {size}. Lower it.")
    base, characters = _store.data_root(root), wanted(split)
    sources = _find(base, sorted(characters), download)
    data = _cached(sources, characters, split, size)
    return data.rotations() if rotations else data


def digits() -> LabelledData:
    """Scikit-learn's 1,797 real handwritten digits: 10 classes of 174 to 183 drawings ``[1, 8, 8]`` in [0, 1], ink 1.

    Nothing is downloaded; the drawings come with scikit-learn.

    Raises:
        ModuleNotFoundError: if scikit-learn is not installed.

    Example:
        >>> digits()
        LabelledData(10 classes, 174 to 183 rows each, row [1, 8, 8] float32)

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (test part).
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise ModuleNotFoundError("digits() needs scikit-learn. Install it: pip install scikit-learn.") from None
    drawings = load_digits()
    x = torch.as_tensor(drawings.images, dtype=torch.float32).div_(16).unsqueeze(1)
    return LabelledData(x, torch.as_tensor(drawings.target, dtype=torch.int64))


def _find(base: Path, parts: list[str], download: bool) -> dict[str, Source]:
    """The archive or folder of each part; what is missing is downloaded, or named in the error."""
    folders = [base / name for name in ("", "omniglot", "omniglot-py", "python", "omniglot/python")]
    found: dict[str, Path | None] = {}
    for part in parts:
        places = [folder / name for folder in folders for name in (f"{part}.zip", part)]
        found[part] = next(
            (place for place in places if place.is_file() or (place.is_dir() and place.name == part)), None
        )
    missing = [part for part, place in found.items() if place is None]
    if missing and not download:
        raise FileNotFoundError(
            f"Omniglot: {', '.join(f'{part}.zip (or the folder {part})' for part in missing)} not found in any of "
            f"{', '.join(map(str, folders))}. Call omniglot(..., download=True), or put the files from {_URL} there."
        )
    home = next((place.parent for place in found.values() if place), base if base.name == "omniglot" else folders[1])
    for part in missing:
        found[part] = _store.fetch(f"{_URL}/{part}.zip", _MD5[part], home)
    return {part: Source(place) for part, place in found.items() if place}


def _cached(sources: dict[str, Source], chosen: dict[str, list[Character]], split: str, size: int) -> LabelledData:
    key = hashlib.sha256(repr([(part, source.fingerprint()) for part, source in sources.items()]).encode())
    name = f"metakit-omniglot-{split}-{size}-{key.hexdigest()[:16]}.pt"
    return _store.cached(name, lambda: _read(sources, chosen, size), _unpack)


def _read(sources: dict[str, Source], chosen: dict[str, list[Character]], size: int) -> dict[str, Any]:
    """The record that is cached: all characters in the order of alphabets, then numbers."""
    x = torch.cat([read_drawings(sources[part], part, chosen[part], size) for part in chosen])
    characters = [character for part in chosen for character in chosen[part]]
    order = sorted(range(len(characters)), key=characters.__getitem__)
    characters = [characters[i] for i in order]
    alphabets = sorted({alphabet for alphabet, _ in characters})
    return {
        "x": x[order],
        "alphabet": torch.tensor([alphabets.index(alphabet) for alphabet, _ in characters]),
        "character": torch.tensor([number for _, number in characters]),
        "names": [f"{alphabet}/character{number:02d}" for alphabet, number in characters],
        "alphabets": alphabets,
    }


def _unpack(record: dict[str, Any]) -> LabelledData:
    data = LabelledData(
        record["x"],
        alphabet=record["alphabet"],
        character=record["character"],
        names=tuple(record["names"]),
        alphabets=tuple(record["alphabets"]),
    )
    if data.x.dtype != torch.uint8 or data.x.shape[1] != DRAWERS:
        raise ValueError("not a cache of Omniglot")
    return data
