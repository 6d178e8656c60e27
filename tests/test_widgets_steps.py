"""The seven steps: their order, their numbers against `fit`, their buttons, and a run that can be stopped."""

import html
import math
import time

import pytest
import torch
from matplotlib.figure import Figure

import metakit as mk
from metakit import plots, widgets
from metakit.widgets import steps as module


@pytest.fixture(scope="module")
def stages():
    """Five rounds that cannot reach their target."""
    return list(widgets.seven_steps(target=0.01, rounds=5, lr=0.1))


def test_steps_one_and_two_come_once_and_the_others_in_each_round(stages):
    assert [stage.number for stage in stages] == [1, 2, *([3, 4, 5, 6, 7] * 5)]
    assert [stage.round for stage in stages] == [0, 0] + [r for r in range(1, 6) for _ in range(5)]
    assert [stage.done for stage in stages] == [False] * 26 + [True]


def test_its_outer_steps_are_those_of_fit():
    stages = list(widgets.seven_steps(target=9.0, seed=4))
    torch.manual_seed(4)
    learner = mk.MAML(mk.models.MLP(1, [40, 40], 1), rule=mk.SGD(lr=0.02), steps=1)
    history = mk.fit(learner, mk.tasks.Sinusoids(), steps=60, lr=0.01, seed=4, progress=False)
    torch.testing.assert_close(torch.tensor(stages[-1].loss), torch.tensor(history.loss), rtol=1e-3, atol=1e-3)
    result = mk.evaluate(learner, mk.tasks.Sinusoids(), n_tasks=100, seed=1_000_003)
    assert stages[-1].validation[0][1] == pytest.approx(float(result.mean()[-1]), rel=1e-2)


def test_only_learning_adapts_and_only_optimising_trains(stages):
    assert [stage.adaptation.steps for stage in stages[:7]] == [0, 0, 0, 1, 1, 1, 1]
    assert [len(stage.loss) for stage in stages[:8]] == [0, 0, 60, 60, 60, 60, 60, 120]
    assert [len(stage.validation) for stage in stages[:7]] == [0, 0, 0, 0, 1, 1, 1]


def test_step_one_keeps_the_starts_and_the_score_before_learning(stages):
    torch.manual_seed(0)
    learner = mk.MAML(mk.models.MLP(1, [40, 40], 1), rule=mk.SGD(lr=0.02), steps=1)
    result = mk.evaluate(learner, mk.tasks.Sinusoids(), n_tasks=100, seed=1_000_003)
    assert stages[0].random == pytest.approx(float(result.mean()[-1]), rel=1e-5)
    curves = torch.cat([stages[0].starts, stages[0].adaptation.curves])
    assert len(curves) == 21 and torch.cdist(curves, curves).fill_diagonal_(1.0).min() > 0
    assert all(stage.random == stages[0].random for stage in stages)


def test_step_two_tries_three_optimisers_and_moves_nothing():
    first, second, *_, last = widgets.seven_steps(target=9.0)
    assert not first.trials and list(second.trials) == ["Adam, rate 0.01", "SGD, rate 0.01", "SGD, rate 0.1"]
    torch.testing.assert_close(second.adaptation.curves, first.adaptation.curves)
    for scores in second.trials.values():
        assert [at for at, _, _ in scores] == [0, 20, 40, 60] and scores[0][1] == first.random
    # The one that is chosen goes on to do just what it did when it was tried.
    assert second.trials["Adam, rate 0.01"][-1] == pytest.approx(last.validation[0], rel=1e-5)


def test_the_first_two_pictures_show_the_starts_and_the_trials(stages):
    labels = []
    for stage in stages[:3]:
        fig = Figure()
        module.draw_stage(fig, stage)
        labels.append([ax.get_legend_handles_labels()[1] for ax in fig.axes])
    assert "other random starts" in labels[0][0] and "other random starts" not in labels[1][0]
    assert set(stages[1].trials) < set(labels[1][1]) and not set(stages[1].trials) & set(labels[2][1])


def test_the_rate_is_halved_exactly_when_no_evaluation_was_better(stages):
    rate, best, halved = 0.1, math.inf, 0
    for stage in stages:
        if stage.number == 6:
            mean = stage.validation[-1][1]
            halved += mean >= best
            rate, best = (rate if mean < best else rate / 2), min(best, mean)
        assert stage.lr == rate
    assert halved, "choose a rate at which the adjustment has something to do"


def test_a_target_that_is_reached_ends_the_run():
    last = list(widgets.seven_steps(target=9.0))[-1]
    assert last.done and last.number == 7 and last.round == 1 and "reached" in str(last)


def test_the_same_seed_gives_the_same_run_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    runs = [list(widgets.seven_steps(target=9.0, seed=seed))[-1] for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), expected)
    assert runs[0].loss == runs[1].loss != runs[2].loss


@pytest.mark.parametrize("option", [{"target": 0.0}, {"lr": -1.0}, {"rounds": 0}, {"target": math.nan}])
def test_options_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be a positive number"):
        widgets.seven_steps(**option)


def test_next_and_back_walk_through_the_same_records():
    explorer = widgets.StepsExplorer(target=9.0)
    first, picture = explorer.record, explorer._view.picture.value
    assert explorer.buttons["Back"].disabled and explorer.buttons["Stop"].disabled
    for number in range(2, 8):
        explorer.buttons["Next"].click()
        assert explorer.record.number == number and explorer.error is None
        assert (
            plots.TITLES[number - 1] in html.unescape(explorer._view.sentence.value)
            and "(here)" in explorer._list.value
        )
    assert explorer.buttons["Next"].disabled and explorer.record.done and explorer._view.picture.value != picture
    last = explorer.record
    explorer.next()
    assert explorer.record is last
    explorer.buttons["Back"].click()
    assert explorer.record.number == 6
    explorer.buttons["Next"].click()
    assert explorer.record is last
    for _ in range(9):
        explorer.buttons["Back"].click()
    assert explorer.record is first and explorer._view.picture.value == picture


def test_run_goes_on_to_the_target_and_start_again_forgets():
    explorer = widgets.StepsExplorer(target=2.0)
    explorer.buttons["Run"].click()
    explorer.wait()
    assert explorer.error is None and explorer.record.done and explorer.record.validation[-1][1] <= 2.0
    assert explorer.buttons["Stop"].disabled and not explorer.buttons["Back"].disabled
    explorer.buttons["Start again"].click()
    assert explorer.record.number == 1 and explorer.record.loss == ()


def test_stop_ends_a_run_soon_and_next_goes_on_from_there():
    explorer = widgets.StepsExplorer(target=1e-6)
    explorer.buttons["Run"].click()
    assert explorer.buttons["Run"].disabled and not explorer.buttons["Stop"].disabled
    time.sleep(0.3)
    explorer.buttons["Stop"].click()
    assert explorer.buttons["Stop"].disabled
    explorer.wait()
    assert explorer.error is None and not explorer.record.done and explorer.record.round < 30
    before = explorer.record.number, explorer.record.round
    explorer.buttons["Next"].click()
    assert (explorer.record.number, explorer.record.round) != before


def test_a_failure_in_the_thread_is_kept_and_told(monkeypatch):
    explorer = widgets.StepsExplorer(target=1e-6)

    def fails(*arguments, **options):
        raise RuntimeError("no tasks today")

    monkeypatch.setattr(module, "evaluate", fails)
    explorer.run()
    explorer.wait()
    assert isinstance(explorer.error, RuntimeError) and "no tasks today" in explorer._view.sentence.value
    assert not explorer.buttons["Start again"].disabled
