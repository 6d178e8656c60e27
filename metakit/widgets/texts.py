"""The text explorer: classes of a few example texts each, a question, and what classifiers make of it at once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as ipw
import torch
import traitlets
from matplotlib.figure import Figure
from torch import Tensor

from metakit import plots, records
from metakit.data.text import Encoder, texts
from metakit.recipes import language
from metakit.records.applications import Answerer
from metakit.widgets.explorer import ROW, VIEWED, Explorer, button, by_name

PLAIN = "nearest centroid"
_MOST = 12  # classes, that the picture has room for


class ClassRows(ipw.VBox):
    """Classes to edit: a name and a field of examples each, one a line. ``value`` is what the reader changes.

    Arguments:
        value: pairs of a class's name and its examples, lines of one text.

    Raises:
        ValueError: if there are more than twelve classes.

    Example:
        >>> rows = ClassRows([("card", "my card is lost"), ("cash", "no cash came out")])
        >>> rows.add.click()
        >>> rows.value[-1]
        ['class 3', '']
    """

    value: Any = traitlets.List()

    def __init__(self, value: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self._fields: list[tuple[Any, Any]] = []
        self.add = button("Add a class", "A class more, without examples as yet", self._add)
        self.observe(lambda change: self._show(), names="value")
        self.value = [list(pair) for pair in value]
        self._show()

    @traitlets.validate("value")
    def _checked(self, proposal: Any) -> list[list[str]]:
        pairs = [list(pair) for pair in proposal.value]
        wrong = [pair for pair in pairs if len(pair) != 2 or not all(isinstance(part, str) for part in pair)]
        if wrong:
            raise ValueError(f"classes must be pairs of a name and examples, both text, got {wrong[0]!r}.")
        if len(pairs) > _MOST:
            raise ValueError(f"there may be {_MOST} classes, got {len(pairs)}. Leave some out.")
        return pairs

    def _told(self) -> list[list[str]]:
        return [[name.value, examples.value] for name, examples in self._fields]

    def _show(self) -> None:
        """Fields for the value; where they hold it already, the reader typed it, and keeps the place of the cursor."""
        self.add.disabled = len(self.value) == _MOST
        if self._fields and self._told() == self.value:
            return
        self._fields, boxes = [], []
        for i, (name, examples) in enumerate(self.value):
            title = ipw.Text(name, description=f"Class {i + 1}", **_field("176px"))
            field = ipw.Textarea(examples, description="Examples", placeholder="one a line", rows=4, **_field("268px"))
            remove = button("Remove", f"Remove class {i + 1}", functools.partial(self._remove, i), width="88px")
            for each in (title, field):
                each.observe(lambda change: setattr(self, "value", self._told()), names="value")
            self._fields.append((title, field))
            boxes.append(ipw.VBox([ipw.HBox([title, remove]), field]))
        self.children = (ipw.HBox(boxes, layout=ROW), self.add)

    def _add(self) -> None:
        self.value = [*self.value, [f"class {len(self.value) + 1}", ""]]

    def _remove(self, i: int) -> None:
        self.value = [pair for place, pair in enumerate(self.value) if place != i]


def _field(width: str) -> dict[str, Any]:
    return {"style": {"description_width": "72px"}, "layout": {"width": width}}


class TextExplorer:
    """Type examples of classes and a question; see what a few-shot classifier takes it for, and what it lies near.

    Beside the learner stands the nearest centroid of the rows as they are, which needs no training.

    Arguments:
        learner: anything with ``predict(support_x, support_y, query_x)``, trained or not, or several by name.
        classes: examples by the name of their class, to begin with.
        encode: makes rows of texts, as in ``mk.tasks.texts``; the one that the learner was trained with.
        question: to begin with.

    After each change ``.record`` is the ``records.TextAnswers`` shown, and ``.error`` the exception if there was one.
    Controls by name: classes (pairs of a name and lines of examples), question.

    Raises:
        ValueError: if there is no learner, or there are more than twelve classes.

    Example:
        >>> classes = {"card": ["my card is lost", "where is my card"], "cash": ["no cash came out"]}
        >>> explorer = TextExplorer(language.nearest_centroid(), classes, question="is my card here?")
        >>> explorer.record.answer("nearest centroid"), explorer.error
        ('card', None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(
        self,
        learner: Answerer | Mapping[str, Answerer],
        classes: Mapping[str, Sequence[str]],
        *,
        encode: Encoder | Callable[[list[str]], Any] | None = None,
        question: str = "",
    ) -> None:
        self.contenders = {**by_name(learner), PLAIN: language.nearest_centroid()}
        self._given, self._rows = encode, dict[str, Tensor]()
        field = {"description_width": "70px"}
        controls = {
            "classes": ClassRows([(name, "\n".join(lines)) for name, lines in classes.items()]),
            "question": ipw.Text(
                question,
                description="Question",
                placeholder="type a question",
                style=field,
                layout={"width": "700px", "max_width": "98%"},
            ),
        }
        told = "An explorer with fields for classes, their examples, and a question"
        self._view = Explorer(controls, self.compute, self.draw, instead=told)
        self._view.refresh()

    def compute(self, *, classes: Sequence[Sequence[str]] = (), question: str = "") -> records.TextAnswers:
        """The record for some classes and a question; see ``records.text_answers``.

        Classes of one name are one; a class without a name is called by its number.
        """
        lines: dict[str, list[str]] = {}
        for i, (name, examples) in enumerate(classes):
            lines.setdefault(name.strip() or f"class {i + 1}", []).extend(map(str.strip, examples.splitlines()))
        return records.text_answers(self.contenders, lines, question, encode=self._encode)

    @staticmethod
    def draw(fig: Figure, record: records.TextAnswers) -> None:
        """The shares of the classes on the left, the nearest examples on the right."""
        tall = max(2.4, 0.36 * len(record.classes))
        fig.set(figwidth=8.6, figheight=tall + 1.1, dpi=100, facecolor="white")
        axes = fig.subplots(1, 2, width_ratios=(1, 1.25))
        fig.subplots_adjust(left=0.155, right=0.985, top=1 - 0.3 / (tall + 1.1), bottom=0.8 / (tall + 1.1), wspace=0.08)
        for ax, draw in zip(axes, (plots.draw_text_scores, plots.draw_near_examples), strict=True):
            ax.spines[["top", "right"]].set_visible(False)
            draw(ax, record)
            ax.set_title(ax.get_title(), y=1.0)  # Left to itself, matplotlib measures every label twice.
            ax.xaxis.set_label_coords(0.5, -0.36 / tall)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="lower center", ncols=4, fontsize=8, frameon=False)

    def _encode(self, asked: list[str]) -> Tensor:
        """Rows of texts. Those of the last call are kept: of what is typed most stays as it is."""
        new = [text for text in dict.fromkeys(asked) if text not in self._rows]
        if new:
            self._rows |= dict(zip(new, texts(new, range(len(new)), self._given).rows.float(), strict=True))
        self._rows = {text: self._rows[text] for text in asked}
        return torch.stack(list(map(self._rows.__getitem__, asked)))
