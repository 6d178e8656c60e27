"""The field's sets of photographs with their published splits: CIFAR-FS and FC100 of CIFAR-100, and mini-ImageNet."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from metakit.checks import choice
from metakit.data import _cifar, _store
from metakit.data.folders import pictures
from metakit.data.labelled import LabelledData

_PARTS = ("train", "val", "test")
_MINI_CLASSES = {"train": 64, "val": 16, "test": 20}


def cifar_fs(
    folder: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True
) -> LabelledData:
    """CIFAR-FS: the 100 classes of CIFAR-100, 64 to train on, 16 to choose by, 20 to test; 600 pictures of each.

    ``x`` is uint8 ``[classes, 600, 3, 32, 32]``, read as float32 in [0, 1]; classes are sorted by name, their pictures
    in the order of the archive, the 500 of its training part first.

    Arguments:
        folder: holds ``cifar-100-python.tar.gz`` or the folder it unpacks to, in itself or in ``cifar100``. By default
            the environment variable ``METAKIT_DATA``, or else a cache folder of the user.
        split: ``train``, ``val`` or ``test``, by published list.
        download: fetch the archive (169 MB) if it is missing, and verify it by its official checksum.

    Raises:
        FileNotFoundError: if the archive or a file in it is missing; it names where it was looked for.
        ValueError: if the split is unknown, the archive is damaged, or its pickles ask for more than arrays.
        ConnectionError: if the download fails.

    Example:
        >>> cifar_fs("data", "test")  # doctest: +SKIP
        LabelledData(20 classes, 600 rows each, row [3, 32, 32] uint8)

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; split: L. Bertinetto et al.,
    Meta-learning with differentiable closed-form solvers, 2019, section 4.2.
    """
    return _of_cifar(folder, _cifar.CIFAR_FS[choice("split", split, _PARTS)], download)


def fc100(folder: str | os.PathLike[str] | None = None, split: str = "train", *, download: bool = True) -> LabelledData:
    """FC100: CIFAR-100 split by its superclasses, 12 to train on, 4 to choose by, 4 to test, of five classes each.

    No class of the test is akin to one of the training: harder than CIFAR-FS. Arguments, pictures and errors are those
    of :func:`cifar_fs`.

    Example:
        >>> fc100("data", "train")  # doctest: +SKIP
        LabelledData(60 classes, 600 rows each, row [3, 32, 32] uint8)

    Source: B. Oreshkin, P. Rodriguez, A. Lacoste, TADAM: Task dependent adaptive metric for improved few-shot learning,
    2018, section 3.1 and appendix.
    """
    return _of_cifar(folder, _cifar.FC100[choice("split", split, _PARTS)], download)


def mini_imagenet(
    folder: str | os.PathLike[str],
    split: str = "train",
    size: int = 84,
    *,
    unreadable: str = "refuse",
    progress: bool = True,
) -> LabelledData:
    """Mini-ImageNet: 100 classes of ImageNet, 64 to train on, 16 to choose by, 20 to test; 600 pictures of each.

    ``x`` is uint8, rows ``[3, size, size]``. As in the published preparation a whole picture is squeezed into the
    square; where they are square already, that changes nothing. What was read is kept in the user's cache folder. It is
    not downloaded: its pictures are ImageNet's, to be had from there.

    Arguments:
        folder: holds ``train.csv``, ``val.csv``, ``test.csv`` with the columns ``filename,label`` (Ravi and
            Larochelle's lists) beside ``images/``; or the folders ``train/``, ``val/``, ``test/`` with one for each
            class.
        split: ``train``, ``val`` or ``test``.
        size, unreadable, progress: as in :func:`metakit.tasks.pictures`.

    Raises:
        FileNotFoundError: if there is no such folder or part, or no picture in it.
        ValueError: if the split is unknown, it has another number of classes, or a picture is refused.

    Example:
        >>> mini_imagenet("mini-imagenet", "test")  # doctest: +SKIP
        LabelledData(20 classes, 600 rows each, row [3, 84, 84] uint8)

    Source: O. Vinyals et al., Matching Networks for One Shot Learning, 2016; split: S. Ravi, H. Larochelle,
    Optimization as a Model for Few-Shot Learning, 2017, section 5.1.
    """
    home, split = Path(folder).expanduser(), choice("split", split, _PARTS)
    pickled = sorted(path.name for path in home.glob("*.pkl")) + sorted(path.name for path in home.glob("*.pickle"))
    if pickled and not (home / split).is_dir() and not (home / f"{split}.csv").is_file():
        raise ValueError(
            f"{home} holds pickles ({', '.join(pickled)}), which could run code when read. Take the pictures with "
            f"{split}.csv and images/; or, if you trust their maker, unpickle them yourself and give the arrays to "
            "LabelledData.of."
        )
    data = pictures(home, size, split, fit="squeeze", unreadable=unreadable, progress=progress, cache=True)
    if len(data) != _MINI_CLASSES[split]:
        raise ValueError(
            f"the part {split!r} of mini-ImageNet must have {_MINI_CLASSES[split]} classes, {home} has {len(data)}. "
            "Complete it; for data of your own call pictures(folder, size, split)."
        )
    return data


def _of_cifar(folder: str | os.PathLike[str] | None, chosen: tuple[str, ...], download: bool) -> LabelledData:
    """The pictures of some classes of CIFAR-100."""
    source = _found(_store.data_root(folder), download)
    files = _cifar.contents(source)
    names = _cifar.texts(_cifar.unpickled(files["meta"], f"{source}: meta").get("fine_label_names"), f"{source}: meta")
    absent = [name for name in chosen if name not in names]
    if absent:
        raise ValueError(f"{source}: meta lacks the classes {', '.join(absent[:5])} of CIFAR-100. Take {_cifar.URL}.")
    number = np.full(len(names), -1)
    number[[names.index(name) for name in chosen]] = np.arange(len(chosen))
    x, y = [], []
    for part in ("train", "test"):
        at = f"{source}: {part}"
        pixels, labels = _cifar.pixels_and_labels(_cifar.unpickled(files.pop(part), at), at, len(names))
        wanted = number[labels] >= 0
        x.append(pixels[wanted])
        y.append(number[labels[wanted]])
    labels = np.concatenate(y)
    if len(np.unique(labels)) < len(chosen):
        raise ValueError(f"{source} has no picture of some classes of CIFAR-100. Take {_cifar.URL}.")
    return LabelledData(torch.from_numpy(np.concatenate(x)), torch.from_numpy(labels), names=chosen)


def _found(base: Path, download: bool) -> Path:
    """The archive or its folder; what is missing is downloaded, or named in the error."""
    folders = [base / name for name in ("", "cifar100", "cifar-100", "cifar")]
    places = [folder / name for folder in folders for name in (_cifar.ARCHIVE, _cifar.FOLDER)]
    if base.name == _cifar.FOLDER:
        places.append(base)
    for place in places:
        if place.is_file() or (place / "train").is_file():
            return place
    if download:
        return _store.fetch(_cifar.URL, _cifar.MD5, base / "cifar100")
    raise FileNotFoundError(
        f"CIFAR-100: {_cifar.ARCHIVE} (or the folder {_cifar.FOLDER}) not found in any of "
        f"{', '.join(map(str, folders))}. Give download=True, or put the file from {_cifar.URL} there."
    )
