"""Pictures in folders and by split files, datasets, arrays and tables; photographs changed at random."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from metakit.data import _store, folders
from metakit.data.augment import shifted
from metakit.tasks import AugmentPhotos, Episodes, LabelledData, pictures


@pytest.fixture(autouse=True)
def user_cache(tmp_path, monkeypatch):
    """A cache folder of our own, so that no test reads or writes the user's."""
    folder = tmp_path / "user-cache"
    monkeypatch.setattr(_store, "user_cache", lambda: folder)
    return folder


def noise(seed, height=9, width=9, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def put(path, pixels, **options):
    """Write a picture, which losslessly where the ending allows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


@pytest.fixture
def home(tmp_path):
    """Two classes of three and two pictures of 9 pixels, written in no order."""
    folder = tmp_path / "pictures"
    for seed, name in enumerate(("dogs/b.png", "cats/z.png", "dogs/a.png", "cats/c.PNG", "dogs/deep/c.png")):
        put(folder / name, noise(seed))
    return folder


def row(seed):
    return torch.from_numpy(noise(seed)).permute(2, 0, 1)


def expect(data):
    assert data.names == ("cats", "dogs") and data.counts.tolist() == [2, 3] and data.x.dtype == torch.uint8
    assert torch.equal(data.rows, torch.stack([row(seed) for seed in (3, 1, 2, 0, 4)]))


def test_classes_come_by_name_and_their_pictures_by_file_name(home):
    expect(pictures(home, size=9))
    expect(pictures(str(home), 9, progress=False))


def test_other_files_and_hidden_ones_are_passed_over(home):
    for name in ("notes.txt", "dogs/Thumbs.db", "cats/._c.png", "cats/.DS_Store", ".ipynb_checkpoints/x.png"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_bytes(b"no picture")
    expect(pictures(home, size=9))


def test_a_link_to_a_folder_of_pictures_is_a_class(home, tmp_path):
    (home / "dogs").rename(tmp_path / "elsewhere")
    (home / "dogs").symlink_to(tmp_path / "elsewhere")
    expect(pictures(home, size=9))


def test_episodes_are_drawn_from_them(home):
    batch = Episodes(pictures(home, size=9), ways=2, shots=1, queries=1).sample(3, seed=0)
    assert batch.support_x.shape == (3, 2, 3, 9, 9) and batch.support_x.dtype == torch.float32
    assert batch.support_x.min() >= 0 and batch.support_x.max() <= 1


@pytest.mark.parametrize("split", ["train", "val", "night shots"])
def test_parts_in_folders_are_read_by_name(home, tmp_path, split):
    for name in (split, "test"):
        (tmp_path / "parts").mkdir(exist_ok=True)
        os.symlink(home, tmp_path / "parts" / name)
    expect(pictures(tmp_path / "parts", 9, split))


@pytest.mark.parametrize("where", ["images/", "", "train/", "images/{}/", "{}/"])
def test_a_split_file_finds_its_pictures_in_the_usual_places(tmp_path, where):
    files = [("b.png", "dogs", 0), ("z.png", "cats", 1), ("a.png", "dogs", 2)]
    for name, label, seed in files:
        put(tmp_path / where.format(label) / name, noise(seed))
    lines = "".join(f"{label},{name},x\n" for name, label, _ in files)
    (tmp_path / "train.csv").write_text("\ufefflabel,filename,more\n" + lines, encoding="utf-8")
    data = pictures(tmp_path, 9, "train")
    assert data.names == ("cats", "dogs") and data.counts.tolist() == [1, 2]
    assert torch.equal(data.rows, torch.stack([row(seed) for seed in (1, 0, 2)]))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a.png,dogs\n", r"must begin with the line filename,label, got 'a.png,dogs'"),
        ("filename,label\n", r"lists no pictures"),
        ("", r"must begin with the line filename,label, got ''"),
        (
            "filename,label\na.png,dogs\n../b.png,cats\n",
            r"line 3, must name a picture inside .* got '../b.png', 'cats'",
        ),
        ("filename,label\n/b.png,cats\n", r"line 2, must name a picture inside"),
        ("filename,label\na.png\n", r"line 2, must name .* got 'a.png', ''"),
        ("filename,label\na.png,dogs\nb.png,cats\na.png,cats\n", r"lists a.png 2 times.*List it once"),
        ("filename,label\na.png,dogs\nb.png,cats\n", r"a picture cannot be read: .*images.b.png: .*No such file"),
        ("filename,label\na.png,dogs\n", r"holds one class only, 'dogs'"),
    ],
)
def test_a_wrong_split_file_is_refused_with_its_line(tmp_path, table, message):
    (tmp_path / "images").mkdir()
    (tmp_path / "train.csv").write_text(table, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        pictures(tmp_path, 9, "train")


def test_a_split_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"train.csv is no table of text: .*Save it as UTF-8"):
        pictures(tmp_path, 9, "train")


def test_wide_and_tall_pictures_are_cut_from_the_middle_or_squeezed(tmp_path):
    wide = np.zeros((10, 30, 3), dtype=np.uint8)
    wide[:, 10:20] = (255, 100, 0)
    put(tmp_path / "a" / "wide.png", wide)
    put(tmp_path / "b" / "tall.png", wide.transpose(1, 0, 2))
    cut, squeezed = pictures(tmp_path, 10), pictures(tmp_path, 10, fit="squeeze")
    colour = torch.tensor([255, 100, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 10, 10)
    assert torch.equal(cut.rows[0], colour) and torch.equal(cut.rows[1], colour)
    third = squeezed.rows[0][0].float().mean(0) / 255
    assert third[0] == third[9] == 0 and abs(float(third.mean()) - 1 / 3) < 0.01
    assert torch.equal(squeezed.rows[0].mT, squeezed.rows[1])


@pytest.mark.parametrize("size", [7, 40])
def test_shrinking_and_growing_keep_the_mean(tmp_path, size):
    for name in "ab":
        put(tmp_path / name / "x.png", np.full((63, 63, 3), (10, 128, 250), dtype=np.uint8))
    data = pictures(tmp_path, size)
    assert data.rows.shape == (2, 3, size, size)
    assert (data.rows.flatten(2).amin(2) == data.rows.flatten(2).amax(2)).all()
    assert data.rows[0, :, 0, 0].tolist() == [10, 128, 250]


def first(folder, **options):
    """The first picture of a folder that gets a second class beside it."""
    put(folder / "zzz" / "other.png", noise(99))
    return pictures(folder, 9, **options).rows[0]


def test_grey_is_repeated_in_colour_and_colour_is_weighed_in_grey(tmp_path):
    grey, colour = noise(0, channels=1), noise(1)
    put(tmp_path / "1" / "a" / "x.png", grey)
    assert torch.equal(first(tmp_path / "1"), torch.from_numpy(grey).expand(3, 9, 9))
    assert torch.equal(first(tmp_path / "1", channels=1), torch.from_numpy(grey)[None])
    put(tmp_path / "2" / "a" / "x.png", colour)
    weighed = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(first(tmp_path / "2", channels=1)[0].numpy() - weighed).max() < 1


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 9)).astype(np.uint16)
    deep[0, :3] = 0, 65535, 257
    for i, ending in enumerate(("png", "tif")):
        put(tmp_path / str(i) / "a" / f"x.{ending}", deep)
        got = first(tmp_path / str(i), channels=1)[0].numpy()
        assert got[0, :3].tolist() == [0, 255, 1] and np.abs(got - deep / 257).max() <= 0.5
        assert torch.equal(first(tmp_path / str(i)), torch.from_numpy(got).expand(3, 9, 9))
    for i, ink in enumerate((-1, 70000)):
        put(tmp_path / f"deep{i}" / "a" / "x.tif", Image.fromarray(np.full((9, 9), ink, dtype=np.int32)))
        with pytest.raises(ValueError, match=rf"x.tif: its pixels go from {ink} to {ink}, beyond 16 bits"):
            first(tmp_path / f"deep{i}")
    put(tmp_path / "real" / "a" / "x.tif", Image.fromarray(np.ones((9, 9), dtype=np.float32)))
    with pytest.raises(ValueError, match=r"x.tif: its pixels are real numbers of unknown range"):
        first(tmp_path / "real")


def test_what_is_transparent_is_laid_on_white(tmp_path):
    colour, alpha = noise(0), noise(1, channels=1)
    alpha[0, :2] = 0, 255
    put(tmp_path / "1" / "a" / "x.png", np.dstack([colour, alpha]))
    share = alpha[..., None] / 255
    got = first(tmp_path / "1").permute(1, 2, 0).numpy()
    assert np.abs(got - (share * colour + (1 - share) * 255)).max() <= 1
    assert got[0, 0].tolist() == [255] * 3 and got[0, 1].tolist() == colour[0, 1].tolist()
    put(tmp_path / "2" / "a" / "x.png", Image.fromarray(np.dstack([colour[..., 0], alpha])))
    assert first(tmp_path / "2")[:, 0, 0].tolist() == [255] * 3
    palette = Image.fromarray(np.arange(81, dtype=np.uint8).reshape(9, 9)).convert("P")
    put(tmp_path / "3" / "a" / "x.png", palette, transparency=0)
    assert first(tmp_path / "3")[:, 0, 0].tolist() == [255] * 3 and first(tmp_path / "3")[:, 8, 8].tolist() == [80] * 3


def test_palettes_two_colours_and_print_colours_are_resolved(tmp_path):
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], dtype=np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    put(tmp_path / "1" / "a" / "x.gif", palette.resize((9, 9), Image.Resampling.NEAREST))
    got = first(tmp_path / "1")
    assert [got[:, y, x].tolist() for y, x in ((0, 0), (0, 8), (8, 0))] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    ink = noise(0, channels=1) > 127
    put(tmp_path / "2" / "a" / "x.png", Image.fromarray(ink))
    assert torch.equal(first(tmp_path / "2"), torch.from_numpy(ink * np.uint8(255)).expand(3, 9, 9))
    put(tmp_path / "3" / "a" / "x.jpg", Image.new("CMYK", (9, 9), (255, 0, 0, 0)))
    cyan = first(tmp_path / "3")[:, 4, 4].tolist()
    assert cyan[0] < 30 and cyan[1] > 200 and cyan[2] > 200


def test_a_photograph_held_sideways_is_turned_upright(tmp_path):
    pixels, turned = noise(0), Image.Exif()
    turned[0x0112] = 6  # the camera's note: turn by a quarter, clockwise
    put(tmp_path / "a" / "x.png", pixels, exif=turned)
    assert torch.equal(first(tmp_path), row(0).rot90(-1, (1, 2)))


def test_a_large_photograph_is_decoded_in_reduced_size_and_looks_the_same(tmp_path):
    y, x = np.mgrid[:1000, :1000] / 1000
    photo = (255 * np.stack([x, y, 0.5 + 0.5 * np.sin(20 * x * y)], 2)).astype(np.uint8)
    put(tmp_path / "a" / "x.jpg", photo, quality=95)
    put(tmp_path / "b" / "x.png", photo)
    reduced, whole = pictures(tmp_path, 8).rows.int()
    assert (reduced - whole).abs().max() <= 4  # of 255


DAMAGES = {
    "text": lambda good: b"this is no picture",
    "empty": lambda good: b"",
    "short": lambda good: good[: len(good) // 2],
    "zeros": lambda good: good[:40] + bytes(len(good) - 40),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "webp", "tif"])
def test_an_unreadable_file_is_named_and_refused_or_skipped_and_counted(home, damage, ending):
    path = put(home / "cats" / f"bad.{ending}", noise(7, 40, 40))
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    if damage == "zeros" and ending in ("jpg", "webp", "bmp"):
        pytest.skip("still a picture to its decoder, if a grey one")
    with pytest.raises(ValueError, match=rf"a picture cannot be read: .*bad.{ending}: .*give unreadable='skip'"):
        pictures(home, 9)
    with pytest.warns(UserWarning, match=rf"1 of 6 pictures cannot be read and are skipped: .*bad.{ending}: "):
        expect(pictures(home, 9, unreadable="skip"))


def test_a_class_that_is_skipped_as_a_whole_is_said_and_two_must_be_left(home):
    for name in ("one", "two"):
        (home / "birds").mkdir(exist_ok=True)
        (home / "birds" / f"{name}.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"2 of 7 pictures .* skipped, all of birds among them: .*one.png.*two.png"):
        expect(pictures(home, 9, unreadable="skip"))
    for path in home.glob("dogs/**/*.png"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"5 of 7 pictures cannot be read, and fewer than two classes are left"):
        pictures(home, 9, unreadable="skip")


def test_a_swollen_picture_is_refused(home, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    with pytest.raises(ValueError, match=r"a picture cannot be read: .*decompression bomb"):
        pictures(home, 9)


def test_a_folder_that_does_not_fit_says_what_it_holds_and_what_to_do(home, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "phone" / "x").mkdir(parents=True)
    (tmp_path / "phone" / "x" / "1.heic").write_bytes(b"")
    put(tmp_path / "flat" / "x.png", noise(0))
    put(tmp_path / "one" / "cats" / "x.png", noise(0))
    (tmp_path / "parts").mkdir()
    os.symlink(home, tmp_path / "parts" / "train")
    (tmp_path / "a.zip").write_bytes(b"PK")
    for folder, split, error, message in (
        ("empty", None, FileNotFoundError, r"empty holds no pictures .*; in it: nothing. Check the path"),
        ("phone", None, FileNotFoundError, r"phone holds no pictures .*; in its folders: 1 .heic. Check .*convert"),
        ("flat", None, FileNotFoundError, r"flat holds 1 pictures but no folder for each class. Put"),
        ("one", None, ValueError, r"one holds one class only, 'cats', with 1 pictures; .*Add another class"),
        ("parts", None, ValueError, r"parts holds parts, train. Name one: split='train'"),
        ("parts", "val", FileNotFoundError, r"parts has neither val/ nor val.csv; it has train. Name one"),
        ("a.zip", None, FileNotFoundError, r"a.zip is a file. Unpack it"),
        ("nowhere", None, FileNotFoundError, r"nowhere does not exist. .*check the path"),
        ("parts", "../parts", ValueError, r"split must be the name of a part, such as 'train', got '../parts'"),
        ("parts", "", ValueError, r"split must be the name of a part"),
    ):
        with pytest.raises(error, match=message):
            pictures(tmp_path / folder, 9, split)


def test_an_empty_folder_among_classes_is_said_to_be_none(home):
    (home / "birds").mkdir()
    with pytest.warns(UserWarning, match=r"no picture in birds, which therefore is no class"):
        expect(pictures(home, 9))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, got 0"),
        ({"size": 8.5}, TypeError, "size must be a whole number, got 8.5"),
        ({"channels": 4}, ValueError, "channels must be one of 1, 3, got 4"),
        ({"fit": "stretch"}, ValueError, "fit must be one of crop, squeeze, got 'stretch'"),
        ({"unreadable": "ignore"}, ValueError, "unreadable must be one of refuse, skip, got 'ignore'"),
    ],
)
def test_wrong_options_are_refused(home, options, error, message):
    with pytest.raises(error, match=message):
        pictures(home, **options)


def test_a_cache_is_kept_only_if_asked_for_and_sees_every_change(home, user_cache, monkeypatch):
    pictures(home, 9)
    assert not user_cache.exists()
    expect(pictures(home, 9, cache=True))
    assert len(list(user_cache.glob("metakit-pictures-9-3-crop-refuse-*.pt"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr(folders, "decode", None)  # would fail if called
        expect(pictures(home, 9, cache=True))
    put(home / "dogs" / "a.png", noise(50, 10, 10))
    assert not torch.equal(pictures(home, 9, cache=True).rows[2], row(2))
    (home / "dogs" / "a.png").write_bytes(b"")
    for _ in range(2):  # what was skipped is said of a cache too
        with pytest.warns(UserWarning, match=r"1 of 5 pictures"):
            assert len(pictures(home, 9, unreadable="skip", cache=True).rows) == 4


def test_rows_in_order_are_not_copied():
    x = torch.rand(6, 2)
    assert LabelledData(x, torch.tensor([0, 0, 1, 1, 2, 2])).rows.data_ptr() == x.data_ptr()
    assert torch.equal(LabelledData(x, torch.tensor([1, 0, 1, 0, 1, 0])).rows, x[[1, 3, 5, 0, 2, 4]])


class Dataset:
    """A map-style dataset that is none of torch's."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


@pytest.mark.parametrize("wrap", [list, tuple, Dataset])
def test_a_dataset_of_pairs_is_read_in_its_order(wrap):
    x = torch.rand(4, 3)
    data = LabelledData.of(wrap([(x[0], "dog"), (x[1].numpy(), "cat"), (x[2].tolist(), "dog"), (x[3].double(), "cat")]))
    assert data.names == ("cat", "dog") and torch.equal(data.rows, x[[1, 3, 0, 2]])


def test_a_dataset_of_torch_is_read():
    x, y = torch.rand(6, 2, 4, 4), torch.tensor([9, 9, 2, 2, 10, 10])
    data = LabelledData.of(torch.utils.data.TensorDataset(x, y))
    assert data.names == ("2", "9", "10") and torch.equal(data.x, x[[2, 3, 0, 1, 4, 5]].view(3, 2, 2, 4, 4))


def test_pictures_of_a_dataset_are_kept_as_bytes_only_where_nothing_is_lost():
    pixels = torch.from_numpy(noise(0, 16, 16)).permute(2, 0, 1)
    whole = LabelledData.of([(pixels / 255, 0), (pixels.flip(0) / 255, 1)])
    assert whole.x.dtype == torch.uint8 and torch.equal(whole[0][0], pixels / 255)
    fine = torch.rand(3, 16, 16)
    for items in ([fine, pixels / 255, fine], [pixels / 255, fine, pixels / 255]):
        data = LabelledData.of([(x, 0) for x in items])
        assert data.x.dtype == torch.float32 and torch.equal(data[0], torch.stack(items))
    below = LabelledData.of([(pixels / 255 - 0.5, 0)])
    assert below.x.dtype == torch.float32 and torch.equal(below[0][0], pixels / 255 - 0.5)
    assert LabelledData.of([(torch.ones(4), 0)]).x.dtype == torch.float32  # features, no picture


def test_pictures_of_pillow_and_token_ids_are_taken():
    data = LabelledData.of([(Image.fromarray(noise(0)), "a"), (Image.fromarray(noise(1)).convert("RGBA"), "b")])
    assert torch.equal(data.rows, torch.stack([row(0), row(1)]))
    assert LabelledData.of([(Image.fromarray(noise(0, channels=1)), 0)]).rows.shape == (1, 1, 9, 9)
    words = LabelledData.of([([3, 1, 2], 0), (np.array([1, 1, 4], dtype=np.int32), 1)])
    assert words.x.dtype == torch.int64 and words.rows.tolist() == [[3, 1, 2], [1, 1, 4]]


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "must have a row, got none"),
        ([torch.ones(2)], TypeError, r"item 0 must be a pair \(x, y\), got Tensor"),
        ([{"image": 1, "label": 2}], TypeError, r"item 0 must be a pair \(x, y\), got dict. Wrap it"),
        ([(1, 2, 3)], TypeError, r"item 0 must be a pair \(x, y\), got 3 things"),
        (
            [([1.0], 0), ([1.0, 2.0], 0)],
            ValueError,
            r"item 1 is torch.float32 \[2\], item 0 torch.float32 \[1\]. Resize",
        ),
        ([([1.0], 0), ([1], 0)], ValueError, r"item 1 is torch.int64 \[1\], item 0 torch.float32 \[1\]"),
        ([([1.0], 0), ([float("nan")], 0)], ValueError, r"x of item 1 must be finite, got NaN"),
        ([(["word"], 0)], TypeError, r"x of item 0 must be numbers, got <U4.*tasks.texts"),
        ([(1.0, 0)], ValueError, r"each row at least a vector"),
        ([([1.0], 0.5)], ValueError, r"labels must be whole numbers or texts, got 0.5. Cut a quantity"),
        ([([1.0], None)], ValueError, r"labels must be whole numbers or texts, got None"),
        ([([1.0], [1, 0])], ValueError, r"labels must be \[1\], one for each row, got \[1, 2\]"),
        (iter([]), TypeError, r"with a length, got list_iterator. Make a list of it"),
        ({"a": 1}, TypeError, r"with a length, got dict"),
        (np.ones((3, 2)), ValueError, r"labels are missing"),
        (torch.ones(3, 2), ValueError, r"labels are missing"),
    ],
)
def test_a_wrong_dataset_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        LabelledData.of(data)


