"""Omniglot: finding, downloading, checking, reading and caching it; on made-up archives, and on the real ones."""

import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metakit.data import _characters, _omniglot, _store, datasets, omniglot

REAL = os.environ.get("METAKIT_DATA")
real = pytest.mark.skipif(not REAL, reason="METAKIT_DATA names no folder with the real Omniglot archives")
PART = "images_background"
SMALL = {"images_background": {"Greek": 2, "Armenian": 1}, "images_evaluation": {"Gurmukhi": 2, "ULOG": 1}}


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    """One cache folder for all tests on the real archives, which take seconds to read."""
    return tmp_path_factory.mktemp("real-cache")


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch, request):
    """A cache folder of our own, so that no test reads or writes the user's."""
    folder = tmp_path / "user-cache"
    if "real_cache" in request.fixturenames:
        folder = request.getfixturevalue("real_cache")
    monkeypatch.setattr(_store, "user_cache", lambda: folder)
    return folder


@pytest.fixture
def small(monkeypatch):
    """Omniglot with three characters in the background part, three in the evaluation part."""
    for part, alphabets in SMALL.items():
        monkeypatch.setitem(_characters.ALPHABETS, part, alphabets)
    monkeypatch.setattr(_characters, "_CUT_AT", 2)


def picture(part, alphabet, number, drawer):
    """One-bit ink of a made-up drawing, ``[105, 105]`` booleans."""
    seed = int(hashlib.sha256(f"{part}{alphabet}{number}/{drawer}".encode()).hexdigest()[:8], 16)
    return np.random.default_rng(seed).random((105, 105)) < 0.3


def png(ink):
    file = io.BytesIO()
    Image.fromarray(~ink).convert("1").save(file, "PNG")
    return file.getvalue()


def members(part=PART):
    """Name and content of each file of a made-up part, in an order that is not the drawers'."""
    return {
        f"{part}/{alphabet}/character{number:02d}/{100 + number:04d}_{drawer:02d}.png": png(
            picture(part, alphabet, number, drawer)
        )
        for alphabet, count in SMALL[part].items()
        for number in range(count, 0, -1)
        for drawer in range(20, 0, -1)
    }


