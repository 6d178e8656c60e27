"""The explorers of learning in context: points in the page, at every end of every control, and what they show."""

import base64
import dataclasses
import itertools
import json
import os
import shutil

import pytest
import torch

import metakit as mk
from metakit import plots, widgets
from metakit.learners import ExactGP, GridGP
from metakit.widgets.points import Points, pairs
from metakit.widgets.tables import CLASSES

PRIOR = mk.tasks.GaussianProcesses()
LINE = torch.linspace(-2, 2, 401)


def learner(seed=0, **options):
    torch.manual_seed(seed)
    return mk.InContext(mk.models.SetTransformer(1, width=8, layers=2, heads=2, **options), bins=20)


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def said(explorer):
    """The sentence above the picture."""
    return explorer.widget.children[-2].value


class Linear:
    """A classifier of two or three classes by the distance from their means."""

    def __init__(self):
        self.fitted = 0

    def fit(self, x, y):
        x, y, self.fitted = torch.as_tensor(x), torch.as_tensor(y), self.fitted + 1
        self.classes_ = y.unique().numpy()
        self.means = torch.stack([x[y == number].mean(0) for number in self.classes_.tolist()])
        return self

    def predict_proba(self, x):
        return (-torch.cdist(torch.as_tensor(x), self.means)).softmax(-1).numpy()


class Failing(Linear):
    def predict_proba(self, x):
        raise RuntimeError("no <answer>")


# --- Functions. ---


def test_a_process_is_that_of_the_sliders_and_of_the_middle_of_other_ranges():
    wide = dataclasses.replace(PRIOR, outputscale=(0.5, 8.0), kernel="periodic", period=(0.5, 2.0))
    one = widgets.one_process(wide, lengthscale=0.3, noise=0.07)
    assert (one.lengthscale, one.noise, one.outputscale, one.period) == ((0.3, 0.3), (0.07, 0.07), (2, 2), (1, 1))
    assert one.kernel == "periodic" and len(one.grid(5)[0]) == 1
    with pytest.raises(ValueError, match="noise, at its low end, must be finite and above 0, got 0"):
        widgets.one_process(PRIOR, lengthscale=0.3, noise=0.0)


def test_functions_that_are_drawn_have_the_covariance_of_their_process():
    process = widgets.one_process(PRIOR, lengthscale=0.5, noise=0.1)
    grid = torch.tensor([-1.0, -0.6, 0.0, 1.5])
    functions = torch.stack([widgets.drawn_function(process, grid, seed=seed)[0] for seed in range(800)]).double()
    exact = process.covariance(process.grid(1)[0][0], grid[:, None], grid[:, None])
    # The standard error of a covariance of n normals is sqrt((c_ii c_jj + c_ij^2) / n), at most sqrt(2 / n).
    torch.testing.assert_close(functions.T @ functions / 800, exact.double(), atol=4.5 * (2 / 800) ** 0.5, rtol=0)


def test_points_that_are_drawn_lie_on_the_function_but_for_their_noise():
    for noise in (0.01, 0.2):
        process, away = widgets.one_process(PRIOR, lengthscale=1.0, noise=noise), []
        for seed in range(20):
            f, x, y = widgets.drawn_function(process, LINE, rows=25, seed=seed)
            assert float(x.min()) >= -2 and float(x.max()) <= 2
            at = ((x + 2) * 100).clamp(0, 399.99)
            left = at.long()
            away.append(y - torch.lerp(f[left], f[left + 1], at - left))
        assert float(torch.cat(away).std()) == pytest.approx(noise, rel=0.12)  # 500 of them: 4 standard errors
    again = widgets.drawn_function(process, LINE, rows=25, seed=19)
    assert torch.equal(again[0], f) and torch.equal(again[2], y)


# --- The process explorer. ---


