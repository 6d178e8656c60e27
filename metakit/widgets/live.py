"""Training watched while it goes on."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import anywidget
import traitlets

from metakit import plots
from metakit.outer import Run


class LiveCurve:
    """The loss of a run, drawn while it goes on, with its progress and a Stop; what remains is an ordinary picture.

        with widgets.LiveCurve("Loss at each outer step; it falls.") as live:
            history = mk.fit(learner, tasks, steps=3000, callback=live)

    Stop ends the run after the outer step at which it is: the learner keeps what it has learned so far,
    ``history.ended`` is ``"interrupted"``, and the cell goes on.

    Arguments:
        alt: what the picture shows, in a sentence.
        every: seconds between two drawings.
    """

    def __init__(self, alt: str, *, every: float = 0.8) -> None:
        self.alt, self.every = plots.check_alt(alt), every
        self._run: Run | None = None
        self._picture: Any = None
        self._below: Any = None
        self._due = 0.0

    def __enter__(self) -> LiveCurve:
        self._progress = _Progress()
        return self

    def __call__(self, run: Run) -> None:
        """Draw, if it is time to: the callback of ``fit``."""
        self._run = run
        if time.perf_counter() >= self._due:
            self._show(run)
            self._due = time.perf_counter() + self.every

    def __exit__(self, *exception: object) -> None:
        from IPython.display import Markdown

        if self._run is not None:
            # Before the last drawing: a Stop pressed from now on would interrupt the cell.
            self._below.update(Markdown(f"*Figure: {self.alt}*"))
            self._show(self._run)
        self._progress.close()

    def _show(self, run: Run) -> None:
        from IPython.display import Image, display

        fig, ax = plots.figure()
        plots.draw_history(ax, run)
        picture = Image(plots.png(fig), alt=self.alt)
        of = f" of {run.steps:,}" if run.steps else ""
        self._progress.done = run.progress
        self._progress.text = f"outer step {run.step:,}{of}"
        if self._picture is None:
            self._picture = display(picture, display_id=True)
            self._below = display(self._progress, display_id=True)
        else:
            self._picture.update(picture)


class _Progress(anywidget.AnyWidget):
    """What stands below the picture meanwhile; anywidget asks for a subclass."""

    _esm = pathlib.Path(__file__).with_suffix(".js")
    done: Any = traitlets.Float().tag(sync=True)
    text: Any = traitlets.Unicode().tag(sync=True)
