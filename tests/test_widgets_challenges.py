"""Outside the training distribution: the record against a slow route, and the explorer at every end of its controls."""

import dataclasses
import itertools
import math

import pytest
import torch

import metakit as mk
from metakit import plots, widgets

TASKS = mk.tasks.Sinusoids()


@pytest.fixture(scope="module")
def learner():
    torch.manual_seed(0)
    learner = mk.MAML(mk.models.MLP(1, [20], 1), rule=mk.SGD(lr=0.02))
    mk.fit(learner, TASKS, steps=30, lr=0.01, progress=False)
    return learner


def test_each_value_is_judged_as_one_task_after_another_would_be(learner):
    record = widgets.outside(learner, TASKS, amplitude=7.0, phase=4.0, shots=3, steps=2, seed=5)
    x = torch.empty(20, 40, 1).uniform_(-5, 5, generator=torch.Generator().manual_seed(5))[:, :3]
    grid = torch.linspace(-5, 5, 41)[:, None]
    for sweep, at, pair in (
        (record.amplitude, record.amplitude.index, (7.0, 4.0)),
        (record.amplitude, 0, (0.1, 4.0)),
        (record.phase, -1, (7.0, 2 * math.pi)),
    ):
        for n in (0, 19):
            truth = pair[0] * torch.sin(grid - pair[1])
            batch = mk.TaskBatch(x[n : n + 1], pair[0] * torch.sin(x[n : n + 1] - pair[1]), grid[None], truth[None])
            loss = mk.evaluate(learner, batch, steps=2).loss[0]
            torch.testing.assert_close(sweep.before[at, n], loss[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(sweep.after[at, n], loss[2], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(sweep.zero[at], truth.square().mean(), rtol=1e-4, atol=1e-6)


def test_the_two_sweeps_meet_in_the_chosen_task(learner):
    record = widgets.outside(learner, amplitude=2.05, phase=0.7, shots=5)
    a, p = record.amplitude, record.phase
    assert float(a.at[a.index]) == pytest.approx(2.05) and float(p.at[p.index]) == pytest.approx(0.7)
    torch.testing.assert_close(a.after[a.index], p.after[p.index], rtol=1e-4, atol=1e-5)
    assert (a.at.diff() > 0).all() and (p.at.diff() > 0).all()


def test_the_sentence_says_what_was_not_met_in_training(learner):
    def told(**controls):
        return str(widgets.outside(learner, TASKS, **controls))

    assert told().startswith("a task like those of the training")
    assert told(amplitude=5.1).startswith("amplitude not met")
    assert told(phase=4.0, shots=3).startswith("phase and number of shots not met")
    assert told(amplitude=9.0, phase=4.0, shots=3).startswith("amplitude, phase and number of shots not met")
    after = widgets.outside(learner, TASKS).amplitude
    assert f"{float(after.after[after.index].mean()):.2f} +- " in told()


def test_losses_that_explode_are_told_and_drawn_at_the_edge(learner):
    wild = mk.MAML(learner.model, rule=mk.SGD(lr=5.0))
    record = widgets.outside(wild, TASKS, amplitude=10.0, steps=20)
    assert "exploded after" in str(record)
    _, ax = plots.figure()
    plots.draw_outside(ax, record.amplitude)
    assert all(math.isfinite(y) and y <= 1e3 for line in ax.lines[:3] for y in line.get_ydata())


def test_the_same_seed_gives_the_same_record_and_leaves_the_global_generator_alone(learner):
    before = torch.get_rng_state()
    first, again, other = (widgets.outside(learner, seed=seed).phase.after for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_every_end_of_every_control_and_each_move(learner):
    explorer = widgets.OutsideExplorer(learner, dataclasses.replace(TASKS, amplitude=(0.5, 2.0)))
    ends = {name: (control.min, control.max) for name, control in explorer.controls.items() if name != "seed"}
    for values in itertools.product(*ends.values()):
        assert str(explorer.compute(**dict(zip(ends, values, strict=True))))
    assert ends["amplitude"] == (0.5, 4.0) and ends["shots"] == (1, 40)
    for name, value in {"amplitude": 3.9, "phase": 6.0, "shots": 1, "steps": 20, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    assert explorer.record.shots == 1 and explorer.record.steps == 20 and not explorer.record.amplitude.seen


def test_the_button_draws_other_points(learner):
    explorer = widgets.OutsideExplorer(learner)
    before = explorer.record
    button = next(child for child in explorer.widget.children if child.description == "Other points")
    button.click()
    assert not torch.equal(explorer.record.phase.after, before.phase.after)


@pytest.mark.parametrize(
    ("name", "value", "rule"), [("shots", 0, "1 and 40"), ("shots", 41, "1 and 40"), ("steps", 21, "0 and 20")]
)
def test_numbers_out_of_range_are_refused(learner, name, value, rule):
    with pytest.raises(ValueError, match=f"{name} must be between {rule}, got {value}"):
        widgets.outside(learner, **{name: value})


def test_curves_show_mean_and_band():
    _, ax = plots.figure()
    values = torch.tensor([[1.0, 3.0], [4.0, 4.0]])
    plots.draw_against(ax, (2, 8), {"loss": values}, log=False)
    assert list(ax.lines[0].get_xdata()) == [2, 8] and list(ax.lines[0].get_ydata()) == [2.0, 4.0]
    low, high = ax.collections[0].get_paths()[0].get_extents().intervaly
    half = plots.challenges.NORMAL_95 * 2**0.5 / 2**0.5
    assert low == pytest.approx(2 - half, abs=1e-4) and high == pytest.approx(4.0)


def test_layers_show_their_mean_over_tasks():
    _, ax = plots.figure()
    plots.draw_layers(ax, ("one", "two"), {"a": torch.tensor([[0.2, 1.0], [0.4, 1.0]]), "b": torch.ones(2, 2)})
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([0.3, 1.0, 1.0, 1.0])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["one", "two"]
