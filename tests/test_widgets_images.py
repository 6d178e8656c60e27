"""Pictures of few-shot tasks: episode explorer, embedding map and canvas, driven from code."""

import itertools
import math

import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

import metakit as mk
from metakit import plots, widgets

CROSS = [[(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)]]
LETTER_Z = [[(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)]]
OTHER_CROSS = [[(0.45, 0.2), (0.5, 0.8)], [(0.2, 0.45), (0.8, 0.5)]]


@pytest.fixture(scope="module")
def glyphs():
    return mk.tasks.Glyphs(alphabets=3, characters=6, drawers=12, seed=5)


@pytest.fixture
def canvas():
    return widgets.Canvas(mk.NearestNeighbour())


class Failing(torch.nn.Module):
    def predict(self, *sides):
        raise RuntimeError("no <answer>")


# ----------------------------------------------------------------------------------------------------- episodes


def test_an_episode_is_of_one_alphabet_and_scored_as_the_learner_does(glyphs):
    torch.manual_seed(0)
    learner = mk.ProtoNet(mk.models.ConvNet(width=4))
    record = widgets.episode(learner, glyphs, ways=4, shots=2, queries=3, alphabet=1, seed=7, name="small")
    assert record.alphabet == "invented001" and record.ways == 4 and record.shots == 2
    sides = record.support_x, record.support_y, record.query_x
    torch.testing.assert_close(record.scores, learner.predict(*sides))
    home = {tuple(row.flatten().tolist()) for row in glyphs.classes(range(6, 12)).rows.float() / 255}
    assert all(tuple(row.flatten().tolist()) in home for row in torch.cat([record.support_x, record.query_x]))
    share = mk.evaluate(learner, mk.TaskBatch(*(t[None] for t in (*sides, record.query_y))), protocol="inductive",
                        n_tasks=2).accuracy  # fmt: skip
    assert float(share[0, -1]) == pytest.approx(int(record.right.sum()) / 12)
    assert f"{int(record.right.sum())} of 12 right, 4-way 2-shot of invented001" in str(record)


def test_a_learner_of_more_classes_names_one_of_those_there_are(glyphs):
    learner = mk.MAML(mk.models.ConvNet(width=4, outputs=5), adapt="head")
    assert widgets.episode(learner, glyphs, ways=3).scores.shape == (15, 3)


def test_classes_without_alphabets_make_one():
    data = mk.tasks.LabelledData(torch.rand(6, 8, 1, 8, 8))
    record = widgets.episode(mk.NearestNeighbour(), data, ways=3)
    assert record.alphabet == "" and "1-shot." in str(record)
    explorer = widgets.EpisodeExplorer(mk.NearestNeighbour(), data)
    assert explorer.error is None and explorer.controls["alphabet"] not in explorer.widget.children


@pytest.mark.parametrize("alphabet", [-1, 3])
def test_an_alphabet_that_is_not_there_is_refused(glyphs, alphabet):
    with pytest.raises(ValueError, match=f"alphabet must be from 0 to 2, got {alphabet}"):
        widgets.episode(mk.NearestNeighbour(), glyphs, alphabet=alphabet)


def test_every_end_of_every_control_and_each_move_of_the_episode_explorer(glyphs):
    learners = {
        "prototypes": mk.ProtoNet(mk.models.ConvNet(width=4)),
        "gradients": mk.MAML(mk.models.ConvNet(width=4, outputs=5), adapt="head"),
        "pixels": mk.NearestNeighbour(),
    }
    explorer = widgets.EpisodeExplorer(learners, glyphs)
    assert explorer.error is None and explorer.record.learner == "prototypes"
    for learner, alphabet, ways, shots in itertools.product(learners, (0, 2), (2, 5), (1, 5)):
        record = explorer.compute(learner=learner, alphabet=alphabet, ways=ways, shots=shots)
        assert record.scores.shape == (5 * ways, ways) and record.shots == shots
    for name, value in {"learner": "pixels", "alphabet": 2, "ways": 2, "shots": 5, "seed": 3}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    next(child for child in explorer.widget.children if getattr(child, "description", "") == "Other episode").click()
    assert explorer.controls["seed"].value == 4 and explorer.error is None
    assert plots.png(explorer.static()).startswith(b"\x89PNG")


def test_no_learner_is_refused(glyphs):
    with pytest.raises(ValueError, match="got none"):
        widgets.EpisodeExplorer({}, glyphs)


def test_the_picture_frames_each_query_and_letters_each_mistake():
    x, y = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
    scores = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    _, ax = plots.figure()
    plots.draw_episode(ax, plots.Episode(x, y, x, y, scores, "pixels"))
    assert [patch.get_linestyle() in ("-", "solid") for patch in ax.patches] == [True, False]
    assert [(round(patch.get_x()), round(patch.get_y())) for patch in ax.patches] == [(2, 0), (2, 1)]
    letters = [(text.get_text(), round(text.get_position()[1] - 0.5)) for text in ax.texts]
    assert letters[:3] == [("A", 1), ("A", 0), ("B", 1)]  # the mistake in the second row, and the rows' names
    assert ax.get_title() == "pixels: 1 of 2 right"


