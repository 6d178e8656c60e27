"""One contender in a process of its own: steps when told to, and says how long that took and what memory it held.

    python benchmarks/worker.py '{"name": ..., "problem": {...}, "device": ..., "gradient": FILE}'

Then each line on standard input, a number, asks for that many steps; each answer is a line of JSON.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import sys
import time
from typing import Any

STATUS, RESET = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")


def memory(field: str) -> float:
    """``VmRSS``, resident now, or ``VmHWM``, its peak, in MB; elsewhere than on Linux, the peak of the process.

    Not ``ru_maxrss`` where it can be helped: a process inherits that from the one that started it.
    """
    if STATUS.exists():
        return next(int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(field)) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


class Gauge:
    """Peak memory in MB above what was held at the start: the process's on a CPU, the allocator's on a GPU."""

    def __init__(self, device: str) -> None:
        import torch

        self.cuda = torch.cuda if device.startswith("cuda") else None
        self.start = memory("VmRSS")
        self.reset()

    def reset(self) -> None:
        """Measure the peak anew from here."""
        if self.cuda:
            self.cuda.reset_peak_memory_stats()
        elif RESET.exists():
            RESET.write_text("5")

    def above(self) -> float:
        """Peak above the start since the last reset."""
        return self.cuda.max_memory_allocated() / 2**20 if self.cuda else memory("VmHWM") - self.start


def answer(**values: Any) -> None:
    """Send a line of JSON."""
    CHANNEL.write(json.dumps(values) + "\n")
    CHANNEL.flush()


def facts(device: str) -> dict[str, Any]:
    """What the times depend on, of this process."""
    import torch

    place = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": place}


def main(
    name: str, problem: dict[str, Any], device: str, gradient: str, threads: int | None = None, double: bool = False
) -> None:
    """Make the contender, save its meta-gradient, then step as often as asked."""
    if threads:  # By cores, which every library goes by; each has a switch of its own otherwise.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import numpy as np
    import peers
    import torch

    problem = peers.Problem(**problem)
    try:
        peers.load(name, device)
    except ImportError as error:
        return answer(unable=f"not installed ({error})")
    gauge, started = Gauge(device), time.perf_counter()
    try:
        contender = peers.loop(problem, device, dtype=torch.float64) if double else peers.make(name, problem, device)
    except NotImplementedError as error:
        return answer(unable=str(error))
    np.savez(gradient, **contender.gradient())
    answer(first_call_s=time.perf_counter() - started, **facts(device))
    first = gauge.above()
    gauge.reset()
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            if gauge.cuda:
                gauge.cuda.synchronize()
            begin = time.perf_counter()
            contender.step()
            if gauge.cuda:
                gauge.cuda.synchronize()
            times.append(1000 * (time.perf_counter() - begin))
        answer(ms=times)
    steady = gauge.above()
    answer(start_mb=gauge.start, above_mb=max(first, steady), steady_mb=steady, absolute_mb=memory("VmHWM"))


if __name__ == "__main__":
    # A library that prints must not talk into the answers.
    CHANNEL = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    main(**json.loads(sys.argv[1]))
