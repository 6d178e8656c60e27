"""The decks: one for each numbered notebook, readable from the back row, and whole without a network."""

import html
import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from test_browser import browser  # noqa: F401  the same Chromium, or the same reason to skip

ROOT = Path(__file__).resolve().parent.parent
DECKS = sorted((ROOT / "slides").glob("[0-9][0-9]_*.md"))
LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
FEWEST, MOST = 12, 25
LONGEST_GAP = 5  # slides from one question to the next

each_deck = pytest.mark.parametrize("deck", DECKS, ids=lambda path: path.stem)


def slides(deck):
    """The source of each slide, as (title, text); `##` in a block of code is a comment, not a title."""
    source = deck.read_text(encoding="utf-8").split("---\n", 2)[2]
    hidden = re.sub(r"^```.*?^```", lambda block: block[0].replace("\n#", "\n\0"), source, flags=re.M | re.S)
    parts = re.split(r"^## (.+)$", hidden, flags=re.M)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def without_formulas(text):
    """A slide's prose and tables: no code, no formulas, no links."""
    return re.sub(r"^```.*?^```|\$\$.*?\$\$|\$[^$\n]+\$|`[^`\n]+`|\]\([^)]*\)", " ", text, flags=re.M | re.S)


def said_in(lesson):
    """Everything that a notebook says or prints."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{lesson}.ipynb", as_version=4)
    printed = [json.dumps(cell.get("outputs", [])) for cell in notebook.cells]
    return "\n".join([cell.source for cell in notebook.cells] + [re.sub(r"[\w+/=]{200,}", "", p) for p in printed])


# ---------------------------------------------------------------------------------------------------------- sources


def test_there_is_a_deck_for_each_numbered_notebook():
    assert [deck.stem for deck in DECKS] == LESSONS


@each_deck
def test_a_deck_has_a_lesson_s_worth_of_slides(deck):
    assert FEWEST <= len(slides(deck)) + 1 <= MOST  # and the title


@each_deck
def test_every_slide_has_notes_for_the_speaker(deck):
    for title, text in slides(deck):
        notes = re.search(r"^::: notes\n(.+?)^:::$", text, re.M | re.S)
        assert notes and len(notes[1].split()) >= 8, title


@each_deck
def test_the_room_is_asked_every_few_slides(deck):
    asked = ["{.question}" in title for title, _ in slides(deck)]
    gaps = "".join("q" if question else "." for question in asked).split("q")
    assert sum(asked) >= 3 and max(map(len, gaps)) <= LONGEST_GAP


@each_deck
def test_every_number_with_a_point_is_one_of_the_lesson(deck):
    known = said_in(deck.stem)
    for title, text in slides(deck):
        for number in re.findall(r"(?<![\w.])\d+\.\d+(?: \+- \d+\.\d+)?(?![\w.]*\w)", without_formulas(text)):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?!\d)", known), f"{title}: {number}"


@each_deck
def test_figures_are_described_and_drawn_by_the_script(deck, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "slides")
    drawn = importlib.import_module("figures").FIGURES
    for alt, target in re.findall(r"!\[(.*?)\]\((.*?)\)", deck.read_text(encoding="utf-8")):
        assert len(alt.split()) > 3
        assert re.fullmatch(r"build/figures/(\w+)\.svg", target)[1] in drawn


@each_deck
def test_code_on_a_slide_fits_and_parses(deck):
    for title, text in slides(deck):
        for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S):
            compile(block.replace("\0", "#"), title, "exec")
            assert max(map(len, block.splitlines())) <= 88, title


def test_the_plans_name_every_lesson():
    plans = (ROOT / "slides" / "README.md").read_text(encoding="utf-8")
    assert [lesson for lesson in LESSONS if lesson not in plans] == []


# ------------------------------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def build():
    """slides/build.py, where pandoc and reveal.js are installed."""
    pytest.importorskip("pypandoc", reason="no pandoc here: python3 run.py setup brings it")
    pytest.importorskip("sphinx_revealjs", reason="no reveal.js here: python3 run.py setup brings it")
    sys.path.insert(0, str(ROOT / "slides"))
    yield importlib.import_module("build")
    sys.path.remove(str(ROOT / "slides"))


@pytest.fixture
def offline(browser):  # noqa: F811
    """A tab without a network; `.asked` holds what was asked of it."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, offline=True)
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: request.url.startswith("http") and page.asked.append(request.url))
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