@pytest.mark.parametrize("labels", [[1, 0, 1], np.array([1.0, 0.0, 1.0]), torch.tensor([1, 0, 1]), [True, False, True]])
@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_an_array_with_labels_is_taken(labels, kind):
    x = np.arange(6.0).reshape(3, 2)
    given = {"numpy": x, "torch": torch.from_numpy(x), "list": x.tolist()}[kind]
    data = LabelledData.of(given, labels)
    assert data.rows.tolist() == [[2, 3], [0, 1], [4, 5]] and data.rows.dtype == torch.float32
    assert data.names in (("0", "1"), ("False", "True"))


def test_the_array_given_is_not_changed_by_what_is_made_of_it():
    x = np.zeros((2, 3, 4, 4), dtype=np.uint8)
    data = LabelledData.of(x, [0, 1])
    data.x.fill_(1)
    assert data.x.dtype == torch.uint8 and not x.any()


@pytest.mark.parametrize(
    ("x", "labels", "error", "message"),
    [
        ([[1.0, 2.0], [3.0, float("nan")]], [0, 1], ValueError, r"must be finite, got nan in row 1, column 1. Leave"),
        (np.full((2, 2), 1e300), [0, 1], ValueError, r"must be finite, got inf in row 0, column 0"),
        ([[1.0], [2.0, 3.0]], [0, 1], ValueError, r"rows must be of one length"),
        ([["a"], ["b"]], [0, 1], TypeError, r"must be numbers, got <U1"),
        (np.ones((2, 2)), [0, 1, 2], ValueError, r"labels must be \[2\], one for each row, got \[3\]"),
        (np.ones((2, 2)), "kind", ValueError, r"labels='kind' names a column, but the data are no table"),
        (np.ones((2, 2)), [0, 1j], ValueError, r"labels must be whole numbers or texts, got complex128"),
        (np.ones((2, 2)), [0.0, float("nan")], ValueError, r"labels must be whole numbers or texts, got nan"),
        (np.ones(2), [0, 1], ValueError, r"each row at least a vector"),
        (np.ones((0, 2)), [], ValueError, r"must have a row"),
    ],
)
def test_a_wrong_array_is_refused(x, labels, error, message):
    with pytest.raises(error, match=message):
        LabelledData.of(x, labels)