def pack(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def unpack(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def caches(folder):
    return sorted(folder.glob("metakit-omniglot-*.pt"))


def test_an_archive_is_read_with_ink_one_classes_in_order_and_drawers_in_order(tmp_path, small):
    pack(tmp_path / f"{PART}.zip", members())
    data = omniglot(tmp_path, size=105, download=False)
    assert data.names == ("Armenian/character01", "Greek/character01", "Greek/character02")
    assert data.alphabets == ("Armenian", "Greek") and data.alphabet.tolist() == [0, 1, 1]
    assert data.character.tolist() == [1, 1, 2] and data.x.shape == (3, 20, 1, 105, 105)
    for c, (alphabet, number) in enumerate((("Armenian", 1), ("Greek", 1), ("Greek", 2))):
        for drawer in range(1, 21):
            ink = torch.from_numpy(picture(PART, alphabet, number, drawer)).float()
            assert torch.equal(data[c][drawer - 1, 0], ink)


@pytest.mark.parametrize("size", [28, 35, 1, 64])
def test_pictures_are_shrunk_by_area(tmp_path, small, size):
    pack(tmp_path / f"{PART}.zip", members())
    data = omniglot(tmp_path, size=size, download=False)
    ink = picture(PART, "Greek", 2, 7).astype(float)
    # By area: paint each pixel as size x size equal ones, then average blocks of 105.
    blocks = ink.repeat(size, 0).repeat(size, 1).reshape(size, 105, size, 105).mean((1, 3))
    assert data.x.shape == (3, 20, 1, size, size)
    assert np.abs(data[2][6, 0].numpy() - blocks).max() < 0.51 / 255


@pytest.mark.parametrize("where", ["", "omniglot", "omniglot-py", "python", "omniglot/python"])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_archive_and_folder_are_found_in_every_usual_layout_and_agree(tmp_path, small, where, form):
    home = tmp_path / "data" / where
    pack(home / f"{PART}.zip", members()) if form == "archive" else unpack(home, members())
    reference = pack(tmp_path / "reference" / f"{PART}.zip", members())
    got, expected = (omniglot(r, download=False) for r in (tmp_path / "data", reference.parent))
    assert torch.equal(got.x, expected.x) and got.names == expected.names


def test_the_second_read_comes_from_one_cache_file_of_the_user_and_equals_the_first(
    tmp_path, small, monkeypatch, user_cache
):
    home = tmp_path / "data"
    pack(home / f"{PART}.zip", members())
    first = omniglot(home, download=False)
    assert len(caches(user_cache)) == 1 and not list(user_cache.glob(".metakit-*"))
    with monkeypatch.context() as patch:
        patch.setattr(datasets, "read_drawings", None)  # would fail if called
        second = omniglot(home, download=False)
    assert torch.equal(first.x, second.x) and first.names == second.names and first.alphabets == second.alphabets
    assert torch.equal(first.alphabet, second.alphabet) and torch.equal(first.character, second.character)
    omniglot(home, size=14, download=False)
    assert len(caches(user_cache)) == 2  # another size is another file
    assert [p.name for p in home.iterdir()] == [f"{PART}.zip"]  # and nothing beside the data


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_a_change_of_the_source_is_seen_despite_the_cache(tmp_path, small, form):
    files = members()
    write = (lambda: pack(tmp_path / f"{PART}.zip", files)) if form == "archive" else (lambda: unpack(tmp_path, files))
    write()
    before = omniglot(tmp_path, size=105, download=False)
    files[f"{PART}/Greek/character01/0101_05.png"] = png(np.ones((105, 105), dtype=bool))
    write()
    after = omniglot(tmp_path, size=105, download=False)
    assert after[1][4].min() == 1 and not torch.equal(before.x, after.x)


@pytest.mark.parametrize("damage", [b"", b"not a tensor file"])
def test_a_damaged_cache_is_made_again(tmp_path, small, damage, user_cache):
    pack(tmp_path / f"{PART}.zip", members())
    first = omniglot(tmp_path, download=False)
    caches(user_cache)[0].write_bytes(damage)
    assert torch.equal(omniglot(tmp_path, download=False).x, first.x)
    assert caches(user_cache)[0].stat().st_size > 1000


def test_a_cache_cannot_run_code(tmp_path, small, user_cache):
    pack(tmp_path / f"{PART}.zip", members())
    omniglot(tmp_path, download=False)
    torch.save({"x": Trap()}, caches(user_cache)[0])
    assert len(omniglot(tmp_path, download=False)) == 3 and not Trap.sprung


class Trap:
    """Unpickling it would set ``sprung``."""

    sprung = False

    def __reduce__(self):
        return (setattr, (Trap, "sprung", True))


def test_a_cache_of_the_days_when_it_lay_beside_the_data_is_not_looked_at(tmp_path, small, user_cache):
    home = tmp_path / "data"
    pack(home / f"{PART}.zip", members())
    omniglot(home, download=False)
    name = caches(user_cache)[0].name
    caches(user_cache)[0].unlink()
    (home / name).write_bytes(b"left by an earlier version")
    assert len(omniglot(home, download=False)) == 3 and [p.name for p in caches(user_cache)] == [name]


def test_a_full_disk_costs_the_cache_and_no_more(tmp_path, small, user_cache):
    pack(tmp_path / f"{PART}.zip", members())
    resource = pytest.importorskip("resource")  # not everywhere
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond: as on a disk that is full
    try:
        with pytest.warns(UserWarning, match=rf"the cache folder {user_cache} could not be written .*Free some space"):
            data = omniglot(tmp_path, download=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(data) == 3 and list(user_cache.iterdir()) == []


def test_a_cache_folder_that_cannot_be_made_costs_the_cache_and_no_more(tmp_path, small, user_cache):
    pack(tmp_path / f"{PART}.zip", members())
    user_cache.write_text("a file where the folder should be")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"user-cache could not be written .*make it writable"):
            assert len(omniglot(tmp_path, download=False)) == 3


def test_a_read_only_cache_folder_costs_the_cache_and_no_more(tmp_path, small, user_cache, monkeypatch):
    pack(tmp_path / f"{PART}.zip", members())

    def closed(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(_store.tempfile, "TemporaryDirectory", closed)  # a mode would not stop root
    with pytest.warns(UserWarning, match=r"user-cache could not be written .*Permission denied"):
        assert len(omniglot(tmp_path, download=False)) == 3


def test_the_split_by_published_list_reads_both_archives(tmp_path, small):
    for part in SMALL:
        pack(tmp_path / f"{part}.zip", members(part))
    splits = {split: omniglot(tmp_path, split=split, download=False).names for split in ("train", "val", "test")}
    assert splits == {
        "train": ("Greek/character01", "Greek/character02", "Gurmukhi/character01"),
        "val": ("Armenian/character01",),
        "test": ("Gurmukhi/character02", "ULOG/character01"),
    }


def test_rotations_are_extra_classes(tmp_path, small):
    pack(tmp_path / f"{PART}.zip", members())
    data = omniglot(tmp_path, download=False, rotations=True)
    assert len(data) == 12 and torch.equal(data[4], data[1].rot90(1, (-2, -1)))
    assert data.names[4] == "Greek/character01 turned 90"


def test_the_default_root_is_the_environment_variable_or_the_user_cache(tmp_path, small, monkeypatch, user_cache):
    monkeypatch.setenv("METAKIT_DATA", str(tmp_path / "data"))
    pack(tmp_path / "data" / "omniglot" / f"{PART}.zip", members())
    assert len(omniglot(download=False)) == 3
    monkeypatch.delenv("METAKIT_DATA")
    with pytest.raises(FileNotFoundError, match="user-cache"):
        omniglot(download=False)
    pack(user_cache / "omniglot" / f"{PART}.zip", members())
    assert len(omniglot(download=False)) == 3


HOSTILE = ["../escaped.png", f"{PART}/../../x.png", "/etc/x.png", "C:/x.png", "..\\x.png", "\\\\host\\x.png"]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_archive_whose_member_leaves_the_folder_is_refused_by_name(tmp_path, small, name):
    pack(tmp_path / "data" / f"{PART}.zip", {**members(), name: b"x"})
    with pytest.raises(ValueError, match=r"leaves the folder it is unpacked to.*Delete it") as error:
        omniglot(tmp_path / "data", download=False)
    assert repr(name) in str(error.value) and f"{PART}.zip" in str(error.value)
    assert not caches(tmp_path / "user-cache") and not (tmp_path / "escaped.png").exists()


def test_an_archive_with_a_symbolic_link_is_refused_by_name(tmp_path, small):
    path = pack(tmp_path / f"{PART}.zip", members())
    link = zipfile.ZipInfo(f"{PART}/Greek/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"Greek/link.png' is a link or a device"):
        omniglot(tmp_path, download=False)


def test_an_archive_with_a_swollen_member_is_refused_by_name(tmp_path, small):
    pack(tmp_path / f"{PART}.zip", {**members(), f"{PART}/Greek/character01/0101_21.png": bytes(2 << 20)})
    with pytest.raises(ValueError, match=r"0101_21.png' would take 2,097,152 bytes"):
        omniglot(tmp_path, download=False)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_archive_is_refused_by_name(tmp_path, small, share):
    path = pack(tmp_path / f"{PART}.zip", members())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"{PART}.zip is truncated or damaged.*Delete it and call omniglot"):
        omniglot(tmp_path, download=False)


def test_an_archive_damaged_in_the_middle_is_refused_with_the_member(tmp_path, small):
    path = pack(tmp_path / f"{PART}.zip", members())
    with zipfile.ZipFile(path) as archive:
        info = archive.infolist()[7]
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename) + 20
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is truncated or damaged, member") as error:
        omniglot(tmp_path, download=False)
    assert info.filename in str(error.value)


@pytest.mark.parametrize("damage", ["text", "truncated", "size", "pixels"])
@pytest.mark.parametrize("form", ["archive", "folder"])
def test_a_damaged_picture_is_refused_by_name(tmp_path, small, damage, form):
    files, name = members(), f"{PART}/Greek/character02/0102_11.png"
    good = files[name]
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    files[name] = {
        "text": b"not a picture",
        "truncated": good[: len(good) // 2],
        "size": png(np.zeros((28, 28), dtype=bool)),
        "pixels": bytes(flipped),
    }[damage]
    pack(tmp_path / f"{PART}.zip", files) if form == "archive" else unpack(tmp_path, files)
    with pytest.raises(ValueError, match=r"Greek/character02/0102_11.png (is damaged|must be 105 x 105).*Delete it"):
        omniglot(tmp_path, download=False)


def test_no_changed_byte_of_a_picture_ever_gives_another_drawing():
    good = png(picture(PART, "Greek", 1, 1))
    ink, refused = _omniglot._decode(good, "good"), 0
    for i in range(len(good)):
        bad = bytearray(good)
        bad[i] ^= 255
        try:
            assert torch.equal(_omniglot._decode(bytes(bad), "bad"), ink)
        except ValueError:
            refused += 1
    assert refused > 0.95 * len(good)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_missing_drawings_are_named(tmp_path, small, form):
    files = {
        name: content
        for name, content in members().items()
        if "Armenian" not in name and not name.endswith(("character02/0102_03.png", "character02/0102_20.png"))
    }
    pack(tmp_path / f"{PART}.zip", files) if form == "archive" else unpack(tmp_path, files)
    message = "2 of 3 characters lack drawings .*: Greek/character02 drawers 3, 20; Armenian/character01. Delete"
    with pytest.raises(FileNotFoundError, match=message):
        omniglot(tmp_path, download=False)


def test_a_drawing_given_twice_is_refused(tmp_path, small):
    again = f"{PART}/Greek/character01/0999_04.png"
    pack(tmp_path / f"{PART}.zip", {**members(), again: png(np.ones((105, 105), dtype=bool))})
    with pytest.raises(ValueError, match="one drawing twice"):
        omniglot(tmp_path, download=False)


def test_what_is_missing_is_listed_with_every_place_looked_at(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        omniglot(tmp_path, split="train", download=False)
    message = str(error.value)
    for part in ("images_background", "images_evaluation"):
        assert f"{part}.zip (or the folder {part})" in message
    for folder in ("", "omniglot", "omniglot-py", "python", "omniglot/python"):
        assert str(tmp_path / folder) in message
    assert "download=True" in message and "github" in message


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "split must be one of background, .*test, got 'dev'"),
        ({"split": None}, ValueError, "split must be one of"),
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 106}, ValueError, "size must be at most 105.*got 106"),
        ({"size": 28.0}, TypeError, "size must be a whole number, got 28.0"),
    ],
)
def test_wrong_arguments_are_refused_with_the_rule_and_the_value(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        omniglot(tmp_path, download=False, **arguments)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    path = pack(tmp_path / f"{PART}.zip", {"a": b""})
    with pytest.raises(ValueError, match="root must be a folder, got the file"):
        omniglot(path, download=False)


@pytest.fixture
def server(tmp_path, small, monkeypatch):
    """A folder that stands for the official site, through pooch's own retrieval with a copying downloader."""
    import pooch

    site, asked = tmp_path / "site", []

    def copy(url, output_file, pooch_):
        asked.append(url)
        with (site / url.rsplit("/", 1)[1]).open("rb") as source, Path(output_file).open("wb") as target:
            shutil.copyfileobj(source, target)

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar=False: copy)
    for part in SMALL:
        path = pack(site / f"{part}.zip", members(part))
        monkeypatch.setitem(datasets._MD5, part, hashlib.md5(path.read_bytes()).hexdigest())
    return site, asked


