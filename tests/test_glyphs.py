"""Glyphs: invented alphabets that are the same each time, distinct, and measured like handwriting."""

import math

import pytest
import torch
import torch.nn.functional as F

from metakit.data import glyphs
from metakit.data._strokes import SEGMENTS, STROKES, Characters, Dice, characters, rasterise, trace
from metakit.tasks import Episodes, Glyphs, LabelledData


@pytest.fixture(scope="module")
def data():
    return Glyphs(6, 20, 20, seed=0)


def test_it_is_labelled_data_in_drawer_order(data):
    assert isinstance(data, LabelledData) and data.x.dtype == torch.uint8 and data.x.shape == (120, 20, 1, 28, 28)
    assert data.alphabet.tolist() == [i // 20 for i in range(120)]
    assert data.character.tolist() == [1 + i % 20 for i in range(120)]
    assert data.names[41] == "invented002/character02" and data.alphabets[2] == "invented002"
    assert repr(data) == "Glyphs(120 classes, 20 rows each, row [1, 28, 28] uint8, 6 alphabets)"
    assert Glyphs(2, 3, 4).alphabet.tolist() == [0, 0, 0, 1, 1, 1]
    train, test = data.split(100, 20, seed=0)
    assert type(train) is LabelledData and not set(train.names) & set(test.names)
    assert len(data.rotations()) == 480 and torch.equal(data.classes([7]).x[0], data.x[7])
    batch = Episodes(data, 20, 1, 1, within="alphabet").sample(2, seed=0)
    assert batch.support_x.shape == (2, 20, 1, 28, 28) and batch.support_x.min() >= 0 and batch.support_x.max() <= 1


def test_the_same_seed_gives_the_same_bits_however_many_are_asked_for(data):
    few = Glyphs(2, 20, 20, seed=0)
    assert torch.equal(few.x, data.x[:40])
    other = Glyphs(2, 20, 20, seed=1)
    assert (other.x != few.x).flatten(1).any(1).all() and not torch.equal(other.x[:20], few.x[20:])


@pytest.mark.parametrize("budget", [1, 100_000, 10**9])
def test_chunks_change_nothing_but_the_rounding_of_a_grey(data, monkeypatch, budget):
    monkeypatch.setattr(glyphs, "_BUDGET", budget)
    difference = (Glyphs(2, 20, 20, seed=0).x.int() - data.x[:40].int()).abs()
    assert difference.max() <= 1 and difference.float().mean() < 1e-4


def test_making_them_leaves_the_default_generator_alone():
    state = torch.get_rng_state()
    Glyphs(1, 2, 2)
    assert torch.equal(torch.get_rng_state(), state)


def test_alphabets_differ_in_style_and_no_two_characters_or_drawings_are_the_same(data):
    assert len(data.rows.flatten(1).unique(dim=0)) == 120 * 20
    # The mean drawing of a character, blurred, is like its own drawings, and unlike every other character's.
    means = F.avg_pool2d(data.x.float().mean(1), 4).flatten(1)
    similar = F.normalize(means) @ F.normalize(means).T - 2 * torch.eye(120)
    assert similar.max() < 0.99
    ink = data.x.float().mean((1, 2, 3, 4)).view(6, 20)
    assert ink.mean(1).std() > 0.3 * ink.std(1).mean()


def test_drawings_keep_to_the_ranges_of_real_handwriting():
    # Omniglot's part small1 at 28 x 28: mean ink 0.076, within a character 2.2 pixels of deviation in height and in
    # width; height 16.4, width 14.9; the box centred at 13.1, give or take 1.5; ink over half its outline 1.66.
    x = Glyphs(40, 20, 10, seed=11).x.float()[:, :, 0] / 255
    assert 0.065 < x.mean() < 0.085 and x.flatten(2).amax(2).min() > 0.5
    outline = x.diff(dim=2).abs().sum((2, 3)) + x.diff(dim=3).abs().sum((2, 3))
    assert 1.5 < 2 * 1.27 * (x.sum((2, 3)) / outline).median() < 1.8
    rows = torch.arange(28.0)
    for axis in (2, 3):
        seen = (x > 0.3).any(axis)
        low, high = torch.where(seen, rows, 99).amin(2), torch.where(seen, rows, -1).amax(2)
        side, middle = high - low + 1, (low + high) / 2
        assert 14 < side.mean() < 18 and 1.9 < side.std(1).mean() < 2.7
        assert 12.9 < middle.mean() < 13.4 and 1.2 < middle.std() < 1.7
        assert (low > 0).float().mean() > 0.95 and (high < 27).float().mean() > 0.95


def test_drawings_of_one_character_resemble_each_other_about_as_much_as_real_ones():
    # Nearest neighbour by pixels, one drawing of each of 20 characters by one drawer against another's: 22% right on
    # Omniglot's part small1, and 55% after the box is scaled to one size and blurred. Chance is 5%.
    x = Glyphs(30, 20, 6, seed=12).x.float().flatten(2).view(30, 20, 6, -1)
    one, two = (F.normalize(x[:, :, drawer], dim=2) for drawer in (0, 1))
    right = ((one @ two.mT).argmax(1) == torch.arange(20)).float().mean()
    assert 0.15 < right < 0.35


def plan(**changes):
    """One character of one stroke, a line to the right of length 1; the other strokes are absent."""
    zero, per_segment = torch.zeros(1, STROKES), torch.zeros(1, STROKES, SEGMENTS)
    lengths = per_segment.clone()
    lengths[0, 0] = 0.25
    fields = dict.fromkeys(("roundness", "heading", "at", "by", "to", "tied"), zero)
    fields |= {"lengths": lengths, "bends": per_segment, "gap": torch.zeros(1, STROKES, 2)}
    fields |= {"onto": zero.long(), "stretch": torch.ones(1), "height": torch.ones(1)}
    return Characters(**fields | changes)


def path(character, samples=50):
    """Where the pen is after each step, stroke by stroke, ``[STROKES, P, 2]``; corners sharp, no tremor."""
    points, steps = trace(character, samples, torch.full((1,), 1e-3), torch.zeros(1, 2))
    return (points + steps / 2).view(STROKES, -1, 2)


def test_a_plain_stroke_is_a_line_and_an_even_bend_is_a_circle():
    line = path(plan())[0]
    torch.testing.assert_close(line[-1], torch.tensor([1.0, 0.0]))
    assert line[:, 1].abs().max() == 0
    quarter = torch.full((1, STROKES, SEGMENTS), math.pi / 2)
    ring = path(plan(bends=quarter, roundness=torch.ones(1, STROKES)))[0]
    centre = torch.tensor([0.0, 1 / (2 * math.pi)])  # circumference 1; y points down, so it bends clockwise
    torch.testing.assert_close((ring - centre).norm(dim=1), torch.full((200,), centre[1].item()), atol=2e-3, rtol=0)
    square = path(plan(bends=quarter))[0]
    assert square.abs().amax() < 0.2505 and square[-1].norm() < 1e-2


def test_a_stroke_hangs_on_another_and_its_end_can_be_tied():
    lengths = torch.full((1, STROKES, SEGMENTS), 0.25)
    lengths[0, 2:] = 0
    heading = torch.tensor([[0.0, math.pi / 2, 0.0, 0.0]])
    half = torch.full((1, STROKES), 0.5)
    cross = path(plan(lengths=lengths, heading=heading, at=half, by=half))
    torch.testing.assert_close(cross[1, [0, -1]], torch.tensor([[0.5, -0.5], [0.5, 0.5]]), atol=2e-2, rtol=0)
    bends = torch.zeros(1, STROKES, SEGMENTS)
    bends[0, 0] = math.pi / 2.5  # an open bow
    tied = torch.tensor([[-1.0, 0.0, 0.0, 0.0]])
    opened, closed = (path(plan(bends=bends, tied=value))[0] for value in (torch.zeros(1, STROKES), tied))
    assert opened[-1].norm() > 0.1 and closed[-1].norm() < 1e-2
    both = path(plan(lengths=lengths, heading=0.2 * heading, tied=torch.tensor([[0.0, 1.0, 0.0, 0.0]]), to=2 * half))
    torch.testing.assert_close(both[1, -1], both[0, -1], atol=2e-2, rtol=0)


@pytest.mark.parametrize("size", [28, 56])
def test_ink_is_length_times_pen_and_lies_where_the_pen_was(size):
    t = torch.linspace(0, 1, 400)[:, None]
    start, end = torch.tensor([size * 0.3, size * 0.4]), torch.tensor([size * 0.7, size * 0.6])
    points = torch.lerp(start, end, t)
    steps = ((end - start) / 400).expand(400, 2)
    pen = torch.tensor([1.5, 2.5])
    ink = rasterise(points.expand(2, -1, -1), steps.expand(2, -1, -1), pen, size)
    torch.testing.assert_close(ink.sum((1, 2)), pen * (end - start).norm(), rtol=1e-3, atol=0)
    where = torch.arange(size) + 0.5
    centre = torch.stack([ink.sum(1) @ where, ink.sum(2) @ where], 1) / ink.sum((1, 2))[:, None]
    torch.testing.assert_close(centre, ((start + end) / 2).expand(2, 2), atol=0.02, rtol=0)
    assert (ink[:, 0] < 1e-6).all() and (ink.amax((1, 2)) > 0.9).all()


def test_characters_of_an_alphabet_have_one_to_four_strokes_on_earlier_ones():
    many = characters(500, Dice(torch.Generator().manual_seed(0)))
    strokes = (many.lengths.sum(2) > 0).sum(1)
    assert strokes.min() == 1 and strokes.max() == STROKES and len(strokes.unique()) == STROKES
    assert (many.onto[:, 1:] < torch.arange(1, STROKES)).all()
    assert all(field.isfinite().all() and len(field) == 500 for field in vars(many).values())


def test_another_size_shows_the_same_writing(data):
    large = Glyphs(1, 20, 20, size=56, seed=0).x.float()
    small = data.x[:20].float()
    difference = (F.avg_pool2d(large.flatten(0, 1), 2).view_as(small) - small).abs().mean() / small.mean()
    assert difference < 0.25


def test_a_bar_shows_progress_on_request(capsys):
    Glyphs(2, 2, 2)
    assert capsys.readouterr().err == ""
    Glyphs(2, 2, 2, progress=True)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alphabets": 0}, ValueError, "alphabets must be at least 1, got 0. Give a larger number."),
        ({"characters": 1.5}, TypeError, "characters must be a whole number, got 1.5. Give an int of at least 1."),
        ({"drawers": True}, TypeError, "drawers must be a whole number, got True. Give an int of at least 1."),
        ({"size": 7}, ValueError, "size must be at least 8, got 7. Give a larger number."),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1. Give a larger number."),
        ({"device": "abacus"}, ValueError, "device must name a torch device, got 'abacus'. Try 'cpu' or 'cuda'."),
    ],
)
def test_wrong_arguments_are_refused(options, error, message):
    with pytest.raises(error) as caught:
        Glyphs(**options)
    assert str(caught.value) == message


