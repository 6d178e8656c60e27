"""Lessons 12 and 14: the memory meter, wrong answers as readers might write them, and pointers that lead somewhere."""

import re
from pathlib import Path

import answers
import nbformat
import pytest
import torch
from torch import nn

from metakit import MAML, SGD, course, models, tasks
from metakit.course.challenges import peak_saved

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"


# --------------------------------------------------------------------------------------------------- memory meter


def test_what_an_operation_keeps_is_counted_in_bytes():
    x = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
    assert peak_saved(lambda: x.exp()) == 8000  # its result
    assert peak_saved(lambda: x * 2.0) == 0  # nothing: the derivative is the 2
    assert peak_saved(lambda: x.exp().sin().cos()) == 2 * 8000  # the result of exp, needed by sin too, and that of sin


def test_a_storage_counts_once_however_often_it_is_kept():
    x = torch.ones(1000, requires_grad=True)
    assert peak_saved(lambda: x * x + x.sin() + x.cos()) == 4000


def test_what_is_let_go_counts_no_longer():
    x = torch.ones(1000, requires_grad=True)

    def one_after_the_other():
        for _ in range(5):
            torch.autograd.grad(x.exp().sum(), x)

    def together():
        torch.autograd.grad(sum(x.exp().sum() for _ in range(5)), x)

    assert peak_saved(one_after_the_other) == 4000 and peak_saved(together) == 5 * 4000


def test_the_meter_changes_no_gradient_and_finds_the_law_of_the_lesson():
    torch.manual_seed(0)
    model, batch = models.MLP(1, [8], 1), tasks.Sinusoids().sample(3, seed=0)

    def gradient(steps, order):
        learner = MAML(model, rule=SGD(lr=0.01), steps=steps, order=order)
        return torch.autograd.grad(learner(batch).mean(), list(model.parameters()))

    found = []
    second = [peak_saved(lambda steps=steps: found.append(gradient(steps, 2))) for steps in (2, 3, 4)]
    assert all(torch.equal(a, b) for a, b in zip(found[0], gradient(2, 2), strict=True))
    assert second[2] - second[1] == second[1] - second[0] > 0
    assert len({peak_saved(lambda steps=steps: gradient(steps, 1)) for steps in (1, 4)}) == 1


def test_the_meter_is_off_again_afterwards():
    x = torch.ones(10, requires_grad=True)
    peak_saved(lambda: x.exp())
    y = nn.functional.softplus(x).sum()
    assert type(y.grad_fn.next_functions[0][0]._saved_self) is torch.Tensor


# ------------------------------------------------------------------------------------------------------ exercises


def half_centred(k, m):
    k, m = k - k.mean(1, keepdim=True), m - m.mean(1, keepdim=True)
    return (k * m).sum() / (k.norm() * m.norm())


def with_a_matrix(k, m):
    h = torch.eye(len(k), dtype=k.dtype) - 1 / len(k)
    return torch.trace(k @ h @ m @ h) / (torch.trace(k @ h @ k @ h) * torch.trace(m @ h @ m @ h)).sqrt()


def by_backward(losses, w, rows, size):
    w = w.detach().clone().requires_grad_()
    for start in range(0, len(rows), size):
        (losses(w, rows[start : start + size]).sum() / len(rows)).backward()
    return w.grad


def added_up(losses, w, rows, size):
    total = sum(losses(w, piece).sum() for piece in rows.split(size))
    return torch.autograd.grad(total / len(rows), w)[0]


def mean_of_means(losses, w, rows, size):
    pieces = rows.split(size)
    return sum(torch.autograd.grad(losses(w, piece).mean(), w)[0] for piece in pieces) / len(pieces)


def reported(chooser, reader):
    def answer(validation, test):
        best = int(chooser(validation, test).mean(1).argmin())
        row = reader(validation, test)[best]
        return best, float(row.mean()), 1.96 * float(row.std()) / len(row) ** 0.5

    return answer