def test_every_end_of_every_control_of_the_processes():
    explorer = widgets.ProcessExplorer({"a": learner(), "b": learner(1)}, PRIOR)
    ends = [(c.base**c.min, c.base**c.max) for c in (explorer.controls[name] for name in ("lengthscale", "noise"))]
    assert ends[0][0] == pytest.approx(0.05) and ends[0][1] == pytest.approx(4.5)
    crowd = [[0.1 * i - 2, (-1) ** i * 3.2] for i in range(41)] + [[0.0, 3.2]] * 19  # one place, many answers
    for points, told in itertools.product(([], [[0.0, 1.0]], crowd), widgets.YARDSTICKS):
        for lengthscale, noise in itertools.product(*ends):
            record = explorer.compute(points=points, learner="b", yardstick=told, lengthscale=lengthscale, noise=noise)
            for band in (record.exact, record.learned):
                assert (band.low <= band.high).all() and band.mean.isfinite().all()
            assert record.kl >= 0 and str(record).startswith(f"{len(points)} point")
            if told == widgets.YARDSTICKS[1]:
                break
    changes = {
        "points": [[0.5, 0.5]],
        "learner": "b",
        "lengthscale": 0.05,
        "noise": 0.9,
        "yardstick": widgets.YARDSTICKS[1],
    }
    for name, value in changes.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name


def test_what_is_shown_is_what_both_say():
    explorer, points = widgets.ProcessExplorer(learner(), PRIOR), [[-1.0, 0.3], [0.7, -1.2]]
    x, y = torch.tensor(points).T[..., None]
    grid = torch.linspace(-2, 2, 80)[:, None]
    told = ExactGP(dataclasses.replace(PRIOR, lengthscale=0.4, noise=0.2))
    for yardstick, exact in zip(widgets.YARDSTICKS, (told, GridGP(PRIOR, points=6)), strict=True):
        record = explorer.compute(points=points, yardstick=yardstick, lengthscale=0.4, noise=0.2)
        torch.testing.assert_close(record.exact.mean, exact.distribution(x, y, grid).mean.float())
        torch.testing.assert_close(record.learned.high, learner().distribution(x, y, grid).quantile(0.975))


def test_the_sentence_says_what_the_yardstick_was_told_and_whether_the_prior_knows_it():
    explorer = widgets.ProcessExplorer(learner(), PRIOR)
    assert "told lengthscale 0.47 and noise 0.12." in said(explorer)
    explorer.controls["lengthscale"].value, explorer.controls["noise"].value = 0.05, 0.31
    assert "told lengthscale 0.05 (outside the prior) and noise 0.31 (outside the prior)." in said(explorer)
    explorer.controls["yardstick"].value = widgets.YARDSTICKS[1]
    assert "exact posterior averaged over the prior." in said(explorer)


def test_the_button_draws_points_and_their_function_which_goes_when_one_of_them_goes():
    explorer = widgets.ProcessExplorer(learner(), PRIOR)
    assert explorer.record.truth is None and labels(explorer.static().axes[0])[-1] == "learned: 95% band"
    explorer.controls["lengthscale"].value, explorer.controls["noise"].value = 1.5, 0.05
    new, clear = explorer.widget.children[-3].children
    new.click()
    first, points = explorer.record.truth, explorer.controls["points"].value
    assert len(points) == 6 and labels(explorer.static().axes[0])[-1] == "the function drawn"
    at = ((torch.tensor(points)[:, 0] + 2) / 4 * 79).round().long()
    assert float((first[at] - torch.tensor(points)[:, 1]).abs().max()) < 0.35
    explorer.controls["points"].value = [*points, [0.0, 0.0]]
    assert torch.equal(explorer.record.truth, first)
    explorer.controls["points"].value = points[1:]
    assert explorer.record.truth is None
    new.click()
    assert not torch.equal(explorer.record.truth, first)
    explorer.draw_function(1)
    assert torch.equal(explorer.record.truth, first) and explorer.controls["points"].value == points
    clear.click()
    assert explorer.record.truth is None and len(explorer.record.support_x) == 0 and explorer.error is None


def test_the_axes_lie_where_the_page_puts_the_points():
    explorer = widgets.ProcessExplorer(learner(), dataclasses.replace(PRIOR, outputscale=2.0, domain=(0.0, 5.0)))
    shown = [(explorer.controls["points"], explorer.static())]
    explorer = widgets.TableExplorer({name: Linear() for name in "abc"})
    shown.append((explorer.controls["points"], explorer.static()))
    for points, fig in shown:
        assert len(points.boxes) == len(fig.axes)
        for (left, top, width, height), ax in zip(points.boxes, fig.axes, strict=True):
            assert ax.get_position().bounds == pytest.approx((left, 1 - top - height, width, height))
            assert [*ax.get_xlim(), *ax.get_ylim()] == pytest.approx(points.limits)