def test_a_table_gives_its_columns_of_numbers_as_they_are():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(
        {
            "age": [30, 41, 25],
            "sick": [True, False, True],
            "kind": ["b", "a", "b"],
            "byte": np.array([200, 0, 7], dtype=np.uint8),
            "whole": pandas.array([1, 2, 3], dtype="Int64"),
        },
        index=[7, 7, 9],
    )
    expected = [[41, 0, 0, 2], [30, 1, 200, 1], [25, 1, 7, 3]]
    for data in (LabelledData.of(table, "kind"), LabelledData.of(table.drop(columns="kind"), table["kind"])):
        assert data.names == ("a", "b") and data.rows.dtype == torch.float32 and data.rows.tolist() == expected
    category = LabelledData.of(table[["age"]], table["kind"].astype("category"))
    assert category.names == ("a", "b")


def test_a_table_with_gaps_or_text_is_refused_by_the_name_of_the_column():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame({"age": [30.0, 41.0, 25.0], "sex": ["f", "m", "f"], "y": [0, 1, 0]})
    with pytest.raises(ValueError, match=r"column 'sex' must hold numbers, got 'f'.*get_dummies"):
        LabelledData.of(table, "y")
    dummies = pandas.get_dummies(table, columns=["sex"])  # the way out that the error names
    assert LabelledData.of(dummies, "y").rows.tolist() == [[30, 1, 0], [25, 1, 0], [41, 0, 1]]
    for gap in (None, float("nan")):
        table.loc[1, "age"] = gap
        with pytest.raises(
            ValueError, match=r"column 'age' must have a value .*1 of 3 are missing, the first in row 1"
        ):
            LabelledData.of(table, "sex")
    table["age"] = pandas.array([1, 2, None], dtype="Int64")
    with pytest.raises(ValueError, match=r"column 'age' must have a value .*the first in row 2.*dropna"):
        LabelledData.of(table, "sex")
    table["age"] = [1.0, float("inf"), 2.0]
    with pytest.raises(ValueError, match=r"column 'age' must hold finite numbers, got inf in row 1 \(1 such rows\)"):
        LabelledData.of(table, "sex")
    with pytest.raises(ValueError, match=r"labels must name a column, got 'z'. Columns: age, sex, y"):
        LabelledData.of(table, "z")
    with pytest.raises(ValueError, match=r"must have a column beside the labels"):
        LabelledData.of(table[["y"]], "y")
    table["y"] = [0, None, 1]
    with pytest.raises(ValueError, match=r"labels must have a value in every row; 1 of 3 are missing"):
        LabelledData.of(table[["sex"]].assign(sex=1.0), table["y"])
    doubled = pandas.DataFrame(np.ones((2, 2)), columns=["a", "a"])
    with pytest.raises(ValueError, match=r"columns must have names of their own, got a, a"):
        LabelledData.of(doubled, [0, 1])


