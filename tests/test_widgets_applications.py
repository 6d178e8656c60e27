"""The explorers of lesson 11: classes and questions that a reader types, races of settings, and what they show."""

import itertools

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import metakit as mk
from metakit import plots, widgets
from metakit.recipes import hyperparameters, language
from metakit.widgets.settings_race import EVERY

CLASSES = {
    "card": ["my card is lost", "where is my card", "block my card"],
    "cash": ["no cash came out", "the machine kept my cash"],
    "app": ["the app does not open"],
}
QUESTION = "has the machine kept my card?"


def said(explorer):
    """The sentence above the picture."""
    return explorer.widget.children[-2].value


def texts_shown(fig):
    """Every text of a picture that can be seen."""
    texts = [text for text in fig.texts if text.get_text()]
    for ax in fig.axes:
        ticks = [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis._update_ticks()]
        texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ticks, *ax.texts]
        texts += ax.get_legend().get_texts() if ax.get_legend() else []
    texts += [text for legend in fig.legends for text in legend.get_texts()]
    return [text for text in texts if text.get_text() and text.get_visible()]


def no_text_lies_on_another(fig):
    plots.png(fig)  # which lays out all text
    texts = texts_shown(fig)
    boxes = [text.get_window_extent() for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert all(fig.bbox.padded(1).contains(*corner) for corner in box.corners()), text.get_text()
    for (one, box), (other, area) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        assert not box.padded(-0.5).overlaps(area.padded(-0.5)), (one.get_text(), other.get_text())


# --- Questions. ---


def gains(seed=0):
    torch.manual_seed(seed)
    learner = mk.ProtoNet(mk.models.Gains(4096), distance="cosine")
    with torch.no_grad():
        learner.embedding.log_gain.normal_()
    return learner


def test_a_learner_answers_beside_the_nearest_centroid():
    explorer = widgets.TextExplorer(gains(), CLASSES, question=QUESTION)
    assert explorer.error is None and list(explorer.record.scores) == ["the learner", "nearest centroid"]
    data = mk.tasks.texts([*itertools.chain(*CLASSES.values()), QUESTION], range(7))
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    for name, learner in (("the learner", gains()), ("nearest centroid", language.nearest_centroid())):
        right = learner.predict(data.rows[:6], y, data.rows[6:]).softmax(-1)[0]
        torch.testing.assert_close(explorer.record.scores[name], right)
    assert "taken for: " in said(explorer) and "%, nearest centroid)." in said(explorer)


def test_every_field_changes_the_picture():
    explorer = widgets.TextExplorer({"a": gains(), "b": gains(1)}, CLASSES)
    assert list(explorer.record.scores) == [] and "type a question" in said(explorer)
    classes = explorer.controls["classes"]
    (name, examples), boxes = classes._fields[2], classes.children[0].children
    changes = [
        lambda: setattr(explorer.controls["question"], "value", QUESTION),
        lambda: setattr(explorer.controls["question"], "value", QUESTION + " now"),
        lambda: setattr(name, "value", "program"),
        lambda: setattr(examples, "value", "the machine\nthe app crashes"),
        lambda: setattr(classes, "value", [*classes.value, ["more", "has it"]]),
        lambda: classes.children[0].children[0].children[0].children[1].click(),  # Remove, of the first
    ]
    for number, change in enumerate(changes):
        before = explorer._view.picture.value
        change()
        assert explorer.error is None and explorer._view.picture.value != before, number
    assert explorer.record.classes == ("cash", "program", "more") and explorer.record.examples == 5
    assert len(boxes) == 3 and len(classes.children[0].children) == 3


def test_typing_keeps_the_fields_and_a_button_makes_one_more():
    rows = widgets.ClassRows([("card", "my card"), ("cash", "no cash")])
    boxes, seen = rows.children[0].children, []
    rows.observe(lambda change: seen.append(change.new), names="value")
    rows._fields[0][1].value = "my card\nthe card"
    rows._fields[1][0].value = "money"
    assert rows.children[0].children == boxes  # the cursor stays where it is
    assert rows.value == seen[-1] == [["card", "my card\nthe card"], ["money", "no cash"]] and len(seen) == 2
    rows.add.click()
    assert rows.value[2] == ["class 3", ""] and len(rows.children[0].children) == 3
    for _ in range(9):
        rows.add.click()
    assert len(rows.value) == 12 and rows.add.disabled
    rows.value = [["one", "a"]]
    assert not rows.add.disabled and rows._fields[0][1].value == "a" and len(rows.children[0].children) == 1
    rows.children[0].children[0].children[0].children[1].click()
    assert rows.value == [] and rows.children[0].children == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([["a", "b"]] * 13, "there may be 12 classes, got 13. Leave some out."),
        ([["a"]], r"classes must be pairs of a name and examples, both text, got \['a'\]"),
        ([["a", 3]], r"both text, got \['a', 3\]"),
    ],
)
def test_what_are_no_classes_is_refused(value, message):
    with pytest.raises(ValueError, match=message):
        widgets.ClassRows(value)


