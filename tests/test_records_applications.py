"""What applications are told and drawn by: answers to a question in closed form, planes of settings, regret by hand."""

import math
import re

import pytest
import torch
from torch import nn

import metakit as mk
from metakit import plots, records
from metakit.recipes import hyperparameters, language

CLASSES = {"card": ["lost card", "new card"], "cash": ["no cash"], "other": ["", "  "]}
ROWS = {
    "lost card": [1.0, 0.0, 0.0],
    "new card": [0.6, 0.8, 0.0],
    "no cash": [0.0, 0.0, 1.0],
    "a card?": [0.6, 0.0, 0.8],
    "??": [0.0, 0.0, 0.0],
}
SETTINGS = [{"kernel": "linear", "C": c} for c in (1.0, 10.0)] + [
    {"kernel": "rbf", "C": c, "gamma": gamma} for c in (10.0, 1.0) for gamma in (0.1, 2.0, 0.5)
]
SCORES = [[0.2, 0.3, 0.9, 0.5, 0.4, 0.1, 0.6, 0.3], [0.5] * 8]


def encode(texts):
    return torch.tensor([ROWS[text] for text in texts])


class Fixed:
    """Scores that were decided beforehand; it keeps what it was asked."""

    def __init__(self, *scores):
        self.scores = scores

    def predict(self, support_x, support_y, query_x):
        self.asked = support_x, support_y, query_x
        return torch.tensor([self.scores])


def tables():
    return mk.tasks.TrialTables(
        settings=torch.arange(8.0)[:, None],
        scores=torch.tensor(SCORES),
        names=("first", "alike"),
        candidates=tuple(SETTINGS),
        shots=3,
        queries=5,
    )


def told(classes=CLASSES, question=" a card? ", contenders=None, **options):
    contenders = {"fixed": Fixed(0.0, math.log(3))} if contenders is None else contenders
    return records.text_answers(contenders, classes, question, encode=encode, **options)


# --- A question. ---


def test_scores_are_shares_of_the_softmax_and_examples_lie_as_near_as_their_cosine():
    fixed = Fixed(0.0, math.log(3))
    record = told(contenders={"fixed": fixed, "centroid": language.nearest_centroid()})
    torch.testing.assert_close(record.scores["fixed"], torch.tensor([0.25, 0.75]))
    # Centroids (0.8, 0.4, 0) and (0, 0, 1), cosines with (0.6, 0, 0.8): 0.48 / sqrt(0.8) and 0.8; the scale is 10.
    apart = 10 * (0.8 - 0.48 / math.sqrt(0.8))
    assert float(record.scores["centroid"][1]) == pytest.approx(1 / (1 + math.exp(-apart)), abs=1e-5)
    assert [(near.text, near.label) for near in record.nearest] == [
        ("no cash", "cash"),
        ("lost card", "card"),
        ("new card", "card"),
    ]
    assert [near.cosines["fixed"] for near in record.nearest] == pytest.approx([0.8, 0.6, 0.36])
    support, classes, query = fixed.asked
    assert torch.equal(support, encode(["lost card", "new card", "no cash"])) and classes.tolist() == [0, 0, 1]
    assert torch.equal(query, encode(["a card?"])) and record.question == "a card?"
    said = "learned from 3 examples of 2 classes. It is taken for: cash (75%, fixed); cash (93%, centroid)."
    assert str(record) == f"{said} Left out, having no example yet: other."
    assert len(told(nearest=1).nearest) == 1


def test_a_learner_compares_in_its_own_embedding():
    learner = mk.ProtoNet(mk.models.Gains(3), distance="cosine")
    with torch.no_grad():
        learner.embedding.log_gain.copy_(torch.tensor([0.0, 0.0, -40.0]))  # the third place counts for nothing
    record = told(contenders={"learned": learner, "raw": Fixed(0.0, 0.0)})
    assert [near.text for near in record.nearest] == ["lost card", "new card", "no cash"]
    assert [near.cosines["learned"] for near in record.nearest] == pytest.approx([1.0, 0.6, 0.0], abs=1e-6)
    assert [near.cosines["raw"] for near in record.nearest] == pytest.approx([0.6, 0.36, 0.8])
    assert not record.scores["learned"].requires_grad and record.answer("learned") == "card"


