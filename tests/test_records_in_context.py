"""Learning in context looked at: bands, curves and maps against closed forms and independent reckonings."""

import dataclasses
import math

import pytest
import torch
from matplotlib.colors import to_rgb

import metakit as mk
from metakit import plots, records
from metakit.contracts import ACCURACY, LOSS
from metakit.learners.bins import LOG_SCORE, Binned, Mixture, normal_bins
from metakit.learners.in_context import Contextual

PRIOR = mk.tasks.GaussianProcesses(queries=12)
ONE = dataclasses.replace(PRIOR, lengthscale=0.7, noise=0.2)
GRID = torch.linspace(-2, 2, 33)
X, Y = torch.tensor([-1.2, 0.1, 1.7]), torch.tensor([0.4, -0.9, 1.1])


def learner(seed=0, **options):
    torch.manual_seed(seed)
    return mk.InContext(mk.models.SetTransformer(1, width=8, layers=2, heads=2), **({"bins": 20} | options))


def labels(ax):
    return ax.get_legend_handles_labels()[1]


class InBins(Contextual):
    """Another's answer, told by its masses in many bins."""

    def __init__(self, other, bins=400):
        super().__init__(())
        self.other, (self.borders, self.tails) = other, normal_bins(bins)

    def respond(self, batch, rows=None):
        answer = self.other.respond(batch, rows)
        upto = torch.stack([answer.cdf(border.double()) for border in self.borders], -1)
        ends = torch.zeros_like(upto[..., :1])
        return Binned(
            torch.cat([ends, upto, ends + 1], -1).diff(dim=-1).clamp(min=1e-30).log().float(), self.borders, self.tails
        )


class Standard(Contextual):
    """Normal(0, spread) in bins, whatever it has read."""

    def __init__(self, spread=1.0, bins=400):
        super().__init__(())
        self.spread, (self.borders, self.tails) = spread, normal_bins(bins)

    def respond(self, batch, rows=None):
        flat = torch.zeros(*batch.query_x.shape[:2], len(self.borders) + 1)
        return Binned(flat, self.spread * self.borders, self.spread * self.tails)


# --- One context, two answers. ---