def one_step(x, y, queries, lr, *, start=0.0, mean=torch.mean):
    w = torch.full((x.shape[1],), start, dtype=x.dtype, requires_grad=True)
    (grad,) = torch.autograd.grad(mean((x @ w - y).square()), w)
    return queries @ (w - lr * grad)


def by_counting(training, adapting, scratch):
    tasks = 0
    while training + tasks * adapting >= tasks * scratch:
        tasks += 1
    return tasks


WRITTEN = [
    ("cka_from_grams", lambda k, m: torch.cosine_similarity(k.flatten(), m.flatten(), dim=0), "Nothing is centred"),
    ("cka_from_grams", half_centred, "centre both"),
    ("cka_from_grams", lambda k, m: k, "must have shape []"),
    ("in_chunks", mean_of_means, "mean of the chunks' means"),
    ("in_chunks", added_up, "no memory is saved"),
    (
        "in_chunks",
        lambda losses, w, rows, size: torch.autograd.grad(losses(w, rows).mean(), w)[0],
        "no memory is saved",
    ),
    ("in_chunks", lambda losses, w, rows, size: losses(w, rows).mean(), "must have shape"),
    ("honest_report", reported(lambda v, t: t, lambda v, t: t), "chosen on the test tasks"),
    ("honest_report", reported(lambda v, t: v, lambda v, t: v), "on which the learner was chosen"),
    ("honest_report", lambda v, t: t.mean(), "return three numbers"),
    ("attention_step", lambda x, y, q, lr: one_step(x, y, q, lr, mean=torch.sum), "Sum and mean"),
    ("attention_step", lambda x, y, q, lr: one_step(x, y, q, lr) / 2, "factor 2"),
    ("attention_step", lambda x, y, q, lr: torch.softmax(q @ x.T, -1) @ y, "softmax attention"),
    ("attention_step", lambda x, y, q, lr: one_step(x, y, q, lr, start=1.0), "none of the classic"),
    ("break_even", lambda training, adapting, scratch: -(-training // (scratch - adapting)), "one task more"),
    ("break_even", lambda training, adapting, scratch: training / (scratch - adapting), "whole number"),
    ("break_even", lambda training, adapting, scratch: training // scratch + 1, "not free"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("cka_from_grams", with_a_matrix),
        ("in_chunks", by_backward),
        ("honest_report", reported(lambda v, t: v, lambda v, t: t)),
        ("attention_step", one_step),
        ("break_even", by_counting),
    ]
)


# ------------------------------------------------------------------------------------------------ quiz, pointers


def test_the_final_quiz_has_twenty_questions_and_its_right_answers_stand_in_no_fixed_place():
    questions = course.LESSONS["trends"].QUESTIONS
    assert len(questions) == 20 and len({question.text for question in questions}) == 20
    assert {question.right for question in questions} == {0, 1, 2}


def headings(name):
    cells = nbformat.read(NOTEBOOKS / name, as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    return {re.sub(r"^#+ ", "", line) for line in lines if re.match(r"#{2,4} ", line)}


def answers_to_frequent_questions():
    cells = {cell.id: cell for cell in nbformat.read(NOTEBOOKS / "14_trends_and_faq.ipynb", as_version=4).cells}
    return [part for part in cells["faq"].source.split("### ")[1:] if not part.startswith("When should I not")]


@pytest.mark.parametrize("answer", answers_to_frequent_questions(), ids=lambda answer: answer.splitlines()[0])
def test_each_frequent_question_points_at_headings_that_there_are(answer):
    pointers = re.findall(r"\[(\w+): ([^\]]+)\]\((\w+\.ipynb)#([^)]+)\)", answer)
    assert pointers and answer.count(".ipynb") == len(pointers)
    for notebook, told, file, anchor in pointers:
        assert file == f"{notebook}.ipynb" and told in headings(file)
        assert anchor == told.replace(" ", "-")
