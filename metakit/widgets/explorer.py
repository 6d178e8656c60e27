"""What every explorer shares: controls in, a record and its picture out, failures in the open."""

from __future__ import annotations

import html
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
from matplotlib.figure import Figure

from metakit import plots

STYLE = {"description_width": "110px"}
LINE: dict[str, Any] = {"style": STYLE, "layout": {"width": "420px", "max_width": "98%"}}
LATE: dict[str, Any] = {**LINE, "continuous_update": False}  # for what takes a while to compute
ROW = {"flex_flow": "row wrap"}


class Explorer:
    """What every explorer holds: a picture, a sentence, ``.record`` and ``.error``; shown by ending a cell with it.

    Arguments:
        controls: by name; their values are handed to ``compute`` under these names.
        compute: makes a record of the values; it and ``draw`` know nothing of widgets.
        draw: puts a record on a whole figure.
        rows: what stands above the sentence and the picture; the controls when left out.
        instead: what a page without a kernel shows; see ``show_widget``.
    """

    def __init__(
        self,
        controls: dict[str, Any],
        compute: Callable[..., Any],
        draw: Callable[[Figure, Any], None],
        *,
        rows: Sequence[Any] | None = None,
        instead: str = "An explorer",
    ) -> None:
        self.controls, self._compute, self._draw = controls, compute, draw
        self.record: Any = None
        self.error: Exception | None = None
        self.picture = ipw.Image(format="png", layout={"width": "760px", "max_width": "100%", "height": "auto"})
        self.sentence = ipw.HTML()
        above = list(controls.values()) if rows is None else rows
        self.widget, self._instead = ipw.VBox([*above, self.sentence, self.picture]), instead
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

    def static(self) -> Figure:
        """The picture as it is now, for ``plots.show``: for pages where no kernel runs."""
        fig = Figure()
        self._draw(fig, self.record)
        return fig

    def _changed(self, change: Any) -> None:
        self.refresh()

    def _say(self, text: str) -> None:
        self.sentence.value = f'<div role="status" aria-live="polite" style="max-width:700px">{text}</div>'

    def _ipython_display_(self) -> None:
        show_widget(self.widget, self._instead)


_SHARED = {
    "controls": "The controls by name. Setting a ``.value`` is moving it.",
    "record": "What is shown.",
    "error": "What went wrong at the last change, or ``None``.",
    "widget": "Controls, sentence and picture.",
    "static": Explorer.static.__doc__,
    "_ipython_display_": None,
}
# Unpacked in the class of an explorer, they are those of the ``Explorer`` that it holds as ``_view``.
VIEWED = tuple(property(operator.attrgetter(f"_view.{name}"), doc=doc) for name, doc in _SHARED.items())


def by_name(learner: Any) -> dict[str, Any]:
    """Learners to choose from; one alone is "the learner".

    Raises:
        ValueError: if there is none.
    """
    named = dict(learner) if isinstance(learner, Mapping) else {"the learner": learner}
    if not named:
        raise ValueError("learner must be a learner or several by name, got none.")
    return named


def button(text: str, hint: str, action: Callable[[], None], **layout: str) -> ipw.Button:
    """A button that does something."""
    made = ipw.Button(description=text, tooltip=hint, layout=layout)
    made.on_click(lambda _: action())
    return made


def another(seed: Any, text: str, hint: str) -> ipw.Button:
    """A button that draws anew: it moves the control ``seed`` on by one."""

    def move() -> None:
        seed.value += 1

    return button(text, hint, move)


def show_widget(widget: Any, instead: str) -> None:
    """Show a widget; a page without a kernel shows the sentence ``instead`` of it."""
    from IPython.display import display

    text = f"{instead}: run the notebook to use it."
    view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
    data = {"application/vnd.jupyter.widget-view+json": view, "text/plain": text, "text/html": f"<em>{text}</em>"}
    display(data, raw=True)