@pytest.mark.parametrize(
    ("classes", "question", "message"),
    [
        ([], QUESTION, "There is no class with an example: write some for at least two."),
        ([["card", " \n\n"], ["", ""]], QUESTION, "Left out, having no example yet: card, class 2."),
        ([["card", "my card"]], QUESTION, "There is one class, card, with an example"),
        ([["card", "my card"], [" card ", "your card"]], QUESTION, "There is one class, card, with an example"),
        ([["card", "my card"], ["", "no cash"]], " ", "2 examples of 2 classes are known: type a question."),
        ([["card", "my card"], ["", "no cash"]], "?!", "the question shares nothing with any"),
    ],
)
def test_what_is_missing_is_told_in_a_sentence(classes, question, message):
    explorer = widgets.TextExplorer(gains(), {})
    explorer.controls["question"].value = question
    explorer.controls["classes"].value = classes
    assert explorer.error is None and message in said(explorer) and explorer.static().axes


def test_lines_are_examples_and_classes_of_one_name_are_one():
    explorer = widgets.TextExplorer(language.nearest_centroid(), {})
    pairs = [["card", "  my card \n\n new card\r\nold card"], ["cash", "no cash"], ["card ", "red card"], [" ", "app"]]
    record = explorer.compute(classes=pairs, question="card")
    assert record.classes == ("card", "cash", "class 4") and record.examples == 6
    assert {near.text for near in record.nearest if near.label == "card"} == {
        "my card",
        "new card",
        "old card",
        "red card",
    }


def test_what_stays_as_it_is_is_encoded_once():
    asked = []

    def encode(texts):
        asked.extend(texts)
        return torch.tensor([[float(len(text)), 1.0] for text in texts])

    explorer = widgets.TextExplorer(mk.ProtoNet(nn.Identity()), {"a": ["x", "x"], "b": ["yyy"]}, encode=encode)
    assert asked == []
    for question in ("y", "yy", "yy ", "y"):
        explorer.controls["question"].value = question
    assert asked == ["x", "yyy", "y", "yy", "y"] and len(explorer._rows) == 3  # those of now alone are kept
    assert explorer.record.answer("the learner") == "a"


def test_markup_and_signs_of_every_kind_are_shown_as_they_are():
    explorer = widgets.TextExplorer(gains(), {"<i>$x^{</i>": ["$\\frac{", "猫"], "b": ["<script>", "\N{LLAMA}"]})
    explorer.controls["question"].value = "<b>$\\frac{ 猫 script"
    assert explorer.error is None and "&lt;i&gt;$x^{&lt;/i&gt;" in said(explorer) and "<i>" not in said(explorer)


def test_a_learner_that_fails_is_told():
    explorer = widgets.TextExplorer(mk.ProtoNet(mk.models.Gains(3)), CLASSES, question=QUESTION)
    assert explorer.error is not None and "This did not work." in said(explorer)
    explorer.controls["question"].value = ""
    assert explorer.error is None
    with pytest.raises(ValueError, match="got none"):
        widgets.TextExplorer({}, CLASSES)
    with pytest.raises(ValueError, match="there may be 12 classes, got 13"):
        widgets.TextExplorer(gains(), {str(i): ["a"] for i in range(13)})


