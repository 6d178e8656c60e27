"""The live search: its rows, its rounds against the package's own search, its explorer, and the preset buttons."""

import itertools

import pytest
import torch

import metakit as mk
from metakit import widgets

QUICK = {"random": mk.search.Random(4), "cross-entropy": mk.search.CrossEntropy(population=4, elite=2)}


@pytest.fixture(scope="module")
def rows():
    return widgets.hidden_rows(rows=20, seed=1)


def last(rows, **options):
    *_, now = widgets.search_rounds(rows[0], **{"strategies": QUICK, "rounds": 3, "steps": 30} | options)
    return now


def test_hidden_rows_can_be_known_up_to_the_noise():
    (exact, test), (noisy, _) = (widgets.hidden_rows(2, noise=noise, seed=3) for noise in (0.0, 0.7))
    assert torch.equal(exact.support_x, test.support_x) and torch.equal(exact.support_y, test.support_y)
    assert not torch.equal(exact.query_x, test.query_x[:, :100])
    assert float((noisy.query_y - exact.query_y).std()) == pytest.approx(0.7, rel=0.1)
    # A hidden network with three units: least squares on its features leaves nothing; on the inputs alone, a lot.
    x, y = test.query_x[0], test.query_y[0]
    left = y - x @ torch.linalg.lstsq(x, y).solution
    assert float(left.square().mean()) > 0.01


@pytest.mark.parametrize("wrong", [{"noise": -0.1}, {"rows": 0}, {"n_tasks": 0}, {"noise": float("nan")}])
def test_impossible_rows_are_refused(wrong):
    with pytest.raises(ValueError, match="Raise the one that is too low"):
        widgets.hidden_rows(**wrong)


@pytest.mark.parametrize("name", QUICK)
def test_each_strategy_does_what_it_does_in_a_search_of_its_own(rows, name):
    now = last(rows)
    alone = mk.search.run(widgets.NETWORKS, rows[0], strategy=QUICK[name], rounds=3, steps=30, seed=0, progress=False)
    found = now.results[name]
    assert [t.candidate for t in found.history] == [t.candidate for t in alone.history]
    assert [t.score for t in found.history] == [t.score for t in alone.history]
    assert [t.round for t in found.history] == [t.round for t in alone.history]
    for ours, theirs in zip(found.distributions, alone.distributions, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_a_round_tells_what_was_paid_and_what_was_found(rows):
    halving = mk.search.SuccessiveHalving(population=9, reduction=3, rungs=1)
    now = last(rows, strategies={"random": mk.search.Random(4), "halving": halving})
    assert now.spent("random") == [4.0, 8.0, 12.0]
    assert now.spent("halving") == pytest.approx([k * (6 / 3 + 3) for k in (1, 2, 3)])  # six of nine stop at a third
    assert now.best("random")[-1] == now.results["random"].best.score
    assert now.best("random") == sorted(now.best("random"), reverse=True)
    assert f"{min(now.best('random')[-1], now.best('halving')[-1]):.3f}, with" in str(now)


def test_rounds_without_random_search_or_without_rounds_are_refused(rows):
    with pytest.raises(ValueError, match="must hold 'random'"):
        widgets.search_rounds(rows[0], strategies={"evolution": mk.search.Evolution()})
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        widgets.search_rounds(rows[0], rounds=0)


@pytest.fixture(scope="module")
def explorer():
    return widgets.SearchExplorer()


def test_every_end_of_every_control(explorer):
    for noise, steps in itertools.product((0.0, 1.0), (50, 400)):
        batch, _ = widgets.hidden_rows(noise=noise)
        now = next(widgets.search_rounds(batch, steps=steps))
        assert str(now) and all(now.spent(name)[0] <= 8 for name in now.results)


def test_each_strategy_can_be_looked_at_without_a_new_search(explorer):
    before = explorer.record
    for name in widgets.STRATEGIES:
        explorer.controls["shown"].value = name
        assert explorer.error is None and explorer.record.shown == name
        assert explorer.record.results == before.results


@pytest.mark.parametrize(("name", "value"), [("noise", 1.0), ("steps", 50), ("seed", 7)])
def test_a_moved_slider_begins_a_new_search(explorer, name, value):
    explorer.buttons["Next round"].click()
    picture = explorer._view.picture.value
    explorer.controls[name].value = value
    assert explorer.error is None and explorer.record.round == 1
    assert explorer._view.picture.value != picture


def test_a_run_goes_to_the_last_round_and_start_again_begins_anew(explorer):
    explorer.controls["steps"].value = 50
    first = explorer.record
    explorer.buttons["Run"].click()
    explorer.wait()
    assert explorer.error is None and explorer.record.round == 10
    assert [explorer.buttons[name].disabled for name in ("Next round", "Run", "Stop", "Start again")] == [1, 1, 1, 0]
    explorer.buttons["Start again"].click()
    assert explorer.record.round == 1 and not explorer.buttons["Run"].disabled
    assert explorer.record.best("random") == first.best("random")


def test_stop_ends_a_run_after_the_strategy_at_work_and_the_next_round_takes_up_there(explorer, monkeypatch):
    explorer.reset()
    trained, train = [], mk.search.train

    def stopped_at_once(candidates, *words, **options):
        trained.append(len(candidates))
        explorer.stop()
        return train(candidates, *words, **options)

    monkeypatch.setattr("metakit.widgets.search.train", stopped_at_once)
    explorer.buttons["Run"].click()
    explorer.wait()
    assert (trained, explorer.record.round, explorer.error) == ([8], 1, None)
    assert not explorer.buttons["Run"].disabled
    explorer.buttons["Next round"].click()
    assert (trained, explorer.record.round) == ([8, 8, 8, 24], 2)


def test_a_failure_in_a_round_is_kept_and_told():
    explorer = widgets.SearchExplorer()
    explorer._parts = (1 / 0 for _ in range(1))
    explorer.buttons["Run"].click()
    explorer.wait()
    assert isinstance(explorer.error, ZeroDivisionError) and "did not work" in explorer._view.sentence.value
    explorer.buttons["Start again"].click()
    assert explorer.error is None


def test_presets_move_the_controls_of_an_explorer():
    surface = widgets.SurfaceExplorer()
    presets = widgets.Presets(surface, {"Far": {"inner_lr": 0.9, "curvature": 4.0}, "None": {"inner_lr": 0.0}})
    presets.buttons["Far"].click()
    assert (surface.record.inner_lr, surface.controls["curvature"].value) == (0.9, 4.0)
    presets.buttons["None"].click()
    assert surface.record.inner_lr == 0.0


def test_presets_draw_on_pads():
    canvas = widgets.Canvas(mk.NearestNeighbour(), ways=2)
    down, across = [[(0.5, 0.1), (0.5, 0.9)]], [[(0.1, 0.5), (0.9, 0.5)]]
    presets = widgets.Presets(canvas, {"Lines": {"A": down, "B": across, "query": across}})
    presets.buttons["Lines"].click()
    assert canvas.record.answer == "B"


def test_a_preset_for_a_control_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="got 'speed'"):
        widgets.Presets(widgets.SurfaceExplorer(), {"Fast": {"speed": 1}})
