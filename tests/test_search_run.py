"""A search from end to end: honest selection, resume, stop, table, gradient-based structure, terminal, pictures."""

import dataclasses
import io
import math
import sys

import pytest
import torch
from tqdm import tqdm
from typer.testing import CliRunner

import metakit as mk
from metakit import plots
from metakit.cli import app
from metakit.cli.search import problem
from metakit.nn.lending import stacked
from metakit.search.differentiable import Mixture

S = mk.search
SPACE = S.Space(hidden_layers=(1, 2), units=(1, 16), activation=("relu", "tanh"), learning_rate=S.log(1e-3, 1e-1))
TASKS = mk.tasks.LinearRegression(rows=20, features=3)


def data():
    batch = TASKS.sample(1, seed=0)
    sx, sy, qx, qy = batch.tensors
    half = [mk.TaskBatch(sx, sy, qx[:, part], qy[:, part]) for part in (slice(10), slice(10, None))]
    return half[0], half[1]


def search(strategy=None, **options):
    batch, test = data()
    options = {"rounds": 3, "steps": 30, "seed": 1, "test": test, "progress": False} | options
    return S.run(SPACE, batch, strategy=strategy or S.CrossEntropy(population=6), **options)


STRATEGIES = [
    S.Random(6),
    S.Evolution(6, 3),
    S.CrossEntropy(6),
    S.Reinforce(6),
    S.SuccessiveHalving(6),
    S.Optuna(None, 6),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: type(s).__name__)
def test_every_strategy_runs_and_repeats(strategy):
    if isinstance(strategy, S.Optuna):
        pytest.importorskip("optuna")
    result, again = search(strategy), search(strategy)
    assert result.history == again.history and [t.number for t in result.history] == list(range(18))
    assert result.best.score == min(t.score for t in result.history if t.finished) == result.best_so_far()[-1]
    assert result.strategy in str(result) and "test loss" in str(result)


def test_the_model_is_the_best_candidate_trained():
    result, (batch, test) = search(), data()
    model, best = result.model(), result.best.candidate
    assert len(model.config["hidden"]) == best["hidden_layers"] and set(model.config["hidden"]) == {best["units"]}
    with torch.no_grad():
        validation = (model(batch.query_x[0]) - batch.query_y[0]).square().mean()
        unseen = (model(test.query_x[0]) - test.query_y[0]).square().mean()
    assert float(validation) == pytest.approx(result.best.score, rel=1e-4)
    assert float(unseen) == pytest.approx(float(result.test[0]), rel=1e-4)


def test_only_a_candidate_trained_to_the_end_is_chosen():
    result = search(rounds=1)
    early = dataclasses.replace(result.history[0], score=-1.0, finished=False)
    assert dataclasses.replace(result, history=(early, *result.history[1:])).best.score > 0


def test_a_checkpoint_with_other_candidates_is_refused(tmp_path):
    path = tmp_path / "search.pt"
    search(checkpoint=path)
    content = torch.load(path, weights_only=True)
    content["history"][0]["candidate"]["units"] += 100
    torch.save(content, path)
    with pytest.raises(ValueError, match="is of another search"):
        search(checkpoint=path, resume=True)


def test_the_test_rows_have_no_say():
    batch, test = data()
    wrecked = mk.TaskBatch(test.support_x, test.support_y, test.query_x, 100 + test.query_y)
    there, here = (S.run(SPACE, batch, rounds=2, steps=20, test=t, progress=False) for t in (wrecked, test))
    assert there.history == here.history
    assert float(there.test) > 1000 * float(here.test)


def test_a_distribution_is_searched_over_several_tasks_and_tested_on_others():
    result = S.run(SPACE, TASKS, strategy=S.Random(4), rounds=1, steps=20, n_tasks=5, progress=False)
    assert result.test.shape == (5,) and torch.isfinite(result.test).all()
    batch = TASKS.sample(5, seed=0)
    trials, _ = S.train([t.candidate for t in result.history], batch, steps=20)
    assert [t.score for t in trials] == pytest.approx([t.score for t in result.history])


def test_a_resumed_search_ends_as_if_it_had_not_been_cut(tmp_path):
    path, strategy = tmp_path / "search.pt", S.Evolution(population=6, tournament=3)
    whole = search(strategy)
    cut = search(strategy, checkpoint=path, callback=lambda s: s.stop() if s.round == 2 else None)
    assert cut.ended == "stopped" and len(cut.history) == 12
    seen = []
    again = search(strategy, checkpoint=path, resume=True, callback=lambda s: seen.append(s.round))
    assert again.history == whole.history and again.ended == "rounds spent"
    assert again.test.tolist() == whole.test.tolist()


