"""The house as DESIGN draws it: imports point strictly downwards, rooms stay small, importing stays light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "metakit").rglob("*.py"))
FLOORS = {
    "contracts": 0,
    "checks": 1,
    "files": 1,
    "randomness": 1,
    "threads": 1,
    "saving": 1.5,
    "losses": 1.7,
    "nn": 2,
    "models": 3,
    "data": 3,
    "tasks": 4,
    "inner": 5,
    "learners": 6,
    "agents": 6.5,
    "judging": 7,
    "outer": 7.5,  # half a floor up: an outer loop judges as it goes
    "search": 7.6,
    "recipes": 7.8,
    "records": 7.9,
    "plots": 8,
    "the package itself": 8.5,  # the front door serves those who use the rooms, not the rooms
    "cli": 9,
    "course": 9,
    "widgets": 9,
    "__main__": 10,
}
HEAVY = ("matplotlib", "ipywidgets", "IPython", "jupyter_core", "sklearn", "pooch", "PIL", "typer", "gymnasium")
LONGEST_FILE, LONGEST_FUNCTION = 340, 44  # lines of code; of a function, its signature among them


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def room_of(path):
    return path.relative_to(ROOT / "metakit").parts[0].removesuffix(".py")


def imported_rooms(tree, package, rooms):
    """Rooms of metakit that a module of `package` (as ["metakit", "tasks"]) imports, wherever in the file it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *filter(None, [node.module])])
            targets = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for target in targets:
            first, *rest = target.split(".")
            if first == "metakit":
                yield rest[0] if rest and rest[0] in rooms else "the package itself"


def climbs(source, room, package=("metakit",)):
    """The imports in `source` that do not point strictly downwards from `room`."""
    found = imported_rooms(ast.parse(source), list(package), FLOORS)
    return sorted({other for other in found if other != room and FLOORS.get(other, 99) >= FLOORS[room]})


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_strictly_downwards(path):
    room = room_of(path)
    if room == "__init__":
        pytest.skip("the front door imports every room")
    assert room in FLOORS, f"{room} has no floor: give it one in DESIGN's table and here"
    assert not climbs(path.read_text(encoding="utf-8"), room, ["metakit", *path.relative_to(ROOT).parts[1:-1]])


@pytest.mark.parametrize(
    ("source", "room", "package", "expected"),
    [
        ("from metakit.outer import fit", "learners", ["metakit"], ["outer"]),
        ("from .models import MLP", "nn", ["metakit"], ["models"]),
        ("from ..learners import MAML", "tasks", ["metakit", "tasks"], ["learners"]),
        ("from .episodes import Episodes", "tasks", ["metakit", "tasks"], []),
        ("def f():\n    import metakit.plots", "search", ["metakit"], ["plots"]),
        ("from metakit import MAML", "plots", ["metakit"], ["the package itself"]),
        ("from metakit import nn\nimport torch", "models", ["metakit"], []),
    ],
)
def test_the_reader_of_imports_sees_what_climbs(source, room, package, expected):
    assert climbs(source, room, package) == expected


def test_import_metakit_stays_light():
    probe = f"import sys, metakit; print(*[name for name in {HEAVY} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_stay_short(path):
    source = path.read_text(encoding="utf-8")
    module = ast.parse(source)
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f.name: f.end_lineno - f.lineno + 1 - docstring_lines(f) for f in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION} == {}
    assert len(source.splitlines()) - docstring_lines(module) <= LONGEST_FILE


def docstring_lines(tree):
    """Lines of the docstrings in a piece of source: explaining at length is no fault."""
    owners = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    documented = [node.body[0] for node in ast.walk(tree) if isinstance(node, owners) and ast.get_docstring(node)]
    return sum(docstring.end_lineno - docstring.lineno + 1 for docstring in documented)


def repository_files():
    """What git tracks or would, or every file where there is no git."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        hidden = {".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "__pycache__"}
        return [p for p in ROOT.rglob("*") if p.is_file() and not hidden.intersection(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def test_no_file_names_one_machine_or_a_package_registry():
    forbidden = re.compile(
        r"(?<![\w.])/(?:work|root|home|Users)/\w"  # somebody's folders
        r"|/ipykernel_\d"  # a warning's path in a notebook's output
        r"|[A-Z]:\\+Users"
        r"|\b(?:pypi|pythonhosted|anaconda)\.(?:org|com)\b"
    )
    found = {}
    for path in repository_files():
        try:
            hit = forbidden.search(path.read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue  # a picture, not text
        if hit:
            found[name_of(path)] = hit[0]
    assert found == {}