def test_the_exact_band_is_that_of_the_textbook():
    record = records.posterior_bands(learner(), mk.ExactGP(ONE), X, Y, GRID)

    def kernel(a, b):
        return (-((a[:, None] - b) ** 2) / (2 * 0.7**2)).exp()

    x, grid = X.double(), GRID.double()
    gain = kernel(grid, x) @ torch.linalg.inv(kernel(x, x) + 0.04 * torch.eye(3, dtype=torch.float64))
    mean, spread = gain @ Y.double(), (1.04 - (gain * kernel(grid, x)).sum(1)).sqrt()
    torch.testing.assert_close(record.exact.mean.double(), mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(record.exact.low.double(), mean - 1.959964 * spread, atol=1e-5, rtol=0)
    torch.testing.assert_close(record.exact.high.double(), mean + 1.959964 * spread, atol=1e-5, rtol=0)


def test_the_divergence_is_the_sum_over_bins_and_zero_where_the_answers_are_one():
    record = records.posterior_bands(learner(), mk.ExactGP(ONE), X, Y, GRID)
    right = mk.ExactGP(ONE).distribution(X[:, None], Y[:, None], GRID[:, None])
    answer = learner().distribution(X[:, None], Y[:, None], GRID[:, None])
    by_hand = torch.zeros(len(GRID))
    for i in range(len(GRID)):
        borders = [-math.inf, *answer.borders.tolist(), math.inf]
        mean, spread = float(right.means[i, 0]), float(right.spreads[i, 0])
        below = [0.5 * (1 + math.erf((border - mean) / spread / 2**0.5)) for border in borders]
        for b, mass in enumerate(answer.masses[i].tolist()):
            exact = below[b + 1] - below[b]
            by_hand[i] += exact * math.log(exact / mass) if exact > 0 else 0
    torch.testing.assert_close(record.divergence, by_hand, atol=1e-5, rtol=1e-4)
    assert record.kl == pytest.approx(float(by_hand.mean()), rel=1e-4)
    same = records.posterior_bands(InBins(mk.ExactGP(ONE)), mk.ExactGP(ONE), X, Y, GRID)
    assert same.kl < 1e-6
    torch.testing.assert_close(same.learned.high, same.exact.high, atol=0.03, rtol=0)


def test_an_empty_context_is_the_prior():
    none = torch.zeros(0)
    record = records.posterior_bands(Standard(), mk.ExactGP(ONE), none, none, GRID, share=0.5)
    assert record.exact.mean.abs().max() == 0 and record.learned.mean.abs().max() < 1e-5
    torch.testing.assert_close(record.exact.high, torch.full((33,), 0.6744898 * 1.04**0.5))
    torch.testing.assert_close(record.learned.high, torch.full((33,), 0.6744898), atol=2e-3, rtol=0)
    assert str(record).startswith("0 points;") and record.kl == pytest.approx(0.5 * (0.04 - math.log(1.04)), rel=0.05)


def test_reading_a_posterior_leaves_the_learner_alone():
    one = learner().train()
    before = {name: tensor.clone() for name, tensor in one.state_dict().items()}
    records.posterior_bands(one, mk.GridGP(PRIOR, points=3), X, Y, GRID)
    assert one.training and all(torch.equal(before[name], tensor) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": X[:, None]}, r"x, y and grid must be \[S\], \[S\] and \[G\], got \[3, 1\], \[3\], \[33\]"),
        ({"y": Y[:2]}, r"got \[3\], \[2\], \[33\]"),
        ({"grid": GRID[:0]}, r"got \[3\], \[3\], \[0\]"),
        ({"x": X * math.nan}, "x, y and grid must be finite"),
        ({"learner": learner(bins=None)}, "the learner must answer with bins"),
        ({"exact": mk.LeastSquares()}, "the yardstick with a distribution"),
        ({"share": 1.0}, "share must be below 1, got 1"),
    ],
)
def test_what_is_no_posterior_is_refused(change, message):
    given = {"learner": learner(), "exact": mk.ExactGP(ONE), "x": X, "y": Y, "grid": GRID}
    with pytest.raises(ValueError, match=message):
        records.posterior_bands(**(given | change))


def test_posteriors_are_drawn_as_they_are():
    record = records.posterior_bands(
        learner(), mk.ExactGP(ONE), X, Y, GRID, told="told all", share=0.9, truth=GRID.sin()
    )
    _, ax = plots.figure()
    plots.draw_posteriors(ax, record)
    exact, learned, low, high, truth, points = ax.lines
    assert labels(ax) == ["exact: mean, 90% band", "learned: mean", "learned: 90% band", "the function drawn"]
    drawn = ((exact, record.exact.mean), (learned, record.learned.mean), (truth, GRID.sin()))
    for line, values in (*drawn, (low, record.learned.low), (high, record.learned.high)):
        assert line.get_ydata() == pytest.approx(values.tolist())
    assert points.get_xdata() == pytest.approx(X.tolist()) and points.get_ydata() == pytest.approx(Y.tolist())
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(float(record.exact.high.max()))
    assert f"{record.kl:.3f} nats" in ax.get_title() and ax.get_title().startswith("3 points")
    assert "exact posterior told all" in str(record) and f"{record.kl:.3f} nats, averaged over x" in str(record)
    assert f"at most {float(record.divergence.max()):.3f}" in str(record)


# --- Over the size of the context. ---


