"""Build the decks: each slides/NN_name.md becomes one HTML file that needs no network, and a PDF where Chromium is.

    python slides/build.py                  # all of them, into slides/build/
    python slides/build.py 05_outer_loop    # one

pandoc converts, and puts reveal.js, the figures, the formulas (as MathML) and a font for them into the file. pip brings
all three, each inside a package of which nothing else is used: pandoc in pypandoc-binary, reveal.js in sphinx-revealjs,
STIX Two Math in ziamath.
"""

from __future__ import annotations

import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys
import time

import figures
import pypandoc
from fontTools import subset
from playwright.sync_api import Browser, sync_playwright

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE / "build"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MATH = "20-7E,B1,B7,D7,300-36F,391-3F5,2010-2044,2061-2064,20D7,2102-2135,2190-21D5,2200-22FF,27E8-27E9,1D400-1D7FF"
SETTINGS = {
    "theme": "serif",  # the one that brings no fonts
    "width": "1280",
    "height": "720",
    "margin": "0.04",
    "center": "false",
    "transition": "none",
    "slideNumber": "true",
    "hash": "true",
}


def decks() -> list[pathlib.Path]:
    """The sources, in the order of the course."""
    return sorted(HERE.glob("[0-9][0-9]_*.md"))


def carried(package: str, *path: str) -> pathlib.Path:
    """A file or folder inside an installed package, which need not be imported for that."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, f"{package} is not installed"
    return pathlib.Path(found.submodule_search_locations[0], *path)


REVEAL = carried("sphinx_revealjs", "_static", "revealjs")


def math_font() -> pathlib.Path:
    """The part of STIX Two Math that formulas need: without a font made for it, subscripts stand too high."""
    path = BUILD / "math.woff"
    if not path.exists():
        font = carried("ziamath", "fonts", "STIXTwoMath-Regular.ttf")
        subset.main([str(font), f"--unicodes={MATH}", "--flavor=woff", "--layout-features=*", f"--output-file={path}"])
    return path


def to_html(deck: pathlib.Path) -> pathlib.Path:
    """Draw the figures that a deck shows and are not there yet, then convert it."""
    for name in re.findall(r"\]\(build/figures/(\w+)\.svg\)", deck.read_text(encoding="utf-8")):
        figures.draw(name, BUILD / "figures")
    math_font()
    page = BUILD / f"{deck.stem}.html"
    command = [pypandoc.get_pandoc_path(), deck.name, "--to=revealjs", "--standalone", "--embed-resources", "--mathml"]
    command += ["--slide-level=2", "--css=style.css", f"--variable=revealjs-url={REVEAL.as_posix()}"]
    command += [f"--variable={name}={value}" for name, value in SETTINGS.items()]
    subprocess.run([*command, "--fail-if-warnings", f"--output={page}"], cwd=HERE, check=True)
    return page


def to_pdf(pages: list[pathlib.Path], browser: Browser) -> None:
    """Print each page beside itself."""
    for page in pages:
        tab = browser.new_page()
        tab.goto(f"{page.as_uri()}?print-pdf")
        tab.wait_for_selector(".pdf-page")
        tab.pdf(path=page.with_suffix(".pdf"), prefer_css_page_size=True, print_background=True)
        tab.close()


def main(names: list[str]) -> int:
    """Build the decks with these names, or all."""
    known = {deck.stem: deck for deck in decks()}
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"There is no deck {unknown[0]}: choose from {', '.join(known)}.", file=sys.stderr)
        return 2
    BUILD.mkdir(exist_ok=True)
    pages = []
    for name in names or known:
        started = time.perf_counter()
        pages.append(to_html(known[name]))
        size = pages[-1].stat().st_size / 1e6
        print(f"{pages[-1].name}: {size:.1f} MB, {time.perf_counter() - started:.0f} s", flush=True)
    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        print("No Chromium here, so no PDF: open a deck in a browser, add ?print-pdf to its address, and print.")
        return 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        to_pdf(pages, browser)
        browser.close()
    print(f"and {len(pages)} PDF beside them")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
