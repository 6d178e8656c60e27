"""The way in: what is declared agrees everywhere, and run.py ends each failure in one sentence."""

import ast
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import metakit

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def pins():
    """{package: version} of constraints.txt."""
    lines = [line.strip() for line in text("constraints.txt").splitlines() if line.strip() and not line.startswith("#")]
    names, versions = zip(*[line.split("==") for line in lines], strict=True)
    assert len(set(names)) == len(names), "a package is pinned twice"
    return dict(zip(names, versions, strict=True))


# ---------------------------------------------------------------------------------------------- declarations agree


@pytest.mark.parametrize("line", sorted({*PROJECT["dependencies"], *[d for extra in EXTRAS.values() for d in extra]}))
def test_each_dependency_is_pinned_within_its_range(line):
    requirement = Requirement(line)
    pin = pins().get(canonicalize_name(requirement.name))
    assert pin, f"{requirement.name} has no pin in constraints.txt"
    assert pin in requirement.specifier
    assert requirement.specifier, f"{requirement.name} says no range"


def test_pins_are_the_same_on_every_platform():
    for name, version in pins().items():
        assert "+" not in version, f"{name}=={version} names one build"
        assert name == canonicalize_name(name)
        assert not name.startswith(("nvidia", "cuda", "triton")), f"{name} belongs to one platform"


def test_conda_gives_python_and_pip_and_leaves_the_rest_to_the_same_pins():
    environment = yaml.safe_load(text("environment.yml"))
    python, pip, packages = environment["dependencies"]
    assert environment["name"] == "metakit"
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert packages == {"pip": ["-c constraints.txt", "-e .[lab,test]"]}
    assert {"lab", "test", "bench"} <= set(EXTRAS)


def test_run_py_and_the_package_want_the_same_pythons(run):
    allowed = SpecifierSet(PROJECT["requires-python"])
    inside = [minor for minor in range(5, 30) if f"3.{minor}" in allowed]
    assert [(3, inside[0]), (3, inside[-1])] == [run.OLDEST, run.NEWEST]


def test_the_version_is_the_same_wherever_it_is_said():
    citation = yaml.safe_load(text("CITATION.cff"))
    top, day = re.search(r"^## \[(.+?)\] - (\S+)$", text("CHANGELOG.md"), re.MULTILINE).groups()
    assert citation["version"] == top == metakit.__version__
    assert str(citation["date-released"]) == day


@pytest.mark.parametrize(
    "command", ["python3 run.py lab", "python3 run.py test", "conda env create -f environment.yml"]
)
def test_the_readme_gives_the_commands(command):
    assert command in text("README.md")


def test_contributing_stays_short():
    assert len(text("CONTRIBUTING.md").splitlines()) <= 50


def test_the_lab_settings_name_settings_that_exist():
    overrides = json.loads(text(".jupyter/labconfig/default_setting_overrides.json"))
    schemas = Path(sys.prefix, "share", "jupyter", "lab", "schemas")
    for plugin, settings in overrides.items():
        package, name = plugin.split(":")
        schema = json.loads((schemas / package / f"{name}.json").read_text(encoding="utf-8"))
        for key, value in settings.items():
            declared = schema["properties"][key]
            assert value in [choice["const"] for choice in declared.get("oneOf", [{"const": value}])]


# ------------------------------------------------------------------------------------------------- run.py, from inside


def load_run(folder):
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run():
    return load_run(ROOT)