def test_curves_are_what_evaluate_finds_on_the_same_tasks():
    one, exact = learner(), mk.ExactGP(PRIOR)
    record = records.context_curve({"mine": one}, {"exact": exact}, PRIOR, (5, 0, 2, 5), n_tasks=50, seed=3)
    result = mk.evaluate(one, PRIOR.at(5), n_tasks=50, seed=3, reference=exact)
    stages = [result.at.index(size) for size in (0, 2, 5)]
    assert record.sizes == (0, 2, 5) and record.names == ("mine", "exact") and record.references == ("exact",)
    assert record.measure == LOG_SCORE
    low, high = result.interval()
    for ours, theirs in ((record.mean[0], result.mean()), (record.half[0], (high - low) / 2)):
        torch.testing.assert_close(ours, theirs[stages].double(), atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(record.difference("mine", "exact"), result.difference(), strict=True):
        torch.testing.assert_close(ours, theirs[stages].double(), atol=1e-5, rtol=1e-5)
    assert one.sizes == mk.InContext(mk.models.SetTransformer(1)).sizes


def test_one_that_adapts_is_given_the_first_rows_as_its_support_set():
    torch.manual_seed(0)
    maml, prior = mk.MAML(mk.models.MLP(1, [8], 1), steps=2), mk.tasks.Sinusoids(shots=10, queries=7)
    record = records.context_curve({"MAML": maml, "mine": learner()}, {}, prior, (1, 4), n_tasks=6)
    batch = prior.sample(6, seed=1)
    assert record.measure == LOSS and record.scores.shape == (2, 6, 2)
    for i, rows in enumerate((1, 4)):
        for t in range(6):
            support = batch.support_x[t, :rows], batch.support_y[t, :rows]
            for which, one in enumerate((maml, learner())):
                error = (one.predict(*support, batch.query_x[t]) - batch.query_y[t]).square().mean()
                assert float(record.scores[which, t, i]) == pytest.approx(float(error), rel=1e-4)


def test_least_squares_is_exact_from_as_many_rows_as_features():
    prior = mk.tasks.LinearRegression(rows=(1, 8), features=3, noise=0.0)
    yardsticks = {"least squares": mk.LeastSquares(), "Bayes": mk.BayesLinear(prior)}
    record = records.context_curve(yardsticks, {}, prior, range(1, 5), n_tasks=400)
    loss = record.mean[0]
    # The part of w that k rows do not show: (3 - k) of 3 directions, each of unit variance.
    torch.testing.assert_close(loss[:2], torch.tensor([2.0, 1.0], dtype=torch.float64), atol=0.25, rtol=0)
    assert float(loss[2:].max()) < 1e-6
    chosen = records.context_curve(yardsticks, {}, prior, (2,), n_tasks=20, measure=LOSS)
    assert chosen.measure == LOSS and chosen.half.shape == (2, 1)


def test_classes_of_the_whole_task_are_known_to_one_that_reads_some_of_it():
    torch.manual_seed(0)
    data = mk.tasks.LabelledData(torch.randint(0, 255, (6, 8, 2), dtype=torch.uint8))
    prior = mk.tasks.Episodes(data, ways=3, shots=2, queries=2)
    one = mk.InContext(mk.models.SetTransformer(2, width=8, layers=1, targets=3), ways=3)
    record = records.context_curve({"mine": one}, {}, prior, (1, 6), n_tasks=20)
    assert record.measure == ACCURACY and record.scores.shape == (1, 20, 2)
    with pytest.raises(ValueError, match="sizes must be at most what the tasks have, 6 support rows, got 7"):
        records.context_curve({"mine": one}, {}, prior, (7,), n_tasks=20)


def test_what_is_no_curve_is_refused():
    one = learner()
    with pytest.raises(ValueError, match="there must be a learner, and every name once"):
        records.context_curve({}, {"exact": mk.ExactGP(PRIOR)}, PRIOR, (1,))
    with pytest.raises(ValueError, match="every name once"):
        records.context_curve({"a": one}, {"a": one}, PRIOR, (1,))
    with pytest.raises(ValueError, match="got none"):
        records.context_curve({"a": one}, {}, PRIOR, ())
    with pytest.raises(ValueError, match=r"got accuracy\. They share: log score, loss"):
        records.context_curve({"a": one}, {}, PRIOR, (1,), n_tasks=2, measure=ACCURACY)


@pytest.mark.parametrize("log", [False, True])
def test_curves_are_drawn_with_intervals_and_yardsticks_dashed(log):
    scores = torch.rand(3, 40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    record = records.ContextCurve(("a", "b", "exact"), ("exact",), (0, 1, 5, 20), scores, LOSS)
    _, ax = plots.figure()
    plots.draw_context_curve(ax, record, log=log)
    assert labels(ax) == ["a", "b", "exact"] and ax.get_xlabel() == "context rows" and ax.get_ylabel() == "query loss"
    for i, shown in enumerate(ax.containers):
        line, _, (bars,) = shown
        assert line.get_ydata() == pytest.approx(scores[i].mean(0).tolist())
        assert line.get_linestyle() == ("--" if i == 2 else "-")
        ends = torch.tensor([segment[:, 1].tolist() for segment in bars.get_segments()], dtype=torch.float64)
        half = 1.959964 * scores[i].std(0) / 40**0.5
        torch.testing.assert_close(ends[:, 1] - ends[:, 0], 2 * half)
    assert "the same 40 tasks" in ax.get_title() and ax.get_yscale() == ("log" if log else "linear")
    mean, half = float(record.mean[2, -1]), float(record.half[2, -1])
    assert f"exact {mean:.3g} +- {half:.1g}" in str(record) and "loss at 20 context rows" in str(record)


# --- Outside the prior. ---


def exact_of(lengthscale):
    return mk.ExactGP(dataclasses.replace(PRIOR, lengthscale=lengthscale, noise=0.5, outputscale=1.5))


def test_the_divergence_without_a_context_is_that_of_two_normals():
    record = records.outside_prior(Standard(1.9), exact_of, (0.2, 1.0), trained=(0.3, 2.0), rows=0, n_tasks=2)
    ratio = (1.5**2 + 0.5**2) / 1.9**2
    torch.testing.assert_close(
        record.learned, torch.full((2, 2), (ratio - 1 - math.log(ratio)) / 2).double(), atol=3e-3, rtol=0
    )
    assert record.inside.tolist() == [False, True] and record.reference is None


def test_who_knows_the_process_is_at_no_distance_and_who_knows_another_is():
    right = InBins(exact_of(0.4))
    record = records.outside_prior(right, exact_of, (2.0, 0.4), trained=(0.3, 1.0), reference=exact_of(0.4), n_tasks=20)
    assert record.at.tolist() == [0.4, 2.0] and record.reference.shape == record.learned.shape == (2, 20)
    # The prior of the tasks tells the hyperparameters, and ExactGP listens: the reference is exact everywhere.
    assert float(record.learned.max()) < 1e-5 and float(record.reference.max()) < 1e-5
    averaged = records.outside_prior(
        right, exact_of, (0.4, 2.0), trained=(0.3, 1.0), reference=mk.GridGP(exact_of(0.4).prior), n_tasks=20
    )
    close, far = averaged.reference.mean(1).tolist()
    assert close < 1e-5 and far > 0.02


def test_the_divergence_of_a_task_is_the_mean_over_its_rows():
    record = records.outside_prior(learner(), exact_of, (0.6,), trained=(0.3, 1.0), rows=4, n_tasks=3, seed=5)
    batch = exact_of(0.6).prior.at(4).sample(3, seed=5)
    for t in range(3):
        x, y, grid = batch.support_x[t, :, 0], batch.support_y[t, :, 0], batch.query_x[t, :, 0]
        alone = records.posterior_bands(learner(), exact_of(0.6), x, y, grid)
        assert float(record.learned[0, t]) == pytest.approx(alone.kl, rel=1e-4)


def test_the_sentence_names_the_worst_inside_and_outside():
    learned = torch.tensor([[3.0, 5.0], [1.0, 2.0], [0.4, 0.8]])
    record = records.OutsidePrior("lengthscale", torch.tensor([0.05, 0.5, 1.0]), learned, None, (0.1, 1.0), 10)
    assert "at most 1.500 +- 1 nats where met in training (lengthscale 0.5)" in str(record)
    assert "at most 4.000 +- 2 nats where not met (lengthscale 0.05)" in str(record)
    for trained, inside in (((0.05, 0.5), [True, True, False]), ((0.5, 0.5), [False, True, False])):
        assert dataclasses.replace(record, trained=trained).inside.tolist() == inside
    within = dataclasses.replace(record, trained=(0.01, 1.0))
    assert "not met" not in str(within) and "at 10 context rows" in str(within)


def test_the_range_of_the_training_is_shaded():
    learned = torch.rand(3, 30, generator=torch.Generator().manual_seed(0)) + 0.5
    at = torch.tensor([0.05, 0.5, 1.0])
    record = records.OutsidePrior("lengthscale", at, learned, learned / 9, (0.1, 1.0), 10)
    _, ax = plots.figure()
    plots.draw_outside_prior(ax, record)
    assert labels(ax) == ["met in training", "learned in context", "exact Bayes under the training's prior"]
    span = ax.patches[0].get_extents().transformed(ax.transData.inverted())
    assert (span.x0, span.x1) == pytest.approx((0.1, 1.0))
    assert ax.lines[0].get_ydata() == pytest.approx(learned.mean(1).tolist())
    assert ax.lines[1].get_ydata() == pytest.approx((learned / 9).mean(1).tolist())
    low = ax.collections[0].get_paths()[0].vertices[:, 1].min()
    assert low == pytest.approx(float((learned.mean(1) - 1.959964 * learned.std(1) / 30**0.5).min()))
    assert ax.get_xscale() == ax.get_yscale() == "log" and ax.get_xlabel() == "lengthscale"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"lengthscales": ()}, ValueError, "there must be a lengthscale to judge at, got none"),
        ({"lengthscales": (0.5, math.nan)}, ValueError, "every lengthscale must be finite"),
        ({"trained": (2.0, 1.0)}, ValueError, "trained must be"),
        ({"learner": mk.ExactGP(PRIOR)}, ValueError, "the learner must answer with bins"),
        ({"n_tasks": 1}, ValueError, "n_tasks must be at least 2"),
        ({"reference": mk.LeastSquares()}, ValueError, "the yardstick with a distribution"),
    ],
)
def test_what_is_not_outside_a_prior_is_refused(change, error, message):
    given = {"learner": Standard(), "exact_of": exact_of, "lengthscales": (0.5,), "trained": (0.1, 1.0), "n_tasks": 2}
    with pytest.raises(error, match=message):
        records.outside_prior(**(given | change))


