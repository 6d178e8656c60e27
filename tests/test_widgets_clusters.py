"""Clusters: k-means against a plain loop, features that know no labels, and their explorer."""

import itertools

import pytest
import torch

import metakit as mk
from metakit import widgets


def plainly(x, k, rounds, start):
    """k-means one row at a time."""
    centres = [row.clone() for row in start]
    for _ in range(rounds):
        labels = [min(range(k), key=lambda c, row=row: float((row - centres[c]).square().sum())) for row in x]
        for c in range(k):
            members = [row for row, label in zip(x, labels, strict=True) if label == c]
            if members:
                centres[c] = torch.stack(members).mean(0)
    return [min(range(k), key=lambda c, row=row: float((row - centres[c]).square().sum())) for row in x]


@pytest.mark.parametrize("rounds", [1, 2, 10])
def test_kmeans_is_the_plain_loop(rounds):
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = x[torch.randperm(60, generator=torch.Generator().manual_seed(5))[:7]]
    assert mk.tasks.kmeans(x, 7, rounds=rounds, seed=5).tolist() == plainly(x, 7, rounds, start)


def test_kmeans_finds_heaps_that_lie_apart():
    centres = torch.tensor([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    x = (centres[:, None] + torch.randn(3, 20, 2, generator=torch.Generator().manual_seed(0))).flatten(0, 1)

    def spread(labels):
        return float(sum((x[labels == k] - x[labels == k].mean(0)).square().sum() for k in labels.unique()))

    best = min((mk.tasks.kmeans(x, 3, seed=seed) for seed in range(5)), key=spread)
    assert [len(part.unique()) for part in best.split(20)] == [1, 1, 1] and len(best.unique()) == 3


def test_a_cluster_that_loses_its_rows_keeps_its_centre():
    x = torch.tensor([[5.0], [5.0], [5.0], [9.0]], dtype=torch.float64)
    for seed in range(40):  # some begin with the same centre three times
        start = x[torch.randperm(4, generator=torch.Generator().manual_seed(seed))[:3]]
        assert mk.tasks.kmeans(x, 3, rounds=3, seed=seed).tolist() == plainly(x, 3, 3, start)


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    x = torch.rand(50, 2, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    first, again, other = (mk.tasks.kmeans(x, 9, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("x", "clusters", "message"),
    [
        (torch.zeros(4, 1, 8, 8), 2, r"x must be \[n, D\].*x.flatten"),
        (torch.zeros(4, 2), 5, "clusters must be at most 4, the number of rows, got 5"),
        (torch.zeros(4, 2), 0, "clusters must be at least 1"),
    ],
)
def test_wrong_input_is_refused(x, clusters, message):
    with pytest.raises(ValueError, match=message):
        mk.tasks.kmeans(x, clusters)


@pytest.mark.gpu
def test_kmeans_runs_where_its_rows_are():
    x = torch.rand(50, 4, device="cuda")
    first, again = (mk.tasks.kmeans(x, 5, seed=1) for _ in range(2))
    assert first.device.type == "cuda" and torch.equal(first, again)


@pytest.fixture(scope="module")
def glyphs():
    return mk.tasks.Glyphs(6, 10, 10, 16, seed=0)


def test_features_are_what_their_names_say(glyphs):
    x = glyphs.rows[:200] / 255
    made = {by: widgets.features(x, by, seed=1) for by in widgets.FEATURES}
    assert torch.equal(made["pixels"], x.flatten(1))
    assert made["blurred pixels"][:, 36].tolist() == pytest.approx(x[:, 0, 7:10, 7:10].mean((1, 2)).tolist())
    directions = made["principal directions"]
    covariance = directions.double().T.cov()
    assert float((covariance - covariance.diag().diag()).abs().max()) < 0.02 * float(covariance.diag().max())
    flat = x.flatten(1).double()
    largest = torch.linalg.eigvalsh(flat.T.cov())[-1]
    assert float(covariance.diag().max()) == pytest.approx(float(largest), rel=0.01)
    assert made["a random network"].shape == (200, 128)


def test_unknown_features_are_refused():
    with pytest.raises(ValueError, match=r"by must be one of pixels, .*got 'colour'"):
        widgets.features(torch.rand(40, 1, 8, 8), "colour")


def test_purity_is_counted_as_it_is_told(glyphs):
    record = widgets.sorted_drawings(glyphs, clusters=40, seed=2)
    labels = mk.tasks.kmeans(widgets.features(glyphs.rows / 255, "blurred pixels", seed=2), 40, seed=2).tolist()
    right = 0
    for cluster in set(labels):
        true = [row // 10 for row, label in enumerate(labels) if label == cluster]
        right += max(true.count(name) for name in true)
    assert record.purity == pytest.approx(right / 600) and int(record.sizes.sum()) == 600
    assert record.purity > 0.1, "above that of one cluster for all"


def test_true_classes_play_no_part_in_the_sorting(glyphs):
    nameless = mk.tasks.LabelledData(glyphs.rows[:, None])  # each drawing a class of its own
    kept, torn = (widgets.sorted_drawings(data, clusters=40, seed=2) for data in (glyphs, nameless))
    assert torch.equal(kept.sizes, torn.sizes) and torch.equal(kept.pictures, torn.pictures)


def test_every_end_of_every_control_and_each_move(glyphs):
    explorer = widgets.ClusterExplorer(glyphs)
    slider = explorer.controls["clusters"]
    for clusters, by in itertools.product((slider.min, slider.max), widgets.FEATURES):
        record = explorer.compute(clusters=clusters, by=by, seed=0)
        assert len(record.sizes) == clusters and by in str(record) and 0 < record.purity <= 1
    for name, value in {"clusters": 20, "by": "pixels", "seed": 5}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
