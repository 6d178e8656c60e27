"""Quiz cards: a question, its answers to click, and for each the reason why it is right or not."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import ipywidgets as ipw


@dataclasses.dataclass(frozen=True)
class Question:
    """A question with its answers.

    Arguments:
        text: the question.
        answers: ``(answer, why it is right or not)`` pairs.
        right: number of the right one, from 0.

    Raises:
        ValueError: if there are fewer than two answers, one has no explanation, or ``right`` is none of them.
    """

    text: str
    answers: Sequence[tuple[str, str]]
    right: int

    def __post_init__(self) -> None:
        if len(self.answers) < 2 or not 0 <= self.right < len(self.answers):
            raise ValueError(f"a question needs two answers or more and a right one, got {len(self.answers)}.")
        if not all(answer and why for answer, why in self.answers):
            raise ValueError("every answer needs a text and a reason why it is right or not.")


class Quiz:
    """Cards for questions. ``.choose(question, answer)`` is a click; ``.score`` counts the questions got right."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = tuple(questions)
        self.chosen: dict[int, int] = {}
        self._replies = [ipw.HTML(layout={"max_width": "700px"}) for _ in self.questions]
        self._buttons = [self._make_buttons(number) for number in range(len(self.questions))]
        self._total = ipw.HTML()
        self.widget = ipw.VBox([*(self._card(number) for number in range(len(self.questions))), self._total])

    @property
    def score(self) -> int:
        """Questions whose last chosen answer is right."""
        return sum(self.questions[number].right == answer for number, answer in self.chosen.items())

    def choose(self, question: int, answer: int) -> str:
        """Choose an answer; show and return what there is to say about it."""
        self.chosen[question] = answer
        asked = self.questions[question]
        word = "Right." if answer == asked.right else "No."
        for number, button in enumerate(self._buttons[question]):
            button.icon = "" if number != answer else ("check" if answer == asked.right else "times")
        reply = f"{word} {asked.answers[answer][1]}"
        self._replies[question].value = f'<div role="status" aria-live="polite">{html.escape(reply)}</div>'
        self._total.value = f"{self.score} of {len(self.questions)} right."
        return reply

    def _make_buttons(self, question: int) -> list[Any]:
        buttons = []
        for number, (answer, _) in enumerate(self.questions[question].answers):
            button = ipw.Button(description=answer, layout={"width": "auto", "max_width": "700px", "height": "auto"})
            button.add_class("metakit-answer")
            button.on_click(lambda _, number=number: self.choose(question, number))
            buttons.append(button)
        return buttons

    def _card(self, number: int) -> Any:
        text = ipw.HTML(f"<b>{number + 1}. {html.escape(self.questions[number].text)}</b>")
        return ipw.VBox([text, *self._buttons[number], self._replies[number]], layout={"margin": "0 0 12px 0"})

    def _ipython_display_(self) -> None:
        from IPython.display import display

        # A page without a kernel shows the folded text instead, in which nothing is lost but the clicking.
        view = {"version_major": 2, "version_minor": 0, "model_id": self.widget.model_id}
        data = {"text/html": self.as_html(), "text/plain": f"A quiz of {len(self.questions)} questions: run to answer."}
        display({"application/vnd.jupyter.widget-view+json": view, **data}, raw=True)

    def as_html(self) -> str:
        """The questions with their answers folded, for pages where no kernel runs."""
        parts = []
        for number, question in enumerate(self.questions):
            answers = "".join(f"<li>{html.escape(answer)}</li>" for answer, _ in question.answers)
            reasons = "".join(
                f"<li>{'Right.' if i == question.right else 'No.'} {html.escape(why)}</li>"
                for i, (_, why) in enumerate(question.answers)
            )
            parts.append(
                f"<p><b>{number + 1}. {html.escape(question.text)}</b></p><ol type='a'>{answers}</ol>"
                f"<details><summary>Answers</summary><ol type='a'>{reasons}</ol></details>"
            )
        return "".join(parts)
