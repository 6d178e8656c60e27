"""Explorers: their pure part at every end of every control, their controls, and how they fail."""

import itertools
import math
import re
from pathlib import Path

import nbformat
import pytest
import torch
from IPython import get_ipython
from IPython.testing.globalipapp import start_ipython

import metakit as mk
from metakit import plots, widgets

TASKS = mk.tasks.Sinusoids()


def learner(**options):
    torch.manual_seed(0)
    return mk.MAML(mk.models.MLP(1, [20, 20], 1), **options)


def ends(control):
    return (control.min, control.max) if hasattr(control, "min") else (getattr(control, "options", None) or [0, 9])


@pytest.fixture(scope="module")
def explorer():
    return widgets.AdaptationExplorer({"MAML": learner(), "bigger steps": learner(rule=mk.SGD(lr=0.05))})


def test_compute_serves_every_end_of_every_control(explorer):
    named = {name: ends(control) for name, control in explorer.controls.items()}
    assert set(named) == {"learner", "amplitude", "phase", "shots", "steps", "seed"}
    for values in itertools.product(*named.values()):
        setting = dict(zip(named, values, strict=True))
        record = explorer.compute(**setting)
        assert record.steps == setting["steps"] and record.shots == setting["shots"]
        assert str(record)
        if math.isfinite(record.loss[-1]):
            assert record.curves.isfinite().all()


def test_moving_each_control_changes_picture_and_sentence(explorer):
    for name, control in explorer.controls.items():
        before = explorer.record, explorer._view.picture.value
        control.value = next(value for value in ends(control) if value != control.value)
        assert explorer.error is None, name
        assert explorer.record is not before[0] and explorer._view.picture.value != before[1], name
        assert explorer._view.sentence.value


def test_a_record_tells_the_truth():
    chosen = learner(steps=3)
    record = widgets.adaptation(chosen, TASKS, amplitude=2.0, phase=0.5, shots=7, steps=3)
    assert torch.equal(record.truth, TASKS.curve(2.0, 0.5, record.x))
    assert torch.allclose(record.support_y, TASKS.curve(2.0, 0.5, record.support_x))
    support = record.support_x[:, None], record.support_y[:, None]
    answer = chosen.predict(*support, record.x[:, None], steps=3)[:, 0]
    torch.testing.assert_close(record.curves[3], answer)
    torch.testing.assert_close(record.loss[3], (answer - record.truth).square().mean())


def test_more_shots_keep_the_points_that_were_there():
    few, many = (widgets.adaptation(learner(), TASKS, shots=shots) for shots in (3, 10))
    assert torch.equal(many.support_x[:3], few.support_x)
    other = widgets.adaptation(learner(), TASKS, shots=3, seed=1)
    assert not torch.equal(other.support_x, few.support_x)


@pytest.mark.parametrize(
    ("amplitude", "phase", "seen"), [(3.0, 1.0, True), (7.0, 1.0, False), (3.0, 4.0, False), (5.0, math.pi, True)]
)
def test_a_task_outside_the_training_distribution_is_called_so(amplitude, phase, seen):
    assert widgets.adaptation(learner(), TASKS, amplitude=amplitude, phase=phase).seen is seen


@pytest.mark.parametrize("shots", [0, 41])
def test_shots_out_of_range_are_refused(shots):
    with pytest.raises(ValueError, match="shots must be between 1 and 40"):
        widgets.adaptation(learner(), TASKS, shots=shots)


def test_an_explorer_of_nothing_is_refused():
    with pytest.raises(ValueError, match="got none"):
        widgets.AdaptationExplorer({})


def test_a_failure_is_kept_and_told_and_the_next_success_clears_it():
    explorer = widgets.AdaptationExplorer(learner())
    picture = explorer._view.picture.value
    explorer.learners["the learner"] = mk.MAML(mk.models.MLP(2, [4], 1))  # takes rows of two numbers
    explorer.controls["steps"].value = 2
    assert isinstance(explorer.error, ValueError)
    assert "did not work" in explorer._view.sentence.value and "rows of 2 numbers" in explorer._view.sentence.value
    assert explorer._view.picture.value == picture
    explorer.learners["the learner"] = learner()
    explorer.controls["steps"].value = 3
    assert explorer.error is None and "did not work" not in explorer._view.sentence.value


