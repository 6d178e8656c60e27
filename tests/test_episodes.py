"""Episodes and LabelledData, on data whose pixels say their own class and row, so that nothing can be mixed up."""

import numpy as np
import pytest
import torch

from metakit.tasks import Augment, Episodes, LabelledData, digits


def planted(classes=12, rows=9, side=3, alphabets=None):
    """Rows whose first pixel is the class and second the row; regular, uint8."""
    x = torch.randint(0, 256, (classes, rows, 1, side, side), generator=torch.Generator().manual_seed(0))
    x[..., 0, 0, 0] = torch.arange(classes)[:, None]
    x[..., 0, 0, 1] = torch.arange(rows)
    return LabelledData(x.to(torch.uint8), alphabet=None if alphabets is None else torch.arange(classes) % alphabets)


def ragged(counts=(5, 9, 4, 7, 6, 12)):
    """The same from a shuffled pair (x, y) with labels 10, 20, ..., float."""
    pairs = torch.tensor([(c, r) for c, n in enumerate(counts) for r in range(n)])
    pairs = pairs[torch.randperm(len(pairs), generator=torch.Generator().manual_seed(1))]
    return pairs.float(), 10 * (pairs[:, 0] + 1)


def who(batch):
    """Class and row of every picture: ``[T, rows, 2]`` for the support set and the query set."""
    scale = 255 if batch.support_x.dim() > 3 else 1
    return [(x.flatten(2)[..., :2] * scale).round().long() for x in (batch.support_x, batch.query_x)]


@pytest.mark.parametrize("data", [planted(), ragged()], ids=["regular", "ragged"])
@pytest.mark.parametrize("shots", [1, 3])
def test_classes_are_distinct_rows_are_disjoint_and_labels_are_right(data, shots):
    batch = Episodes(data, ways=4, shots=shots, queries=1).sample(200, seed=0)
    support, query = who(batch)
    assert batch.ways == 4 and batch.support_y.dtype == torch.int64 and support.shape[1] == 4 * shots
    expected = torch.arange(4).repeat_interleave(shots)
    assert (batch.support_y == expected).all() and (batch.query_y == torch.arange(4)).all()
    for t in range(200):
        classes = support[t, ::shots, 0]
        assert len(set(classes.tolist())) == 4
        assert (support[t, :, 0] == classes[batch.support_y[t]]).all()
        assert (query[t, :, 0] == classes[batch.query_y[t]]).all()
        rows = [tuple(pair) for pair in torch.cat([support[t], query[t]]).tolist()]
        assert len(set(rows)) == len(rows) == 4 * (shots + 1)


def test_the_pictures_are_the_data_as_real_numbers_and_the_layout_is_class_by_class():
    data = planted()
    batch = Episodes(data, ways=3, shots=2, queries=5).sample(4, seed=1)
    assert batch.support_x.shape == (4, 6, 1, 3, 3) and batch.query_x.shape == (4, 15, 1, 3, 3)
    assert all(t.is_contiguous() for t in batch.tensors) and batch.support_x.dtype == torch.float32
    for x, (classes, rows) in zip((batch.support_x, batch.query_x), (w.unbind(-1) for w in who(batch)), strict=True):
        assert torch.equal(x, data.x[classes, rows].float() / 255)


@pytest.mark.parametrize("data", [planted(), ragged()], ids=["regular", "ragged"])
def test_every_class_every_row_and_every_label_is_equally_likely(data):
    n = 6000
    support, query = who(Episodes(data, ways=3, shots=1, queries=2).sample(n, seed=3))
    # Unequal numbers of rows must not favour the larger class; each label must see each class equally often.
    classes = int(support[..., 0].max()) + 1
    for label in range(3):
        counts = support[:, label, 0].bincount().float()
        assert chi_square(counts, n / classes) < critical(classes - 1)
    for c in range(classes):
        for side in (support, query):
            counts = side[side[..., 0] == c][:, 1].bincount().float()
            assert chi_square(counts, counts.mean()) < critical(len(counts) - 1)
    assert len(support[query[:, 0, 1] == 0][:, 0, 1].unique()) >= 3  # support and query rows vary independently