def test_each_picture_lies_in_its_row_and_side():
    pictures = torch.stack([torch.full((1, 4, 4), share) for share in (0.1, 0.2, 0.3, 0.4)])
    labels = torch.tensor([1, 0])  # not in order
    _, ax = plots.figure()
    plots.draw_episode(ax, plots.Episode(pictures[:2], labels, pictures[2:], labels, torch.eye(2)))
    sheet = 1 - torch.tensor(ax.images[0].get_array())
    cells = sheet.view(2, 6, 3, 6).permute(0, 2, 1, 3)[:, :, 3, 3]  # a pixel of each cell, [row, column]
    torch.testing.assert_close(cells, torch.tensor([[0.2, 0.0, 0.4], [0.1, 0.0, 0.3]]))


# ----------------------------------------------------------------------------------------------------- embedding


def test_the_map_is_the_plane_of_largest_variance():
    rows = torch.randn(3, 5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    record = widgets.embedding_map(torch.nn.Flatten(), mk.tasks.LabelledData(rows))
    z = rows.reshape(15, 4)
    z = z - z.mean(0)
    values, vectors = torch.linalg.eigh(z.T @ z)  # another route
    torch.testing.assert_close(record.points.abs(), (z @ vectors.flip(1)[:, :2]).abs())
    assert record.kept == pytest.approx(float(values[-2:].sum() / values.sum()))
    within = sum((z[i : i + 5] - z[i : i + 5].mean(0)).square().sum() for i in (0, 5, 10))
    assert record.spread == pytest.approx(float(within / z.square().sum()))
    assert record.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    fig, ax = plots.figure()
    plots.draw_embedding(ax, plots.EmbeddingMap(**{**vars(record), "pictures": torch.zeros(3, 1, 4, 4)}))
    assert len(ax.lines) == len(ax.images) == 3 and "within" in ax.get_title() and "%" in str(record)
    assert plots.png(fig).startswith(b"\x89PNG")


def test_a_map_of_one_class_is_refused(glyphs):
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        widgets.embedding_map(torch.nn.Flatten(), glyphs.classes([0]))


# ------------------------------------------------------------------------------------------------------- canvas


def test_ink_is_where_the_pen_was():
    picture = widgets.ink([[(0.0, 0.5), (1.0, 0.5)]])[0]
    row = round(13.6 - 0.5)
    assert picture.shape == (28, 28) and bool((picture[row, 6:21] > 0.9).all())
    assert float(picture[:9].max()) < 1e-3 and float(picture[19:].max()) < 1e-3
    assert float(picture[row, :3].max()) < 0.1


def test_place_and_size_of_a_drawing_do_not_matter():
    small = [[(0.1 + 0.3 * x, 0.6 + 0.3 * y) for x, y in stroke] for stroke in CROSS]
    torch.testing.assert_close(widgets.ink(small), widgets.ink(CROSS), atol=1e-4, rtol=0)


def test_how_finely_a_stroke_was_sampled_does_not_matter():
    coarse = [[(0.1, 0.2), (0.9, 0.8)]]
    fine = [[(0.1 + 0.8 * t / 200, 0.2 + 0.6 * t / 200) for t in range(201)]]
    torch.testing.assert_close(widgets.ink(fine), widgets.ink(coarse), atol=0.03, rtol=0)


def test_a_stroke_leaves_its_length_times_the_pens_width_of_ink():
    # Unclipped, a line leaves length times width. Clipped at 1, the middle of a line loses a little of it.
    line = widgets.ink([[(0.1, 0.5), (0.9, 0.5)]])
    assert 0.85 * 18.3 * 1.4 < float(line.sum()) <= 18.3 * 1.4 + 0.01


def test_a_single_point_is_a_dot_and_size_is_kept():
    dot = widgets.ink([[(0.2, 0.9)]])
    assert 0.3 < float(dot.max()) <= 1 and 1 < float(dot.sum()) < 6
    torch.testing.assert_close(widgets.ink([[(0.2, 0.9), (0.2, 0.9)]]), dot)
    large = widgets.ink(CROSS, size=56)
    assert large.shape == (1, 56, 56)
    torch.testing.assert_close(large.mean(), widgets.ink(CROSS).mean(), atol=0.02, rtol=0)


def test_drawn_characters_look_like_glyphs():
    """Ink and extent of a drawing lie within those of the glyphs, so that a network trained on these takes it."""
    rows = mk.tasks.Glyphs(alphabets=4, seed=1).rows[:, 0].float() / 255
    for strokes in (CROSS, LETTER_Z, OTHER_CROSS):
        picture = widgets.ink(strokes)
        low, high = rows.mean((1, 2)).quantile(torch.tensor([0.02, 0.98])).tolist()
        assert low < float(picture.mean()) < high
        extent = [int(x.max() - x.min()) + 1 for x in (picture[0] > 0.3).nonzero().T]
        assert 18 <= max(extent) <= 22


@pytest.mark.parametrize(
    ("strokes", "message"),
    [
        ([], "at least one stroke"),
        ([[]], "a list of points"),
        ([[(0.5, 0.5, 0.5)]], "a list of points"),
        ([[(0.5, 1.5)]], "from 0 to 1"),
        ([[(math.nan, 0.5)]], "from 0 to 1"),
    ],
)
def test_what_is_no_drawing_is_refused(strokes, message):
    with pytest.raises(ValueError, match=message):
        widgets.ink(strokes)


def test_the_canvas_answers_as_soon_as_there_is_something_to_compare(canvas):
    canvas.draw("A", CROSS)
    assert canvas.record is None and "at least two" in canvas.pads.reply["message"]
    canvas.draw("C", LETTER_Z)
    assert canvas.record is None and "once more" in canvas.pads.reply["message"]
    canvas.draw("query", OTHER_CROSS)
    assert canvas.error is None and canvas.record.answer == "A" and canvas.record.names == ("A", "C")
    reply = canvas.pads.reply
    assert reply["answer"] == "A" and reply["message"].startswith("It looks like A")
    assert list(reply["chances"]) == ["A", "C"] and sum(reply["chances"].values()) == pytest.approx(1)
    assert set(reply["seen"]) == {"A", "C", "query"} and len(reply["seen"]["A"]) == 28 * 28
    assert max(reply["seen"]["A"]) > 200
    canvas.draw("C", [])
    assert canvas.record is None and canvas.pads.reply["chances"] == {}


def test_each_answer_is_a_new_reply(canvas):
    before = canvas.pads.reply["number"]
    for strokes in (CROSS, LETTER_Z):
        canvas.draw("A", strokes)
    assert canvas.pads.reply["number"] == before + 2


def test_the_record_is_what_the_learner_says():
    torch.manual_seed(0)
    learner = mk.ProtoNet(mk.models.ConvNet(width=4))
    support, query = torch.stack([widgets.ink(s) for s in (CROSS, LETTER_Z)]), widgets.ink(OTHER_CROSS)
    record = widgets.Canvas(learner).compute(support, query)
    expected = learner.predict(support, torch.arange(2), query[None])[0].softmax(0)
    torch.testing.assert_close(record.chances, expected)
    assert record.names == ("A", "B") and record.answer in str(record)
    wide = mk.MAML(mk.models.ConvNet(width=4, outputs=5), adapt="head")
    assert widgets.recognise(wide, support, query).chances.shape == (2,)


def test_a_failure_is_kept_and_told():
    canvas = widgets.Canvas(Failing())
    for place in ("A", "B", "query"):
        canvas.draw(place, CROSS)
    assert isinstance(canvas.error, RuntimeError) and "no <answer>" in canvas.pads.reply["message"]
    canvas.draw("B", [])
    assert canvas.error is None
    canvas.draw("B", [[(2.0, 0.0)]])
    assert isinstance(canvas.error, ValueError) and canvas.record is None


def test_wrong_places_and_numbers_of_pads_are_refused(canvas):
    with pytest.raises(ValueError, match="place must be one of A, B, C, D, E, query, got 'F'"):
        canvas.draw("F", CROSS)
    for ways in (1, 6):
        with pytest.raises(ValueError, match=f"ways must be from 2 to 5, got {ways}"):
            widgets.Canvas(mk.NearestNeighbour(), ways=ways)
    with pytest.raises(ValueError, match="at least 2 characters"):
        widgets.recognise(mk.NearestNeighbour(), torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4))


def test_the_static_picture_shows_the_answer(canvas):
    with pytest.raises(ValueError, match="no answer yet"):
        canvas.static()
    for place, strokes in {"A": CROSS, "B": LETTER_Z, "query": OTHER_CROSS}.items():
        canvas.draw(place, strokes)
    fig = canvas.static()
    assert isinstance(fig, Figure) and fig.axes[0].get_title() == "It looks like A"
    assert sum("%" in text.get_text() for text in fig.axes[0].texts) == 2
    likely, other = fig.axes[0].patches
    assert likely.get_facecolor() == to_rgba(plots.BLUE) and other.get_facecolor() == to_rgba(plots.ORANGE)
    assert likely.get_width() == pytest.approx(4 * float(canvas.record.chances[0]))


def test_the_page_of_the_canvas_is_whole_and_needs_no_network(canvas):
    source, style = str(canvas.pads._esm), str(canvas.pads._css)
    assert "export default" in source and ".metakit-canvas" in style
    for word in ("aria-label", "aria-live", "pointerdown", "keydown", "lmSuppressShortcuts"):
        assert word in source
    assert "http" not in source + style and "import " not in source
