"""What goes wrong on real machines: kills at random moments, full disks, test classes among the training classes."""

import errno
import os
import subprocess
import sys
import zipfile

import pytest
import torch

import metakit as mk
from metakit.files import read_checkpoint, write_checkpoint


@pytest.fixture
def kill(root, monkeypatch):
    """The benchmark that kills, as a module."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    import kill

    return kill


def test_a_run_killed_at_random_moments_ends_with_the_very_weights_of_one_left_alone(kill):
    record = kill.measure_kills(kills=3, steps=300, seed=1)
    assert record.unreadable == 0
    assert record.same_weights and record.same_history
    found = [step for step in record.checkpoints if step is not None]
    assert found == sorted(found)  # nothing that was kept is lost again


TASKS = mk.tasks.Sinusoids(shots=5, queries=5)


def make_learner():
    torch.manual_seed(0)
    return mk.MAML(mk.models.MLP(1, [8], 1))


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["os.fsync", "os.replace", "torch.save"])
def test_a_full_disk_leaves_the_previous_checkpoint_whole_and_says_so(what, tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    mk.fit(make_learner(), TASKS, steps=4, checkpoint=path, progress=False)
    before = path.read_bytes()
    monkeypatch.setattr(what, full)
    with pytest.raises(OSError, match=r"No space left on device\. The file from before is untouched\. Free some space"):
        mk.fit(make_learner(), TASKS, steps=8, checkpoint=path, resume=True, progress=False)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["run.pt"]
    monkeypatch.undo()
    assert mk.fit(make_learner(), TASKS, steps=8, checkpoint=path, resume=True, progress=False).steps == 8


def test_a_full_disk_on_the_first_write_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="Nothing was left behind"):
        mk.save(make_learner(), tmp_path / "learner.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def small_disk(tmp_path):
    """A real disk of 200 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', None) or error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_leaves_the_previous_checkpoint_whole(small_disk):
    path = small_disk / "run.pt"
    write_checkpoint(path, {"kind": "run", "value": torch.zeros(25_000)})
    with pytest.raises(OSError, match="The file from before is untouched"):
        write_checkpoint(path, {"kind": "run", "value": torch.ones(40_000)})
    assert torch.equal(read_checkpoint(path, "run")["value"], torch.zeros(25_000))
    assert os.listdir(small_disk) == ["run.pt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_device_without_space_is_told_as_such(tmp_path, monkeypatch):
    real = torch.save

    def to_full(content, file):
        with open("/dev/full", "wb") as device:
            real(content, device)

    monkeypatch.setattr(torch, "save", to_full)
    with pytest.raises(OSError, match="could not be written"):
        write_checkpoint(tmp_path / "run.pt", {"kind": "run", "value": torch.zeros(100_000)})
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_its_checksum_in_the_comment_is_read(tmp_path):
    write_checkpoint(tmp_path / "run.pt", {"kind": "run", "value": 3})
    with zipfile.ZipFile(tmp_path / "run.pt", "a") as archive:
        archive.comment = b"0" * 64  # as version 0.1 wrote it
    assert read_checkpoint(tmp_path / "run.pt", "run")["value"] == 3


def test_damage_that_torch_reads_over_is_found(tmp_path):
    path, numbers = tmp_path / "run.pt", torch.arange(100.0)
    write_checkpoint(path, {"kind": "run", "value": numbers})
    path.write_bytes(path.read_bytes().replace(torch.tensor(42.0).numpy().tobytes(), bytes(4)))
    assert not torch.equal(torch.load(path, weights_only=True)["value"], numbers)
    with pytest.raises(ValueError, match=r"damaged .*Bad CRC-32"):
        read_checkpoint(path, "run")


def test_the_command_line_tells_a_full_disk_in_one_sentence(tmp_path):
    code = (
        "import torch, errno, os\ndef full(*_): raise OSError(errno.ENOSPC, 'No space left on device')\nos.fsync = full"
    )
    words = ["train", "sinusoid", "--steps", "2", "--test-tasks", "2", "--save", str(tmp_path / "model.pt")]
    run = f"{code}\nfrom metakit.cli import app\napp({words!r})"
    ended = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("metakit: ") and "No space left" in ended.stderr


# --- Training and test classes. ---


def named(alphabets, seed, characters=3):
    which = torch.arange(len(alphabets) * characters)
    return mk.tasks.LabelledData(
        torch.rand(len(which), 4, 1, 6, 6, generator=torch.Generator().manual_seed(seed)),
        alphabet=which // characters,
        names=tuple(f"{alphabet}/character{c + 1:02d}" for alphabet in alphabets for c in range(characters)),
        alphabets=tuple(alphabets),
    )


def test_disjoint_classes_pass():
    seen, unseen = named(["Greek", "Latin"], 0), named(["Tagalog"], 1)
    mk.tasks.check_disjoint(seen, unseen)
    mk.tasks.check_disjoint(seen.rotations(), unseen.rotations())
    mk.tasks.check_disjoint(mk.tasks.Episodes(seen, 3, 1, 1), mk.tasks.Episodes(unseen, 3, 1, 1))


def test_a_planted_class_is_found_by_name_though_others_drew_it():
    with pytest.raises(ValueError, match=r"3 classes are in both sets, 'Latin/character01' among them"):
        mk.tasks.check_disjoint(named(["Greek", "Latin"], 0), named(["Latin"], 1))
    with pytest.raises(ValueError, match="'Latin/character01' among them"):
        mk.tasks.check_disjoint(named(["Latin"], 0).rotations(), named(["Latin"], 1))


def test_a_planted_drawing_is_found_under_any_name():
    seen, unseen = named(["Greek", "Latin"], 0), named(["Tagalog"], 1)
    unseen.x[2, 3] = seen.x[4, 1]
    with pytest.raises(ValueError, match=r"class 'Tagalog/character03' is in both sets, as class 'Latin/character02'"):
        mk.tasks.check_disjoint(seen, unseen)


def test_a_turned_training_drawing_is_found():
    seen, unseen = named(["Greek"], 0), named(["Tagalog"], 1)
    unseen.x[0, 0] = seen.x[1, 2].rot90(1, (-2, -1))
    mk.tasks.check_disjoint(seen, unseen)
    with pytest.raises(ValueError, match="'Greek/character02 turned 90' of the other"):
        mk.tasks.check_disjoint(seen.rotations(), unseen)


def test_classes_without_alphabets_are_told_apart_by_their_rows():
    x, y = torch.rand(12, 5), torch.arange(12) % 3
    mk.tasks.check_disjoint(mk.tasks.LabelledData(x, y), mk.tasks.LabelledData(x + 1, y))
    with pytest.raises(ValueError, match="a row of class '0' is in both sets"):
        mk.tasks.check_disjoint(mk.tasks.LabelledData(x, y), mk.tasks.LabelledData(x, y))


def test_the_classes_that_the_command_line_judges_on_are_not_those_it_trains_on(monkeypatch):
    from typer.testing import CliRunner

    from metakit.cli import app, common

    seen, unseen = common.glyphs(2, 8, seed=0)
    mk.tasks.check_disjoint(seen, unseen)
    monkeypatch.setattr(common, "glyphs", lambda *_, **__: (seen, seen))
    result = CliRunner().invoke(app, ["train", "glyphs", "--steps", "1", "--test-tasks", "2"])
    assert result.exit_code == 2 and "classes are in both sets" in result.output


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("train", "val"), ("background", "evaluation"), ("small1", "evaluation")]
)
def test_the_parts_of_omniglot_share_no_class_and_no_drawing(parts):
    if not os.environ.get("METAKIT_DATA"):
        pytest.skip("METAKIT_DATA names no folder with the real Omniglot archives")
    turned = parts[0] == "train"
    mk.tasks.check_disjoint(*(mk.tasks.omniglot(split=part, rotations=turned) for part in parts))
