"""Thirty seats: the files for containers, hubs and clouds agree with the set-up, and leave no door open."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = SpecifierSet(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
)
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def instructions():
    """(word, rest) of each line of the Dockerfile, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", text("Dockerfile"))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line and not line.startswith("#")]


def test_the_container_is_made_by_the_set_up_and_not_run_by_root():
    words = [word for word, _ in instructions()]
    assert dict(instructions())["FROM"].removeprefix("python:").removesuffix("-slim") in ALLOWED
    assert any("python run.py setup" in rest for word, rest in instructions() if word == "RUN")
    assert words.index("USER") < words.index("CMD") and dict(instructions())["USER"] != "root"


def test_the_container_starts_the_lab_behind_its_token():
    command = json.loads(dict(instructions())["CMD"])
    assert command[:3] == [".venv/bin/python", "-m", "jupyterlab"]
    lesson = next(word for word in command if "default_url" in word).partition("/lab/tree/")[2]
    assert (ROOT / lesson).is_file()


@pytest.mark.parametrize("name", ["Dockerfile", "run.py", ".devcontainer/devcontainer.json", "slides/seats.md"])
def test_nobody_switches_the_token_off(name):
    assert not re.search(r"(?:token|password)\s*=\s*(?:''|\"\"|\s|$)|disable_check_xsrf", text(name), re.M | re.I)


def test_what_a_container_builds_for_itself_is_not_copied_into_it():
    assert {".venv", ".git", "slides/build"} <= set(text(".dockerignore").split())


def test_the_development_container_runs_the_set_up():
    settings = json.loads(text(".devcontainer/devcontainer.json"))
    assert settings["image"].rpartition(":")[2] in ALLOWED
    assert settings["postCreateCommand"] == "python3 run.py setup"


def test_binder_installs_with_the_pins():
    python = yaml.safe_load(text("binder/environment.yml"))["dependencies"][0]
    assert python.removeprefix("python=") in ALLOWED
    assert "-c constraints.txt -e '.[lab]'" in text("binder/postBuild")
    subprocess.run(["bash", "-n", ROOT / "binder" / "postBuild"], check=True)


def test_the_workflow_checks_the_oldest_and_the_newest_python_on_three_systems():
    job = WORKFLOW["jobs"]["test"]
    assert {system.partition("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos", "windows"}
    inside = [f"3.{minor}" for minor in range(30) if f"3.{minor}" in ALLOWED]
    assert job["strategy"]["matrix"]["python"] == [inside[0], inside[-1]]
    assert WORKFLOW["permissions"] == {"contents": "read"}


def test_the_workflow_runs_what_a_person_runs():
    runs = [step["run"] for step in WORKFLOW["jobs"]["test"]["steps"] if "run" in step]
    assert runs and all(run.endswith("python run.py test") for run in runs)
    conditions = [step["if"] for step in WORKFLOW["jobs"]["test"]["steps"] if "if" in step]
    assert conditions == ["runner.os == 'Linux'", "runner.os != 'Linux'"]


def test_the_note_on_security_is_short_and_says_what_the_code_does():
    note = text("SECURITY.md")
    assert len(note.splitlines()) <= 40
    assert "--ServerApp.ip=127.0.0.1" in text("run.py") and "127.0.0.1 only" in note
    loads = re.findall(
        r"torch\.load\(.*", "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "metakit").rglob("*.py"))
    )
    assert loads and all("weights_only=True" in load for load in loads)
