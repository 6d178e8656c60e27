"""Tables: the prior, the classifier that reads them by scikit-learn's interface, its weights, its commands."""

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import metakit as mk
from metakit.cli import app
from metakit.learners.columns import Columns
from metakit.learners.shipped import shipped
from metakit.learners.table_classifier import ranks
from metakit.recipes import in_context as recipe
from metakit.tasks.table_prior import TablePrior, ready

PRIOR = TablePrior(context=(10, 60), queries=20)


@pytest.fixture
def flowers():
    from sklearn.datasets import load_iris
    from sklearn.model_selection import train_test_split

    return train_test_split(*load_iris(return_X_y=True), test_size=0.5, random_state=0, stratify=load_iris().target)


# --- The prior. ---


def test_every_class_that_is_asked_for_has_a_row_to_learn_from():
    for seed in range(20):
        batch = PRIOR.sample(30, seed=seed)
        there = torch.nn.functional.one_hot(batch.support_y, 10).amax(1)
        asked = torch.nn.functional.one_hot(batch.query_y, 10).amax(1)
        assert bool((asked <= there).all())


def test_tables_have_as_many_columns_and_classes_as_was_asked_for():
    batch = TablePrior(features=(3, 5), ways=(2, 4), context=50, queries=200, columns=9).sample(200, seed=0)
    rows = torch.cat([batch.support_x, batch.query_x], 1)
    used = (rows != 0).any(1)
    assert rows.shape == (200, 250, 9) and not used[:, 5:].any() and 3.3 < used.sum(1).float().mean() < 4.4
    assert batch.ways == 4 and int(batch.support_y.max()) == 3 and len(batch.support_y.unique()) == 4
    assert TablePrior(features=4, ways=2, context=10).sample(3, seed=0).query_x.shape[2] == 4


def test_columns_are_ready_by_the_support_rows_alone():
    batch = PRIOR.at(60).sample(50, seed=1)
    z = batch.support_x.sign() * batch.support_x.abs().expm1()
    whole = (batch.support_x != 0).all(1)  # columns without a missing cell
    assert whole.any()
    assert z.mean(1)[whole].abs().max() < 1e-4
    assert (z.square().mean(1)[whole] - 1).abs().max() < 1e-3


def test_the_same_seed_draws_the_same_tables_and_another_one_others():
    one, two, other = (PRIOR.sample(4, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))
    assert one.query_x.shape != other.query_x.shape or not torch.equal(one.query_x, other.query_x)


def test_tables_can_be_learned_and_noise_makes_them_harder():
    from sklearn.neighbors import KNeighborsClassifier

    def right(noise):
        batch = TablePrior(features=4, ways=2, context=300, queries=100, noise=noise).sample(60, seed=0)
        found, most = [], []
        for x, y, query, truth in zip(*(side.numpy() for side in batch.tensors), strict=True):
            found.append((KNeighborsClassifier(5).fit(x, y).predict(query) == truth).mean())
            most.append((truth == np.bincount(y).argmax()).mean())
        return np.mean(found), np.mean(most)

    (still, majority), (noisy, _) = right(0.02), right(20.0)
    assert still > majority + 0.1 and still > noisy + 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 5}, "context must have a row for each class, 10 at least, got 5"),
        ({"columns": 3}, "columns must be at least the most features, 16, got 3"),
        ({"ways": 1}, "ways"),
        ({"noise": -1}, "noise"),
    ],
)
def test_tables_that_cannot_be_drawn_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TablePrior(**options)


def test_steady_keeps_the_rows_of_a_step_about_the_same():
    rows = [
        batch.support_y.numel() + batch.query_y.numel()
        for batch in (mk.tasks.Steady(PRIOR).sample(20) for _ in range(20))
    ]
    assert max(rows) <= 20 * 80 and min(rows) > 20 * 80 - 80


# --- Columns. ---