def test_every_ordered_set_of_classes_is_equally_likely():
    support, _ = who(Episodes(planted(classes=4), ways=3, shots=1, queries=1).sample(12_000, seed=4))
    code = (support[..., 0] * torch.tensor([16, 4, 1])).sum(1)
    counts = code.bincount()
    counts = counts[counts > 0].float()
    assert len(counts) == 24 and chi_square(counts, 500) < critical(23)


def chi_square(counts, expected):
    return float(((counts - expected) ** 2 / expected).sum())


def critical(degrees):
    """Exceeded by chance about once in 30,000 (normal approximation, four standard deviations)."""
    return degrees + 4 * (2 * degrees) ** 0.5 + 8


def test_the_same_seed_gives_the_same_batch_and_another_does_not():
    tasks = Episodes(planted(), ways=5, shots=1, queries=3)
    one, two = tasks.sample(3, seed=7), tasks.sample(3, generator=torch.Generator().manual_seed(7))
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))
    assert not torch.equal(one.support_x, tasks.sample(3, seed=8).support_x)
    state = torch.get_rng_state()
    default = tasks.sample(3)
    torch.set_rng_state(state)
    assert torch.equal(default.query_x, tasks.sample(3).query_x)


def test_all_classes_and_all_rows_can_be_used():
    support, query = who(Episodes(planted(4, 5), ways=4, shots=2, queries=3).sample(10, seed=0))
    both = torch.cat([support, query], 1)
    assert all(len({tuple(p) for p in pairs.tolist()}) == 20 for pairs in both)


def test_within_an_alphabet_all_classes_share_it_and_alphabets_are_equally_likely():
    data = LabelledData(planted(13).x, alphabet=torch.tensor([0] * 3 + [1] * 4 + [2] * 6))
    support, _ = who(Episodes(data, ways=4, shots=1, queries=1, within="alphabet").sample(4000, seed=0))
    alphabet = data.alphabet[support[..., 0]]
    assert (alphabet == alphabet[:, :1]).all()
    counts = alphabet[:, 0].bincount().float()
    assert counts[0] == 0 and chi_square(counts[1:], 2000) < critical(1)  # alphabet 0 has too few classes
    assert len({tuple(sorted(row)) for row in support[alphabet[:, 0] == 2][..., 0].tolist()}) == 15


def test_augment_sees_every_row_once_and_the_generator():
    seen = []

    def negative(x, generator):
        seen.append((x.shape, generator))
        return 1 - x

    generator = torch.Generator().manual_seed(2)
    batch = Episodes(planted(), 3, 2, 4, augment=negative).sample(5, generator=generator)
    plain = Episodes(planted(), 3, 2, 4).sample(5, seed=2)
    assert seen == [((5 * 3 * 6, 1, 3, 3), generator)]
    assert torch.equal(batch.support_x, 1 - plain.support_x) and torch.equal(batch.query_x, 1 - plain.query_x)


def test_restyle_changes_all_rows_of_a_class_alike_and_every_class_of_every_task_on_its_own():
    def darker(x, generator):
        return x * torch.rand(len(x), 1, 1, 1, generator=generator)

    plain = Episodes(planted(), 3, 2, 4)
    picks = plain.pick(5, generator=torch.Generator().manual_seed(2))
    before = plain.gather(picks)
    tasks = Episodes(planted(), 3, 2, 4, restyle=darker)
    after = tasks.gather(picks, generator=torch.Generator().manual_seed(3))
    factors = torch.rand(15, 1, 1, 1, generator=torch.Generator().manual_seed(3)).view(5, 3)
    for x, y, label in zip(
        (before.support_x, before.query_x),
        (after.support_x, after.query_x),
        (before.support_y, before.query_y),
        strict=True,
    ):
        torch.testing.assert_close(y, x * factors.gather(1, label)[..., None, None, None])


