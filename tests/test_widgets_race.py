"""The race of three starts: against the package's own loops, its training, its buttons, a run that can be stopped."""

import itertools
import math
import time

import pytest
import torch

import metakit as mk
from metakit import plots, widgets
from metakit.widgets import race as module


def network(seed=0):
    torch.manual_seed(seed)
    return mk.models.MLP(1, [12], 1)


@pytest.mark.parametrize(("shots", "lr"), [(10, 0.01), (3, 0.05)])
def test_the_race_is_what_evaluate_measures(shots, lr):
    model = network()
    record = widgets.head_start({"a": model}, shots=shots, lr=lr, steps=4, n_tasks=7, seed=3)
    batch = mk.tasks.Sinusoids(shots=shots).sample(7, seed=3)
    result = mk.evaluate(mk.MAML(model, rule=mk.SGD(lr=lr)), batch, steps=4)
    torch.testing.assert_close(record.loss[0], result.loss)
    low, high = result.interval()
    torch.testing.assert_close(record.mean()[0], result.mean())
    torch.testing.assert_close(2 * record.half()[0], high - low)


def test_the_race_changes_no_network():
    model = network()
    before = [p.clone() for p in model.parameters()]
    widgets.head_start({"a": model}, steps=3, n_tasks=4)
    assert all(torch.equal(p, q) for p, q in zip(before, model.parameters(), strict=True))
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("option", [{"steps": -1}, {"n_tasks": 1}])
def test_counts_out_of_range_are_refused(option):
    with pytest.raises(ValueError, match="steps must be at least 0 and n_tasks at least 2"):
        widgets.head_start({"a": network()}, **option)


def test_the_racers_are_trained_as_fit_trains_them():
    *_, (done, models) = widgets.racers(outer_steps=5, every=2, lr=0.02, shots=4, seed=3)
    torch.manual_seed(3)
    fresh = mk.models.MLP(1, [40, 40], 1)
    assert done == 5
    assert all(torch.equal(p, q) for p, q in zip(models["from scratch"].parameters(), fresh.parameters(), strict=True))
    for name, kind in {"pre-trained": mk.FineTune, "meta-learned": mk.MAML}.items():
        torch.manual_seed(3)
        learner = kind(mk.models.MLP(1, [40, 40], 1), rule=mk.SGD(lr=0.02))
        mk.fit(learner, mk.tasks.Sinusoids(shots=4), steps=5, lr=0.003, seed=3, progress=False)
        for ours, theirs in zip(models[name].parameters(), learner.model.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_racers_leave_the_global_generator_alone_and_the_seed_decides():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    runs = [list(widgets.racers(outer_steps=2, every=1, seed=seed))[-1][1] for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(1), expected)
    first, again, other = (run["meta-learned"].head.weight for run in runs)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_the_notebook_tells_is_so_on_two_seeds():
    for seed in (1, 2):
        *_, (_, models) = widgets.racers(outer_steps=400, every=400, seed=seed)
        record = widgets.head_start(models, steps=5, seed=seed)
        scratch, pre, meta = zip(record.mean().tolist(), record.half().tolist(), strict=True)
        assert meta[0][5] + meta[1][5] < pre[0][5] - pre[1][5]
        assert meta[0][5] + meta[1][5] < scratch[0][5] - scratch[1][5]


def test_start_trains_to_the_end_and_the_picture_changes():
    explorer = widgets.RaceExplorer(outer_steps=30)
    before = explorer._view.picture.value
    assert explorer.record.trained == 0 and explorer.buttons["Stop"].disabled
    assert torch.equal(explorer.record.loss[0], explorer.record.loss[2]), "equal networks, equal curves"
    explorer.buttons["Start"].click()
    explorer.wait()
    assert explorer.error is None and explorer.record.trained == 30 and explorer._bar.value == 30
    assert explorer._view.picture.value != before and "30 outer steps" in explorer._view.sentence.value
    assert not explorer.buttons["Start"].disabled and explorer.buttons["Stop"].disabled
    first = explorer.record.loss
    explorer.start()
    explorer.wait()
    assert torch.equal(explorer.record.loss, first), "Start begins anew"


def test_stop_ends_a_training_soon_and_sliders_work_meanwhile():
    explorer = widgets.RaceExplorer(outer_steps=1_000_000)
    explorer.start()
    assert explorer.buttons["Start"].disabled and not explorer.buttons["Stop"].disabled
    explorer.controls["steps"].value = 3
    assert explorer.error is None and explorer.record.steps == 3
    while explorer._done == 0:
        time.sleep(0.01)
    explorer.buttons["Stop"].click()
    assert explorer.buttons["Stop"].disabled
    explorer.wait()
    assert explorer.error is None and 0 < explorer.record.trained < 1_000_000
    assert not explorer.buttons["Start"].disabled


def test_a_failure_in_the_thread_is_kept_and_told_and_the_next_start_is_fresh(monkeypatch):
    explorer = widgets.RaceExplorer(outer_steps=10)

    def fails(**options):
        raise RuntimeError("no curves today")

    with monkeypatch.context() as patch:
        patch.setattr(module, "racers", fails)
        explorer.start()
        explorer.wait()
    assert isinstance(explorer.error, RuntimeError) and "no curves today" in explorer._view.sentence.value
    assert not explorer.buttons["Start"].disabled
    explorer.start()
    explorer.wait()
    assert explorer.error is None and explorer.record.trained == 10


def test_every_end_of_every_control_and_each_move():
    explorer = widgets.RaceExplorer()
    models = dict.fromkeys(("a", "b"), network())
    for shots, lr, steps in itertools.product((1, 20), (1e-3, 0.1), (1, 30)):
        record = widgets.head_start(models, shots=shots, lr=lr, steps=steps)
        explorer.draw(explorer.static(), record)
        assert record.steps == steps and str(record)
    for name, value in {"shots": 1, "lr": 0.1, "steps": 30, "pre-trained": False}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    for name in module.RACERS:
        explorer.controls[name].value = False
    assert explorer.error is None and explorer.record.names == () and "tick one" in str(explorer.record)


def test_a_racer_that_explodes_is_told_and_drawn():
    loss = torch.full((2, 3, 2), 1.0)
    loss[1, :, 1] = torch.tensor([math.inf, math.nan, 1.0])
    record = plots.HeadStart(("calm", "wild"), loss, 10, 0.5, 1)
    assert "calm 1.00 +- 0.00, wild exploded" in str(record) and "1 outer step;" in str(record)
    fig, ax = plots.figure()
    plots.draw_head_start(ax, record)
    assert ax.lines[1].get_ydata()[1] == pytest.approx(50)
    plots.png(fig)