def test_resuming_trains_nothing_twice(tmp_path, monkeypatch):
    path = tmp_path / "search.pt"
    search(checkpoint=path)
    calls = []
    original = S.Population.train
    monkeypatch.setattr(S.Population, "train", lambda self, steps: calls.append(len(self)) or original(self, steps))
    search(checkpoint=path, resume=True)
    assert set(calls) == {1}  # the winner alone, for its weights


def test_another_search_is_not_resumed(tmp_path):
    path = tmp_path / "search.pt"
    search(checkpoint=path)
    with pytest.raises(ValueError, match="its seed is 1, this one's is 2"):
        search(checkpoint=path, resume=True, seed=2)
    with pytest.raises(ValueError, match="its steps is 30"):
        search(checkpoint=path, resume=True, steps=31)
    with pytest.raises(ValueError, match="resume=True needs checkpoint="):
        search(resume=True)


def test_a_small_space_ends_when_it_is_spent():
    batch, _ = data()
    result = S.run(S.Space(units=(1, 5)), batch, strategy=S.Random(3), rounds=9, steps=5, progress=False)
    assert result.ended == "space spent" and len(result.history) == 5


def test_the_table_asks_for_pandas(monkeypatch):
    result = search(rounds=1)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        result.table()


def test_the_table_has_a_row_for_each_candidate():
    pytest.importorskip("pandas")
    table = search(rounds=1).table()
    assert len(table) == 6 and {"score", "units", "activation"} <= set(table.columns)


def test_random_search_always_stands_beside():
    batch, _ = data()
    options = {
        "strategies": {"evolution": S.Evolution(4, 2)},
        "seeds": (0, 1),
        "population": 4,
        "rounds": 2,
        "steps": 10,
    }
    results = S.compare(SPACE, batch, progress=False, **options)
    assert list(results) == ["evolution", "random"]
    assert [len(r.history) for each in results.values() for r in each] == [8] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"test": data()[0]}, "rows that the search does not see"),
        ({"test": TASKS.sample(2, seed=1)}, "the same 1 tasks"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        search(**options)


def test_other_refusals():
    batch, test = data()
    with pytest.raises(TypeError, match="TaskBatch or have sample"):
        S.run(SPACE, [1, 2])
    with pytest.raises(ValueError, match="gives test tasks itself"):
        S.run(SPACE, TASKS, test=test)
    wild = S.Space(units=(4, 8), learning_rate=(1e8, 1e9))
    with pytest.raises(ValueError, match="all 4 candidates diverged"):
        S.run(wild, batch, strategy=S.Random(4), rounds=1, steps=30, progress=False)


# ------------------------------------------------------------------------------------------- structure by gradient


def test_a_mixture_on_one_option_is_that_network():
    space = S.Space(hidden_layers=(1, 3), units=(2, 6), activation=("relu", "tanh"))
    mixture = Mixture(space, 3, 1).double()
    chosen = {"hidden_layers": 2, "units": 4, "activation": "tanh"}
    with torch.no_grad():
        for name, mix in mixture.mixing.items():
            mix[mixture.options[name].index(chosen[name])] = 1000.0
    x, h = torch.randn(5, 3, dtype=torch.double), None
    for layer, inputs in zip(mixture.layers[:2], (3, 4), strict=True):
        h = torch.tanh((x if h is None else h) @ layer.weight[:4, :inputs].T + layer.bias[:4])
    assert torch.allclose(mixture(x), h @ mixture.head.weight[:, :4].T + mixture.head.bias)


def test_the_second_order_gradient_of_structure_agrees_with_finite_differences():
    space = S.Space(hidden_layers=(1, 2), units=(2, 5), activation=("tanh", "sigmoid"), learning_rate=S.log(0.01, 0.3))
    batch = TASKS.sample(2, seed=3).to(dtype=torch.float64)
    torch.manual_seed(0)
    mixture, method = Mixture(space, 3, 1).double(), S.Differentiable(inner_steps=3)
    own = {n: p for n, p in mixture.named_parameters() if not n.startswith("mix_")}

    def loss():
        start = {n: w.detach().clone() for n, w in stacked(own, 2).items()}
        return method.outer_loss(mixture, start, batch)[1]

    mixing = mixture.mixing
    grads = torch.autograd.grad(loss(), list(mixing.values()))
    for mix, grad in zip(mixing.values(), grads, strict=True):
        for i in range(len(mix)):
            ends = []
            for move in (1e-5, -2e-5):
                with torch.no_grad():
                    mix[i] += move
                ends.append(float(loss().detach()))
            with torch.no_grad():
                mix[i] += 1e-5
            assert float(grad[i]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("order", [1, 2])
def test_the_gradient_finds_the_activation_that_made_the_data(order):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 400, 2, generator=generator)
    y = torch.relu(x @ torch.tensor([[1.0, -1.0], [0.5, 2.0]])).sum(-1, keepdim=True)
    batch = mk.TaskBatch(x[:, :200], y[:, :200], x[:, 200:], y[:, 200:])
    space = S.Space(units=(8,), activation=("sigmoid", "relu"))
    derived = S.Differentiable(steps=60, inner_steps=3, lr=0.1, order=order).fit(space, batch)
    assert derived.candidate == {"units": 8, "activation": "relu"}
    assert derived.loss[-1] < derived.loss[0] and float(derived.shares["activation"][-1, 1]) > 0.8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.Differentiable(order=3), "order must be one of 2, 1, got 3"),
        (lambda: S.Differentiable(lr=0.0), "lr must be finite and above 0"),
        (lambda: S.Differentiable(order=1).fit(SPACE, data()[0]), "no first-order gradient"),
        (lambda: S.Differentiable().fit(S.Space(dropout=(0.0, 1.0)), data()[0]), "got 'dropout'"),
        (lambda: S.Differentiable().fit(S.Space(activation=("relu",)), data()[0]), "must have the dimension units"),
        (lambda: S.Differentiable(inner_lr=1e9, steps=9).fit(S.Space(units=(1, 4)), data()[0]), "Lower inner_lr"),
        (lambda: Mixture(S.Space(units=(1, 4), activation=("gelu",)), 1, 1), "got 'gelu'"),
        (lambda: Mixture(S.Space(units=(1, 4), hidden_layers=(0, 2)), 1, 1), "Raise the low end"),
    ],
)
def test_what_cannot_be_mixed_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ----------------------------------------------------------------------------------------------- terminal, pictures


