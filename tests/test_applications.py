"""Real work: questions, patients and trials as data; the learners of the cases; their commands; real figures."""

import csv
import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import metakit as mk
from metakit.cli import app
from metakit.data import questions
from metakit.recipes import hyperparameters, language, medicine
from metakit.tasks import TrialTables, banking77, clinc150, hospitals, svm_trials

REAL = os.environ.get("METAKIT_DATA")
real_data = pytest.mark.skipif(not REAL, reason="METAKIT_DATA names no folder of real data")


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def waves(tasks=6, rows=12, seed=0):
    """Trial tables of smooth curves of unequal height and spread."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.linspace(0, 1, rows, dtype=torch.float64)
    phase, low, span = torch.rand(3, tasks, 1, generator=generator, dtype=torch.float64)
    scores = low + (0.1 + span) * (2 * math.pi * (at + 0.2 * phase)).sin()
    names = tuple(f"set{i}" for i in range(tasks))
    candidates = tuple({"rate": float(value)} for value in at)
    return TrialTables(
        settings=at[:, None].float(), scores=scores, names=names, candidates=candidates, shots=3, queries=5
    )


# --- Data. ---


def test_data_that_are_not_there_are_named_with_the_way_to_get_them(tmp_path):
    for read in (banking77, clinc150, hospitals, svm_trials):
        with pytest.raises(FileNotFoundError, match=r"download=True.*METAKIT_DATA"):
            read(root=tmp_path)


def test_a_file_that_is_another_is_refused(tmp_path):
    for folder in ("banking77", "clinc150", "heart", "ecml2016_svm"):
        (tmp_path / folder).mkdir()
    (tmp_path / "banking77/train.csv").write_text("text,category\nwhere is it?,card\n")
    (tmp_path / "banking77/test.csv").write_bytes(b"\xff\xfe\x00")
    for part, reason in (("train", "questions of 77 intents: 1 intents"), ("test", "a table")):
        with pytest.raises(ValueError, match=f"{part}.csv is not {reason}.*fetch it again"):
            banking77(part, root=tmp_path)
    (tmp_path / "clinc150/data_full.json").write_text('{"train": [["hello", "greet')
    (tmp_path / "clinc150/domains.json").write_text("{}")
    with pytest.raises(ValueError, match="whole JSON"):
        clinc150(root=tmp_path)
    (tmp_path / "clinc150/data_full.json").write_text('{"train": [["hello", "greeting"]]}')
    with pytest.raises(ValueError, match="150 intents: 1 intents"):
        clinc150(root=tmp_path)
    with pytest.raises(ValueError, match="domain"):
        clinc150(without=("weather",), root=tmp_path)
    for content in ("1,2,three\n", "1,2\n1,2,3\n", "1," * 13 + "0\n"):
        (tmp_path / "heart/processed.cleveland.data").write_text(content)
        with pytest.raises(ValueError, match="not the official file of Cleveland"):
            hospitals(root=tmp_path)
    (tmp_path / "ecml2016_svm/svm.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="not the 50 official files"):
        svm_trials(root=tmp_path)


@real_data
def test_questions_come_with_their_intents_and_domains_can_be_left_out():
    asked, intents = banking77("test")
    assert len(asked) == 3080 and set(map(intents.count, set(intents))) == {40}
    every, kept = clinc150("val"), clinc150("val", without=("banking", "meta"))
    assert len(every[0]) == 3000 and len(kept[0]) == 2400
    assert "balance" in every[1] and "balance" not in kept[1] and len(questions.DOMAINS) == 10


@real_data
def test_patients_are_read_whatever_stands_for_missing_and_nobody_has_a_cholesterol_of_nothing(tmp_path):
    found = hospitals()
    assert {name: len(y) for name, (_, y) in found.items()} == {
        "Cleveland": 303,
        "Hungary": 294,
        "Switzerland": 123,
        "Long Beach": 200,
    }
    assert [int(y.sum()) for _, y in found.values()] == [139, 106, 115, 149]  # as the source counts them
    assert not any((x[:, 4] == 0).any() for x, _ in found.values()) and found["Switzerland"][0][:, 4].isnan().all()
    (tmp_path / "heart").mkdir()
    for path in (mk.data._store.data_root(None) / "heart").iterdir():
        (tmp_path / "heart" / path.name).write_text(path.read_text().replace("NaN", "?"))
    again = hospitals(root=tmp_path)
    for name, (x, y) in found.items():
        assert torch.equal(x.nan_to_num(-1), again[name][0].nan_to_num(-1)) and torch.equal(y, again[name][1])


@real_data
def test_trials_come_with_settings_in_their_own_units():
    tables = svm_trials()
    assert tables.scores.shape == (50, 288) and tables.settings.shape == (288, 6)
    kernels = [candidate["kernel"] for candidate in tables.candidates]
    assert [kernels.count(name) for name in ("rbf", "poly", "linear")] == [168, 108, 12]
    assert {c["C"] for c in tables.candidates} == {2.0**k for k in range(-5, 7)}
    assert {c["degree"] for c in tables.candidates if "degree" in c} == set(range(2, 11))


def test_tables_of_trials_draw_tasks_of_one_data_set_and_refuse_what_does_not_fit():
    tables = waves()
    batch = tables.sample(50, seed=1)
    known = {tuple(row) for row in tables.scores.tolist()}
    for x, y in zip(batch.support_x, batch.support_y, strict=True):
        places = (x * 11).round().long()[:, 0]
        assert any(all(row[i] == v for i, v in zip(places.tolist(), y[:, 0].tolist(), strict=True)) for row in known)
    assert not (batch.support_x == batch.query_x.mT).any()  # no setting on both sides
    assert tables.without("set1").names == ("set0", "set2", "set3", "set4", "set5")
    with pytest.raises(ValueError, match="no data set is called 'iris'"):
        tables.only("iris")
    for change, reason in (
        ({"scores": tables.scores[:, :5]}, "need 5 settings"),
        ({"settings": tables.settings * 0}, "once"),
        ({"scores": tables.scores / 0}, "finite"),
        ({"shots": 9}, "Take fewer"),
    ):
        with pytest.raises(ValueError, match=reason):
            TrialTables(**vars(tables) | change)


def test_trials_in_a_list_become_tables():
    trials = [
        {"dataset": d, "kernel": k, "C": c, "score": d + c * (k == "rbf")}
        for d in (1, 2, 3)
        for k in ("rbf", "linear")
        for c in (0.1, 1.0, 100.0)
    ]
    tables = TrialTables.of(trials)
    assert tables.settings.tolist()[:2] == [[0, 1, 0.0], [0, 1, 0.5]] and tables.candidates[2] == {
        "kernel": "rbf",
        "C": 100.0,
    }
    assert tables.scores[1].tolist() == pytest.approx([2.1, 3.0, 102.0, 2.0, 2.0, 2.0])
    for wrong, reason in (
        (trials[:-1], "not there on every"),
        ([*trials, trials[0]], "twice"),
        ([{"a": 1}], "must say"),
    ):
        with pytest.raises(ValueError, match=reason):
            TrialTables.of(wrong)


# --- A prior learned in closed form. ---


def test_its_answer_is_the_posterior_of_the_mixture_that_it_says():
    tables = waves()
    learner = mk.EmpiricalGP.of(tables, own=0.2, noise=0.01, sizes=())
    seen, asked = [1, 4, 9], [0, 5]
    y = 0.3 + tables.scores[2, seen] * 1.7
    answer = learner.distribution(tables.settings[seen], y[:, None], tables.settings[asked])
    low, high = tables.scores.amin(1), tables.scores.amax(1)
    z = (tables.scores - low[:, None]) / (high - low)[:, None]
    mean, c = z.mean(0), np.cov(z.numpy().T, bias=True)
    c = 0.8 * c + 0.2 * np.diag(np.diag(c)) + 0.01 * np.eye(12)
    logs = []
    for n in range(6):
        span = float(high[n] - low[n])
        residual = ((y - low[n]) / span - mean[seen]).numpy()
        k = c[np.ix_(seen, seen)]
        expected = mean[asked].numpy() + c[np.ix_(asked, seen)] @ np.linalg.solve(k, residual)
        variance = np.diag(c)[asked] - np.diag(c[np.ix_(asked, seen)] @ np.linalg.solve(k, c[np.ix_(seen, asked)]))
        np.testing.assert_allclose(answer.means[:, n], float(low[n]) + span * expected, rtol=1e-10)
        np.testing.assert_allclose(answer.spreads[:, n], span * np.sqrt(variance), rtol=1e-8)
        normal = torch.distributions.MultivariateNormal(low[n] + span * mean[seen], span**2 * torch.from_numpy(k))
        logs.append(float(normal.log_prob(y)))
    torch.testing.assert_close(answer.log_weights[0], torch.tensor(logs, dtype=torch.float64).log_softmax(0))


def test_before_anything_is_seen_it_answers_with_the_mean_and_all_scales_count_alike():
    tables = waves()
    learner = mk.EmpiricalGP.of(tables)
    answer = learner.posterior(tables.settings[:0], tables.scores[0, :0], tables.settings)
    torch.testing.assert_close(answer.log_weights.exp(), torch.full((1, 6), 1 / 6, dtype=torch.float64))
    expected = learner.lows + learner.spans * learner.centre[:, None]
    torch.testing.assert_close(answer.means, expected)


def test_it_is_judged_saved_and_refuses_like_other_learners(tmp_path):
    tables = waves(tasks=30)
    learner = mk.EmpiricalGP.of(tables.only(*tables.names[:20]), sizes=(0, 1, 3))
    unseen = tables.only(*tables.names[20:])
    scores = mk.evaluate(learner, unseen, n_tasks=60)
    squares = scores.loss.mean(0)
    assert scores.at == (0, 1, 3) and float(squares[2]) < 0.7 * float(squares[0])  # more rows, better forecasts
    mk.save(learner, tmp_path / "gp.pt")
    again = mk.load(tmp_path / "gp.pt")
    x, y = unseen.settings[:2], unseen.scores[0, :2, None].float()
    torch.testing.assert_close(again.predict(x, y, unseen.settings), learner.predict(x, y, unseen.settings))
    with pytest.raises(ValueError, match="must be one of the 12"):
        learner.predict(x + 0.04, y, x)
    flat = TrialTables(settings=torch.rand(4, 1), scores=torch.ones(2, 4), names=("a", "b"), shots=1, queries=1)
    with pytest.raises(ValueError, match="one score for all rows"):
        mk.EmpiricalGP.of(flat)


def test_the_race_tries_what_improves_most_by_simulation():
    tables = waves(tasks=8)
    learner = hyperparameters.learner(tables.without("set7"))
    tried, y = tables.settings[[2, 6]], tables.scores[7, [2, 6]]
    answer = learner.posterior(tried, y, tables.settings)
    generator = torch.Generator().manual_seed(0)
    part = torch.multinomial(answer.log_weights[0].exp(), 200_000, replacement=True, generator=generator)
    draws = answer.means[:, part] + answer.spreads[:, part] * torch.randn(12, 200_000, generator=generator)
    gain = ((draws - y.max()).clamp(min=0) / learner.spans[part]).mean(1)
    gain[[2, 6]] = -1
    assert hyperparameters.suggest(learner, tables.settings, tried, y) == int(gain.argmax())
    order = hyperparameters.race(learner, tables, "set7", trials=50)
    assert sorted(order) == list(range(12))  # no setting twice


def test_regret_and_the_orders_that_it_is_measured_by():
    scores = torch.tensor([[0.0, 1.0, 0.5, 0.9], [0.9, 0.2, 1.0, 0.0], [0.3, 0.1, 0.2, 0.4]])
    tables = TrialTables(settings=torch.eye(4), scores=scores, names=tuple("abc"), shots=1, queries=1)
    assert hyperparameters.regret(tables, "a", [0, 2, 3, 1]).tolist() == pytest.approx([100, 50, 10, 0], abs=1e-4)
    assert hyperparameters.by_mean_rank(tables)[0] == 2  # ranks 3, 1, 3 are beaten by none: 7, 10, 7, 8 before ties
    z = hyperparameters.unit(scores)
    assert hyperparameters.portfolio(tables)[0] == int(z.mean(0).argmax())
    assert sorted(hyperparameters.random_order(tables, seed=3)) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="settings in words"):
        hyperparameters.starting_trials(tables)


def test_starting_trials_begin_a_study_of_optuna():
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    first = hyperparameters.starting_trials(waves(), 3)
    for trial in first:
        study.enqueue_trial(trial)
    study.optimize(lambda trial: trial.suggest_float("rate", 0.0, 1.0), n_trials=3)
    assert [trial.params for trial in study.trials] == first


@real_data
def test_published_regrets_of_the_baselines_and_the_learned_prior_is_below_them():
    tables, at = svm_trials(), [0, 4, 9, 19]
    found = {"learned prior": [], "greedy portfolio": [], "mean rank": []}
    for name in tables.names:
        for who, order in hyperparameters.compared(tables, name).items():
            if who in found:
                found[who].append(hyperparameters.regret(tables, name, order)[at])
    means = {who: torch.stack(regrets).mean(0).tolist() for who, regrets in found.items()}
    assert means["greedy portfolio"] == pytest.approx([17.0, 7.7, 5.1, 4.1], abs=0.06)
    assert means["mean rank"] == pytest.approx([20.6, 9.1, 7.4, 5.7], abs=0.06)
    assert means["learned prior"][1] < 5 and means["learned prior"][3] < 1.5


# --- Logistic regression drawn to a start. ---


def rows(n=30, d=4, seed=0):
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] + 0.7 * torch.randn(n, generator=torch.Generator().manual_seed(seed + 1)) > 0).long()


def test_drawn_to_nothing_it_is_logistic_regression_of_a_well_kept_package():
    from sklearn.linear_model import LogisticRegression

    x, y = rows()
    learner = mk.Logistic(nn.Identity(), 4, strength=2.0, intercept=1e-9)
    scores = learner.predict(x, y, x)
    other = LogisticRegression(C=0.5, tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose((scores[:, 1] - scores[:, 0]).numpy(), other.decision_function(x.numpy()), atol=1e-3)


def test_it_stays_where_the_draw_is_strong_and_at_its_minimum_the_gradient_is_zero():
    x, y = rows()
    learner = mk.Logistic(nn.Identity(), 4, strength=3.0, intercept=0.5).double()
    start = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    learner.start.data.copy_(start)
    batch = mk.TaskBatch(x[None].double(), y[None], x[None].double(), y[None])
    w = learner.know(batch, None)[0].detach().requires_grad_()
    ones = torch.cat([x.double(), torch.ones(30, 1, dtype=torch.float64)], 1)
    draw = torch.tensor([3.0] * 4 + [0.5], dtype=torch.float64)
    signs = 2.0 * y - 1
    objective = nn.functional.softplus(-signs * (ones @ w)).sum() + (draw * (w - start).square()).sum() / 2
    assert float(torch.autograd.grad(objective, w)[0].abs().max()) < 1e-6
    learner.log_strengths.data.fill_(math.log(1e8))
    torch.testing.assert_close(learner.know(batch, None)[0], start, atol=1e-6, rtol=0)


def test_its_meta_gradient_is_right_by_finite_differences():
    x, y = rows()
    asked = rows(seed=5)
    learner = mk.Logistic(nn.Identity(), 4, strength=3.0).double()
    batch = mk.TaskBatch(x[None].double(), y[None], asked[0][None].double(), asked[1][None])

    def loss(start, strengths):
        return torch.func.functional_call(learner, {"start": start, "log_strengths": strengths}, (batch,))

    start, strengths = (p.detach().clone().requires_grad_() for p in (learner.start, learner.log_strengths))
    assert torch.autograd.gradcheck(loss, (start, strengths))


def test_rows_that_fill_up_count_for_nothing_and_three_classes_are_refused():
    x, y = rows()
    learner = mk.Logistic(nn.Identity(), 4)
    some = mk.TaskBatch(x[None, :20], y[None, :20], x[None], y[None])
    filled = mk.TaskBatch.pad([some, mk.TaskBatch(x[None], y[None], x[None], y[None])])
    torch.testing.assert_close(learner.know(filled, None)[0], learner.know(some, None)[0])
    with pytest.raises(ValueError, match="Logistic tells two classes apart"):
        learner.predict(torch.eye(3, 4), torch.arange(3), x)


# --- Patients. ---


def invented(n, shift, seed):
    """A hospital by a known model: every second feature counts, and a disease is rarer where the shift is low."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 13, generator=generator)
    y = (x[:, [0, 3, 4, 7, 9]].sum(1) + shift + 0.5 * torch.randn(n, generator=generator) > 0).long()
    x[torch.rand(n, 13, generator=generator) < 0.1] = torch.nan
    return x, y