def test_what_is_missing_is_downloaded_once_from_the_official_address(tmp_path, server):
    _, asked = server
    root = tmp_path / "new" / "root"
    data = omniglot(root, split="train")
    address = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
    assert asked == [address + f"{part}.zip" for part in SMALL] and len(data) == 3
    assert {p.name for p in (root / "omniglot").glob("*.zip")} == {f"{part}.zip" for part in SMALL}
    omniglot(root, split="test")
    assert len(asked) == 2


def test_a_download_with_another_checksum_is_refused_and_not_kept(tmp_path, server):
    site, _ = server
    pack(site / f"{PART}.zip", {"other": b"content"})
    with pytest.raises(ConnectionError, match=rf"{PART}.zip did not match its official checksum. Try again"):
        omniglot(tmp_path / "root")
    assert not list((tmp_path / "root").rglob("*.zip"))


def test_a_failed_download_says_what_to_do(tmp_path, server):
    site, _ = server
    (site / f"{PART}.zip").unlink()
    with pytest.raises(
        ConnectionError, match=rf"{PART}.zip could not be downloaded .*fetch it by hand and put it into"
    ):
        omniglot(tmp_path / "root")


def test_nothing_is_downloaded_into_a_read_only_folder(tmp_path, server):
    root = tmp_path / "root"
    root.mkdir()
    root.chmod(0o555)
    try:
        with pytest.raises(FileNotFoundError, match=r"is read-only\. Give a root you can write to"):
            omniglot(root)
        assert not server[1]
    finally:
        root.chmod(0o755)