def test_the_button_draws_other_points():
    explorer = widgets.AdaptationExplorer(learner())
    before = explorer.record.support_x
    button = explorer.widget.children[0].children[-1]
    button.click()
    assert not torch.equal(explorer.record.support_x, before)


def test_every_control_that_shows_has_a_label():
    explorer = widgets.AdaptationExplorer(learner())
    shown = explorer.widget.children[0].children
    assert [control.description for control in shown] == [
        "Amplitude",
        "Phase (rad)",
        "Shots (points)",
        "Inner steps",
        "Other points",
    ]


@pytest.fixture(scope="module")
def explorers(explorer):
    glyphs = mk.tasks.Glyphs(2, 10, 10, 16)
    return [
        explorer,
        widgets.ClusterExplorer(glyphs),
        widgets.DescentExplorer(),
        widgets.EpisodeExplorer(mk.NearestNeighbour(), glyphs),
        widgets.OutsideExplorer(learner()),
        widgets.RaceExplorer(),
        widgets.SearchExplorer(),
        widgets.SurfaceExplorer(),
    ]


def test_every_explorer_shows_what_its_view_holds(explorers):
    for explorer in explorers:
        view = explorer._view
        assert explorer.record is view.record and explorer.error is None and explorer.controls is view.controls
        assert explorer.widget.children[-2:] == (view.sentence, view.picture)
        assert plots.png(explorer.static(), compress=1) == view.picture.value
        view.error = KeyError("lost")
        assert explorer.error is view.error
        view.error = None
        with pytest.raises(AttributeError):
            explorer.record = None


def test_every_explorer_says_what_it_is_where_no_kernel_runs(explorers, shell):
    for explorer in explorers:
        explorer._ipython_display_()
    told = [data["text/plain"] for data, _, _ in shell]
    assert all(re.fullmatch("An explorer with .*: run the notebook to use it.", text) for text in told)
    assert len(set(told)) == len(explorers) - 1, "two have the same sliders"


@pytest.fixture
def shell(monkeypatch):
    """A notebook's display, with what was shown kept."""
    start_ipython()
    shown = []

    def publish(data, metadata=None, *, transient=None, update=False, **_):
        shown.append((data, metadata or {}, update))

    shell = get_ipython()
    monkeypatch.setattr(shell.display_formatter, "active_types", shell.display_formatter.format_types)
    monkeypatch.setattr(shell.display_pub, "publish", publish)
    return shown


def test_a_widget_shows_a_sentence_where_no_kernel_runs(shell):
    widgets.AdaptationExplorer(learner())._ipython_display_()
    ((data, _, _),) = shell
    assert "application/vnd.jupyter.widget-view+json" in data and "run the notebook" in data["text/html"]


def test_a_live_curve_updates_one_picture_and_ends_with_its_caption(shell):
    with widgets.LiveCurve("The loss falls a little.", every=0.0) as live:
        mk.fit(learner(), TASKS, steps=3, progress=False, callback=live)
    assert [update for _, _, update in shell] == [False, False, True, True, True, True]
    assert shell[0][1]["image/png"]["alt"] == "The loss falls a little."
    assert "application/vnd.jupyter.widget-view+json" in shell[1][0]  # Stop, until the caption takes its place
    assert "The loss falls a little." in shell[-2][0]["text/markdown"]


def test_a_figure_is_shown_with_its_description(shell):
    fig, _ = plots.figure()
    plots.show(fig, "An empty picture here.")
    assert shell[0][1]["image/png"]["alt"] == "An empty picture here."
    assert shell[1][0]["text/markdown"] == "*Figure: An empty picture here.*"


def test_the_playground_has_every_explorer_and_leads_from_each_to_its_lesson():
    path = Path(__file__).resolve().parent.parent / "notebooks" / "lab_playground.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    explorers = {name for name in widgets.__all__ if name.endswith("Explorer")} - {"Explorer"}
    explorers |= {"Canvas", "RaceOfSettings"}
    made = re.findall(r"widgets\.(\w+)\(", "\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    assert explorers <= set(made)
    leading = [c for c in cells if c.cell_type == "markdown" and re.search(r"Lesson:\s\[", c.source)]
    assert len(leading) == len(explorers)
