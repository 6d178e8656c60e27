"""The command line and the README say and do what they promise."""

import os
import re
import shutil
import zipfile
from pathlib import Path

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


@pytest.mark.parametrize("learner", ["maml++", "meta-sgd", "anil", "reptile", "ridge", "finetune"])
def test_every_learner_of_curves_trains(learner):
    result = run("train", "sinusoid", "--learner", learner, "--steps", 2, "--test-tasks", 5)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lr", -1), "lr must be a positive number, got -1.0"),
        (("--inner-lr", -1), "lr must be a finite number"),
        (("--resume",), "resume=True needs checkpoint="),
        (("--learner", "protonet"), "targets must be class numbers"),
        (("--schedule", "Cosine"), "schedule must name a class of torch.optim.lr_scheduler"),
        (("--minutes", -1), "minutes must be a positive number, got -1.0"),
        (("--learner", "maml++", "--inner-steps", 0), "needs a MAML of at least one inner step"),
        (("--device", "toaster"), "device toaster is not there"),
    ],
)
def test_words_that_cannot_be_meant_end_in_one_sentence(words, message):
    assert message in refused("train", "sinusoid", "--steps", 3, "--test-tasks", 5, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian",), "No such command 'trian'"),
        (("train", "sinus"), "No such command 'sinus'"),
        (("train", "sinusoid", "--step", "3"), "No such option: --step"),
        (("train", "sinusoid", "--steps", "many"), "Invalid value for '--steps'"),
        (("train", "sinusoid", "--learner", "mlp"), "'mlp' is not one of 'maml', 'maml++'"),
        (("train", "sinusoid", "--save", "."), "'.' is a directory"),
        (("train", "sinusoid", "--seed", 10**30), "Invalid value for '--seed'"),
        (("train", "glyphs", "--width", 0), "Invalid value for '--width'"),
        (("evaluate", "model.pt"), "Missing command"),
        (("evaluate", ".", "glyphs"), "'.' is a directory"),
        (("search", "--units", 1.5), "Invalid value for '--units'"),
        (("search", "much"), "unexpected extra argument"),
    ],
)
def test_nonsense_ends_in_one_line_that_names_it(words, message):
    result = run(*words)
    *_, last = result.output.splitlines()
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert last.startswith("Error: ") and message in last


def test_what_goes_wrong_on_the_way_is_told_apart_from_wrong_words():
    words = "--steps", 3, "--test-tasks", 5, "--inner-lr", 1e9, "--inner-steps", 20
    result = run("train", "sinusoid", *words)
    assert result.exit_code == 1 and result.output.startswith("metakit: At outer step 1 the")


def test_the_search_knows_the_devices_too():
    assert "device toaster is not there" in refused("search", "--device", "toaster")


PROTOCOLS = re.compile(r"^transductive +\d+\.\d\d %   [\d.-]+ to [\d.]+\ninductive +\d+\.\d\d %   ", re.MULTILINE)
SMALL = "--width", 4, "--steps", 2, "--test-tasks", 4, "--queries", 2, "--device", "cpu"


@pytest.fixture(scope="session")
def data():
    if not os.environ.get("METAKIT_DATA"):
        pytest.skip("METAKIT_DATA names no folder with the real Omniglot archives")
    return os.environ["METAKIT_DATA"]


@pytest.mark.parametrize("learner", ["protonet", "maml"])
def test_train_omniglot_names_both_protocols(learner, data, tmp_path):
    model = tmp_path / "model.pt"
    result = run("train", "omniglot", "--data", data, "--learner", learner, *SMALL, "--save", model)
    assert result.exit_code == 0, result.output
    assert "5-way 1-shot, unseen characters, 4 tasks" in result.output and PROTOCOLS.search(result.output)
    words = "--data", data, "--test-tasks", 4, "--split", "small1", "--within", "alphabet"
    result = run("evaluate", model, "omniglot", *words)
    assert result.exit_code == 0, result.output
    assert "5-way 1-shot, Omniglot small1, 4 tasks" in result.output and PROTOCOLS.search(result.output)


@pytest.mark.parametrize(
    "learner", ["protonet", "matching", "ridge", "maml", "maml++", "anil", "meta-sgd", "reptile", "finetune"]
)
def test_train_glyphs_saves_a_learner_that_evaluate_scores_alike(learner, tmp_path):
    model = tmp_path / "model.pt"
    result = run("train", "glyphs", "--alphabets", 1, "--learner", learner, *SMALL, "--save", model)
    assert result.exit_code == 0, result.output
    assert "The learner is in" in result.output
    again = run("evaluate", model, "glyphs", "--alphabets", 1, "--test-tasks", 4, "--queries", 2, "--device", "cpu")
    assert again.exit_code == 0, again.output
    assert PROTOCOLS.search(result.output) and scores(result.output) == scores(again.output)


def trained(tmp_path, *words):
    """The learner that ``train glyphs`` keeps."""
    result = run("train", "glyphs", "--alphabets", 1, *SMALL, "--save", tmp_path / "model.pt", *words)
    assert result.exit_code == 0, result.output
    return mk.load(tmp_path / "model.pt")