def test_local_archives_are_read_whatever_their_checksum(tmp_path, server):
    pack(tmp_path / "root" / f"{PART}.zip", {**members(), "README": b"packed anew"})
    assert len(omniglot(tmp_path / "root")) == 3 and not server[1]


def test_the_published_counts_follow_from_the_lists():
    sizes = {split: sum(map(len, _characters.wanted(split).values())) for split in _characters.SPLITS}
    official = {"background": 964, "evaluation": 659, "small1": 136, "small2": 156}
    assert sizes == official | {"train": 1028, "val": 172, "test": 423}
    parts = [{c for chosen in _characters.wanted(s).values() for c in chosen} for s in ("train", "val", "test")]
    assert len(set.union(*parts)) == 1623
    assert set(_characters.wanted("val")) == {"images_background"}


def test_importing_metakit_loads_no_optional_library():
    code = "import sys, metakit; print([m for m in ('sklearn', 'pooch', 'PIL', 'matplotlib') if m in sys.modules])"
    root = Path(datasets.__file__).parents[2]
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert output.stdout.strip() == "[]"


@real
@pytest.mark.usefixtures("real_cache")
@pytest.mark.parametrize(
    ("split", "classes", "alphabets"),
    [
        *(("background", 964, 30), ("evaluation", 659, 20), ("small1", 136, 5), ("small2", 156, 5)),
        *(("train", 1028, 33), ("val", 172, 5), ("test", 423, 13)),
    ],
)
def test_the_real_archives_hold_the_published_numbers(split, classes, alphabets):
    data = omniglot(split=split, download=False)
    assert len(data) == classes and len(data.alphabet.unique()) == alphabets and data.x.shape[1:] == (20, 1, 28, 28)
    ink = data.rows.float().mean() / 255
    assert 0.02 < ink < 0.2  # more paper than ink
    assert (data.rows.flatten(1).max(1).values > 128).all()  # a stroke in every drawing


@real
@pytest.mark.usefixtures("real_cache")
def test_the_real_splits_share_no_class_and_the_small_sets_are_in_the_background():
    splits = {s: omniglot(split=s, download=False) for s in ("train", "val", "test", "background", "evaluation")}
    names = {s: set(data.names) for s, data in splits.items()}
    assert not names["train"] & names["val"] and not names["train"] & names["test"] and not names["val"] & names["test"]
    assert names["train"] | names["val"] | names["test"] == names["background"] | names["evaluation"]
    small, whole = omniglot(split="small1", download=False), splits["background"]
    for i in (0, 70, 135):
        assert torch.equal(small[i], whole[whole.names.index(small.names[i])])


@real
@pytest.mark.usefixtures("real_cache")
@pytest.mark.parametrize("part", ["images_background_small1", "images_background_small2"])
def test_the_checksums_are_those_of_the_official_files(part):
    found = list(Path(REAL).rglob(f"{part}.zip"))
    if not found:
        pytest.skip(f"{part}.zip is not in METAKIT_DATA")
    assert hashlib.md5(found[0].read_bytes()).hexdigest() == datasets._MD5[part]