def terminal(*words):
    return CliRunner().invoke(app, ["search", *(str(word) for word in words)])


def test_the_terminal_and_the_functions_give_the_same_answer():
    words = "--rounds", 2, "--population", 5, "--steps", 10, "--seed", 3, "--device", "cpu"
    printed = terminal(*words)
    assert printed.exit_code == 0, printed.output
    space, batch, test = problem(100, 10, 64, 3, 3)
    options = {"rounds": 2, "steps": 10, "seed": 3, "test": test, "progress": False}
    lines = [str(S.run(space, batch, strategy=s, **options)) for s in (S.CrossEntropy(5), S.Random(5))]
    assert printed.output.splitlines() == lines


def test_what_the_user_can_mend_ends_in_one_sentence():
    ended = terminal("--resume", "--rounds", 1)
    assert ended.exit_code == 2 and ended.output.startswith("metakit: resume=True needs checkpoint=")


def test_the_bar_of_a_search_ends_at_its_end():
    with tqdm(total=1, file=io.StringIO()) as bar:
        S.train([{"units": 2}, {"units": 3}], data()[0], steps=100, bar=bar)
        assert bar.n == pytest.approx(1) and bar.n <= 1  # beyond, tqdm warns


def test_pictures_hold_what_the_record_holds():
    result = search()
    fig, axes = plots.figure(columns=3)
    plots.draw_search(axes[0], {"cross-entropy": [result, search(seed=2)], "random": search(S.Random(6))})
    labels = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert labels == ["cross-entropy", "random"] and len(axes[0].lines[0].get_xdata()) == 18
    plots.draw_population(axes[1], result)
    points = sum(len(c.get_offsets()) for c in axes[1].collections[:-1])
    assert points == 18 and axes[1].get_xlabel() == "units"
    plots.draw_distribution(axes[2], result)
    assert [mesh.get_array().shape for mesh in axes[2].collections] == [(3, 2), (3, 16), (3, 2), (3, 16)]
    assert plots.png(fig)


def test_pictures_of_nothing_are_refused():
    _, ax = plots.figure()
    with pytest.raises(ValueError, match="keeps no model to draw"):
        plots.draw_distribution(ax, search(S.Random(3), rounds=1))
    with pytest.raises(ValueError, match="dimension must be one of"):
        plots.draw_population(ax, search(rounds=1), dimension="dropout")


def test_halving_is_drawn_from_the_first_that_went_to_the_end():
    result = search(S.SuccessiveHalving(6, reduction=2, rungs=2))
    curve = result.best_so_far()
    assert math.isfinite(curve[-1]) and sum(t.finished for t in result.history) == 3
    _, ax = plots.figure()
    plots.draw_search(ax, result)