LOOK = """number => {
    Reveal.slide(number);
    const slide = Reveal.getCurrentSlide(), paper = document.querySelector('.reveal .slides').getBoundingClientRect();
    const seen = [...slide.querySelectorAll('*')].filter(e => e.getClientRects().length);
    const outside = seen.filter(e => {
        const box = e.getBoundingClientRect();
        return box.right > paper.right + 1 || box.bottom > paper.bottom + 1 || box.left < paper.left - 1
            || e.scrollWidth > e.clientWidth + 1 && ['PRE', 'CODE', 'TABLE'].includes(e.tagName) && e.clientWidth;
    });
    return {
        title: slide.innerText.split('\\n')[0],
        outside: outside.map(e => e.tagName + ': ' + e.textContent.trim().slice(0, 40)),
        broken: [...slide.querySelectorAll('img')].filter(i => !i.naturalWidth || !i.src.startsWith('data:')).length,
        formulas: slide.querySelectorAll('math').length,
        empty: [...slide.querySelectorAll('math')].filter(m => m.getBoundingClientRect().width < 2).length,
        raw: [...slide.querySelectorAll('.math')].filter(m => !m.querySelector('math') && m.tagName !== 'math').length,
        notes: slide.querySelector('aside.notes')?.textContent.trim() ?? '',
    };
}"""


@pytest.mark.browser
@pytest.mark.xdist_group("slides")
@each_deck
def test_a_built_deck_is_whole_without_a_network(deck, build, offline):
    page = build.to_html(deck)
    offline.goto(page.as_uri())
    offline.wait_for_function("window.Reveal && Reveal.isReady()")
    seen = [offline.evaluate(LOOK, number) for number in range(offline.evaluate("Reveal.getTotalSlides()"))]
    assert len(seen) == len(slides(deck)) + 1
    for slide in seen:
        assert (slide["outside"], slide["broken"], slide["empty"], slide["raw"]) == ([], 0, 0, 0), slide["title"]
    wanted = sum(len(re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", text, re.S)) for _, text in slides(deck))
    assert sum(slide["formulas"] for slide in seen) == wanted
    assert all(slide["notes"] for slide in seen[1:])
    assert (offline.asked, offline.complaints) == ([], [])


@pytest.mark.browser
@pytest.mark.xdist_group("slides")
def test_the_speaker_view_opens_from_the_file(build, offline):
    offline.goto(build.to_html(DECKS[0]).as_uri())
    offline.wait_for_function("window.Reveal && Reveal.isReady()")
    with offline.expect_popup() as opened:
        offline.keyboard.press("s")
    opened.value.wait_for_selector(".speaker-controls-notes", state="attached")
    offline.keyboard.press("ArrowRight")
    first = " ".join(re.search(r"::: notes\n(.+?)\n:::", slides(DECKS[0])[0][1], re.S)[1].split())
    opened.value.wait_for_function(
        "wanted => document.querySelector('.speaker-controls-notes .value').textContent"
        ".split(/\\s+/).join(' ').includes(wanted)",
        arg=html.unescape(first)[:40],
    )


@pytest.mark.browser
@pytest.mark.xdist_group("slides")
def test_a_deck_prints_a_page_for_each_slide(build, browser, tmp_path):  # noqa: F811
    page = Path(shutil.copy(build.to_html(DECKS[0]), tmp_path))
    build.to_pdf([page], browser)
    pages = re.findall(rb"/Type\s*/Page\b(?!s)", page.with_suffix(".pdf").read_bytes())
    assert len(pages) == len(slides(DECKS[0])) + 1


def test_an_unknown_deck_is_refused_with_the_list(build, capsys):
    assert build.main(["99_nothing"]) == 2
    assert capsys.readouterr().err.startswith("There is no deck 99_nothing: choose from 00_start_here")