# --- A plane of classes. ---


class Halves:
    """Class chances along one feature, told apart by a number; it shows what it was asked."""

    def __init__(self, feature, classes=None):
        self.feature, self.classes = feature, classes

    def fit(self, x, y):
        self.classes_ = torch.as_tensor(y).unique().numpy() if self.classes is None else self.classes

    def predict_proba(self, x):
        self.asked = torch.as_tensor(x)
        share = self.asked[:, self.feature].sigmoid()
        return torch.stack([1 - share, share], 1).numpy()


CORNERS = [[-1.0, -2.0], [1.0, -2.0], [1.0, 2.0]]


def test_the_map_has_each_place_where_it_is():
    across, up = Halves(0), Halves(1)
    record = records.decision_maps({"across": across, "up": up}, CORNERS, [0, 1, 1], 5, limits=(-1.0, 1.0, -2.0, 2.0))
    rows, columns = torch.linspace(-2, 2, 5), torch.linspace(-1, 1, 5)
    chances = {name: found.chances[..., 1] for name, found in record.maps.items()}
    torch.testing.assert_close(chances["across"], columns.sigmoid().expand(5, 5))
    torch.testing.assert_close(chances["up"], rows.sigmoid()[:, None].expand(5, 5))
    # Both name class 1 where both are above 0, class 0 where both are at most 0: 2 x 2 and 3 x 3 of 5 x 5.
    assert record.agreement == pytest.approx(13 / 25)
    assert "They name the same class on 52% of the plane." in str(record) and record.classes == (0, 1)
    alone = records.decision_maps({"across": across}, CORNERS, [0, 1, 1], 5)
    assert alone.limits == pytest.approx((-1.2, 1.2, -2.4, 2.4)) and "same class" not in str(alone)
    assert alone.maps["across"].seconds >= 0 and "3 points of 2 classes" in str(alone)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (CORNERS, [1, 1, 1], "points of at least two classes, got those of 1"),
        (CORNERS, [0, 1], r"x and y must be \[n, 2\], finite, and \[n\], got \[3, 2\] and \[2\]"),
        ([[1.0], [2.0]], [0, 1], r"got \[2, 1\]"),
        ([[math.inf, 0.0], [1.0, 0.0]], [0, 1], "finite"),
        ([], [], "x and y must be"),
    ],
)
def test_what_is_no_plane_is_refused(x, y, message):
    with pytest.raises(ValueError, match=message):
        records.decision_maps({"across": Halves(0)}, x, y)


