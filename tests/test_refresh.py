"""The notebooks' own run: what it keeps of a run, and that it happens with the network off."""

import datetime
import importlib.util
import os
from pathlib import Path

import nbclient
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
NO_NETWORK = ROOT / "tests" / "no_network"


@pytest.fixture(scope="module")
def refresh():
    """notebooks/refresh.py as a module."""
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "notebooks" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(seconds):
    """A code cell with the timestamps of an execution that took so long."""
    began = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    times = {"busy": began, "idle": began + datetime.timedelta(seconds=seconds)}
    return new_code_cell("1", metadata={"execution": {f"iopub.status.{k}": t.isoformat() for k, t in times.items()}})


def test_a_refreshed_notebook_keeps_the_seconds_of_each_cell_and_its_card_tells_the_sum(refresh, tmp_path):
    card = new_markdown_cell("**Time** 5 minutes to read. The cells run in about 99 minutes on two CPU cores.")
    cells = [card, new_code_cell("import time"), new_code_cell("time.sleep(1.5)")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "small.ipynb")
    seconds = refresh.refresh(tmp_path / "small.ipynb")
    card, first, second = nbformat.read(tmp_path / "small.ipynb", as_version=4).cells
    assert seconds == first.metadata.seconds + second.metadata.seconds
    assert first.metadata.seconds < 1.5 <= second.metadata.seconds
    assert "execution" not in second.metadata
    assert card.source.startswith("**Time** 5 minutes to read.") and " 99 " not in card.source


@pytest.mark.parametrize(
    ("seconds", "stated"),
    [(12.3, "0.2 minutes"), (59.0, "1 minute"), (80.0, "1 minute"), (130.0, "2 minutes"), (350.0, "6 minutes")],
)
def test_the_card_rounds_to_one_digit(refresh, seconds, stated):
    card = new_markdown_cell("The cells themselves run in about 3 minutes on two CPU cores.")
    assert refresh.keep_times(new_notebook(cells=[card, timed(seconds)])) == seconds
    assert card.source == f"The cells themselves run in about {stated} on two CPU cores."


# ------------------------------------------------------------------------------------------------ the network off


def test_the_check_runs_the_notebooks_with_the_network_off(monkeypatch):
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    calls = []
    monkeypatch.setattr(run, "child", lambda command, **environment: calls.append((command, environment)))
    run.test([])
    ((_, environment),) = [call for call in calls if "--nbval-lax" in call[0]]
    assert environment["PYTHONPATH"] == str(NO_NETWORK) and (NO_NETWORK / "sitecustomize.py").exists()


@pytest.mark.parametrize(
    ("attempt", "asked"),
    [
        ("socket.create_connection(('192.0.2.1', 80), timeout=5)", "192.0.2.1"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'?', ('192.0.2.1', 53))", "192.0.2.1"),
        ("socket.getaddrinfo('example.org', 443)", "example.org"),
        ("socket.gethostbyname('example.org')", "example.org"),
        ("urllib.request.urlopen('https://example.org', timeout=5)", "example.org"),
        ("subprocess.run([sys.executable, '-c', 'import socket; socket.create_connection((\"192.0.2.1\", 80), 5)'],"
         " check=True, stderr=subprocess.PIPE)", None),
    ],
)  # fmt: skip
def test_a_kernel_of_that_run_reaches_no_other_machine(kernel, attempt, asked):
    answer = kernel(
        "import socket, subprocess, sys, urllib.request\n"
        f"try:\n    {attempt}\n"
        "except subprocess.CalledProcessError as error:\n    print(error.stderr.decode())\n"
        "except OSError as error:\n    print(error)\n"
    )
    assert f"no network in this run: something asked for {asked or '192.0.2.1'}" in answer


def test_a_kernel_of_that_run_reaches_its_own_machine(kernel):
    answer = kernel(
        "import socket\n"
        "with socket.create_server(('127.0.0.1', 0)) as server:\n"
        "    for host in ('127.0.0.1', 'localhost'):\n"
        "        with socket.create_connection((host, server.getsockname()[1]), timeout=5) as link:\n"
        "            print(link.getpeername()[0])\n"
    )
    assert answer.split() == ["127.0.0.1", "127.0.0.1"]


@pytest.fixture(scope="module")
def kernel():
    """Run code in a kernel that was started as the notebooks' kernels are; return what it prints."""
    client = nbclient.NotebookClient(new_notebook(cells=[new_code_cell()]), timeout=60, kernel_name="python3")
    with client.setup_kernel(env=os.environ | {"PYTHONPATH": str(NO_NETWORK)}):

        def run(code):
            cell = client.execute_cell(new_code_cell(code), 0)
            return "".join(output.text for output in cell.outputs)

        yield run