def test_maml_plus_plus_anneals_and_learns_a_rate_for_each_tensor_and_step(tmp_path):
    learner = trained(tmp_path, "--learner", "maml++", "--inner-steps", 3)
    assert learner.step_weights.tolist() == pytest.approx([0.998 / 3, 0.998 / 3, 0.998 / 3 + 0.002])
    assert {rate.shape for rate in learner.maml.rule.rates.values()} == {(3,)}


def test_finetune_learns_all_classes_at_once(tmp_path):
    learner = trained(tmp_path, "--learner", "finetune")
    assert learner.model.config["outputs"] == 20 and learner.steps == 10, "an alphabet has 20 characters"


def test_augmented_pictures_train_another_learner(tmp_path):
    plain, again, augmented = (trained(tmp_path, *words).state_dict() for words in ((), (), ("--augment",)))
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert not all(torch.equal(plain[name], augmented[name]) for name in plain)
    words = "--alphabets", 1, "--learner", "finetune", "--augment"
    assert "--augment changes episodes" in refused("train", "glyphs", *words)


def scores(output):
    return [line for line in output.splitlines() if re.match("(trans|in)ductive", line)]


def test_a_saved_learner_of_curves_is_judged_again(tmp_path):
    model = tmp_path / "model.pt"
    trained = run("train", "sinusoid", "--steps", 5, "--test-tasks", 20, "--save", model)
    judged = run("evaluate", model, "sinusoid", "--test-tasks", 20)
    assert judged.exit_code == 0, judged.output
    assert trained.output.endswith(judged.output) and "inner steps   loss   95% interval" in judged.output


def test_training_by_the_clock_with_a_schedule():
    words = "--minutes", 0.002, "--schedule", "CosineAnnealingLR", "--test-tasks", 5
    result = run("train", "sinusoid", *words)
    assert result.exit_code == 0 and "time spent" in result.output, result.output


def refused(*words):
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.output.startswith("metakit: ") and len(result.output.splitlines()) == 1
    return result.output


@pytest.mark.parametrize("keep", [0, 20, 0.3, 0.9])
def test_a_damaged_learner_ends_in_one_sentence(keep, tmp_path):
    model = tmp_path / "model.pt"
    mk.save(mk.ProtoNet(mk.models.ConvNet(width=4)), model)
    whole = model.read_bytes()
    model.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    assert "is damaged or not a metakit file" in refused("evaluate", model, "glyphs", "--alphabets", 1)


def test_files_and_devices_that_are_not_there_end_in_one_sentence(tmp_path):
    assert "there is no file" in refused("evaluate", tmp_path / "none.pt", "sinusoid")
    if not torch.cuda.is_available():
        assert "torch finds no GPU" in refused("train", "sinusoid", "--steps", 1, "--device", "cuda")


OF_OTHER_ROWS = {
    "pictures by views": (lambda: mk.ProtoNet(mk.models.Views(mk.models.ConvNet(width=4))), r"images \[1, 28, 28\]"),
    "oblong pictures": (lambda: mk.MAML(mk.models.ConvNet(size=(20, 30), width=4, outputs=5)), r"images \[1, 20, 30\]"),
    "any network": (
        lambda: mk.MAML(torch.nn.Linear(5, 5)),
        "MAML cannot answer .*: mat1 and mat2 shapes cannot be",
    ),
}


@pytest.mark.parametrize("name", OF_OTHER_ROWS)
def test_a_learner_of_other_rows_ends_in_one_sentence(name, tmp_path):
    make, reason = OF_OTHER_ROWS[name]
    mk.save(make(), tmp_path / "model.pt")
    assert re.search(reason, refused("evaluate", tmp_path / "model.pt", "sinusoid"))
    if name != "pictures by views":
        assert re.search(reason, refused("evaluate", tmp_path / "model.pt", "glyphs", "--alphabets", 1))


def test_more_ways_than_a_saved_learner_has_outputs(tmp_path):
    mk.save(mk.MAML(mk.models.ConvNet(width=4, outputs=5)), tmp_path / "model.pt")
    words = "--alphabets", 1, "--ways", 6, "--queries", 2
    assert "5 outputs, too few for a 6-way task" in refused("evaluate", tmp_path / "model.pt", "glyphs", *words)