def test_no_label_lies_on_another():
    explorers = [widgets.ProcessExplorer(learner(), PRIOR), widgets.TableExplorer({"a": Linear(), "b": Linear()})]
    explorers[0].draw_function(1)  # the longest legend
    for explorer in explorers:
        fig = explorer.static()
        plots.png(fig)  # which lays out all text
        texts = [text for text in fig.texts if text.get_text()]
        for ax in fig.axes:
            ticks = [tick.label1 for axis in (ax.xaxis, ax.yaxis) for tick in axis._update_ticks()]
            texts += [ax.title, ax.xaxis.label, ax.yaxis.label, *ticks]
            texts += ax.get_legend().get_texts() if ax.get_legend() else []
        boxes = [text.get_window_extent() for text in texts]
        assert all(fig.bbox.fully_contains(*corner) for box in boxes for corner in box.corners())
        for (one, box), (other, area) in itertools.combinations(zip(texts, boxes, strict=True), 2):
            assert not box.overlaps(area), (one.get_text(), other.get_text())


def test_a_failure_of_the_processes_is_told():
    explorer = widgets.ProcessExplorer(learner(), PRIOR)
    explorer.controls["points"].value = [[0.0, float("nan")]]
    assert isinstance(explorer.error, ValueError) and "points must be (x, y), finite" in said(explorer)
    explorer.controls["points"].value = []
    assert explorer.error is None
    with pytest.raises(ValueError, match="the prior must be of one feature, got 2"):
        widgets.ProcessExplorer(learner(), dataclasses.replace(PRIOR, inputs=2))
    with pytest.raises(ValueError, match="got none"):
        widgets.ProcessExplorer({})
    with pytest.raises(ValueError, match="yardstick must be one of told the hyperparameters"):
        explorer.compute(yardstick="none")


# --- The table explorer. ---


@pytest.mark.parametrize("name", widgets.PRESETS)
def test_presets_are_apart_and_in_the_plane(name):
    points = torch.tensor(widgets.preset_points(name, rows=300, seed=2))
    x, y = points[:, :2], points[:, 2].long()
    assert len(points) == 300 and float(x.abs().max()) < 2
    assert y.bincount().tolist() == ([100] * 3 if name == "blobs" else [150] * 2)
    away = torch.cdist(x, x).fill_diagonal_(9)
    nearest = y[away.argmin(1)]
    assert float((nearest == y).double().mean()) > 0.93  # a curve tells them apart
    best = max(  # and, but for heaps, no straight line does
        float((((x @ torch.tensor([angle.cos(), angle.sin()])) > at) == (y == 1)).double().mean())
        for angle, at in itertools.product(torch.linspace(0, 6.28, 60), torch.linspace(-2, 2, 21))
    )
    assert (best > 0.95) == (name == "blobs")
    assert widgets.preset_points(name, seed=2) != widgets.preset_points(name, seed=3)


def test_each_click_on_a_preset_draws_other_points():
    explorer = widgets.TableExplorer({"a": Linear()})
    assert explorer.controls["points"].value == widgets.preset_points("two moons", seed=0)
    explorer.buttons["circles"].click()
    assert explorer.controls["points"].value == widgets.preset_points("circles", seed=1)
    with pytest.raises(ValueError, match="name must be one of two moons, xor, circles, blobs, got 'stars'"):
        widgets.preset_points("stars")


def test_a_forest_stands_beside_a_classifier_by_itself():
    pytest.importorskip("sklearn")
    explorer = widgets.TableExplorer(Linear())
    assert list(explorer.record.maps) == ["learned in context", "random forest"] and explorer.error is None
    assert 0.5 < explorer.record.agreement < 1 and "They name the same class on" in said(explorer)
    left, right = explorer.static().axes
    assert left.get_title().startswith("learned in context: 0.0") and right.get_title().startswith("random forest: ")


def test_fewer_than_two_classes_are_told_in_a_sentence_and_learned_by_nobody():
    classifier = Linear()
    explorer = widgets.TableExplorer({"mine": classifier})
    fitted = classifier.fitted
    explorer.buttons["clear"].click()
    assert "0 points, of no class: click points of at least two classes" in said(explorer)
    explorer.controls["points"].value = [[0.0, 0.5, 2], [1.0, 0.5, 2]]
    assert "2 points, of one class only" in said(explorer) and explorer.error is None
    assert classifier.fitted == fitted and explorer.record.maps == {}
    (ax,) = explorer.static().axes
    assert len(ax.images) == 0 and ax.lines[0].get_xdata() == pytest.approx([0.0, 1.0])


