"""Make the editions of the course from its notebooks: for students, for their teacher, for nbgrader.

    python notebooks/editions.py student OUT      # without solutions; exercises with empty outputs
    python notebooks/editions.py instructor OUT   # solutions unfolded, with the lesson plan and the usual mistakes
    python notebooks/editions.py nbgrader OUT     # OUT/source/LESSON/LESSON.ipynb, for `nbgrader generate_assignment`

The notebooks stay the one source: everything here is read from their cells and from metakit.course.
"""

from __future__ import annotations

import pathlib
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
from nbformat import NotebookNode

from metakit import course

HERE = pathlib.Path(__file__).resolve().parent
BESIDE = ("glossary.md", "references.bib")  # what the notebooks link to
SOLUTION = re.compile(
    r"<details><summary>Hint</summary>\n\n(?P<hint>.+?)\n\n</details>\n"
    r"<details><summary>Solution</summary>\n\n(?P<solution>.+)\n\n</details>",
    re.S,
)


class Failure(Exception):
    """One sentence for the reader."""


def kind(cell: NotebookNode) -> str | None:
    """What a cell is to a teacher: opening, exercise, check, solution, quiz, or nothing special."""
    if cell.source.startswith("course.quiz("):
        return "quiz"
    return next(iter(cell.metadata.get("tags", [])), None)


def parts(cell: NotebookNode) -> tuple[str, str]:
    """Hint and solution of a cell that folds both."""
    folded = SOLUTION.fullmatch(cell.source)
    if folded is None:
        raise Failure(f"A solution must fold a hint and then a solution, in two <details>; cell {cell.id} does not.")
    return folded["hint"], folded["solution"]


def changed(cell: NotebookNode, new: dict[str, Any]) -> NotebookNode:
    """A cell with some of its parts replaced."""
    return nbformat.from_dict({**cell, **new})


def emptied(cell: NotebookNode) -> NotebookNode:
    """The same cell, not run yet."""
    return changed(cell, {"outputs": [], "execution_count": None})


def text(name: str, source: str) -> NotebookNode:
    """A new cell of text with a fixed name."""
    return nbformat.v4.new_markdown_cell(source, id=name)


# -------------------------------------------------------------------------------------------------------- editions


def student(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Hints stay folded, solutions go, exercises and their checks are as if never run."""
    for cell in cells:
        match kind(cell):
            case "solution":
                hint, _ = parts(cell)
                yield text(
                    cell.id.replace("solution", "hint"), f"<details><summary>Hint</summary>\n\n{hint}\n\n</details>"
                )
            case "exercise" | "check" | "quiz":
                yield emptied(cell)
            case _:
                yield cell


def instructor(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Solutions lie open, each with the mistakes that its check knows."""
    for cell in cells:
        match kind(cell):
            case "solution":
                hint, solution = parts(cell)
                yield changed(cell, {"source": f"**Hint.** {hint}\n\n**Solution.**\n\n{solution}"})
            case "check":
                yield cell
                yield text(f"{cell.id}-teacher", mistakes(argument(cell)))
            case _:
                yield cell


def nbgrader(cells: list[NotebookNode]) -> Iterator[NotebookNode]:
    """A source assignment: each exercise holds its solution between marks, each check fails until it is right."""
    solutions = iter([parts(cell)[1] for cell in cells if kind(cell) == "solution"])
    for cell in student(cells):
        match kind(cell):
            case "exercise":
                yield graded(cell, filled(cell.source, next(solutions)), {"solution": True})
            case "check":
                name = argument(cell)
                verdict = f'verdict = course.check("{name}", {name})\nassert verdict.passed, verdict.message'
                yield graded(cell, verdict, {"grade": True, "locked": True, "points": 1})
            case _:
                yield cell


EDITIONS: dict[str, Callable[[list[NotebookNode]], Iterator[NotebookNode]]] = {
    edition.__name__: edition for edition in (student, instructor, nbgrader)
}


# ----------------------------------------------------------------------------------------------------------- parts


def argument(cell: NotebookNode) -> str:
    """The name in course.check("name", ...)."""
    return re.findall(r'course\.check\("(\w+)"', cell.source)[0]


def plan(lesson: str) -> str:
    """The lesson plan of slides/README.md."""
    plans = (HERE.parent / "slides" / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^### {lesson}\n\n(.+?)(?=^##)", plans, re.M | re.S)
    return f"**For the teacher.** {found[1].strip()}" if found else "**For the teacher.** There is no plan yet."


def mistakes(exercise: str) -> str:
    """What students get wrong, in the words with which the check answers them."""
    told = [f"- {mistake.message}" for mistake in course.EXERCISES[exercise].mistakes]
    return "\n".join(["**For the teacher.** Students get this wrong in these ways; the check answers:", "", *told])


def filled(stub: str, solution: str) -> str:
    """The stub with the solution's body in place of its raise line, between the marks that nbgrader looks for."""
    code = re.findall(r"```python\n(.+?)\n```", solution, re.S)[0]
    before, signature, body = code.partition(stub.splitlines()[0] + "\n")
    marked = f"    ### BEGIN SOLUTION\n{body}\n    ### END SOLUTION"
    return f"{before}{signature}{marked}"


def graded(cell: NotebookNode, source: str, grading: dict[str, bool | int]) -> NotebookNode:
    """A cell with nbgrader's metadata, version 3 of its schema."""
    usual = {
        "schema_version": 3,
        "grade_id": cell.id,
        "grade": False,
        "solution": False,
        "locked": False,
        "task": False,
    }
    return changed(cell, {"source": source, "metadata": {**cell.metadata, "nbgrader": usual | grading}})


# ----------------------------------------------------------------------------------------------------------- files


def write(edition: str, out: pathlib.Path) -> list[pathlib.Path]:
    """Write one edition of every notebook into a folder; the same notebooks give the same bytes.

    Raises:
        Failure: if the folder is the one of the notebooks, or a notebook breaks the form of a solution.
    """
    if out.resolve() == HERE:
        raise Failure(f"OUT must be another folder than that of the notebooks, got {out}. Choose one beside it.")
    written = []
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells = list(EDITIONS[edition](notebook.cells))
        if edition == "instructor":
            notebook.cells.insert(1, text("opening-teacher", plan(path.stem)))
        nbformat.validate(notebook)
        folder = out / "source" / path.stem if edition == "nbgrader" else out
        folder.mkdir(parents=True, exist_ok=True)
        for name in BESIDE:
            shutil.copyfile(HERE / name, folder / name)
        nbformat.write(notebook, folder / path.name)
        written.append(folder / path.name)
    return written


def main(words: list[str]) -> int:
    """Write the edition that the words name."""
    if len(words) != 2 or words[0] not in EDITIONS:
        print(f"Say which edition and where: editions.py {{{','.join(EDITIONS)}}} OUT.", file=sys.stderr)
        return 2
    try:
        written = write(words[0], pathlib.Path(words[1]))
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    print(f"{len(written)} notebooks for the {words[0]} edition in {words[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