OFF = dict.fromkeys(("flip", "crop", "brightness", "contrast", "saturation"), 0)


def photos(n=64, channels=3, side=12):
    """Photographs in float64, away from 0 and 1, so that nothing is cut off."""
    x = torch.rand(n, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return 0.4 + 0.2 * x


def changed(x, seed=0, **strengths):
    return AugmentPhotos(**OFF | strengths)(x, torch.Generator().manual_seed(seed))


def grey(x):
    return (x * torch.tensor([0.299, 0.587, 0.114], dtype=x.dtype)[:, None, None]).sum(-3, keepdim=True)


def test_without_strengths_a_photograph_comes_back_as_it_is():
    assert torch.equal(changed(photos()), photos())


def test_a_flip_is_exact_and_as_frequent_as_asked():
    x = photos()
    assert torch.equal(changed(x, flip=1), x.flip(-1))
    mirrored = (changed(x, flip=0.5) == x.flip(-1)).flatten(1).all(1)
    as_it_was = (changed(x, flip=0.5) == x).flatten(1).all(1)
    assert (mirrored ^ as_it_was).all() and 20 <= mirrored.sum() <= 44  # 3 standard deviations


def test_a_crop_keeps_pixels_and_every_shift_is_as_frequent():
    x = photos(900, side=5)
    moved = changed(x, crop=1)
    seen = torch.zeros(3, 3)
    for right in (-1, 0, 1):
        for down in (-1, 0, 1):
            expected = torch.nn.functional.pad(x, (right, -right, down, -down))
            seen[down, right] = (moved == expected).flatten(1).all(1).sum()
    assert seen.sum() == 900 and (seen - 100).abs().max() < 4 * 100**0.5


def test_a_mirror_comes_before_the_crop():
    x = photos(1)
    mirror, shift = torch.tensor([True]), torch.tensor([[2, -3]])
    assert torch.equal(shifted(x, mirror, shift), torch.nn.functional.pad(x.flip(-1), (2, -2, -3, 3)))


def test_brightness_scales_the_mean_by_a_uniform_factor():
    x = photos(2000)
    factor = changed(x, brightness=0.4).mean((1, 2, 3)) / x.mean((1, 2, 3))
    assert 0.6 <= factor.min() < 0.61 and 1.39 < factor.max() <= 1.4
    assert abs(factor.mean() - 1) < 4 * 0.4 / (3 * 2000) ** 0.5
    torch.testing.assert_close(changed(x, brightness=0.4), x * factor[:, None, None, None])


def test_contrast_keeps_the_mean_grey_and_scales_the_spread():
    x = photos()
    after = changed(x, contrast=0.5)
    torch.testing.assert_close(grey(after).mean((-2, -1)), grey(x).mean((-2, -1)))
    factor = after.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.5 <= factor.min() < 0.7 and 1.3 < factor.max() <= 1.5
    mean, factor = grey(x).mean((-2, -1), keepdim=True), factor[:, None, None, None]
    torch.testing.assert_close(after, mean + factor * (x - mean))  # one mean for all colours


def test_saturation_keeps_the_grey_of_each_pixel_and_nothing_of_one_channel():
    x = photos()
    after = changed(x, saturation=1)
    torch.testing.assert_close(grey(after), grey(x))
    factor = (after - grey(x))[:, 0].abs().mean((1, 2)) / (x - grey(x))[:, 0].abs().mean((1, 2))
    assert factor.min() < 0.3 and factor.max() > 1.7
    assert torch.equal(changed(photos(channels=1), saturation=1), photos(channels=1))


def test_an_augmentation_is_seeded_bounded_and_takes_any_leading_dimensions():
    x = torch.rand(3, 4, 3, 8, 8)
    augment = AugmentPhotos(brightness=1, contrast=1, crop=2)
    one, same, other = (augment(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == x.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one.flatten(0, 1), augment(x.flatten(0, 1), torch.Generator().manual_seed(1)))
    assert augment(x[0, :0]).shape == (0, 3, 8, 8)


def test_episodes_take_it(home):
    tasks = Episodes(pictures(home, size=9), ways=2, shots=1, queries=1, augment=AugmentPhotos(crop=2))
    assert tasks.sample(3, seed=0).support_x.shape == (3, 2, 3, 9, 9)


@pytest.mark.gpu
def test_a_photograph_on_the_card_is_changed_there_as_on_the_processor():
    x = torch.rand(20, 3, 32, 32)
    here, there = (AugmentPhotos()(y, torch.Generator().manual_seed(0)) for y in (x, x.cuda()))
    assert there.device.type == "cuda"
    torch.testing.assert_close(there.cpu(), here)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: AugmentPhotos(flip=1.5), ValueError, "flip must be finite and at least 0 and at most 1, got 1.5"),
        (lambda: AugmentPhotos(crop=0.5), TypeError, "crop must be a whole number, got 0.5"),
        (lambda: AugmentPhotos(brightness="much"), TypeError, "brightness must be a real number, got 'much'"),
        (lambda: AugmentPhotos()(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), TypeError, r"x.float\(\) / 255"),
        (lambda: AugmentPhotos()(torch.zeros(3, 8, 8)), ValueError, r"x must be \[..., C, H, W\].*One picture"),
        (lambda: AugmentPhotos()(torch.zeros(2, 4, 8, 8)), ValueError, r"C 1 or 3, got \[2, 4, 8, 8\]"),
    ],
)
def test_a_wrong_augmentation_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