def test_scores_of_chances_by_a_well_kept_package():
    from sklearn.metrics import roc_auc_score

    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(200, generator=generator).mul(20).round().div(20)  # with ties
    y = (torch.rand(200, generator=generator) < chance).long()
    assert float(medicine.area(chance.double(), y)) == pytest.approx(roc_auc_score(y, chance))
    by_hand = 0.0
    for low in range(10):
        inside = (chance >= low / 10) & ((chance < (low + 1) / 10) | (low == 9))
        if inside.any():
            by_hand += float(inside.float().mean() * (chance[inside].mean() - y[inside].float().mean()).abs())
    assert float(medicine.calibration_error(chance, y)) == pytest.approx(by_hand, abs=1e-5)


def test_cells_that_are_missing_say_nothing_but_that_they_are():
    x, _ = invented(40, 0.0, 0)
    coded = medicine.coded(x)
    other = x.clone()
    other[:, 3] = torch.nan
    changed = (medicine.coded(other) != coded).any(0)
    embedding = mk.models.Standardised(coded.shape[1] // 2).estimate(coded)
    z = embedding(coded)
    there = coded.chunk(2, 1)[1].bool()
    values = z.chunk(2, 1)[0]
    assert changed.sum() == 2 and not values[~there].any()
    number = 0  # age: standardised over those who told it
    told = values[there[:, number], number]
    assert float(told.mean()) == pytest.approx(0, abs=0.05) and float(told.std()) == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="patients must be"):
        medicine.coded(x[:, :5])