def test_cells_become_numbers_by_what_training_had():
    cells = np.array([["b", 1, None, True], ["a", "2.5", 3.0, False], [None, np.inf, "4", True]], dtype=object)
    columns = Columns.of(cells)
    assert columns.categories == (("a", "b"), None, None, None)
    told = columns.numbers(np.array([["a", "7", 1, 0], ["c", None, np.nan, -np.inf]], dtype=object))
    assert told.isnan().tolist() == [[False, False, False, False], [True, True, True, True]]
    assert told[0].tolist() == [0.0, 7.0, 1.0, 0.0]


def test_a_word_where_training_had_numbers_is_refused_by_name():
    columns = Columns.of(np.array([[1.0], [2.0]], dtype=object))
    with pytest.raises(ValueError, match="numbers alone in training, and now 'high' in row 1"):
        columns.numbers(np.array([[1.0], ["high"]], dtype=object))


def test_ranks_do_not_know_the_unit():
    x = torch.randn(50, 3, dtype=torch.float64)
    assert torch.equal(ranks(x, x), ranks(x.exp(), x.exp()))
    assert ranks(x, torch.full((1, 3), 1e9, dtype=torch.float64)).isfinite().all()


def test_a_constant_column_says_nothing():
    assert ready(torch.full((5, 1), 3.1), 5).abs().max() == 0
    assert ready(torch.full((5, 1), torch.nan), 5).abs().max() == 0
    assert ready(torch.tensor([[1e20], [3e20], [2e20]]), 3).isfinite().all()


# --- The classifier. ---


def test_scikit_learns_own_checks_pass():
    from sklearn.utils.estimator_checks import check_estimator

    results = check_estimator(mk.TableClassifier(), on_skip=None)
    assert len(results) > 40
    assert {each["status"] for each in results} == {"passed", "skipped"}
    assert [each["check_name"] for each in results if each["status"] == "skipped"] == ["check_array_api_input"]


def test_flowers_are_told_without_training(flowers):
    x, unseen, y, truth = flowers
    classifier = mk.TableClassifier.load().fit(x, y)
    assert classifier.score(unseen, truth) >= 0.93
    chances = classifier.predict_proba(unseen)
    assert np.allclose(chances.sum(1), 1) and chances.shape == (75, 3)


def test_an_answer_does_not_know_the_other_questions(flowers):
    x, unseen, y, _ = flowers
    classifier = mk.TableClassifier().fit(x, y)
    alone = np.concatenate([classifier.predict_proba(unseen[[i]]) for i in range(3)])
    assert np.allclose(alone, classifier.predict_proba(unseen)[:3], atol=1e-5)


def test_units_of_columns_do_not_matter(flowers):
    x, unseen, y, _ = flowers
    one = mk.TableClassifier().fit(x, y).predict_proba(unseen)
    other = mk.TableClassifier().fit(1000 * x - 7, y).predict_proba(1000 * unseen - 7)
    assert np.allclose(one, other, atol=1e-4)


def test_more_classes_than_the_network_tells():
    draw = np.random.default_rng(0)
    centres = 6 * draw.normal(size=(14, 4))
    y = draw.permutation(np.repeat(np.arange(14), 30))
    x = centres[y] + draw.normal(size=(420, 4))
    classifier = mk.TableClassifier().fit(x[:280], y[:280])
    assert classifier.predict_proba(x[280:]).shape == (140, 14)
    assert classifier.score(x[280:], y[280:]) > 0.7  # chance is 0.07


def test_more_features_than_the_network_reads():
    draw = np.random.default_rng(0)
    y = draw.integers(0, 2, 400)
    x = draw.normal(size=(400, 60)) + y[:, None] * draw.normal(size=60) * 0.6
    assert mk.TableClassifier().fit(x[:200], y[:200]).score(x[200:], y[200:]) > 0.85


