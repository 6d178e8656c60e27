"""CIFAR-FS, FC100 and mini-ImageNet, on small invented archives in the official format; the published splits."""

import hashlib
import io
import os
import pickle
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metakit.data import _cifar, _store
from metakit.tasks import cifar_fs, fc100, mini_imagenet

NAMES = sorted(name for classes in _cifar.SUPERCLASSES.values() for name in classes)


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """A cache folder of our own, so that no test reads or writes the user's."""
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(_store, "user_cache", lambda: folder)
    return folder


def old(value):
    """A value as Python 2 pickled it (protocol 2), where a text is bytes, and an array goes by numpy.core."""
    if isinstance(value, dict):
        return b"}(" + b"".join(old(key) + old(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(old, value)) + b"e"
    if isinstance(value, bytes):
        return b"T" + struct.pack("<i", len(value)) + value
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + old(0) + b"\x85" + old(b"b") + b"\x87R"
    kind = b"cnumpy\ndtype\n" + old(b"u1") + old(0) + old(1) + b"\x87R"
    kind += b"(" + old(3) + old(b"|") + b"NNN" + old(-1) + old(-1) + old(0) + b"tb"
    shape = old(value.shape[0]) + old(value.shape[1]) + b"\x86"
    return array + b"(" + old(1) + shape + kind + b"\x89" + old(value.tobytes()) + b"tb"


def python2(value):
    return b"\x80\x02" + old(value) + b"."


def python3(protocol):
    return lambda value: pickle.dumps(value, protocol)


def rows(part, count):
    """Made-up pictures of 100 classes, in mixed order."""
    rng = np.random.default_rng(len(part))
    labels = rng.permutation(np.repeat(np.arange(100), count))
    return rng.integers(0, 256, (100 * count, 3072), dtype=np.uint8), labels.tolist()


def files(dump=python2, **changes):
    content = {"meta": dump({b"fine_label_names": [name.encode() for name in NAMES]})}
    for part, count in (("train", 3), ("test", 2)):
        data, labels = rows(part, count)
        content[part] = dump({b"filenames": [b"x.png"], b"fine_labels": labels, b"data": data})
    return content | changes


def pack(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def expect(data, chosen):
    assert data.names == chosen and data.x.shape == (len(chosen), 5, 3, 32, 32) and data.x.dtype == torch.uint8
    both = [rows("train", 3), rows("test", 2)]
    for i, name in enumerate(chosen):
        own = [data[np.array(labels) == NAMES.index(name)] for data, labels in both]
        assert np.array_equal(data.x[i].flatten(1).numpy(), np.concatenate(own))


@pytest.mark.parametrize("dump", [python2, python3(2), python3(4)], ids=["python 2", "protocol 2", "protocol 4"])
def test_an_archive_is_read_class_by_class_the_training_part_first(tmp_path, dump):
    pack(tmp_path / "cifar-100-python.tar.gz", files(dump))
    for split in ("train", "val", "test"):
        expect(cifar_fs(tmp_path, split, download=False), _cifar.CIFAR_FS[split])
    expect(fc100(tmp_path, "test", download=False), _cifar.FC100["test"])


@pytest.mark.parametrize("where", ["", "cifar100", "cifar-100", "cifar"])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_archive_and_folder_are_found_in_every_usual_layout(tmp_path, where, form, monkeypatch):
    home = tmp_path / "data" / where
    if form == "archive":
        pack(home / "cifar-100-python.tar.gz", files())
    else:
        (home / "cifar-100-python").mkdir(parents=True)
        for name, data in files().items():
            (home / "cifar-100-python" / name).write_bytes(data)
        assert len(cifar_fs(home / "cifar-100-python", "val", download=False)) == 16
    monkeypatch.setenv("METAKIT_DATA", str(tmp_path / "data"))
    expect(cifar_fs(split="val", download=False), _cifar.CIFAR_FS["val"])


def test_the_published_splits_are_disjoint_complete_and_of_the_published_sizes():
    assert len(NAMES) == len(set(NAMES)) == 100 and len(_cifar.SUPERCLASSES) == 20
    for split, sizes in ((_cifar.CIFAR_FS, (64, 16, 20)), (_cifar.FC100, (60, 20, 20))):
        assert tuple(len(split[part]) for part in ("train", "val", "test")) == sizes
        assert sorted(split["train"] + split["val"] + split["test"]) == NAMES
        assert all(list(part) == sorted(part) for part in split.values())
    groups = {
        part: {group for group, classes in _cifar.SUPERCLASSES.items() if set(classes) <= set(_cifar.FC100[part])}
        for part in ("train", "val", "test")
    }
    assert {part: len(group) for part, group in groups.items()} == {"train": 12, "val": 4, "test": 4}


# The lists as they are published, class by class: CIFAR-FS by Bertinetto et al., FC100 by numbers of superclasses.
CIFAR_FS_TRAIN = """
    apple aquarium_fish bear bee bottle bowl boy bridge bus can castle caterpillar chair clock cloud cockroach couch cup
    dinosaur dolphin elephant forest girl hamster house kangaroo keyboard lawn_mower lion lizard lobster mountain mouse
    mushroom oak_tree orange orchid palm_tree pear pine_tree plate porcupine possum rabbit raccoon ray road seal shrew
    skunk skyscraper snake spider squirrel streetcar sunflower tank tiger train trout tulip turtle willow_tree wolf
"""
FC100_NUMBERS = {"train": (1, 2, 3, 4, 5, 6, 9, 10, 15, 17, 18, 19), "val": (8, 11, 13, 16), "test": (0, 7, 12, 14)}


def test_the_splits_are_the_published_ones_class_by_class():
    assert list(_cifar.CIFAR_FS["train"]) == CIFAR_FS_TRAIN.split()
    assert {"otter", "lamp", "maple_tree", "sea", "tractor", "camel"} < set(_cifar.CIFAR_FS["val"])
    assert {"baby", "rocket", "plain", "worm", "whale", "leopard"} < set(_cifar.CIFAR_FS["test"])
    for part, numbers in FC100_NUMBERS.items():
        classes = [name for number in numbers for name in list(_cifar.SUPERCLASSES.values())[number]]
        assert sorted(classes) == list(_cifar.FC100[part])


class Trap:
    """Unpickling it would set ``sprung``."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


TRAPS = {
    "trap": pickle.dumps({"fine_label_names": Trap()}, 2),
    "system": b"cos\nsystem\n(S'true'\ntR.",
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "torch": pickle.dumps({"data": torch.ones(2)}, 2),
    "numpy": b"cnumpy\nload\n(S'x'\ntR.",
    "below": b"\x80\x04\x8c\x05numpy\x8c\x09dtype.mro\x93.",
    "hex": b"c_codecs\nencode\n(Vx\nVhex\ntR.",
}


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.parametrize("place", ["meta", "train", "test"])
def test_a_pickle_that_could_run_code_is_refused_with_the_way_round(tmp_path, trap, place):
    pack(tmp_path / "cifar-100-python.tar.gz", files(**{place: TRAPS[trap]}))
    with pytest.raises(ValueError, match=rf"{place} is refused: it asks for .*run code.*official.*LabelledData.of"):
        cifar_fs(tmp_path, "val", download=False)
    assert not Trap.sprung


def part(**changes):
    data, labels = rows("train", 3)
    return python3(2)({b"fine_labels": labels, b"data": data} | {key.encode(): value for key, value in changes.items()})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": b""}, r"train is truncated or damaged"),
        ({"train": python2({b"a": 1})[:-3]}, r"train is truncated or damaged"),
        ({"train": python2([1])}, r"train must hold a dictionary, got list"),
        ({"train": python2({b"a": 1})}, r"train must hold 'data', bytes \[n, 3072\], got none"),
        ({"train": part(data=np.ones((300, 12), dtype=np.uint8))}, r"bytes \[n, 3072\], got \(300, 12\)"),
        ({"train": part(data=np.ones((300, 3072)))}, r"must hold 'data', bytes"),
        ({"train": part(data=np.array([None, 1]))}, r"must hold 'data', bytes"),
        ({"train": part(fine_labels=[1, 2])}, r"must hold 'fine_labels', 300 numbers from 0 to 99"),
        ({"train": part(fine_labels=[100] * 300)}, r"must hold 'fine_labels', 300 numbers from 0 to 99"),
        ({"meta": python2({b"fine_label_names": 3})}, r"meta must hold a list of names"),
        ({"meta": python2({b"fine_label_names": [b"cat"]})}, r"meta lacks the classes beaver, beetle.* of CIFAR-100"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, changes, message):
    pack(tmp_path / "cifar-100-python.tar.gz", files(**changes))
    with pytest.raises(ValueError, match=message):
        cifar_fs(tmp_path, "val", download=False)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_a_truncated_archive_is_refused_by_name(tmp_path, share):
    path = pack(tmp_path / "cifar-100-python.tar.gz", files())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cifar-100-python.tar.gz is truncated or damaged.*fetch it again"):
        cifar_fs(tmp_path, download=False)


def test_a_damaged_byte_is_seen_by_the_checksum(tmp_path):
    path = pack(tmp_path / "cifar-100-python.tar.gz", files())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"truncated or damaged"):
        cifar_fs(tmp_path, download=False)


def test_what_is_missing_is_named_with_every_place_looked_at(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cifar-100-python.tar.gz .*cifar100.*download=True"):
        fc100(tmp_path, download=False)
    pack(tmp_path / "cifar-100-python.tar.gz", {"train": files()["train"]})
    with pytest.raises(FileNotFoundError, match=r"lacks meta, test of CIFAR-100"):
        fc100(tmp_path, download=False)
    with pytest.raises(ValueError, match=r"split must be one of train, val, test, got 'dev'"):
        cifar_fs(tmp_path, "dev")


def test_the_archive_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    import pooch

    site, asked = pack(tmp_path / "site.tar.gz", files()), []

    def copy(url, output_file, pooch_):
        asked.append(url)
        shutil.copyfile(site, output_file)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar=False: copy)
    with pytest.raises(ConnectionError, match=r"did not match its official checksum\. Try again"):
        cifar_fs(tmp_path / "root", "val")
    monkeypatch.setattr(_cifar, "MD5", hashlib.md5(site.read_bytes()).hexdigest())
    for split in ("val", "test"):
        expect(cifar_fs(tmp_path / "root", split), _cifar.CIFAR_FS[split])
    assert asked == 2 * ["https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"]
    assert (tmp_path / "root" / "cifar100" / "cifar-100-python.tar.gz").is_file()


def mini(folder, layout, split, classes):
    """A mini-ImageNet of one picture for each class."""
    lines = ["filename,label"]
    for i in range(classes):
        name, label = f"n{i:08d}00000001.jpg", f"n{i:08d}"
        path = folder / ("images" if layout == "lists" else f"{split}/{label}") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 30), (i, 2 * i, 100)).save(path)
        lines.append(f"{name},{label}")
    if layout == "lists":
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("split", "classes"), [("train", 64), ("val", 16), ("test", 20)])
@pytest.mark.parametrize("layout", ["lists", "folders"])
def test_mini_imagenet_is_read_in_both_layouts_and_cached(tmp_path, user_cache, layout, split, classes):
    home = tmp_path / "mini"
    mini(home, layout, split, classes)
    data = mini_imagenet(home, split, size=16)
    assert data.x.shape == (classes, 1, 3, 16, 16) and data.names[1] == "n00000001"
    assert (data.x[10, 0, :, 8, 8] - torch.tensor([10, 20, 100])).abs().max() <= 3
    assert len(list(user_cache.glob("*.pt"))) == 1
    assert all("metakit" not in name for _, _, names in os.walk(home) for name in names)
    assert torch.equal(mini_imagenet(home, split, size=16).x, data.x)


def test_a_mini_imagenet_that_is_none_is_refused(tmp_path):
    mini(tmp_path, "folders", "test", 19)
    with pytest.raises(ValueError, match=r"'test' of mini-ImageNet must have 20 classes, .* has 19. Complete it"):
        mini_imagenet(tmp_path, "test", 16)
    with pytest.raises(FileNotFoundError, match=r"has neither val/ nor val.csv; it has test"):
        mini_imagenet(tmp_path, "val", 16)
    Path(tmp_path, "mini-imagenet-cache-val.pkl").write_bytes(TRAPS["system"])
    with pytest.raises(
        ValueError, match=r"holds pickles \(mini-imagenet-cache-val.pkl\), which could run code.*val.csv"
    ):
        mini_imagenet(tmp_path, "val", 16)
