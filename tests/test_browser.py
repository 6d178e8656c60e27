"""Every notebook in a real browser: JupyterLab, Chromium, all cells run, sliders moved, characters drawn.

Set METAKIT_SCREENSHOTS to a folder to look at what the browser saw. Where there is no Chromium these tests skip and
say so; with METAKIT_CI set they fail instead.
"""

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb"))
WIDTHS = (1280, 800)
RUN_SECONDS = 400  # a notebook may take six minutes
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = pytest.mark.browser


# --------------------------------------------------------------------------------------------------------- harness


@dataclass(frozen=True)
class LabServer:
    """A running JupyterLab over a copy of the notebooks."""

    url: str
    token: str
    root: Path

    def get(self, path):
        """Read JSON from the server."""
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def lab_server(tmp_path_factory):
    """JupyterLab with the shipped settings, and nothing of the person who runs the tests."""
    root, private = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("private")
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".*"))
    settings = shutil.copytree(ROOT / ".jupyter", private / "settings")
    overrides = settings / "labconfig" / "default_setting_overrides.json"
    # Added for the tests alone: every cell in the page at once, so that none waits to be scrolled to.
    whole_page = {"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}
    overrides.write_text(json.dumps(json.loads(overrides.read_text()) | whole_page))

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = LabServer(f"http://127.0.0.1:{port}", secrets.token_hex(16), root)
    folders = {
        f"JUPYTER{name}_DIR": str(private / name.lower()) for name in ("_CONFIG", "_DATA", "_RUNTIME", "LAB_WORKSPACES")
    }
    environment = os.environ | folders | {"JUPYTERLAB_SETTINGS_DIR": str(private / "user")}
    environment |= {"JUPYTER_TOKEN": server.token, "JUPYTER_CONFIG_PATH": str(settings), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}", "--expose-app-in-browser"]
    command += ["--LabApp.extension_manager=readonly"]
    with (private / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        try:
            wait_until_up(server, process, private / "log")
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)


def wait_until_up(server, process, log):
    """Return once the server answers; show its log if it does not."""
    for _ in range(300):
        try:
            server.get("api/status")
            return
        except OSError:
            if process.poll() is not None:
                break
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser():
    """Chromium, without a window."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        missing = "no Chromium here: install it to run the browser tests"
        pytest.fail(missing) if os.environ.get("METAKIT_CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """A fresh page; `page.complaints` collects what its console reports as wrong."""
    context = browser.new_context(viewport={"width": WIDTHS[0], "height": 900})
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    context.close()


def open_and_run(page, server, notebook):
    """Open a notebook, wait for its kernel, run all cells to the end."""
    open_and_start(page, server, notebook)
    wait_for_the_end(page)


def open_and_start(page, server, notebook):
    """Open a notebook, wait for its kernel, set all cells running."""
    page.goto(f"{server.url}/doc/tree/{notebook}?token={server.token}&reset", wait_until="domcontentloaded")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
    wait_for_kernel(page, "idle", 60)
    run_all = "window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.allRun = true })"
    page.evaluate(f"void {run_all}")  # a promise would be waited for


def wait_for_the_end(page):
    """Wait until all cells have run."""
    page.wait_for_function("window.allRun === true", timeout=RUN_SECONDS * 1000)
    wait_for_kernel(page, "idle", 60)


def wait_for_kernel(page, status, seconds):
    """Wait for the kernel of the notebook in front."""
    shown = "window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
    page.wait_for_function(f"{shown} === '{status}'", timeout=seconds * 1000)


def errors_shown(page):
    """What error outputs say, except in cells whose tag expects one."""
    return page.evaluate(
        """() => window.jupyterapp.shell.currentWidget.content.widgets
            .filter(cell => cell.model.type === 'code')
            .filter(cell => !(cell.model.getMetadata('tags') ?? []).includes('raises-exception'))
            .flatMap(cell => cell.model.outputs.toJSON())
            .filter(output => output.output_type === 'error')
            .map(output => `${output.ename}: ${output.evalue}`)"""
    )


def formulas_cut_off(page):
    """Formulas wider than their text, at the smaller of the two widths."""
    page.set_viewport_size({"width": min(WIDTHS), "height": 900})
    page.wait_for_timeout(300)
    wide = page.evaluate(
        """() => [...document.querySelectorAll('.jp-RenderedMarkdown mjx-container[display="true"]')]
            .filter(formula => [...formula.querySelectorAll('*')].some(
                part => part.getBoundingClientRect().right > formula.parentElement.getBoundingClientRect().right + 1))
            .map(formula => formula.closest('.jp-RenderedMarkdown').innerText.slice(0, 80))"""
    )
    page.set_viewport_size({"width": max(WIDTHS), "height": 900})
    return wide


def move_each_slider(page):
    """Press an arrow key on each slider; return the labels of those that change no picture of their explorer."""
    dead, sliders = [], page.locator(".widget-slider")
    for slider in sliders.all():
        if not moves_a_picture(page, slider):
            dead.append(slider.get_attribute("title") or slider.inner_text())
    return dead


def moves_a_picture(page, slider):
    """Whether a picture beside the slider changes when it is moved by a key."""
    handle = slider.locator(".noUi-handle")
    handle.scroll_into_view_if_needed()
    explorer = slider.locator("xpath=ancestor::*[contains(@class, 'jp-OutputArea-output')][1]")
    before = pictures(explorer)
    for key in ("ArrowRight", "ArrowLeft"):  # the second, where the slider already stood at its right end
        handle.focus()
        page.keyboard.press(key)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if pictures(explorer) != before:
                return True
            page.wait_for_timeout(50)
    return False


def pictures(area):
    """The content of each picture shown by a widget there (its address is new each time, even of the same picture)."""
    return area.evaluate(
        """area => Promise.all([...area.querySelectorAll('img.widget-image, svg')]
            .map(async shown => shown.src ? [...new Uint8Array(await (await fetch(shown.src)).arrayBuffer())].join()
                                          : shown.outerHTML))"""
    )


def do_the_exercises(page):
    """Put each exercise's solution into its cell, run it and its check; return what the checks say."""
    return page.evaluate(
        """async () => {
            const { commands, shell } = window.jupyterapp, notebook = shell.currentWidget.content
            const tagged = tag => [...notebook.widgets.keys()].filter(
                place => (notebook.widgets[place].model.getMetadata('tags') ?? []).includes(tag))
            const model = place => notebook.widgets[place].model
            const run = async place => {
                notebook.deselectAll()
                notebook.activeCellIndex = place
                await commands.execute('notebook:run-cell')
            }
            const [exercises, checks, solutions] = ['exercise', 'check', 'solution'].map(tagged), said = []
            for (const [number, place] of exercises.entries()) {
                const folded = model(solutions[number]).sharedModel.getSource()
                const code = [...folded.matchAll(/```python\\n(.*?)```/gs)].map(found => found[1]).join('\\n')
                model(place).sharedModel.setSource(code)
                await run(place)
                await run(checks[number])
                said.push(model(checks[number]).outputs.toJSON().map(output => output.data['text/plain']).join(''))
            }
            return said
        }"""
    )


def set_theme(page, theme):
    """Switch Lab's theme, and wait for it."""
    page.evaluate(f"window.jupyterapp.commands.execute('apputils:change-theme', {{ theme: 'JupyterLab {theme}' }})")
    page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
    page.wait_for_timeout(500)


def pale_texts(page):
    """Texts of explorers, quizzes and verdicts whose contrast to what they stand on is below 4.5 (WCAG 2, AA)."""
    return page.evaluate(
        """() => {
            const channels = colour => colour.match(/[\\d.]+/g).map(Number)
            const light = colour => channels(colour).slice(0, 3)
                .map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0)
            const paper = element => {
                for (; element; element = element.parentElement) {
                    const colour = getComputedStyle(element).backgroundColor
                    if ((channels(colour)[3] ?? 1) > 0.5) return colour
                }
                return 'rgb(255, 255, 255)'
            }
            const contrast = element => {
                const sides = [getComputedStyle(element).color, paper(element)].map(light).sort((a, b) => b - a)
                return (sides[0] + 0.05) / (sides[1] + 0.05)
            }
            const shown = '.jp-OutputArea-output :is(.jupyter-widgets, [role=status], .metakit-canvas)'
            return [...document.querySelectorAll(`${shown}, ${shown} *`)]
                .filter(element => element.checkVisibility() && !element.closest(':disabled, svg'))
                .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
                .filter(element => contrast(element) < 4.5)
                .map(element => `${element.innerText}: ${contrast(element).toFixed(1)}`)
        }"""
    )


CROSS = [[(0.5, 0.1), (0.5, 0.9)], [(0.1, 0.5), (0.9, 0.5)]]
ZED = [[(0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8)]]
HOOK = ["Space", *["ArrowDown"] * 9, *["ArrowRight"] * 9, "Space"]  # pen down, an L, pen up


def draw_by_mouse(page, pad, strokes):
    """Clear a pad of the canvas and draw on it."""
    clear(page, pad)
    box = pad_named(page, pad).bounding_box()
    for (x, y), *others in strokes:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        for x, y in others:
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=8)
        page.mouse.up()