def test_any_learner_answers():
    pytest.importorskip("sklearn")
    maml = mk.MAML(mk.models.MLP(4096, [8], 3))
    explorer = widgets.TextExplorer({"today": language.Logistic(), "maml": maml}, CLASSES, question=QUESTION)
    assert explorer.error is None and list(explorer.record.scores) == ["today", "maml", "nearest centroid"]


@pytest.mark.parametrize("number", [2, 12])
def test_no_text_of_the_questions_lies_on_another(number):
    classes = {f"{i} card_payment_wrong_rate": [f"my card number {i} is lost " * 4] * 2 for i in range(number)}
    explorer = widgets.TextExplorer(gains(), classes, question="my card number is lost")
    no_text_lies_on_another(explorer.static())


# --- Settings. ---

KERNELS = [{"kernel": "linear", "C": float(c)} for c in (1, 2, 4)]
KERNELS += [{"kernel": "rbf", "C": float(c), "gamma": g} for c in (1, 2, 4) for g in (0.1, 1.0, 10.0)]


def tables(sets=5, seed=0):
    settings = torch.arange(12.0)[:, None]
    scores = torch.rand(sets, 12, generator=torch.Generator().manual_seed(seed))
    names = tuple(f"set {i}" for i in range(sets))
    return mk.tasks.TrialTables(
        settings=settings, scores=scores, names=names, candidates=tuple(KERNELS), shots=3, queries=9
    )


ORDERS = {"in turn": list(range(12)), "backwards": lambda tables, name, trials: list(range(11, 11 - trials, -1))}


def test_every_end_of_every_control_of_the_race():
    explorer = widgets.RaceOfSettings(tables(), ORDERS)
    slider = explorer.controls["trials"]
    assert (slider.min, slider.max, slider.value) == (1, 12, 5)
    assert explorer.controls["plane"].options == (EVERY, "linear", "rbf")
    for name, trials in itertools.product(tables().names[:2], (1, 12)):
        for contender, plane in itertools.product(ORDERS, (EVERY, "linear", "rbf")):
            record = explorer.compute(dataset=name, trials=trials, contender=contender, plane=plane)
            assert all(len(regret) == trials for regret in record.regret.values()) and str(record)
            assert len(record.planes) == (2 if plane == EVERY else 1)
            assert record.tried["backwards"] == tuple(range(11, 11 - trials, -1))
    changes = {"trials": 12, "dataset": "set 3", "contender": "backwards", "plane": "rbf"}
    for name, value in changes.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    before = explorer._view.picture.value
    explorer.controls["trials"].value = 11
    assert explorer._view.picture.value != before


def test_the_race_is_that_of_the_recipe_with_the_data_set_left_out():
    explorer = widgets.RaceOfSettings(tables(), trials=6)
    assert list(explorer.controls["contender"].options) == list(explorer.record.tried)
    explorer.controls["trials"].value, explorer.controls["dataset"].value = 6, "set 2"
    right = hyperparameters.compared(tables(), "set 2", 6)
    assert {name: list(order) for name, order in explorer.record.tried.items()} == right
    for name, order in right.items():
        assert torch.equal(explorer.record.regret[name], hyperparameters.regret(tables(), "set 2", order))
    other = tables()
    scores = other.scores.clone()
    scores[2] = scores[2].flip(0)
    flipped = widgets.RaceOfSettings(mk.tasks.TrialTables(**(vars(other) | {"scores": scores})), trials=6)
    flipped.controls["trials"].value, flipped.controls["dataset"].value = 6, "set 2"
    for name in ("greedy portfolio", "mean rank", "random"):  # which see nothing of it
        assert flipped.record.tried[name] == explorer.record.tried[name]


