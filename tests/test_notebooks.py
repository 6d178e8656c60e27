"""The rules of the course, held for every notebook as it lies in the repository."""

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WITHOUT_EXERCISES = ("lab_playground",)
LONGEST_CELL, LARGEST_FILE = 25, 1_000_000
LONGEST_WAIT, LONGEST_RUN = 60, 360  # seconds

pytestmark = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def text(path):
    return [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]


def tags(cell):
    return cell.metadata.get("tags", [])


def outputs(path):
    return [output for cell in code(path) for output in cell.outputs]


def test_opening_card_says_what_for_whom_and_how_long(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown" and "opening" in tags(first)
    assert re.match(r"# \S", first.source)
    assert 3 <= len(re.findall(r"^- ", first.source, re.M)) <= 5
    assert "**You need**" in first.source
    assert re.search(r"\*\*Time\*\* .*minutes.*\s[\d.]+ minutes? on two CPU cores", first.source, re.S)


def test_the_minutes_on_the_opening_card_are_those_of_the_run_kept_here(path):
    stated = 60 * float(re.search(r"([\d.]+) minutes? on two CPU cores", text(path)[0])[1])
    seconds = [cell.metadata["seconds"] for cell in code(path)]
    assert stated / 2 <= sum(seconds) <= 2 * stated
    assert max(seconds) <= LONGEST_WAIT and sum(seconds) <= LONGEST_RUN


def test_the_first_code_cell_imports_metakit(path):
    assert code(path)[0].source.startswith("import metakit as mk\n")


def test_code_cells_are_short_and_parse(path):
    for cell in code(path):
        ast.parse(cell.source)
        assert len(cell.source.splitlines()) <= LONGEST_CELL, cell.id


def test_it_was_run_from_top_to_bottom_without_an_error(path):
    assert [cell.execution_count for cell in code(path)] == list(range(1, len(code(path)) + 1))
    failed = [
        o.evalue for c in code(path) if "raises-exception" not in tags(c) for o in c.outputs if o.output_type == "error"
    ]
    assert failed == []


def test_it_shows_no_warning(path):
    assert [output.text for output in outputs(path) if output.get("name") == "stderr"] == []


def test_it_is_small_and_keeps_nothing_of_one_run(path):
    notebook = read(path)
    assert path.stat().st_size < LARGEST_FILE
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and notebook.metadata.kernelspec.name == "python3"
    assert not any("widget-view" in kind for output in outputs(path) for kind in output.get("data", {}))
    assert not re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users)/|[A-Z]:\\\\", path.read_text(encoding="utf-8"))


def test_cells_have_fixed_names(path):
    names = [cell.id for cell in read(path).cells]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) and not re.fullmatch(r"[0-9a-f-]{8,}", name) for name in names)


def test_every_picture_has_a_description_and_a_caption(path):
    for cell in code(path):
        captions = " ".join(str(output.get("data", {}).get("text/markdown", "")) for output in cell.outputs)
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                alt = output.metadata["image/png"]["alt"]
                assert len(alt.split()) > 3 and alt in captions, cell.id


def test_a_picture_stands_above_each_explorer(path):
    cells = code(path)
    for before, cell in itertools.pairwise(cells):
        if any("explorer" in str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs):
            assert any("image/png" in o.get("data", {}) for o in before.outputs), cell.id


def test_exercises_come_with_check_hint_and_solution(path):
    marked = [
        (tag, cell) for cell in read(path).cells for tag in tags(cell) if tag in ("exercise", "check", "solution")
    ]
    kinds = [tag for tag, _ in marked]
    assert kinds == ["exercise", "check", "solution"] * (len(kinds) // 3)
    assert path.stem in WITHOUT_EXERCISES or 2 <= len(kinds) // 3 <= 4
    for tag, cell in marked:
        if tag == "exercise":
            assert "raise NotImplementedError" in cell.source
        if tag == "solution":
            assert "<summary>Hint</summary>" in cell.source and "<summary>Solution</summary>" in cell.source


def test_it_asks_for_a_prediction_and_ends_with_quiz_summary_and_references(path):
    headings = [line for source in text(path) for line in source.splitlines() if line.startswith("## ")]
    assert any("Your prediction" in source for source in text(path))
    assert headings[-3:] == ["## A short quiz", "## Summary", "## References"]
    cited = re.findall(r"^- ", text(path)[-1], re.M)
    assert cited and len(re.findall(r"\b(?:19|20)\d\d\b", text(path)[-1])) >= len(cited)


def test_equations_are_numbered_and_the_code_points_only_at_those_there_are(path):
    numbers = [int(n) for source in text(path) for n in re.findall(r"\\tag\{(\d+)\}", source)]
    assert numbers == list(range(1, len(numbers) + 1))
    named = {int(n) for cell in code(path) for n in re.findall(r"# \((\d+)\)", cell.source)}
    assert named <= set(numbers)


def test_no_line_begins_with_a_year_and_a_point(path):
    """Markdown would begin a list there, numbered from that year on."""
    assert [line for source in text(path) for line in source.splitlines() if re.match(r"\s*\d{3,}\.(\s|$)", line)] == []


def test_links_lead_somewhere(path):
    for source in text(path):
        for target in re.findall(r"\]\(([^)#]+)\)", source):
            if "://" not in target:
                assert (path.parent / target).exists(), target


def test_text_in_plots_and_prints_is_ascii(path):
    for cell in code(path):
        assert cell.source.isascii(), cell.id
