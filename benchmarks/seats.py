"""Seats in a classroom: memory and start of a kernel with metakit, alone and while it runs a notebook (Linux).

    python benchmarks/seats.py [--memory 24] [--notebooks 00 05 07] [--quick] [--output FILE.json]

A seat is a Lab server and a kernel. Its own memory is what no other process shares (USS): libraries lie in memory once
for all seats, so every notebook is run beside idle kernels that hold them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import measure
import nbformat
import torch
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"
EVERY_S = 0.2
KINDS = ("rss", "pss", "uss")


def memory(pid: int) -> dict[str, float]:
    """Memory of a process in MiB: resident; with shared pages split among their users; of its own alone."""
    lines = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    mib = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {"rss": mib["Rss"], "pss": mib["Pss"], "uss": mib["Private_Clean"] + mib["Private_Dirty"]}


def seconds(client: BlockingKernelClient, code: str) -> float:
    """How long a kernel takes over a line of code, by its own clock."""
    timed = f"import time; began = time.perf_counter(); {code}; took = time.perf_counter() - began"
    reply = client.execute_interactive(timed, user_expressions={"took": "took"}, timeout=120)
    return float(reply["content"]["user_expressions"]["took"]["data"]["text/plain"])


def kernel(stack: contextlib.ExitStack) -> tuple[KernelManager, dict[str, float]]:
    """A kernel with metakit imported, shut down with the stack, and its times in seconds."""
    began = time.perf_counter()
    manager, client = start_new_kernel()
    times = {"start": time.perf_counter() - began}
    stack.callback(manager.shutdown_kernel, now=True)
    stack.callback(client.stop_channels)
    times["torch"] = seconds(client, "import torch")
    times["metakit"] = seconds(client, "import metakit")
    return manager, times


def peak(notebook: pathlib.Path) -> dict[str, float]:
    """Run a notebook to its end in a kernel of its own; the peak of each kind of memory, sampled."""
    manager, client = start_new_kernel(cwd=str(notebook.parent))
    client.stop_channels()
    highest, ended = dict.fromkeys(KINDS, 0.0), threading.Event()

    def sample() -> None:
        while not ended.wait(EVERY_S):
            now = memory(manager.provisioner.pid)
            highest.update({kind: max(highest[kind], now[kind]) for kind in KINDS})

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        NotebookClient(nbformat.read(notebook, 4), km=manager, timeout=600).execute()
    finally:
        ended.set()
        sampler.join()
        manager.shutdown_kernel(now=True)
    return highest


@contextlib.contextmanager
def lab_server() -> Iterator[int]:
    """A Lab server that has answered once, without settings of the user; its process id."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--allow-root"]
        process = subprocess.Popen(
            [*command, f"--ServerApp.root_dir={NOTEBOOKS}"],
            env={**os.environ, **dict.fromkeys(names, folder), "JUPYTER_TOKEN": token},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _visit(pathlib.Path(folder) / f"jpserver-{process.pid}.json", token)
            yield process.pid
        finally:
            process.terminate()
            process.wait()


def _visit(description: pathlib.Path, token: str) -> None:
    """Load the page of a server that is starting, as a browser would."""
    until = time.monotonic() + 60
    while not description.exists():
        if time.monotonic() > until:
            raise TimeoutError("the Lab server did not start within 60 s: does `python3 run.py lab` start one?")
        time.sleep(EVERY_S)
    with urllib.request.urlopen(f"{json.loads(description.read_text())['url']}lab?token={token}", timeout=60) as page:
        page.read()


def seats(total_gib: float, shared: float, server: float, own: float) -> int:
    """How many seats fit: what is shared lies in memory once, each seat adds its server and its kernel (MiB)."""
    return math.floor((total_gib * 1024 - shared) / (server + own))


def measure_seats(notebooks: list[pathlib.Path], most: int) -> dict[str, Any]:
    """Kernels one after the other up to ``most`` at once, then servers and notebooks beside them."""
    kernels, times, managers = [], [], []
    with contextlib.ExitStack() as stack:
        for count in range(1, most + 1):
            manager, took = kernel(stack)
            managers.append(manager)
            times.append(took)
            each = [memory(manager.provisioner.pid) for manager in managers]
            kernels.append({"at once": count} | {kind: statistics.mean(one[kind] for one in each) for kind in KINDS})
        with lab_server(), lab_server() as second:
            server = memory(second)
        peaks = {notebook.stem: peak(notebook) for notebook in notebooks}
    return {"times_s": times, "kernels": kernels, "server": server, "notebooks": peaks}


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", type=float, default=24, help="of the machine that seats the class, in GiB")
    parser.add_argument("--notebooks", nargs="+", default=["00", "05", "07"], help="their numbers")
    parser.add_argument("--quick", action="store_true", help="the first notebook alone: does it run")
    parser.add_argument("--output", type=pathlib.Path, default=measure.RESULTS / "seats.json")
    options = parser.parse_args()
    numbers = options.notebooks[:1] if options.quick else options.notebooks
    record = measure_seats([next(NOTEBOOKS.glob(f"{number}_*.ipynb")) for number in numbers], most=3)

    last, server = record["kernels"][-1], record["server"]
    shared = sum(process["rss"] - process["uss"] for process in (last, server))
    states = {"kernel, metakit imported": last, **record["notebooks"]}
    record["seats"] = {
        name: seats(options.memory, shared, server["uss"], state["uss"]) for name, state in states.items()
    }
    body = [(f"kernel, metakit imported, {one['at once']} at once", one) for one in record["kernels"]]
    body += [("Lab server, beside a second one", server), *record["notebooks"].items()]
    text = measure.table(
        ("MiB for each (notebooks: peak)", "resident (RSS)", "shared pages split (PSS)", "its own (USS)"),
        [(name, *(f"{state[kind]:.0f}" for kind in KINDS)) for name, state in body],
    )
    text += f"\n\nSeats = ({options.memory:g} GiB - shared) / (USS of a Lab server + USS of a kernel), rounded down; "
    text += f"shared = {shared:.0f} MiB, the resident memory less the USS of one kernel and one server.\n\n"
    text += measure.table((f"all at the same moment, in {options.memory:g} GiB", "seats"), record["seats"].items())
    columns = {what: [one[what] for one in record["times_s"]] for what in record["times_s"][0]}
    text += "\n\n" + measure.table(
        ("start of a kernel", f"seconds ({len(record['times_s'])} kernels)"),
        [
            (label, measure.spread(statistics.median(columns[what]), min(columns[what]), max(columns[what])))
            for what, label in (
                ("start", "until it answers"),
                ("torch", "`import torch`"),
                ("metakit", "`import metakit`, torch imported"),
            )
        ],
    )
    facts = measure.machine(torch=torch.__version__, threads=torch.get_num_threads(), sampled_every_s=EVERY_S)
    measure.write(options.output, "Seats: memory and start of a kernel", facts, [record], text)


if __name__ == "__main__":
    main()