def test_restyle_by_augment_turns_a_class_and_leaves_its_rows_alike():
    data = LabelledData(torch.rand(6, 1, 1, 12, 12).expand(6, 4, 1, 12, 12).contiguous())  # all rows of a class equal
    batch = Episodes(data, 3, 1, 3, restyle=Augment(rotate=90, scale=0.5)).sample(4, seed=0)
    torch.testing.assert_close(batch.query_x, batch.support_x.repeat_interleave(3, 1))
    still = Episodes(data, 3, 1, 3).sample(4, seed=0)
    assert ((batch.support_x - still.support_x).abs().mean((2, 3, 4)) > 0.01).all()


def test_restyle_comes_before_augment():
    tasks = Episodes(planted(), 3, 1, 1, restyle=lambda x, _: x * 0, augment=lambda x, _: x + 1)
    assert (tasks.sample(2, seed=0).support_x == 1).all()


def test_the_batch_goes_to_the_device_asked_for_and_data_are_copied_there_once():
    tasks = Episodes(planted(), 3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    assert tasks.sample(2, generator=generator, device="meta").device.type == "meta"
    tasks.sample(2, generator=generator, device="meta")
    assert len(tasks._copies) == 2


@pytest.mark.parametrize("data", [planted(20), LabelledData(*ragged((3, 4, 5, 6, 7, 8, 9, 9, 9, 9)))])
def test_splits_have_no_class_in_common_and_keep_every_row(data):
    for sizes in ((0.5, 0.3, 0.2), (len(data) // 2, 3, 1)):
        parts = data.split(*sizes, seed=0)
        expected = [round(s * len(data)) if isinstance(s, float) else s for s in sizes]
        assert [len(p) for p in parts] == expected
        names = [name for part in parts for name in part.names]
        assert len(set(names)) == len(names)
        for part in parts:
            for i, name in enumerate(part.names):
                assert torch.equal(part[i], data[data.names.index(name)])
    again, other = data.split(0.5, seed=0)[0], data.split(0.5, seed=1)[0]
    assert again.names == data.split(0.5, generator=torch.Generator().manual_seed(0))[0].names != other.names


def test_chosen_classes_keep_their_numbers_and_names():
    data = LabelledData(
        planted(3).x,
        alphabet=torch.tensor([0, 0, 1]),
        character=torch.tensor([1, 2, 1]),
        names=("a", "b", "c"),
        alphabets=("A", "B"),
    )
    some = data.classes(torch.tensor([2, 0]))
    assert some.names == ("c", "a") and some.alphabet.tolist() == [1, 0] and some.character.tolist() == [1, 1]
    assert torch.equal(some.x, data.x[[2, 0]]) and some.alphabets == ("A", "B")


@pytest.mark.parametrize("make", [planted, lambda: LabelledData(torch.rand(7, 1, 4, 4), torch.arange(7) // 3)])
def test_rotations_are_four_times_the_classes_and_equal_numpy_rot90(make):
    data = make()
    turned = data.rotations()
    n = len(data)
    assert len(turned) == 4 * n and len(set(turned.names)) == 4 * n and turned.turn.bincount().tolist() == [n] * 4
    for k in range(4):
        for c in range(n):
            assert np.array_equal(turned[k * n + c].numpy(), np.rot90(data[c].numpy(), k, axes=(-2, -1)))


def test_a_turned_alphabet_is_an_alphabet_of_its_own():
    turned = planted(6, alphabets=2).rotations()
    assert turned.alphabet.unique().tolist() == list(range(8))
    assert ((turned.alphabet // 2) == turned.turn).all()


def test_a_pair_with_equal_counts_becomes_regular_and_rows_keep_their_order():
    x = torch.arange(12.0)[:, None]
    data = LabelledData(x, torch.tensor([5, -1] * 6))
    assert data.y is None and data.x.shape == (2, 6, 1) and data.names == ("-1", "5")
    assert data[0].flatten().tolist() == [1, 3, 5, 7, 9, 11]
    assert [len(rows) for rows in data] == [6, 6]


def test_moving_the_data_moves_everything():
    moved = planted(6, alphabets=2).to("meta")
    assert moved.x.device.type == moved.alphabet.device.type == "meta"


def test_digits_are_the_real_ones():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    data = digits()
    assert len(data) == 10 and len(data.rows) == 1797 and data.names == tuple("0123456789")
    assert data.rows.min() == 0 and data.rows.max() == 1
    nought, one = (data[c][:, 0, 3:5, 3:5].mean() for c in (0, 1))
    assert nought + 0.2 < one  # a nought is empty in the middle
    assert Episodes(data, 5, 1, 15).sample(2, seed=0).query_x.shape == (2, 75, 1, 8, 8)


def alone(batch, t):
    """Classes, rows and labels of one task's real rows, for each side."""
    sides = zip(who(batch), (batch.support_y, batch.query_y), (batch.support_mask, batch.query_mask), strict=True)
    return [(pairs[t][mask[t]], y[t][mask[t]]) for pairs, y, mask in sides]


@pytest.mark.parametrize(
    ("data", "options"),
    [(planted(), {}), (planted(16, alphabets=2), {"within": "alphabet"}), (planted(), {"drawers": "different"})],
    ids=["all", "alphabet", "drawers"],
)
def test_from_ranges_every_task_has_its_own_ways_and_shots(data, options):
    batch = Episodes(data, ways=(2, 5), shots=(1, 3), queries=2, **options).sample(3000, seed=0)
    assert batch.ways == 5 and batch.support_x.shape[:2] == (3000, 15) and batch.query_x.shape[:2] == (3000, 10)
    ways, rows = (batch.classes >= 0).sum(1), batch.support_mask.sum(1)
    assert torch.equal(batch.query_mask.sum(1), 2 * ways) and (rows % ways == 0).all()
    for counts, kinds in ((ways.bincount()[2:], 4), ((rows // ways).bincount()[1:], 3)):
        assert len(counts) == kinds and chi_square(counts.float(), 3000 / kinds) < critical(kinds - 1)
    assert not (batch.support_y[~batch.support_mask].any() or batch.query_y[~batch.query_mask].any())
    for t in range(100):
        (support, labels), (query, targets) = alone(batch, t)
        assert torch.equal(support[:, 0], batch.classes[t][labels])
        assert torch.equal(query[:, 0], batch.classes[t][targets])
        assert labels.unique().tolist() == targets.unique().tolist() == list(range(int(ways[t])))
        assert len(set(map(tuple, torch.cat([support, query]).tolist()))) == len(support) + len(query)
        assert not options.get("within") or len(data.alphabet[support[:, 0]].unique()) == 1
        assert not options.get("drawers") or not set(support[:, 1].tolist()) & set(query[:, 1].tolist())
    again = Episodes(data, (2, 5), (1, 3), 2, **options).sample(3000, seed=0)
    assert torch.equal(again.support_x, batch.support_x) and torch.equal(again.classes, batch.classes)


def test_changes_go_with_ranges():
    options = {"restyle": lambda x, _: 1 - x, "augment": lambda x, _: x / 2}
    plain = Episodes(planted(), (2, 4), (1, 2), 1).sample(5, seed=0)
    changed = Episodes(planted(), (2, 4), (1, 2), 1, **options).sample(5, seed=0)
    torch.testing.assert_close(changed.query_x, (1 - plain.query_x) / 2)
    assert torch.equal(changed.support_mask, plain.support_mask)


def test_a_class_too_small_for_a_task_is_left_out_of_it_and_said_once():
    with pytest.warns(UserWarning, match=r"2 of 6 classes have fewer than shots \+ queries = 4 \+ 2.*'30', has 4"):
        tasks = Episodes(ragged(), 3, 4, 2)  # rows 5, 9, 4, 7, 6, 12
    assert repr(tasks).endswith("ways=3, shots=4, queries=2, 2 classes too small)")
    batch = tasks.sample(500, seed=0)
    assert batch.classes.unique().tolist() == [1, 3, 4, 5]
    with pytest.warns(UserWarning, match="are left out of tasks that need more; the smallest"):
        tasks = Episodes(ragged(), (2, 3), (1, 4), 2)
    batch = tasks.sample(2000, seed=0)
    shots = batch.support_mask.sum(1) // (batch.classes >= 0).sum(1)
    sizes = torch.tensor([5, 9, 4, 7, 6, 12])
    for k in range(1, 5):
        assert batch.classes[shots == k].unique().tolist() == [-1, *(sizes >= k + 2).nonzero()[:, 0].tolist()]
    for t in range(200):
        (support, _), (query, _) = alone(batch, t)
        pairs = torch.cat([support, query])
        assert len(set(map(tuple, pairs.tolist()))) == len(pairs) and (pairs[:, 1] < sizes[pairs[:, 0]]).all()


def test_a_small_class_of_an_alphabet_is_left_out_too():
    x, y = ragged((5, 5, 2, 5, 5, 5, 2, 2))
    data = LabelledData(x, y, alphabet=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]))
    with pytest.warns(UserWarning, match="3 of 8 classes"):
        tasks = Episodes(data, 3, 2, 2, within="alphabet")
    assert tasks.sample(50, seed=0).classes.unique().tolist() == [0, 1, 3]


@pytest.mark.parametrize("data", [planted(), ragged()], ids=["regular", "ragged"])
def test_a_batch_tells_which_classes_were_drawn(data):
    batch = Episodes(data, 4, 1, 2).sample(50, seed=0)
    assert torch.equal(batch.classes, who(batch)[0][..., 0]) and batch.support_mask is None


def test_token_ids_stay_whole_numbers():
    data = LabelledData(torch.randint(0, 10_000, (6, 4, 7), generator=torch.Generator().manual_seed(0)))
    batch = Episodes(data, 3, 1, 2).sample(2, seed=0)
    assert batch.support_x.dtype == torch.int64 and data[0].dtype == torch.int64
    assert torch.isin(batch.support_x[0, 0], data.x[batch.classes[0, 0]]).all()


X, Y = torch.rand(10, 2), torch.arange(10) // 2
D = planted(alphabets=4)
WRONG = [
    (lambda: Episodes(D, 13, 1, 1), ValueError, "ways must be at most 12, the number of classes, got 13"),
    (
        lambda: Episodes(D, 5, 5, 5),
        ValueError,
        r"shots \+ queries must be at most the rows of 5 classes, got 5 \+ 5; 0 have as many, the largest has 9",
    ),
    (lambda: Episodes(ragged(), 2, 7, 3), ValueError, r"rows of 2 classes, got 7 \+ 3; 1 have as many.*has 12. Lower"),
    (lambda: Episodes(D, 0, 1, 1), ValueError, "ways must be at least 1, got 0"),
    (lambda: Episodes(D, 2, -1, 1), ValueError, "shots must be at least 1, got -1"),
    (lambda: Episodes(D, 2, 1, 0), ValueError, "queries must be at least 1, got 0"),
    (lambda: Episodes(D, 2.0, 1, 1), TypeError, "ways must be a whole number, got 2.0"),
    (lambda: Episodes(X, 2, 1, 1), TypeError, r"data must be LabelledData or a pair \(x, y\) of tensors, got Tensor"),
    (lambda: Episodes(D, 2, 1, 1, within="family"), ValueError, "within must be one of alphabet, None, got 'family'"),
    (lambda: Episodes(planted(), 2, 1, 1, within="alphabet"), ValueError, "needs the alphabet of each class"),
    (lambda: Episodes(D, 4, 1, 1, within="alphabet"), ValueError, "at least 4 classes; the largest has 3"),
    (lambda: Episodes(D, (5, 2), 1, 1), ValueError, "ways must be .* low <= high, got .*Swap"),
    (lambda: Episodes(D, (2, 13), 1, 1), ValueError, "ways must be at most 12, the number of classes, got 13"),
    (lambda: Episodes(D, 2, (1, 2.5), 1), TypeError, "shots must be a whole number, got 2.5"),
    (lambda: Episodes(D, 2, (0, 2), 1), ValueError, "shots must be at least 1, got 0"),
    (lambda: Episodes(D, 2, 1, (1, 2)), TypeError, r"queries must be a whole number, got \(1, 2\)"),
    (lambda: Episodes(D, 2, 1, 1, augment=3), TypeError, "augment must be a callable"),
    (
        lambda: Episodes(D, 2, 1, 1, augment=lambda x: x),
        TypeError,
        r"called as augment\(x, generator\), but takes \(x\). Wrap it: lambda x, generator",
    ),
    (lambda: Episodes(D, 2, 1, 1, augment=torch.nn.Identity()), TypeError, r"but takes \(input: .*Wrap it"),
    (lambda: Episodes(D, 2, 1, 1, augment=lambda x, g: None).sample(1), TypeError, "return a tensor, got NoneType"),
    (lambda: Episodes(D, 2, 1, 1, augment=lambda x, g: x.double()).sample(1), ValueError, "float32, got .*float64"),
    (lambda: Episodes(D, 2, 1, 1, augment=lambda x, g: x[1:]).sample(1), ValueError, "augment must keep the shape"),
    (lambda: Episodes(D, 2, 1, 1, restyle=3), TypeError, "restyle must be a callable"),
    (lambda: Episodes(D, 2, 1, 1, restyle=lambda x, g: x[1:]).sample(1), ValueError, "restyle must keep the shape"),
    (
        lambda: Episodes((torch.rand(8, 3), torch.arange(8) % 2), 2, 1, 1, restyle=Augment()),
        ValueError,
        "restyle needs",
    ),
    (lambda: Episodes(D, 2, 1, 1).sample(0), ValueError, "n_tasks must be at least 1, got 0"),
    (lambda: Episodes(D, 2, 1, 1).sample(1, seed=0, generator=torch.Generator()), ValueError, "not both"),
    (lambda: Episodes(D, 2, 1, 1).sample(1, device="abacus"), ValueError, "got 'abacus'"),
    (lambda: LabelledData([1, 2]), TypeError, "x must be a torch.Tensor, got list"),
    (lambda: LabelledData(X, [1, 2]), TypeError, "y must be a torch.Tensor, got list"),
    (lambda: LabelledData(X), ValueError, r"x must be \[classes, rows per class, ...\].*got \[10, 2\]"),
    (lambda: LabelledData(X[:0], Y[:0]), ValueError, "x must not be empty"),
    (lambda: LabelledData(X.int(), Y), ValueError, "x must hold real numbers, uint8 or int64, got torch.int32"),
    (
        lambda: LabelledData(X.index_fill(0, torch.tensor([3]), torch.nan), Y),
        ValueError,
        r"x must be finite; x\[3\] holds NaN",
    ),
    (lambda: LabelledData(X, Y[:9]), ValueError, r"y must be \[10\], one label per row of x, got \[9\]"),
    (lambda: LabelledData(X, Y[:, None]), ValueError, r"y must be \[10\].*got \[10, 1\]"),
    (lambda: LabelledData(X, Y.float()), ValueError, "y must hold whole class labels, got torch.float32"),
    (lambda: LabelledData(X, Y.to("meta")), ValueError, "on one device, got cpu and meta"),
    (lambda: LabelledData(X, Y, names=("a",)), ValueError, "one name per class; got 1 for 5 classes"),
    (lambda: LabelledData(X, Y, alphabet=Y), ValueError, r"alphabet must be int64 \[5\]"),
    (lambda: LabelledData(X, Y).rotations(), ValueError, r"square pictures \[..., H, W\], got rows \[2\]"),
    (lambda: D.rotations().rotations(), ValueError, "turned already"),
    (lambda: D.rotations().split(0.5), ValueError, r"split before rotations\(\)"),
    (lambda: D.split(), ValueError, "split needs the size of each part"),
    (lambda: D.split(0.7, 0.7), ValueError, "add up to 1 at most"),
    (lambda: D.split(10, 3), ValueError, "ask for 13 classes, the data have 12"),
    (lambda: D.split(0.99, 0.01), ValueError, "leave one empty"),
    (lambda: D.split(0), ValueError, "size of a part must be at least 1, got 0"),
    (lambda: D.classes([12]), ValueError, "class numbers must be from 0 to 11, got 12"),
    (lambda: D.classes([1, 1]), ValueError, "classes must be distinct"),
    (lambda: D.classes([]), ValueError, "Name at least one class"),
    (lambda: D[12], IndexError, "class must be below 12, the number of classes; got 12"),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_input_is_refused_with_the_rule_and_the_value(call, error, message):
    with pytest.raises(error, match=message):
        call()