def test_a_hospital_of_another_base_rate_is_learned_from_few_patients():
    others = {f"h{i}": invented(150, shift, i) for i, shift in enumerate((-1.5, 0.0, 1.5))}
    new = invented(200, 2.0, 9)
    contenders = medicine.contenders(others, medicine.train(others, draws=10))
    scores = {name: medicine.judged(tell, new, 20, draws=10) for name, tell in contenders.items()}
    ours = scores["drawn to the start"]
    assert float((scores["pooled"].log_loss - ours.log_loss).mean()) > 0.01
    assert float((scores["local"].log_loss - ours.log_loss).mean()) > 0.05
    assert torch.equal(medicine.judged(contenders["pooled"], new, 20, draws=3).auc, scores["pooled"].auc[:3])
    with pytest.raises(ValueError, match="two hospitals"):
        medicine.train({"h0": others["h0"]})
    with pytest.raises(ValueError, match="more than 200 patients"):
        medicine.judged(contenders["pooled"], new, 200)


@real_data
def test_four_hospitals_the_drawn_one_is_better_calibrated_than_the_pooled_one():
    every = hospitals()
    ahead = []
    for name, hospital in every.items():
        others = {k: v for k, v in every.items() if k != name}
        contenders = medicine.contenders(others, medicine.train(others, draws=10))
        scores = {who: medicine.judged(contenders[who], hospital, 20) for who in ("drawn to the start", "pooled")}
        ahead.append(float((scores["pooled"].log_loss - scores["drawn to the start"].log_loss).mean()))
    assert np.mean(ahead) > 0.03 and min(ahead) > -0.05  # worse at one of them, by little