@pytest.mark.gpu
def test_it_is_made_on_cuda_and_is_the_same_each_time():
    one, two = (Glyphs(2, 5, 4, seed=1, device="cuda") for _ in range(2))
    assert one.x.device.type == "cuda" and torch.equal(one.x, two.x)


def test_support_and_query_come_from_different_drawers():
    x = torch.zeros(12, 9, 1, 3, 3)
    x[..., 0, 0, 0], x[..., 0, 0, 1] = torch.arange(12.0)[:, None], torch.arange(9.0)
    data = LabelledData(x, alphabet=torch.arange(12) % 2)
    for within in (None, "alphabet"):
        tasks = Episodes(data, 4, 2, 3, within=within, drawers="different")
        batch = tasks.sample(300, seed=0)
        support = batch.support_x[:, :, 0, 0, 1].view(300, 4, 2)
        query = batch.query_x[:, :, 0, 0, 1].view(300, 4, 3)
        assert (support == support[:, :1]).all() and (query == query[:, :1]).all()  # one choice for all classes
        both = torch.cat([support[:, 0], query[:, 0]], 1).sort(1).values
        assert (both.diff(dim=1) > 0).all()  # five different drawers
        counts = support[:, 0].flatten().long().bincount(minlength=9)
        assert counts.min() > 35 and counts.max() < 105  # 600 choices of 9: 67 each
        assert len(batch.support_x[:, ::2, 0, 0, 0].unique()) == 12
    assert repr(tasks).endswith("queries=3, within='alphabet', drawers='different')")


def test_without_the_option_episodes_are_those_they_were():
    x = torch.arange(12 * 9.0).view(12, 9, 1)
    picks = Episodes(LabelledData(x), 3, 1, 2).pick(2, generator=torch.Generator().manual_seed(0))
    assert picks.tolist() == [[[6, 4, 3], [29, 32, 30], [51, 52, 49]], [[65, 66, 69], [84, 88, 85], [54, 56, 55]]]
    # Each class has rows of its own choice.
    assert len({tuple(rows) for rows in (picks[0] % 9).tolist()}) > 1


def test_different_drawers_are_refused_where_rows_have_no_drawer():
    x, y = torch.rand(7, 2), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the message is compared
        Episodes((x, y), 2, 1, 1, drawers="different")
    assert str(caught.value) == (
        "drawers='different' needs as many rows in every class, row d by drawer d; these have 3 to 4. Drop it."
    )
    with pytest.raises(ValueError, match=r"^drawers must be one of different, None, got 'same'. Use one of these.$"):
        Episodes((x[:6], y[:6]), 2, 1, 1, drawers="same")