@pytest.mark.parametrize(
    ("classes", "question", "message"),
    [
        ({}, "a card?", "there is no class with an example: write some for at least two."),
        ({"card": ["lost card"], "cash": [" "]}, "a card?", "there is one class, card, with an example.*: cash"),
        (CLASSES, "  ", "3 examples of 2 classes are known: type a question. Left out, having no example yet: other."),
        (CLASSES, "??", "and the question shares nothing with any: use other words."),
    ],
)
def test_where_nothing_can_be_told_a_sentence_says_what_is_missing(classes, question, message):
    record = told(classes, question)
    assert re.search(message, str(record))
    _, (left, right) = plots.figure(columns=2)
    plots.draw_text_scores(left, record)
    plots.draw_near_examples(right, record)
    assert (len(left.patches) == 0) == (question != "??") and (len(right.patches) == 0) == (question != "??")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"contenders": {}}, ValueError, "there must be a contender, got none"),
        ({"contenders": {"a": Fixed(0.0)}}, ValueError, r"a must give a finite score for each class, \[1, 2\], got"),
        ({"contenders": {"a": Fixed(0.0, math.nan)}}, ValueError, "a finite score"),
        ({"nearest": 0}, ValueError, "nearest must be at least 1"),
    ],
)
def test_what_cannot_answer_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        told(**options)


def test_bars_show_the_shares_and_the_cosines():
    record = told(contenders={"fixed": Fixed(0.0, math.log(3)), "other": Fixed(0.0, 0.0)})
    _, (left, right) = plots.figure(columns=2)
    plots.draw_text_scores(left, record)
    plots.draw_near_examples(right, record)
    assert [bar.get_width() for bar in left.patches] == pytest.approx([25.0, 75.0, 50.0, 50.0])
    assert [label.get_text() for label in left.get_yticklabels()] == ["card", "cash"]
    assert [text.get_text() for text in left.texts] == ["25", "75", "50", "50"]
    assert left.get_legend_handles_labels()[1] == ["fixed", "other"]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.8, 0.8, 0.6, 0.6, 0.36, 0.36])
    assert [text.get_text() for text in right.texts][::3] == ["cash: no cash", "card: lost card", "card: new card"]
    heights = [bar.get_y() for bar in left.patches]
    assert heights[0] < heights[2] < heights[1] < heights[3] and left.yaxis_inverted() and right.yaxis_inverted()


def test_any_text_can_be_drawn():
    texts = ["$\\frac{", "猫 \N{LLAMA}", "a\nb\tc", "long " * 40, "قط", "<b>&amp;</b>"]
    classes = {texts[0]: texts, "\N{LLAMA}" * 30: ["$x", "$"]}
    record = records.text_answers({"raw": language.nearest_centroid()}, classes, "$\\frac{ long", nearest=8)
    fig, (left, right) = plots.figure(columns=2)
    plots.draw_text_scores(left, record)
    plots.draw_near_examples(right, record)
    assert plots.png(fig).startswith(b"\x89PNG")  # and no warning, which would be an error here
    shown = [text.get_text() for text in right.texts]
    assert "$\\frac{: a b c" in shown and "$\\frac{: □ □" in shown and max(map(len, shown)) == 48
    assert left.get_yticklabels()[1].get_text() == "□" * 14 + "…"


# --- Planes of settings. ---


def test_settings_lie_by_their_words_and_two_numbers():
    linear, rbf = records.settings_planes(tables())
    assert (linear.kind, linear.across, linear.up, linear.columns) == ("linear", "C", "", (1.0, 10.0))
    assert (rbf.kind, rbf.across, rbf.up, rbf.columns, rbf.rows) == ("rbf", "C", "gamma", (1.0, 10.0), (0.1, 0.5, 2.0))
    assert linear.members.tolist() == [0, 1] and rbf.members.tolist() == [2, 3, 4, 5, 6, 7]
    scores = torch.tensor(SCORES[0])
    torch.testing.assert_close(linear.best(scores), torch.tensor([[0.2, 0.3]]))
    torch.testing.assert_close(rbf.best(scores), torch.tensor([[0.1, 0.9], [0.3, 0.4], [0.6, 0.5]]))