def draw_by_keys(page, pad, keys):
    """Clear a pad of the canvas and draw on it, with keys alone."""
    pad_named(page, pad).focus()
    for key in ["Delete", *keys]:
        page.keyboard.press(key)


def pad_named(page, pad):
    return page.locator(f".metakit-canvas canvas[aria-label^='Pad {pad}.']").last


def clear(page, pad):
    page.locator(f".metakit-canvas button[aria-label='Clear {pad}']").last.click()


def recognised(page, pad):
    """Wait until the kernel takes the query for what is on that pad; return how probable it finds that, in percent."""
    canvas = page.locator(".metakit-canvas").last
    chosen = canvas.locator("figure.answer", has=page.locator(".name", has_text=re.compile(f"^{pad}$")))
    chosen.wait_for(timeout=15_000)
    return int(chosen.locator(".chance").inner_text().removesuffix("%"))


def take_screenshots(page, folder, name):
    """Photograph the whole notebook at each width, in a window as tall as it is."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        tall = page.evaluate("document.querySelector('.jp-Notebook .jp-WindowedPanel-outer').scrollHeight")
        page.set_viewport_size({"width": width, "height": min(tall + 120, 15_000)})
        page.evaluate("document.querySelector('.jp-Notebook .jp-WindowedPanel-outer').scrollTo(0, 0)")
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"{name}_{width}.png")
    page.set_viewport_size({"width": WIDTHS[0], "height": 900})


@pytest.fixture
def screenshots(tmp_path):
    """Where pictures go."""
    folder = Path(os.environ.get("METAKIT_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ----------------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_runs_in_a_browser(notebook, lab_server, page, screenshots):
    open_and_run(page, lab_server, notebook)
    name = Path(notebook).stem
    take_screenshots(page, screenshots, name)
    assert errors_shown(page) == []
    assert formulas_cut_off(page) == []
    if page.locator(".widget-slider .noUi-handle").count():
        assert move_each_slider(page) == [], "sliders that were moved, and no picture changed"
        take_screenshots(page, screenshots, f"{name}_moved")
        explorer = page.locator(".jp-OutputArea-output:has(.widget-slider) > .widget-vbox").first
        explorer.screenshot(path=screenshots / f"{name}_explorer.png")
        assert errors_shown(page) == []
    stubs = page.locator("[role=status] b", has_text="Not yet.").count()
    verdicts = do_the_exercises(page)
    assert len(verdicts) == stubs and all(verdict.startswith("Right.") for verdict in verdicts), verdicts
    if verdicts:
        take_screenshots(page, screenshots, f"{name}_solved")
    if page.locator(".metakit-canvas").count():
        draw_and_be_recognised(page)
        page.locator(".metakit-canvas").last.screenshot(path=screenshots / f"{name}_canvas.png")
        assert errors_shown(page) == []
    set_theme(page, "Dark")
    take_screenshots(page, screenshots, f"{name}_dark")
    pale = pale_texts(page)
    set_theme(page, "Light")  # the server remembers it
    assert pale == []
    assert page.complaints == []


def draw_and_be_recognised(page):
    """Two characters by mouse and one by keys; then the first again by mouse, and the third again by keys."""
    for pad in "DE":
        clear(page, pad)
    draw_by_mouse(page, "A", CROSS)
    draw_by_mouse(page, "B", ZED)
    draw_by_keys(page, "C", HOOK)
    draw_by_keys(page, "Query", HOOK)
    assert recognised(page, "C") > 34  # of three: a guess is 33
    draw_by_mouse(page, "Query", CROSS)
    assert recognised(page, "A") > 34


def test_stop_ends_a_training_that_holds_its_cell(lab_server, page):
    write_notebook(lab_server, "stop.ipynb", SLOW_TRAINING)
    open_and_start(page, lab_server, "stop.ipynb")
    stop = page.get_by_role("button", name="Stop", exact=True)
    stop.wait_for(timeout=60_000)
    before = int(page.locator(".metakit-live span").inner_text().split()[2])
    stop.click()
    wait_for_the_end(page)
    ended, steps = page.locator(".jp-OutputArea-output pre").last.inner_text().split()
    # A step takes 50 ms, and what stands beside the button is up to 0.8 s old.
    assert ended == "interrupted" and before <= int(steps) < before + 60
    assert page.locator(".metakit-live").count() == 0
    assert (errors_shown(page), page.complaints) == ([], [])


SLOW_TRAINING = """
import time
import metakit as mk
from metakit import widgets

def hold(run):
    time.sleep(0.05)
    live(run)

learner = mk.MAML(mk.models.MLP(1, [8], 1))
with widgets.LiveCurve("The loss of a training that would take minutes.") as live:
    history = mk.fit(learner, mk.tasks.Sinusoids(), steps=600, progress=False, callback=hold)
print(history.ended, history.steps)
"""


def write_notebook(server, name, code):
    """Put a notebook of one cell before the server."""
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}}
    cell = nbformat.v4.new_code_cell(code.strip())
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), server.root / name)


def test_there_are_notebooks_to_open():
    assert NOTEBOOKS


@pytest.mark.parametrize(
    ("plugin", "key", "value"),
    [
        ("kernels-settings", "commsOverSubshells", "disabled"),
        ("notification", "fetchNews", "false"),
        ("notification", "checkForUpdates", False),
    ],
)
def test_the_shipped_settings_take_effect(lab_server, plugin, key, value):
    settings = lab_server.get(f"lab/api/settings/@jupyterlab/apputils-extension:{plugin}")
    assert settings["schema"]["properties"][key]["default"] == value
