"""Facts of CIFAR-100: its archive, the published few-shot splits, and a reader of its pickles that runs no code."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

URL = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
MD5 = "eb9058c3a382ffc7106e4002c42a8d85"
ARCHIVE, FOLDER = "cifar-100-python.tar.gz", "cifar-100-python"
FILES = ("meta", "train", "test")
_LARGEST = 1 << 28  # bytes of one file; the official ones have 155 million at most
_ADVICE = f"Delete it and fetch it again from {URL}."

# The 20 superclasses of five classes, in the order of the archive's coarse labels.
SUPERCLASSES = {
    name: tuple(classes.split())
    for name, classes in (
        ("aquatic_mammals", "beaver dolphin otter seal whale"),
        ("fish", "aquarium_fish flatfish ray shark trout"),
        ("flowers", "orchid poppy rose sunflower tulip"),
        ("food_containers", "bottle bowl can cup plate"),
        ("fruit_and_vegetables", "apple mushroom orange pear sweet_pepper"),
        ("household_electrical_devices", "clock keyboard lamp telephone television"),
        ("household_furniture", "bed chair couch table wardrobe"),
        ("insects", "bee beetle butterfly caterpillar cockroach"),
        ("large_carnivores", "bear leopard lion tiger wolf"),
        ("large_man-made_outdoor_things", "bridge castle house road skyscraper"),
        ("large_natural_outdoor_scenes", "cloud forest mountain plain sea"),
        ("large_omnivores_and_herbivores", "camel cattle chimpanzee elephant kangaroo"),
        ("medium_mammals", "fox porcupine possum raccoon skunk"),
        ("non-insect_invertebrates", "crab lobster snail spider worm"),
        ("people", "baby boy girl man woman"),
        ("reptiles", "crocodile dinosaur lizard snake turtle"),
        ("small_mammals", "hamster mouse rabbit shrew squirrel"),
        ("trees", "maple_tree oak_tree palm_tree pine_tree willow_tree"),
        ("vehicles_1", "bicycle bus motorcycle pickup_truck train"),
        ("vehicles_2", "lawn_mower rocket streetcar tank tractor"),
    )
}
_ALL = tuple(sorted(name for classes in SUPERCLASSES.values() for name in classes))
# Bertinetto et al. 2019 drew the classes at random; the lists are those published with their code.
_CIFAR_FS_VAL = (
    *("beaver", "beetle", "butterfly", "camel", "cattle", "crab", "crocodile", "flatfish", "lamp", "maple_tree"),
    *("motorcycle", "otter", "sea", "shark", "television", "tractor"),
)
_CIFAR_FS_TEST = (
    *("baby", "bed", "bicycle", "chimpanzee", "fox", "leopard", "man", "pickup_truck", "plain", "poppy", "rocket"),
    *("rose", "snail", "sweet_pepper", "table", "telephone", "wardrobe", "whale", "woman", "worm"),
)
CIFAR_FS = {
    "train": tuple(name for name in _ALL if name not in _CIFAR_FS_VAL + _CIFAR_FS_TEST),
    "val": _CIFAR_FS_VAL,
    "test": _CIFAR_FS_TEST,
}
# Oreshkin et al. 2018 split by superclass, so that what is tested looks like nothing that was trained on.
_FC100_VAL = ("large_carnivores", "large_omnivores_and_herbivores", "non-insect_invertebrates", "small_mammals")
_FC100_TEST = ("aquatic_mammals", "insects", "medium_mammals", "people")
_FC100_TRAIN = tuple(name for name in SUPERCLASSES if name not in _FC100_VAL + _FC100_TEST)
FC100 = {
    part: tuple(sorted(name for group in groups for name in SUPERCLASSES[group]))
    for part, groups in (("train", _FC100_TRAIN), ("val", _FC100_VAL), ("test", _FC100_TEST))
}


def contents(source: Path) -> dict[str, bytes]:
    """The three files of the archive, or of the folder it unpacks to.

    Raises:
        FileNotFoundError: if one is missing.
        ValueError: if the archive is truncated, damaged or swollen.
    """
    found = _archived(source) if source.is_file() else _unpacked(source)
    missing = [name for name in FILES if name not in found]
    if missing:
        raise FileNotFoundError(f"{source} lacks {', '.join(missing)} of CIFAR-100. {_ADVICE}")
    return found


def _unpacked(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}


def _archived(path: Path) -> dict[str, bytes]:
    found = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r:") as archive:
                for member in archive:
                    folder, _, name = member.name.removeprefix("./").partition("/")
                    if folder != FOLDER or name not in FILES or not member.isfile():
                        continue  # nothing is unpacked: no other member can do harm
                    if member.size > _LARGEST:
                        raise ValueError(
                            f"{path} is refused: {member.name} would take {member.size:,} bytes. {_ADVICE}"
                        )
                    content = archive.extractfile(member)
                    found[name] = content.read() if content else b""
            while stream.read(1 << 20):  # to the end, where the checksum is
                pass
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise ValueError(f"{path} is truncated or damaged: {error}. {_ADVICE}") from error
    return found


def unpickled(content: bytes, source: str) -> dict[str, Any]:
    """The dictionary in one file of CIFAR-100, its keys as texts; nothing in it is executed.

    Raises:
        ValueError: if it is damaged, or asks for anything that such a file does not need.
    """
    try:
        record = _Reader(io.BytesIO(content), encoding="bytes").load()
    except _RefusedError as error:
        raise ValueError(
            f"{source} is refused: it asks for {error}, and reading it could run code. Take the official archive, "
            f"{URL}; of a file of your own that you trust, write the arrays anew with numpy.savez and give them to "
            "LabelledData.of."
        ) from None
    except Exception as error:  # Damage can make the reader stumble anywhere, by any kind of error.
        raise ValueError(f"{source} is truncated or damaged: {error}. {_ADVICE}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{source} must hold a dictionary, got {type(record).__name__}. {_ADVICE}")
    return {_text(key): value for key, value in record.items()}


def texts(values: Any, source: str) -> list[str]:
    """A list of names as texts; Python 2 wrote them as bytes."""
    if not isinstance(values, list) or not all(isinstance(value, bytes | str) for value in values):
        raise ValueError(f"{source} must hold a list of names. {_ADVICE}")
    return [_text(value) for value in values]


def pixels_and_labels(record: dict[str, Any], source: str, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Bytes ``[n, 3, 32, 32]`` and fine labels ``[n]`` of a part."""
    data, labels = record.get("data"), record.get("fine_labels")
    x = data.pixels() if isinstance(data, _Array) else None
    if x is None or x.ndim != 2 or x.shape[1] != 3072:
        raise ValueError(
            f"{source} must hold 'data', bytes [n, 3072], got {'none' if x is None else x.shape}. {_ADVICE}"
        )
    whole = isinstance(labels, list) and all(type(value) is int and 0 <= value < classes for value in labels)
    if not isinstance(labels, list) or not whole or len(labels) != len(x):
        raise ValueError(f"{source} must hold 'fine_labels', {len(x)} numbers from 0 to {classes - 1}. {_ADVICE}")
    return x.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


class _RefusedError(Exception):
    pass


class _Array:
    """Stands for numpy's array and dtype: what the pickle says of them is noted, and looked at before it is used."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments, self.state = arguments, None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self) -> np.ndarray | None:
        """The bytes in the array's shape, or ``None`` if it holds something else."""
        if not isinstance(self.state, tuple) or len(self.state) != 5:
            return None
        _, shape, kind, columns_first, raw = self.state
        named = isinstance(kind, _Array) and kind.arguments[:1] in ((b"u1",), ("u1",))
        plain = isinstance(shape, tuple) and all(type(side) is int and side >= 0 for side in shape)
        if (
            not (named and plain and isinstance(raw, bytes))
            or columns_first
            or len(raw) != np.prod(shape, dtype=object)
        ):
            return None
        return np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _encoded(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 writes them in the old protocols."""
    if encoding != "latin1":
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode("latin1")


class _Reader(pickle.Unpickler):
    """Reads numbers, texts, lists and dictionaries, and arrays as notes; imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        known = module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        if known and name in ("_reconstruct", "ndarray", "dtype"):
            return _Array
        if (module, name) == ("_codecs", "encode"):
            return _encoded
        raise _RefusedError(f"{module}.{name}")