def test_settings_that_share_a_place_show_the_best_of_them_and_a_place_without_any_shows_none():
    trials = [
        {"dataset": 0, "a": a, "b": b, "c": c, "score": a + 10 * b + 100 * c}
        for a, b, c in ((0, 0, 0), (0, 0, 1), (1, 1, 0))
    ]
    (plane,) = records.settings_planes(mk.tasks.TrialTables.of(trials))
    best = plane.best(torch.tensor([0.0, 100.0, 11.0]))
    assert (plane.kind, plane.across, plane.up) == ("", "a", "b")
    torch.testing.assert_close(best, torch.tensor([[100.0, math.nan], [math.nan, 11.0]]), equal_nan=True)


def test_settings_without_words_without_numbers_and_without_names():
    models = [{"model": m, "scaled": s} for m in ("tree", "linear") for s in ("no", "yes")]
    (plane,) = records.settings_planes(
        mk.tasks.TrialTables.of([{"dataset": 0, "score": i, **each} for i, each in enumerate(models)])
    )
    assert (plane.across, plane.columns, plane.up, plane.rows) == ("model", ("linear", "tree"), "scaled", ("no", "yes"))
    assert plane.best(torch.arange(4.0)).tolist() == [[2.0, 0.0], [3.0, 1.0]]
    bare = mk.tasks.TrialTables(
        settings=torch.tensor([[0.0, 1.0, 0.5], [0.0, 2.0, 0.25]]),
        scores=torch.rand(1, 2),
        names=("a",),
        shots=1,
        queries=1,
    )
    (plane,) = records.settings_planes(bare)
    assert (plane.across, plane.columns, plane.up, plane.rows) == ("setting 2", (1.0, 2.0), "setting 3", (0.25, 0.5))
    mixed = [{"depth": depth} for depth in (10, None, 9)]
    (plane,) = records.settings_planes(
        mk.tasks.TrialTables.of([{"dataset": 0, "score": i, **each} for i, each in enumerate(mixed)])
    )
    assert plane.columns == (9, 10, None)


# --- A race. ---


def test_regret_is_the_share_of_the_span_that_is_left():
    orders = {"up": [5, 0, 3, 2], "short": [2], "over": [1, 6, 7, 0, 4]}
    record = records.settings_race(tables(), "first", orders, trials=4)
    # Of the scores from 0.1 to 0.9: 0.1, 0.2, 0.5, 0.9 are reached, and 0.3, then 0.6.
    torch.testing.assert_close(record.regret["up"], torch.tensor([100.0, 87.5, 50.0, 0.0]))
    torch.testing.assert_close(record.regret["over"], torch.tensor([75.0, 37.5, 37.5, 37.5]))
    assert record.regret["short"].tolist() == [0.0] and record.tried["over"] == (1, 6, 7, 0)
    assert record.contender == "up" and record.shown == 4
    assert str(record) == (
        "first after 4 trials, regret in %: up 0.0, short 0.0, over 37.5. The best score of up is 0.900, that of all "
        "settings 0.900."
    )
    _, rbf = records.settings_planes(tables())
    record = records.settings_race(tables(), "first", orders, trials=1, contender="over", planes=[rbf])
    assert record.shown == 0 and "after 1 trial, " in str(record) and "0.300" in str(record)
    assert str(record).endswith("0.900. 1 of its trials lie elsewhere.")