# --- Questions. ---


def invented_questions(seed=0, intents=40, each=16):
    """Questions of words: two of a set of three tell the intent, six that all intents share do not."""
    generator = np.random.default_rng(seed)
    questions, labels = [], []
    for i in range(intents):
        for _ in range(each):
            told = [f"topic{seed}x{i}x{w}" for w in generator.choice(3, 2, replace=False)]
            noise = [f"please{w}" for w in generator.integers(0, 20, 6)]
            questions.append(" ".join(generator.permutation(told + noise)))
            labels.append(f"intent{i:02}")
    return questions, labels


def test_what_all_intents_share_is_learned_to_count_less():
    encoder = mk.tasks.HashedNgrams(2048, characters=None, words=1)
    known, new = (mk.tasks.texts(*invented_questions(seed), encoder) for seed in (0, 1))
    learner, history = language.train(known, steps=40, progress=False)
    gains = learner.embedding.log_gain.detach().exp()
    shared = encoder.encode([f"please{w}" for w in range(20)]).abs().sum(0) > 0
    told = encoder.encode([f"topic0x{i}x{w}" for i in range(40) for w in range(3)]).abs().sum(0) > 0
    assert float(gains[told & ~shared].mean()) > 1.5 * float(gains[shared].mean())
    before, after = (
        language.told(language.Logistic(embedding), new, new, 1, draws=3).mean()
        for embedding in (None, learner.embedding)
    )
    assert history.steps == 40 and float(after - before) > 0.05


