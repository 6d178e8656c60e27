"""Training watched while it goes on."""

from __future__ import annotations

import time
from typing import Any

from metakit import plots
from metakit.outer import Run


class LiveCurve:
    """The loss of a run, drawn while it goes on; what remains in the page is an ordinary picture.

        with widgets.LiveCurve("Loss at each outer step; it falls.") as live:
            mk.fit(learner, tasks, steps=3000, callback=live)

    Arguments:
        alt: what the picture shows, in a sentence.
        every: seconds between two drawings.
    """

    def __init__(self, alt: str, *, every: float = 0.8) -> None:
        self.alt, self.every = plots.check_alt(alt), every
        self._run: Run | None = None
        self._shown: Any = None
        self._due = 0.0

    def __enter__(self) -> LiveCurve:
        return self

    def __call__(self, run: Run) -> None:
        """Draw, if it is time to: the callback of ``fit``."""
        self._run = run
        if time.perf_counter() >= self._due:
            self._show()
            self._due = time.perf_counter() + self.every

    def __exit__(self, *exception: object) -> None:
        from IPython.display import Markdown, display

        if self._run is not None:
            self._show()
            display(Markdown(f"*Figure: {self.alt}*"))

    def _show(self) -> None:
        from IPython.display import Image, display

        fig, ax = plots.figure()
        plots.draw_history(ax, self._run)
        picture = Image(plots.png(fig), alt=self.alt)
        if self._shown is None:
            self._shown = display(picture, display_id=True)
        else:
            self._shown.update(picture)