def test_the_next_click_has_the_class_that_was_chosen():
    explorer = widgets.TableExplorer({"mine": Linear()})
    assert explorer.controls["points"].label == 0 and len(explorer.brush.options) == len(CLASSES)
    explorer.brush.value = 2
    assert explorer.controls["points"].label == 2


def test_every_number_of_classes_and_points_of_the_tables():
    explorer = widgets.TableExplorer({"a": Linear(), "b": Linear()})
    for count, classes in itertools.product((3, 200), ((0, 1), (0, 2), (1, 2), (0, 1, 2))):
        places = torch.rand(count, 2, generator=torch.Generator().manual_seed(count)).tolist()
        points = [[*place, classes[i % len(classes)]] for i, place in enumerate(places)]
        record = explorer.compute(points=points)
        assert record.classes == classes and record.agreement == 1 and str(record)
        explorer.controls["points"].value = points
        assert explorer.error is None and explorer.record.maps["a"].chances.shape == (40, 40, len(classes))


def test_a_failure_of_the_tables_is_told():
    explorer = widgets.TableExplorer({"mine": Failing()})
    assert isinstance(explorer.error, RuntimeError) and "no &lt;answer&gt;" in said(explorer)
    explorer.controls["points"].value = [[0.0, 0.0, 3]]
    assert isinstance(explorer.error, ValueError) and "with a class below 3" in said(explorer)
    with pytest.raises(ValueError, match="there must be a classifier, got none"):
        widgets.TableExplorer({})


# --- Points in the page. ---


@pytest.mark.parametrize(
    ("points", "labels", "message"),
    [
        ([[1.0]], None, r"points must be \(x, y\), finite, got \[1.0\]"),
        ([[1.0, float("inf")]], None, "finite"),
        ([[0.0, 0.0, 0]], None, r"\(x, y\)"),
        ([[0.0, 0.0]], 2, r"\(x, y, class\), with a class below 2"),
        ([[0.0, 0.0, 0.5]], 2, "class below 2"),
        ([[0.0, 0.0]] * 6, None, "there may be 5 points, got 6. Remove some."),
    ],
)
def test_what_are_no_points_is_refused(points, labels, message):
    with pytest.raises(ValueError, match=message):
        pairs(points, 5, labels=labels)


def test_every_change_is_answered_be_it_drawn_or_not():
    explorer = widgets.TableExplorer({"mine": Failing()})
    points = explorer.controls["points"]
    before, picture = points.answered, points.picture
    explorer.buttons["xor"].click()
    assert explorer.error is not None and points.answered == before + 1 and points.picture == picture
    explorer.buttons["clear"].click()
    assert explorer.error is None and points.answered == before + 2 and points.picture != picture


def test_presets_set_the_points_by_name():
    explorer = widgets.ProcessExplorer(learner(), PRIOR)
    presets = widgets.Presets(explorer, {"a gap": {"points": [(-1.5, 0.5), (1.5, 0.5)], "noise": 0.05}})
    presets.buttons["a gap"].click()
    assert explorer.error is None and explorer.record.support_x.tolist() == [-1.5, 1.5]


def test_the_page_of_the_points_is_whole_and_needs_no_network():
    source, style = str(Points()._esm), str(Points()._css)
    assert "export default" in source and ".metakit-points" in style
    for word in ("aria-label", "aria-live", "pointerdown", "keydown", "lmSuppressShortcuts"):
        assert word in source
    assert "http" not in source + style and "import " not in source


