"""The command line and the README say and do what they promise."""

import os
import re

import pytest
import torch
from typer.testing import CliRunner

import metakit as mk
from metakit.cli import app


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_train_sinusoid_ends_with_a_scored_table(tmp_path):
    path = tmp_path / "run.pt"
    result = run("train", "sinusoid", "--steps", 5, "--test-tasks", 20, "--device", "cpu", "--checkpoint", path)
    assert result.exit_code == 0, result.output
    assert re.search(r"5 outer steps in .*: steps spent", result.output)
    assert re.search(r"^ +10 +\d+\.\d{3}   \d+\.\d{3} to \d+\.\d{3}$", result.output, re.MULTILINE)
    resumed = run("train", "sinusoid", "--steps", 8, "--test-tasks", 20, "--checkpoint", path, "--resume")
    assert "8 outer steps" in resumed.output


def test_the_terminal_and_the_functions_give_the_same_scores():
    printed = run("train", "sinusoid", "--steps", 5, "--test-tasks", 20, "--device", "cpu", "--seed", 3).output
    torch.manual_seed(3)
    tasks = mk.tasks.Sinusoids(shots=10, queries=10)
    learner = mk.MAML(mk.models.MLP(1, [40, 40], 1))
    mk.fit(learner, tasks, steps=5, seed=3, progress=False)
    mean = mk.evaluate(learner, tasks, n_tasks=20, steps=10).mean()
    assert f"          5 {mean[5]:6.3f}" in printed


@pytest.mark.parametrize("learner", ["meta-sgd", "anil", "reptile"])
def test_every_learner_trains(learner):
    result = run("train", "sinusoid", "--learner", learner, "--steps", 2, "--test-tasks", 5)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lr", -1), "lr must be a positive number, got -1.0"),
        (("--inner-lr", -1), "lr must be a finite number"),
        (("--resume",), "resume=True needs checkpoint="),
        (("--learner", "protonet"), "targets must be class numbers"),
        (("--inner-lr", 1e9, "--inner-steps", 20), "At outer step 1 the"),
    ],
)
def test_what_the_user_can_mend_ends_in_one_sentence(words, message):
    result = run("train", "sinusoid", "--steps", 3, "--test-tasks", 5, *words)
    assert result.exit_code == 1
    assert result.output.startswith("metakit: ") and message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("learner", ["protonet", "maml"])
def test_train_omniglot_names_both_protocols(learner):
    if not os.environ.get("METAKIT_DATA"):
        pytest.skip("METAKIT_DATA names no folder with the real Omniglot archives")
    words = "--learner", learner, "--steps", 2, "--width", 8, "--test-tasks", 4, "--queries", 3
    result = run("train", "omniglot", "--data", os.environ["METAKIT_DATA"], *words)
    assert result.exit_code == 0, result.output
    for protocol in ("transductive", "inductive"):
        assert re.search(rf"5-way 1-shot, unseen characters: accuracy .* % \({protocol}, 4 tasks", result.output)


def test_the_ten_lines_of_the_readme_run(root, capsys):
    readme = (root / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["y_hat"].shape == (10, 1)
    mean = names["result"].mean()
    assert mean[10] < mean[1] < mean[0]
    assert "loss" in capsys.readouterr().out