@pytest.fixture
def copy(tmp_path):
    """The files that set-up reads, in a folder of their own."""
    for name in ("run.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


@pytest.fixture
def made(copy):
    """run.py in a copy whose .venv claims to be finished; `.done` collects the steps it would take."""
    module = load_run(copy)
    module.PYTHON.parent.mkdir(parents=True)
    module.PYTHON.touch()
    module.STAMP.write_text(module.stamp())
    module.done = []
    module.make_venv = lambda: module.done.append("make")
    module.install = lambda: module.done.append("install")
    module.usable = lambda: True
    return module


def test_a_finished_set_up_is_left_alone(made):
    made.set_up()
    assert made.done == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_into_the_same_venv(made, copy, name):
    with (copy / name).open("a") as file:
        file.write("# changed\n")
    made.set_up()
    made.set_up()
    assert made.done == ["install"]


def test_a_half_made_venv_is_made_anew(made):
    made.STAMP.write_text(made.UNFINISHED)
    made.set_up()
    assert made.done == ["make", "install"]


def test_a_venv_of_another_python_is_made_anew(made):
    made.STAMP.write_text("of another time")
    made.usable = lambda: False
    made.set_up()
    assert made.done == ["make", "install"]


def test_windows_line_ends_do_not_change_the_stamp(made, copy):
    before = made.stamp()
    path = copy / "constraints.txt"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert made.stamp() == before


def test_other_words_are_handed_to_the_package(run, monkeypatch):
    calls = []
    monkeypatch.setattr(run, "set_up", lambda: calls.append("set up"))
    monkeypatch.setattr(run, "child", lambda command: calls.append(command) or 7)
    assert run.main(["train", "sinusoid", "--steps", "5"]) == 7
    assert calls == ["set up", [run.PYTHON, "-m", "metakit", "train", "sinusoid", "--steps", "5"]]


def test_every_part_is_run_though_one_fails(run, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(run, "child", lambda command, **_: calls.append(command) or int("mypy" in command))
    assert run.test([]) == 1
    summary = capsys.readouterr().out.splitlines()
    assert len(calls) == 6
    assert [line.split()[0] for line in summary if "FAILED" in line] == ["types"]
    assert summary[-1] == "1 of 6 parts failed."


def test_lab_takes_the_next_port_when_none_was_asked_for(run, monkeypatch):
    monkeypatch.setattr(run, "is_free", lambda port: port == 8890)
    assert run.lab_options([]).port == 8890


# -------------------------------------------------------------------------------- run.py's failures, from outside


def start(folder, *words, **environment):
    """Run run.py; return its status and what it wrote to stderr, in lines."""
    command = [getattr(sys, "_base_executable", sys.executable), "run.py", *words]
    ended = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=90
    )
    assert "Traceback" not in ended.stdout + ended.stderr
    return ended.returncode, ended.stderr.strip().splitlines()


def test_run_py_can_be_read_by_an_old_python():
    ast.parse(text("run.py"), feature_version=(3, 6))


@pytest.mark.parametrize("version", [(3, 8), (3, 10), (3, 14)])
def test_another_python_is_refused(run, monkeypatch, version):
    monkeypatch.setattr(run, "sys", SimpleNamespace(version_info=(*version, 0)))
    said = r"needs Python 3\.11, 3\.12 or 3\.13, and this is {}\.{}".format(*version)
    with pytest.raises(run.Failure, match=said):
        run.check_python()


def test_a_python_without_venv_is_told_which_package_to_install(copy):
    (copy / "ensurepip.py").write_text("raise ImportError('left out, as Debian does')")
    status, said = start(copy, "setup", PYTHONPATH=str(copy))
    assert status == 1
    assert len(said) == 1
    assert "apt install python3-venv" in said[0]


def test_no_network_is_said_after_pips_own_words(copy):
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    status, said = start(copy, "setup", **nowhere, PIP_FIND_LINKS="", PIP_EXTRA_INDEX_URL="")
    assert status == 1
    assert said == ["Set-up needs the network once, and pip could not reach its index: connect and run it again."]
    # What was made is known to be unfinished, so the next call starts anew.
    assert load_run(copy).read_stamp() == "unfinished"


def test_a_port_in_use_is_named(copy):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = start(copy, "lab", "--no-browser", "--port", str(port))
    assert status == 1
    assert said == [f"Port {port} is in use: name another one with --port, or none."]


def test_a_port_that_is_none_is_refused(copy):
    status, said = start(copy, "lab", "--port", "70000")
    assert (status, len(said)) == (1, 1)
    assert "from 1 to 65535" in said[0]


def test_without_words_run_py_says_what_it_can_do(copy):
    ended = subprocess.run([sys.executable, "run.py"], cwd=copy, capture_output=True, text=True, check=True)
    assert all(word in ended.stdout for word in ("lab", "test", "train sinusoid", "setup"))
    assert not (copy / ".venv").exists()
