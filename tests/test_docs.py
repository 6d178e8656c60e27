"""The pages of docs/ run as they stand: the Python blocks of each, in order, in one namespace."""

import os
import re
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib import pyplot as plt

PAGES = sorted((Path(__file__).resolve().parent.parent / "docs").glob("*.md"))
FENCED = re.compile(r"^```python[ \t]*\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


def blocks(text):
    """The Python blocks of a page, each on its own lines of it, so that an error names the line of the page."""
    return [text[: found.start(1)].count("\n") * "\n" + found[1] for found in FENCED.finditer(text)]


def run_page(text, name):
    """Names that `mk.saved` keeps for the process are those of the page: `docs.your_own.Mine`."""
    namespace = {"__name__": f"docs.{Path(name).stem}"}
    for block in blocks(text):
        exec(compile(block, name, "exec"), namespace)


@pytest.fixture
def as_a_reader(tmp_path, monkeypatch):
    """No window opens, an empty folder to write to, and the random numbers of others left alone."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        yield
    plt.close("all")
    assert os.listdir(tmp_path) == [], "a page leaves files behind"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run_in_order(page, as_a_reader):
    text = page.read_text(encoding="utf-8")
    assert blocks(text), f"{page.name} has no Python block"
    run_page(text, page.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_of_a_page_is_closed_and_named(page):
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert not any(fences[1::2]) and all(fences[::2]), f"{page.name}: a fence is open, or names no language"


def test_a_broken_block_is_seen_at_its_line_of_the_page():
    text = "# Page\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n"
    with pytest.raises(AssertionError) as failed:
        run_page(text, "page.md")
    last = failed.traceback[-1]
    assert (Path(str(last.path)).name, last.lineno + 1) == ("page.md", 8)