def test_a_classifier_of_other_classes_is_refused():
    with pytest.raises(ValueError, match=r"must know the classes \[0, 1\], got \[1, 2\]"):
        records.decision_maps({"a": Halves(0, [1, 2])}, CORNERS, [0, 1, 1])


def test_the_colours_are_those_of_the_likelier_class_and_white_in_doubt():
    chances = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.25, 0.75], [0.0, 1.0]]])
    x, y = torch.tensor(CORNERS), torch.tensor([0, 2, 2])
    record = records.DecisionMaps(x, y, (0, 2), (-1.0, 1.0, -2.0, 2.0), {"a": records.DecisionMap(chances, 0.125)})
    _, ax = plots.figure()
    plots.draw_decision_map(ax, record, "a")
    (image,) = ax.images
    pixels = torch.as_tensor(image.get_array())
    blue, green = (torch.tensor(to_rgb(colour)) for colour in (plots.BLUE, plots.GREEN))
    assert pixels[0, 1].tolist() == [1, 1, 1]
    torch.testing.assert_close(pixels[0, 0], 1 - 0.75 * (1 - blue))
    torch.testing.assert_close(pixels[1, 0], 1 - 0.375 * (1 - green))
    torch.testing.assert_close(pixels[1, 1], 1 - 0.75 * (1 - green))
    assert image.origin == "lower" and tuple(image.get_extent()) == record.limits and "a: 0.1" in ax.get_title()
    assert labels(ax) == ["class 0", "class 2"] and ax.lines[1].get_ydata() == pytest.approx([-2.0, 2.0])
    _, ax = plots.figure()
    plots.draw_decision_map(ax, record, "b")  # nobody has made a map of this name
    assert len(ax.images) == 0 and ax.get_title() == "b" and len(ax.lines) == 2