def test_orders_are_made_once_a_data_set_and_a_word_says_so_meanwhile():
    seen = []

    def order(tables, name, trials):
        seen.append((name, trials, said(explorer) if seen else ""))
        return list(range(trials))

    explorer = widgets.RaceOfSettings(tables(), {"a": order})
    for name in ("set 1", "set 0", "set 1"):
        explorer.controls["dataset"].value = name
    explorer.controls["trials"].value = 9
    assert [each[:2] for each in seen] == [("set 0", 12), ("set 1", 12)] and seen[1][2] == "Racing on set 1 ..."
    assert said(explorer) != "Racing on set 1 ..." and explorer.record.tried["a"] == tuple(range(9))


def test_lists_with_one_entry_are_not_shown():
    settings, scores = torch.rand(9, 2), torch.rand(2, 9)
    bare = mk.tasks.TrialTables(settings=settings, scores=scores, names=("a", "b"), shots=3, queries=6)
    shown = widgets.RaceOfSettings(bare, {"a": [3, 4]}).widget.children[:-2]
    assert [control.description for control in shown] == ["Data set", "Trials"]
    shown = widgets.RaceOfSettings(tables(), ORDERS).widget.children[:-2]
    assert [control.description for control in shown] == ["Data set", "Trials", "Numbered", "Settings"]


def test_a_failure_of_the_race_is_told():
    def fails(tables, name, trials):
        raise RuntimeError("no <order>")

    flat = mk.tasks.TrialTables(**(vars(tables()) | {"scores": torch.cat([torch.ones(1, 12), tables().scores[1:]])}))
    explorer = widgets.RaceOfSettings(flat, ORDERS)
    assert "all are alike" in said(explorer) and isinstance(explorer.error, ValueError)
    explorer.controls["dataset"].value = "set 1"
    assert explorer.error is None
    explorer = widgets.RaceOfSettings(tables(), {"a": fails})
    assert isinstance(explorer.error, RuntimeError) and "no &lt;order&gt;" in said(explorer)
    explorer = widgets.RaceOfSettings(tables(), {"a": [0, 12]})
    assert "a must be an order of settings, numbers below 12" in said(explorer)
    with pytest.raises(ValueError, match="there must be a contender, got none"):
        widgets.RaceOfSettings(tables(), {})
    with pytest.raises(ValueError, match="plane must be one of all of them, linear, rbf"):
        explorer.compute(plane="poly")
    with pytest.raises(ValueError, match="trials must be at least 1"):
        widgets.RaceOfSettings(tables(), ORDERS, trials=0)


def test_planes_over_each_other_name_their_common_values_once():
    fig = widgets.RaceOfSettings(tables(), ORDERS).static()
    _, linear, rbf = fig.axes
    assert (linear.get_xlabel(), rbf.get_xlabel()) == ("", "C")
    assert linear.get_position().height < rbf.get_position().height
    assert linear.get_position().y0 > rbf.get_position().y1


def test_no_text_of_the_race_lies_on_another():
    candidates = [{"kernel": "rbf", "C": 2.0**c, "gamma": 10.0**g} for c in range(-5, 7) for g in range(-7, 7)]
    candidates += [{"kernel": "poly", "C": 2.0**c, "degree": d} for c in range(-5, 7) for d in range(2, 11)]
    candidates += [{"kernel": "linear", "C": 2.0**c} for c in range(-5, 7)]
    number = len(candidates)
    table = mk.tasks.TrialTables(
        settings=torch.arange(float(number))[:, None],
        scores=torch.rand(3, number),
        names=("spambase", "b", "c"),
        candidates=tuple(candidates),
    )
    order = list(range(0, number, 15))
    names = ("learned prior", "greedy portfolio", "mean rank", "random")
    explorer = widgets.RaceOfSettings(table, dict.fromkeys(names, order))
    for trials, plane in ((20, EVERY), (1, "linear"), (20, "rbf")):
        fig = Figure()
        explorer.draw(fig, explorer.compute(trials=trials, plane=plane))
        no_text_lies_on_another(fig)
