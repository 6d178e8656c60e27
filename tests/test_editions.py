"""The editions: made from the course alone, the same each time, and no solution in a student's hands."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from metakit import course

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

spec = importlib.util.spec_from_file_location("editions", ROOT / "notebooks" / "editions.py")
editions = importlib.util.module_from_spec(spec)
spec.loader.exec_module(editions)


def cells(path, kind=None):
    found = nbformat.read(path, as_version=4).cells
    return [cell for cell in found if kind in (None, editions.kind(cell))]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Each edition, written once: {name: folder}."""
    folder = tmp_path_factory.mktemp("editions")
    for name in editions.EDITIONS:
        editions.write(name, folder / name)
    return {name: folder / name for name in editions.EDITIONS}


@pytest.mark.parametrize("name", editions.EDITIONS)
def test_writing_again_changes_nothing(made, name):
    before = {path: path.read_bytes() for path in made[name].rglob("*") if path.is_file()}
    editions.write(name, made[name])
    assert {path: path.read_bytes() for path in made[name].rglob("*") if path.is_file()} == before
    assert sum(path.suffix == ".ipynb" for path in before) == len(NOTEBOOKS)


def test_no_solution_is_in_a_student_s_file(made):
    for path in NOTEBOOKS:
        handed_out = "\n".join(str(cell) for cell in cells(made["student"] / path.name))
        assert "Solution</summary>" not in handed_out
        for cell in cells(path, "solution"):
            _, solution = editions.parts(cell)
            code, remark = re.fullmatch(r"```python\n(.+?)\n```\n\n(.+)", solution, re.S).groups()
            assert repr(code)[1:-1] not in handed_out and repr(remark)[1:-1] not in handed_out, (path.stem, cell.id)


def test_no_quiz_tells_a_student_its_answers(made):
    for path in NOTEBOOKS:
        assert not any(cell.outputs for cell in cells(made["student"] / path.name, "quiz")), path.stem


def test_a_student_s_code_is_that_of_the_course_and_its_exercises_are_not_run(made):
    for path in NOTEBOOKS:
        ours = [cell for cell in cells(path) if cell.cell_type == "code"]
        theirs = [cell for cell in cells(made["student"] / path.name) if cell.cell_type == "code"]
        assert [(cell.id, cell.source) for cell in theirs] == [(cell.id, cell.source) for cell in ours]
        for cell in theirs:
            if editions.kind(cell) in ("exercise", "check"):
                assert (cell.outputs, cell.execution_count) == ([], None)


def test_students_keep_the_hints(made):
    for path in NOTEBOOKS:
        kept = [cell for cell in cells(made["student"] / path.name) if cell.id.startswith("hint-")]
        assert len(kept) == len(cells(path, "solution"))


def test_a_teacher_sees_solutions_mistakes_and_a_plan(made):
    for path in NOTEBOOKS:
        shown = cells(made["instructor"] / path.name)
        assert shown[1].id == "opening-teacher" and len(shown[1].source.split()) > 20, path.stem
        assert sum("**Solution.**" in cell.source for cell in shown) == len(cells(path, "solution"))
        for check in cells(path, "check"):
            told = next(cell.source for cell in shown if cell.id == f"{check.id}-teacher")
            assert all(m.message in told for m in course.EXERCISES[editions.argument(check)].mistakes)
        assert not any("<summary>Solution" in cell.source for cell in shown)


def test_nbgrader_gets_its_cells(made):
    for path in NOTEBOOKS:
        graded = [c for c in cells(made["nbgrader"] / "source" / path.stem / path.name) if "nbgrader" in c.metadata]
        names = [cell.metadata.nbgrader.grade_id for cell in graded]
        assert len(set(names)) == len(names) == 2 * len(cells(path, "exercise"))
        for cell in graded:
            assert cell.metadata.nbgrader.schema_version == 3
            exercise = editions.kind(cell) == "exercise"
            assert (cell.metadata.nbgrader.solution, cell.metadata.nbgrader.grade) == (exercise, not exercise)
            assert cell.metadata.nbgrader.locked is not exercise
            assert exercise or cell.metadata.nbgrader.points == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_nbgrader_s_solutions_pass_and_its_stubs_fail(made, path):
    import torch
    import torch.nn.functional as F

    for answered in (True, False):
        names = {"torch": torch, "F": F, "course": course}
        for cell in cells(made["nbgrader"] / "source" / path.stem / path.name):
            source = cell.source
            if editions.kind(cell) == "exercise":
                if not answered:  # as nbgrader hands it out
                    source = re.sub(r"### BEGIN.+?### END SOLUTION", "raise NotImplementedError", source, flags=re.S)
                exec(source, names)
            elif editions.kind(cell) == "check" and answered:
                exec(source, names)
            elif editions.kind(cell) == "check":
                with pytest.raises(AssertionError, match="still the stub"):
                    exec(source, names)


def test_the_folder_of_the_notebooks_is_refused():
    with pytest.raises(editions.Failure, match="OUT must be another folder than that of the notebooks"):
        editions.write("student", ROOT / "notebooks")


def test_a_solution_of_another_form_is_refused():
    cell = nbformat.v4.new_markdown_cell("Just do it.", id="solution-9", metadata={"tags": ["solution"]})
    with pytest.raises(editions.Failure, match="cell solution-9 does not"):
        list(editions.student([cell]))


@pytest.mark.parametrize("words", [[], ["student"], ["parents", "out"]])
def test_other_words_are_refused(words, capsys):
    assert editions.main(words) == 2
    assert "Say which edition and where" in capsys.readouterr().err


def test_run_py_hands_over_with_the_folder_as_the_reader_means_it(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    calls = []
    monkeypatch.setattr(run, "set_up", lambda: None)
    monkeypatch.setattr(run, "child", lambda command: calls.append(command) or 0)
    monkeypatch.chdir(tmp_path)
    assert list(run.EDITIONS) == list(editions.EDITIONS)
    assert run.main(["student", "handout"]) == run.main(["slides", "05_outer_loop"]) == 0
    assert calls == [
        [run.PYTHON, "notebooks/editions.py", "student", str(tmp_path / "handout")],
        [run.PYTHON, "slides/build.py", "05_outer_loop"],
    ]


def test_run_py_wants_one_folder():
    command = [getattr(sys, "_base_executable", sys.executable), "run.py", "student"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        "'student' takes one folder to write into, for example 'python3 run.py student handout'."
    )