def test_half_of_the_views_of_many_features_are_principal_directions():
    x = np.random.default_rng(0).normal(size=(50, 1)).repeat(40, 1)
    classifier = mk.TableClassifier().fit(x, (x[:, 0] > 0).astype(int))
    used = [
        int(
            (classifier._columns(view, np.random.default_rng(0), classifier.rows_, classifier.rows_)[0] != 0)
            .any(0)
            .sum()
        )
        for view in range(4)
    ]
    assert used == [1, 1, 16, 16]
    assert classifier.score(x, (x[:, 0] > 0).astype(int)) > 0.9


def test_more_rows_than_a_view_reads():
    draw = np.random.default_rng(0)
    x = draw.normal(size=(100_000, 3))
    y = np.where(x[:, 0] > 0, "up", "down")
    y[:5] = "rare"
    classifier = mk.TableClassifier(views=2).fit(x, y)
    assert classifier.score(x[-500:], y[-500:]) > 0.9
    chosen = classifier._some_rows(np.random.default_rng(0))
    assert len(chosen) == 1000 and len(set(chosen.tolist())) == 1000 and (classifier.numbers_[chosen] == 1).any()


def test_words_missing_cells_and_infinite_ones():
    draw = np.random.default_rng(0)
    n = 120
    colour, size = draw.choice(["red", "green", "blue"], n), draw.normal(size=n)
    y = ((colour == "red") & (size > -0.5)).astype(int)
    cells = np.array([colour, size], dtype=object).T
    cells[3, 0], cells[4, 1], cells[5, 1] = None, np.nan, np.inf
    classifier = mk.TableClassifier().fit(cells[:80], y[:80])
    assert classifier.score(cells[80:], y[80:]) > 0.85
    assert np.isfinite(classifier.predict_proba([["violet", None], [None, -np.inf]])).all()


def test_a_frame_is_taken_as_it_is():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"a": [1.0, 2.0, None, 4.0] * 5, "b": pandas.Categorical(["x", "y", "x", "y"] * 5)})
    y = pandas.Series(["no", "yes"] * 10)
    classifier = mk.TableClassifier().fit(frame, y)
    assert classifier.feature_names_in_.tolist() == ["a", "b"]
    assert classifier.predict(frame.iloc[:2]).tolist() == ["no", "yes"]
    with pytest.raises(ValueError, match="feature names"):
        classifier.predict(frame[["b", "a"]])


def test_one_class_is_certain_and_a_constant_table_gives_the_shares():
    assert mk.TableClassifier().fit([[1.0], [2.0]], [5, 5]).predict_proba([[3.0]]).tolist() == [[1.0]]
    chances = mk.TableClassifier().fit(np.ones((40, 2)), [0] * 30 + [1] * 10).predict_proba(np.ones((1, 2)))
    assert 0.6 < chances[0, 0] < 0.9


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        ([[1.0], [2.0], [3.0]], [0.1, 0.72, 3.3], ValueError, "Unknown label type"),
        ([[1.0], [2.0]], [0, 1, 1], ValueError, "inconsistent numbers of samples"),
        ([[1.0], [2.0]], [0, np.nan], ValueError, "NaN"),
        (np.array([[{"a": 1}], [2.0]], dtype=object), [0, 1], TypeError, "must be a number, a string or missing"),
        (np.empty((0, 2)), [], ValueError, "0 sample"),
    ],
)
def test_tables_that_cannot_be_meant_are_refused(x, y, error, message):
    with pytest.raises(error, match=message):
        mk.TableClassifier().fit(x, y)


def test_a_learner_of_other_things_is_refused():
    with pytest.raises(TypeError, match="must be an InContext learner, got ProtoNet"):
        mk.TableClassifier(mk.ProtoNet(mk.models.MLP(2, [4], 4))).fit([[1.0], [2.0]], [0, 1])
    with pytest.raises(ValueError, match="must tell classes of rows of numbers"):
        mk.TableClassifier(recipe.of_functions()).fit([[1.0], [2.0]], [0, 1])


# --- Weights. ---


