"""What every explorer shares: controls in, a record and its picture out, failures in the open."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from metakit import plots

STYLE = {"description_width": "110px"}
WIDE = {"width": "420px", "max_width": "98%"}


class Explorer:
    """What every explorer shares: a picture, a sentence, ``.record`` and ``.error``; shown by ending a cell with it.

    Controls are handed to ``compute`` by their names; it and ``draw`` know nothing of widgets.
    """

    def __init__(
        self, controls: dict[str, Any], compute: Callable[..., Any], draw: Callable[[Figure, Any], None]
    ) -> None:
        self.controls, self._compute, self._draw = controls, compute, draw
        self.record: Any = None
        self.error: Exception | None = None
        self.picture = ipw.Image(format="png", layout={"width": "760px", "max_width": "100%", "height": "auto"})
        self.sentence = ipw.HTML()
        for control in controls.values():
            control.observe(self._changed, names="value")

    def refresh(self) -> None:
        """Compute and draw again. A failure is kept in ``.error`` and told in a sentence; the last picture stays."""
        try:
            record = self._compute(**{name: control.value for name, control in self.controls.items()})
            fig = Figure()
            self._draw(fig, record)
            self.picture.value = plots.png(fig, compress=1)
        except Exception as error:  # Whatever it is, the reader must see it: a callback's traceback goes nowhere.
            self.error = error
            self._say(f"<b>This did not work.</b> {type(error).__name__}: {html.escape(str(error))}")
        else:
            self.record, self.error = record, None
            text = str(record)
            self._say(html.escape(text[0].upper() + text[1:]))

    def _changed(self, change: Any) -> None:
        self.refresh()

    def _say(self, text: str) -> None:
        self.sentence.value = f'<div role="status" aria-live="polite" style="max-width:700px">{text}</div>'


def show_widget(widget: Any, instead: str) -> None:
    """Show a widget; a page without a kernel shows the sentence ``instead`` of it."""
    from IPython.display import display

    text = f"{instead}: run the notebook to use it."
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": text, "text/html": f"<em>{text}</em>"}
    display(data, raw=True)