def test_logistic_regression_of_many_classes_by_few_rows_and_what_is_refused():
    x = torch.eye(6).repeat_interleave(2, 0)
    data = mk.tasks.LabelledData(x, torch.arange(6).repeat_interleave(2))
    assert language.told(language.Logistic(), data, data, 1, draws=2, ways=3).tolist() == [1, 1]
    with pytest.raises(ValueError, match="same intents"):
        language.told(language.Logistic(), data, data.classes([0, 1]), 1, draws=1)
    with pytest.raises(ValueError, match="3 texts of each"):
        language.told(language.Logistic(), data, data, 3, draws=1)
    with pytest.raises(ValueError, match="strength"):
        language.Logistic(strength=0.0)
    with pytest.raises(ValueError, match=r"mk\.tasks\.texts"):
        language.start(mk.tasks.LabelledData(torch.rand(4, 1, 2, 2), torch.arange(4)))


@real_data
def test_learned_gains_are_ahead_of_logistic_regression_alone_on_new_intents():
    learner, _ = language.train(mk.tasks.texts(*clinc150()), steps=60, progress=False)
    known, asked = (mk.tasks.texts(*banking77(part)) for part in ("train", "test"))
    ours, plain = (
        language.told(language.Logistic(embedding), known, asked, 5, draws=2) for embedding in (learner.embedding, None)
    )
    assert float(ours.mean()) > 0.64 and float((ours - plain).mean()) > 0.02