def test_the_shipped_weights_are_small_and_of_the_recipe():
    path = shipped("tables.pt")
    assert path.stat().st_size < 1_000_000
    ours, made = mk.load(path), recipe.of_tables()
    assert repr(ours) == repr(made) and next(ours.parameters()).dtype == torch.float16
    record = path.with_suffix(".md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in record


def test_weights_of_ones_own_by_their_checksum(tmp_path):
    path = tmp_path / "t.pt"
    mk.save(recipe.of_tables(seed=1), path)
    told = hashlib.sha256(path.read_bytes()).hexdigest()
    assert mk.TableClassifier.load(path, sha256=told).learner is not None
    with pytest.raises(ValueError, match=f"has the checksum {told}, not 00"):
        mk.TableClassifier.load(path, sha256="00")
    with pytest.raises(FileNotFoundError, match="no file"):
        mk.TableClassifier.load(tmp_path / "other.pt")
    with pytest.raises(ValueError, match="need their checksum"):
        mk.TableClassifier.load("https://example.org/t.pt")


def test_metakit_does_not_need_scikit_learn_until_it_is_asked_for():
    code = (
        "import sys; sys.modules['sklearn'] = None; import metakit as mk\n"
        "try: mk.TableClassifier\nexcept ImportError as e: print(e)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "needs scikit-learn" in told
    with pytest.raises(AttributeError, match="no attribute 'Tables'"):
        _ = mk.Tables


# --- Commands, and the README. ---


def test_the_three_lines_of_the_readme_answer(root, flowers):
    *_, block = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    x, unseen, y, truth = flowers
    names = {"mk": mk, "X": x, "y": y, "X_new": unseen}
    exec(compile(block, "README.md", "exec"), names)
    assert (names["chances"].argmax(1) == truth).mean() > 0.9


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_table_in_a_file_is_judged_by_what_was_trained(tmp_path):
    kept, table = tmp_path / "t.pt", tmp_path / "table.csv"
    trained = run("train", "tables", "--steps", 2, "--test-tasks", 4, "--save", kept)
    assert trained.exit_code == 0, trained.output
    assert "invented tables of 200 rows, 4 tasks" in trained.output
    draw = np.random.default_rng(0)
    lines = ["height,colour,kind"]
    for _ in range(60):
        height, colour = draw.normal(), draw.choice(["red", "blue", "?"])
        lines.append(f"{height:.3f},{colour},{'tall' if height > 0 else 'small'}")
    table.write_text("\n".join([*lines, "1.0,red,"]), encoding="utf-8")
    judged = run("evaluate", kept, "tables", "--csv", table, "--target", "kind", "--folds", 3)
    assert judged.exit_code == 0, judged.output
    first, _, ours, logistic = judged.output.strip().split("\n")
    assert first == "60 rows, 2 features, 2 classes; 3 parts"
    assert ours.startswith("in context") and logistic.startswith("logistic regression")
    assert float(logistic.split()[2]) > 85
    for words, message in (
        (("--target", "size"), "has no column 'size'. Its columns: height, colour, kind"),
        (("--target", "kind", "--folds", 50), "each class needs 50 rows"),
    ):
        wrong = run("evaluate", kept, "tables", "--csv", table, *words)
        assert wrong.exit_code == 2 and message in wrong.output


@pytest.mark.parametrize("what", ["gp", "linear"])
def test_learners_of_functions_are_kept_and_judged_beside_exact_bayes(tmp_path, what):
    kept = tmp_path / "l.pt"
    trained = run("train", what, "--steps", 2, "--test-tasks", 4, "--save", kept)
    assert trained.exit_code == 0, trained.output
    judged = run("evaluate", kept, what, "--test-tasks", 4)
    assert judged.exit_code == 0, judged.output
    assert (
        judged.output.strip().split("\n")
        == trained.output.strip().split("\n")[-len(judged.output.strip().split("\n")) :]
    )
    assert "exact Bayes" in judged.output