@pytest.mark.parametrize(
    ("name", "orders", "options", "message"),
    [
        ("third", {"a": [0]}, {}, "no data set is called 'third'"),
        ("alike", {"a": [0]}, {}, "settings must differ in their scores on alike"),
        ("first", {"a": []}, {}, "a must be an order of settings, numbers below 8, got"),
        ("first", {"a": [0, 8]}, {}, r"numbers below 8, got \[0, 8\]"),
        ("first", {"a": [-1]}, {}, "numbers below 8"),
        ("first", {"a": [0.5]}, {}, "numbers below 8"),
        ("first", {"a": [0]}, {"trials": 0}, "trials must be at least 1"),
        ("first", {"a": [0]}, {"contender": "b"}, "contender must be one of a, got 'b'"),
        ("first", {}, {}, "contender must be one of"),
    ],
)
def test_what_is_no_race_is_refused(name, orders, options, message):
    with pytest.raises(ValueError, match=message):
        records.settings_race(tables(), name, orders, **options)


def test_the_race_is_drawn_as_steps_and_its_trials_by_number():
    record = records.settings_race(tables(), "first", {"up": [5, 0, 3, 2], "back": [7, 6]}, trials=3)
    _, (left, right) = plots.figure(columns=2)
    plots.draw_settings_regret(left, record)
    assert left.lines[0].get_ydata().tolist() == pytest.approx([100.0, 87.5, 50.0])
    assert left.lines[1].get_ydata().tolist() == pytest.approx([75.0, 37.5])
    assert {line.get_drawstyle() for line in left.lines} == {"steps-post"} and left.get_yscale() == "symlog"
    assert left.lines[0].get_linewidth() > left.lines[1].get_linewidth() and left.get_title().startswith("first: ")
    plots.draw_settings_plane(right, record, record.planes[1])
    (image,) = right.images
    torch.testing.assert_close(
        torch.as_tensor(image.get_array().data), torch.tensor([[0.1, 0.9], [0.3, 0.4], [0.6, 0.5]])
    )
    assert image.get_clim() == pytest.approx((0.1, 0.9)) and image.origin == "lower"
    assert {(text.get_text(), text.get_position()) for text in right.texts} == {("1", (0, 0)), ("3", (1, 2))}
    (frame,) = right.patches
    assert (frame.get_x(), frame.get_y()) == (0.5, -0.5)  # round the best of all
    assert (right.get_xlabel(), right.get_ylabel(), right.get_title()) == ("C", "gamma", "rbf")
    assert [label.get_text() for label in right.get_yticklabels()] == ["0.1", "0.5", "2"]


def test_trials_in_one_place_share_it_and_many_values_are_not_all_named():
    trials = [
        {"dataset": 0, "a": 1000.0 * a, "b": b, "c": c, "score": a} for a in range(20) for b in (0, 1) for c in (0, 1)
    ]
    table = mk.tasks.TrialTables.of(trials)
    record = records.settings_race(table, "0", {"a": [0, 2, 1, 79]})
    _, ax = plots.figure()
    plots.draw_settings_plane(ax, record, record.planes[0])
    assert sorted(text.get_text() for text in ax.texts) == ["1,3", "2", "4"]
    named = [label.get_text() for label in ax.get_xticklabels()]
    assert len(named) == 7 and named[:2] == ["0", "3000"] and ax.get_title() == "80 settings"
    assert len(ax.patches) == 2  # the best score is reached in two places


def test_the_record_agrees_with_the_recipe():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(6, 30, generator=generator)
    table = mk.tasks.TrialTables(settings=torch.rand(30, 2, generator=generator), scores=scores, names=tuple("abcdef"))
    orders = hyperparameters.compared(table, "c", 10)
    record = records.settings_race(table, "c", orders, trials=10)
    for name, order in orders.items():
        assert torch.equal(record.regret[name], hyperparameters.regret(table, "c", order))
        assert float(record.regret[name].diff().max()) <= 0


def test_an_embedding_that_is_none_leaves_rows_as_they_are():
    pytest.importorskip("sklearn")
    record = told(contenders={"today": language.Logistic(), "learned": language.Logistic(nn.Identity())})
    assert torch.equal(record.scores["today"], record.scores["learned"])
    assert float(record.scores["today"].sum()) == pytest.approx(1)
    assert record.nearest[0].cosines["today"] == pytest.approx(0.8)