# A model as the page has it: it draws nothing, sends the picture again after each change, or not, and answers.
_MODEL = """
const told = TOLD, heard = {};
const picture = Uint8Array.from(atob(told.picture), (letter) => letter.charCodeAt(0));
told.picture = new DataView(picture.buffer);
window.draws = true;
window.sent = [];
window.model = {
  get: (name) => told[name],
  set: (name, value) => { told[name] = value; },
  on: (name, act) => { heard[name] = act; },
  off: (name) => { delete heard[name]; },
  save_changes: () => {
    window.sent.push(JSON.stringify(told.value));
    setTimeout(() => {
      if (window.draws) heard["change:picture"]();
      heard["change:answered"]();
    }, 20);
  },
  push: (value) => { told.value = value; heard["change:value"](); },
};
window.clear = render({ model: window.model, el: document.getElementById("here") });
"""


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        missing = "no Chromium here: install it to run the tests of the page"
        pytest.fail(missing) if os.environ.get("METAKIT_CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def plane(browser):
    """A page with points over an explorer's picture; ``plane.at(x, y)`` is a place in it, in pixels."""
    explorer = widgets.ProcessExplorer(learner(), PRIOR)
    points = explorer.controls["points"]
    names = ("value", "boxes", "limits", "label", "most", "alt")
    told = {name: getattr(points, name) for name in names} | {"picture": base64.b64encode(points.picture).decode()}
    told["most"] = len(points.value) + 1
    source = str(points._esm).replace("export default { render };", _MODEL.replace("TOLD", json.dumps(told)))
    page = browser.new_page(viewport={"width": 900, "height": 600})
    page.set_content(f"<style>{points._css}</style><div id=here></div><script>{source}</script>")
    page.wait_for_function("document.querySelector('img').complete")
    edge = page.locator(".box").bounding_box()
    low, high, bottom, top = points.limits

    def at(x, y):
        across, down = (x - low) / (high - low), (top - y) / (top - bottom)
        return edge["x"] + across * edge["width"], edge["y"] + down * edge["height"]

    page.at, page.points = at, lambda: page.evaluate("window.model.get('value')")
    yield page
    page.close()


def test_points_are_added_dragged_and_removed_with_the_mouse(plane):
    before = plane.points()
    plane.mouse.click(*plane.at(-0.9, -2.0))
    plane.wait_for_function("window.sent.length == 1")
    assert plane.points()[:-1] == before and plane.points()[-1] == pytest.approx([-0.9, -2.0], abs=0.02)
    plane.mouse.click(*plane.at(0.0, 2.5))  # one more than there may be
    assert "Remove one first" in plane.locator(".status").inner_text() and len(plane.points()) == len(before) + 1
    plane.mouse.move(*plane.at(-0.9, -2.0))
    plane.mouse.down()
    plane.mouse.move(*plane.at(1.9, 3.0), steps=15)
    assert plane.locator(".held").count() == 1
    plane.mouse.up()
    plane.wait_for_timeout(80)
    assert plane.points()[-1] == pytest.approx([1.9, 3.0], abs=0.02) and plane.locator(".held").count() == 0
    plane.mouse.click(*plane.at(*before[0]))
    plane.wait_for_timeout(80)
    assert plane.points()[:-1] == before[1:]
    assert plane.locator(".spot").count() == len(before)


def test_one_change_at_a_time_is_on_its_way_and_the_last_one_arrives(plane):
    plane.mouse.move(*plane.at(*plane.points()[0]))
    plane.mouse.down()
    plane.mouse.move(*plane.at(-1.0, 2.0), steps=60)
    plane.mouse.up()
    plane.wait_for_timeout(100)
    assert plane.points()[0] == pytest.approx([-1.0, 2.0], abs=0.02) and plane.evaluate("window.sent.length") < 60
    plane.evaluate("window.draws = false")  # as where Python fails: the page goes on
    plane.mouse.click(*plane.at(0.5, 3.0))
    plane.mouse.click(*plane.at(0.5, 3.0))
    plane.wait_for_timeout(100)
    assert len(plane.points()) == 5


def test_points_are_moved_with_the_keys(plane):
    before = plane.points()
    plane.locator(".box").focus()
    plane.keyboard.press("Space")
    plane.wait_for_timeout(60)
    assert plane.points()[-1] == [0, 0] and "Point added at 0, 0" in plane.locator(".status").inner_text()
    plane.keyboard.press("Space")
    for key in ("ArrowRight", "ArrowRight", "ArrowUp"):
        plane.keyboard.press(key)
    plane.keyboard.press("Space")
    plane.wait_for_timeout(80)
    assert plane.points()[-1] == pytest.approx([0.2, 0.16], abs=1e-6)
    plane.keyboard.press("Delete")
    plane.wait_for_timeout(60)
    assert plane.points() == before
    plane.keyboard.press("Tab")
    assert plane.evaluate("document.activeElement.className") != "box"


def test_points_that_python_sets_are_shown_and_new_ones_have_the_label(plane):
    plane.evaluate("window.model.push([[1, 1, 0]])")
    assert plane.locator(".spot").count() == 1
    plane.evaluate("window.model.set('label', 2)")
    plane.mouse.click(*plane.at(-1.0, 0.0))
    plane.wait_for_timeout(60)
    assert plane.points()[1] == pytest.approx([-1, 0, 2], abs=0.02)
    plane.evaluate("window.clear()")