def test_of_three_classes_a_third_each_is_white():
    chances = torch.tensor([[[1 / 3, 1 / 3, 1 / 3], [2 / 3, 1 / 3, 0.0]], [[0.0, 0.0, 1.0], [0.5, 0.5, 0.0]]])
    limits, y = (-1.0, 1.0, -2.0, 2.0), torch.tensor([0, 1, 2])
    record = records.DecisionMaps(torch.tensor(CORNERS), y, (0, 1, 2), limits, {"a": records.DecisionMap(chances, 0)})
    _, ax = plots.figure()
    plots.draw_decision_map(ax, record, "a")
    pixels = torch.as_tensor(ax.images[0].get_array())
    blue = torch.tensor(to_rgb(plots.BLUE))
    torch.testing.assert_close(pixels[0, 0], torch.ones(3))
    torch.testing.assert_close(pixels[0, 1], 1 - 0.375 * (1 - blue))
    torch.testing.assert_close(pixels[1, 1], 1 - 0.1875 * (1 - blue))


def test_mixtures_are_put_into_the_bins_of_the_learner():
    torch.manual_seed(0)
    mixture = Mixture(torch.randn(3, 4).double(), torch.rand(3, 4).double() + 0.2, torch.full((4,), -math.log(4)))
    borders, tails = normal_bins(12)
    found = records.in_context._on_bins(mixture, Binned(torch.zeros(3, 12), borders, tails))
    below = torch.stack([mixture.cdf(border.double()) for border in borders], -1)
    torch.testing.assert_close(found.masses.cumsum(-1)[:, :-1], below, atol=1e-6, rtol=0)
