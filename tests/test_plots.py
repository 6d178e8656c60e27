"""Pictures show what their records hold."""

import inspect
import warnings

import pytest
import torch
from matplotlib.figure import Figure

from metakit import History, plots, records
from metakit.judging.evaluation import Evaluation


@pytest.fixture
def record():
    x = torch.linspace(-5, 5, 11)
    curves = torch.stack([0 * x, x.sin() / 2, x.sin()])
    loss = (curves - x.sin()).square().mean(1)
    return plots.Adaptation(x, x.sin(), curves, x[:3], x[:3].sin(), loss, amplitude=1.0, phase=0.0, seen=True)


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_adaptation_shows_before_after_truth_and_points(record):
    fig, ax = plots.figure()
    plots.draw_adaptation(ax, record)
    shown = lines(ax)
    assert list(shown) == ["true curve", "before adaptation", "after 2 inner steps", "3 support points"]
    for name, values in (("before adaptation", record.curves[0]), ("after 2 inner steps", record.curves[2])):
        assert shown[name].get_ydata().tolist() == values.tolist()
    assert len(ax.lines) == 5  # and the step between
    assert ax.get_title() and "radians" in ax.get_xlabel() and ax.get_ylabel()
    assert plots.png(fig).startswith(b"\x89PNG")


def test_adaptation_without_steps_shows_no_curve_after(record):
    none = plots.Adaptation(**{**vars(record), "curves": record.curves[:1], "loss": record.loss[:1]})
    _, ax = plots.figure()
    plots.draw_adaptation(ax, none)
    assert "before adaptation" in lines(ax) and not any(name.startswith("after") for name in lines(ax))


def test_a_record_says_itself_in_a_sentence(record):
    assert str(record).startswith("loss 0.")
    assert "2 inner steps" in str(record) and "3 points" in str(record)
    exploded = plots.Adaptation(**{**vars(record), "loss": torch.tensor([1.0, float("nan")]), "seen": False})
    assert "exploded" in str(exploded) and "training distribution" in str(exploded)


@pytest.mark.parametrize("last", [float("nan"), float("inf"), 1e30])
def test_a_loss_that_exploded_is_drawn_without_a_warning(record, last):
    curves = record.curves.clone()
    curves[-1] = last
    wild = plots.Adaptation(**{**vars(record), "curves": curves, "loss": torch.tensor([1.0, 2.0, last])})
    fig, axes = plots.figure(columns=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.draw_adaptation(axes[0], wild)
        plots.draw_steps(axes[1], wild)
        plots.png(fig)


def test_evaluations_are_drawn_with_mean_and_band():
    generator = torch.Generator().manual_seed(0)
    results = {name: Evaluation(torch.rand(30, 4, generator=generator), None, "inductive") for name in ("a", "b")}
    _, ax = plots.figure()
    plots.draw_evaluation(ax, results)
    for name, result in results.items():
        assert lines(ax)[name].get_ydata() == pytest.approx(result.mean().tolist())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    low, high = results["a"].interval()
    assert band.min() == pytest.approx(float(low.min())) and band.max() == pytest.approx(float(high.max()))
    assert "30 new tasks" in ax.get_title() and "95%" in ax.get_title()


def test_accuracy_is_drawn_in_per_cent_and_a_learner_without_steps_as_a_level():
    result = Evaluation(torch.rand(30, 1), torch.full((30, 1), 0.5), "inductive")
    _, ax = plots.figure()
    plots.draw_evaluation(ax, result)
    assert ax.lines[0].get_ydata()[0] == 50 and "%" in ax.get_ylabel()


def test_history_shows_loss_its_mean_and_validations():
    history = History(tuple(float(i) for i in range(1, 201)), ((100, 3.0, 0.5),), "steps spent", 1.0)
    _, ax = plots.figure()
    plots.draw_history(ax, history, window=50)
    smooth = lines(ax)["mean of 50 steps"]
    assert smooth.get_xdata()[0] == 50 and smooth.get_ydata()[0] == pytest.approx(25.5)
    assert smooth.get_xdata()[-1] == 200 and smooth.get_ydata()[-1] == pytest.approx(175.5)
    assert "validation, 95%" in ax.get_legend_handles_labels()[1]


def test_a_history_without_steps_is_an_empty_picture():
    fig, ax = plots.figure()
    plots.draw_history(ax, History((), (), "stopped", 0.0))
    assert plots.png(fig)


def test_rates_are_drawn_by_name():
    _, ax = plots.figure()
    plots.draw_rates(ax, {"head.weight": torch.rand(4, 3), "head.bias": torch.rand(4)}, start=0.01)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["head.weight", "head.bias"]


def test_paper_is_white_so_that_it_reads_on_a_dark_page():
    fig, _ = plots.figure()
    assert isinstance(fig, Figure) and fig.get_facecolor() == (1, 1, 1, 1)


@pytest.mark.parametrize("alt", ["", "plot", None])
def test_a_picture_without_a_description_is_refused(alt):
    fig, _ = plots.figure()
    with pytest.raises(ValueError, match="alt must tell"):
        plots.show(fig, alt)


def test_colours_are_told_apart_by_brightness_too():
    def brightness(colour):
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * red + 0.587 * green + 0.114 * blue

    before, after, points = (brightness(colour) for colour in (plots.ORANGE, plots.BLUE, plots.BLACK))
    assert before - after > 50 and after - points > 50


def test_plots_define_no_record_and_offer_every_one():
    modules = [value for value in vars(plots).values() if inspect.ismodule(value)]
    classes = [c for module in (plots, *modules) for _, c in inspect.getmembers(module, inspect.isclass)]
    assert modules and not [c for c in classes if c.__module__.startswith("metakit.plots")]
    assert set(records.__all__) <= set(plots.__all__)
    assert all(getattr(plots, name) is getattr(records, name) for name in records.__all__)
