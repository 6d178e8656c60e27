"""``fit``: the outer loop from its beginning to its end, with Ctrl-C at a step's edge."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec

from metakit.outer.run import History, Run
from metakit.outer.training import Training

Options = ParamSpec("Options")


def _drained(plan: Callable[Options, Training]) -> Callable[Options, History]:
    @functools.wraps(plan, assigned=("__doc__",), updated=())
    def fit(*args: Options.args, **options: Options.kwargs) -> History:
        run = plan(*args, **options).start()
        with _interruptible(run):
            for _ in run:
                pass
        return run.history()

    return fit


fit = _drained(Training)
"""Meta-train a learner: takes what ``Training`` takes, goes through all of it, and returns its ``History``."""
fit.__qualname__ = "fit"


@contextlib.contextmanager
def _interruptible(run: Run) -> Iterator[None]:
    """Let Ctrl-C end the run at a step's edge instead of in the middle of one; a second Ctrl-C ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupt(number: int, frame: Any) -> None:
        run.ended = run.ended or "interrupted"
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