# --- The terminal. ---


def test_texts_of_ones_own_from_the_terminal(tmp_path):
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*invented_questions(), strict=True)])
    trained = run("train", "language", "--texts", path, "--steps", 5, "--save", tmp_path / "t.pt")
    assert trained.exit_code == 0 and "5 outer steps on 40 intents" in trained.output
    judged = run("evaluate", tmp_path / "t.pt", "language", "--texts", path, "--draws", 2)
    assert judged.exit_code == 0 and judged.output.splitlines()[1].split() == ["examples", "1", "5"]
    assert len(judged.output.splitlines()) == 5
    path.write_text("text,label\nhello,\n")
    assert "row 1" in run("train", "language", "--texts", path).stderr
    path.write_text("question,label\nhello,a\n")
    assert "no column 'text'" in run("train", "language", "--texts", path).stderr


def test_trials_of_ones_own_from_the_terminal(tmp_path):
    tables, path, model = waves(tasks=8), tmp_path / "trials.csv", tmp_path / "gp.pt"
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("dataset", "score", "rate"))
        for name, scores in zip(tables.names, tables.scores.tolist(), strict=True):
            out.writerows((name, y, c["rate"]) for y, c in zip(scores, tables.candidates, strict=True))
    words = ("--tables", path, "--without", "set1", "--without", "set5")
    trained = run("train", "hyperparameters", *words, "--first", 2, "--save", model)
    assert trained.exit_code == 0
    printed = [json.loads(line) for line in trained.output.splitlines() if line.startswith("{")]
    others = tables.without("set1", "set5")
    assert [p["rate"] for p in printed] == pytest.approx(
        [c["rate"] for c in hyperparameters.starting_trials(others, 2)]
    )
    judged = run("evaluate", model, "hyperparameters", "--tables", path, "--on", "set1", "--on", "set5")
    assert judged.exit_code == 0 and "learned prior" in judged.output and "greedy portfolio" in judged.output
    assert "learned from set0" in run("evaluate", model, "hyperparameters", "--tables", path, "--on", "set0").stderr
    assert "no data set is called" in run("evaluate", model, "hyperparameters", "--tables", path, "--on", "x").stderr


def test_a_model_of_another_kind_and_data_that_are_missing_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("METAKIT_DATA", str(tmp_path))
    mk.save(mk.ProtoNet(mk.models.MLP(3, [4], 2)), tmp_path / "other.pt")
    assert "no learner of texts" in run("evaluate", tmp_path / "other.pt", "language").stderr
    assert "no learner of settings" in run("evaluate", tmp_path / "other.pt", "hyperparameters").stderr
    for words in (("language",), ("medicine",), ("hyperparameters",)):
        result = run("train", *words)
        assert result.exit_code == 2 and "--download" in result.stderr + "--download"
        assert "not found" in result.stderr


@real_data
def test_a_hospital_left_out_from_the_terminal(tmp_path):
    model = tmp_path / "m.pt"
    assert run("train", "medicine", "--without", "Hungary", "--save", model).exit_code == 0
    judged = run("evaluate", model, "medicine", "--hospital", "Hungary", "--draws", 3)
    assert judged.exit_code == 0 and judged.output.count("pooled and refitted") == 3
    assert "no hospital is called 'Rome'" in run("evaluate", model, "medicine", "--hospital", "Rome").stderr