@pytest.mark.parametrize("keep", [0, 100, 0.3, 0.999])
def test_a_truncated_checkpoint_ends_in_one_sentence(keep, tmp_path):
    path = tmp_path / "run.pt"
    run("train", "sinusoid", "--steps", 1, "--test-tasks", 2, "--checkpoint", path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    words = "--steps", 2, "--checkpoint", path, "--resume"
    assert "run.pt is damaged or not a metakit file" in refused("train", "sinusoid", *words)


@pytest.mark.parametrize("keep", [0, 1000, 0.1, 0.5, 0.99])
def test_a_truncated_archive_ends_in_one_sentence(keep, tmp_path, data, monkeypatch):
    monkeypatch.setenv("METAKIT_DATA", str(tmp_path))
    folder = archives(data)
    for name in ("images_background", "images_evaluation"):
        shutil.copy(folder / f"{name}.zip", tmp_path)
    damaged = tmp_path / "images_evaluation.zip"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    model = tmp_path / "model.pt"
    mk.save(mk.ProtoNet(mk.models.ConvNet(width=4)), model)
    output = refused("evaluate", model, "omniglot", "--split", "evaluation")
    assert "images_evaluation.zip is truncated or damaged" in output and "Delete it" in output


def test_a_corrupted_drawing_and_a_missing_folder_end_in_one_sentence(tmp_path, data, monkeypatch):
    model, home = tmp_path / "model.pt", tmp_path / "home"
    mk.save(mk.ProtoNet(mk.models.ConvNet(width=4)), model)
    with zipfile.ZipFile(archives(data) / "images_background_small1.zip") as archive:
        archive.extractall(home)
    drawing = sorted(home.glob("images_background_small1/*/*/*.png"))[7]
    drawing.write_bytes(drawing.read_bytes()[:60])
    words = "evaluate", model, "omniglot", "--split", "small1", "--data", home
    assert drawing.name in refused(*words)
    shutil.rmtree(drawing.parent)
    assert drawing.parent.name in refused(*words)
    assert "root must be a folder" in refused(*words[:-1], model)


def archives(data):
    return next(path.parent for path in sorted(Path(data).rglob("images_evaluation.zip")))


def test_each_command_of_the_readme_is_one(root):
    readme = (root / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    python3 run\.py ((?:train|evaluate|search)\b[^#\n]*)", readme, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        result = run(*command.split(), "--help")  # all words are read before --help is
        assert result.exit_code == 0, result.output


def test_the_ten_lines_of_the_readme_run(root, capsys):
    readme = (root / "README.md").read_text(encoding="utf-8")
    ten, _, _ = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names = {}
    exec(compile(ten, "README.md", "exec"), names)
    assert names["y_hat"].shape == (10, 1)
    mean = names["result"].mean()
    assert mean[10] < mean[1] < mean[0]
    assert "loss" in capsys.readouterr().out


def test_the_learned_rule_of_the_readme_trains_anybodys_network(root, tmp_path, monkeypatch):
    _, block, _ = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    mk.save(mk.LearnedOptimizer(), "opt.pt")
    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 3), torch.randn(32, 4)
    batches, before = [(x, x.argmax(1) % 3)] * 20, model.weight.detach().clone()
    exec(compile(block, "README.md", "exec"), {"mk": mk, "torch": torch, "model": model, "batches": batches})
    loss = torch.nn.functional.cross_entropy(model(x), batches[0][1])
    assert float(loss.detach()) < 1.2 and not torch.equal(before, model.weight)


def test_train_optimizer_keeps_a_rule_for_any_loop(tmp_path):
    path = tmp_path / "opt.pt"
    words = f"train optimizer --steps 1 --meta-batch 2 --test-tasks 2 --save {path}"
    result = run(*words.split())
    assert result.exit_code == 0, result.output
    assert "The rule is in" in result.output and "minus Adam, tuned per job" in result.output
    assert int(mk.load(path).trained_steps) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bandits --arms 3-6 --pulls 10 --steps 2 --test-tasks 20", ["regret", "minus", "Thompson", "UCB1"]),
        ("bandits --arms 3 --pulls 10 --agent rl2 --steps 2 --test-tasks 20", ["regret", "rl2"]),
        ("mdp --episodes 2 --states 3 --actions 2 --horizon 3 --steps 2 --test-tasks 20", ["PSRL", "posterior mean"]),
        ("navigation --steps 1 --meta-batch 2 --test-tasks 2 --inner-steps 1", ["inner steps", "return"]),
    ],
)
def test_agents_are_trained_kept_and_judged_again(tmp_path, words, said):
    path, kind = tmp_path / "agent.pt", words.split()[0]
    result = run("train", *words.split(), "--save", str(path))
    assert result.exit_code == 0, result.output
    assert all(word in result.output for word in said)
    sizes = {"bandits": "--arms 3 --pulls 20", "mdp": "--episodes 3 --states 3 --actions 2 --horizon 3"}
    again = run("evaluate", str(path), kind, *sizes.get(kind, "").split(), "--test-tasks", "4")
    assert again.exit_code == 0, again.output
    assert "return" in again.output and "95% interval" in again.output


def test_a_range_of_arms_is_read_or_refused():
    refused = run("train", "bandits", "--arms", "few", "--steps", "1")
    assert refused.exit_code == 2 and "--arms must be a number, or a range such as 5-50, got 'few'" in refused.output
    refused = run("train", "bandits", "--arms", "5-10", "--agent", "rl2", "--steps", "1")
    assert refused.exit_code == 2 and "--arms must be one number for --agent rl2" in refused.output
