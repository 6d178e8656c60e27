"""Exercises in both directions: the solution shown to the reader passes; stub and classic mistakes get their word."""

import re
from pathlib import Path

import answers
import nbformat
import pytest
import torch

import metakit as mk
from metakit import course

NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


def tagged(tag):
    """`{exercise: (notebook, code)}` of the cells with this tag; solutions stand in folded Markdown."""
    found = {}
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            if tag in cell.metadata.get("tags", []):
                code = (
                    cell.source
                    if cell.cell_type == "code"
                    else "\n".join(re.findall(r"```python\n(.*?)```", cell.source, re.S))
                )
                name = re.search(r"^def (\w+)|check\(\"(\w+)\"", code, re.M)
                found[name[1] or name[2]] = (path.stem, code)
    return found


STUBS, SOLUTIONS, CHECKS = tagged("exercise"), tagged("solution"), tagged("check")
MISTAKES = [(e.name, i) for e in course.EXERCISES.values() for i in range(len(e.mistakes))]


def run(code, notebook):
    """The names that a cell defines, after the solutions of the same notebook that stand before it."""
    names = {"mk": mk, "torch": torch}
    for name, (where, solution) in SOLUTIONS.items():
        if where == notebook:
            if solution == code:
                break
            exec(compile(solution, name, "exec"), names)
    exec(compile(code, notebook, "exec"), names)
    return names


def test_stub_check_solution_and_exercise_belong_together():
    assert list(STUBS) == list(SOLUTIONS) == list(CHECKS)
    assert set(STUBS) == set(course.EXERCISES)


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solution_in_the_notebook_passes(name):
    notebook, code = SOLUTIONS[name]
    verdict = course.check(name, run(code, notebook)[name])
    assert verdict.passed, verdict.message


@pytest.mark.parametrize("name", STUBS)
def test_the_stub_fails_and_is_called_a_stub(name):
    notebook, code = STUBS[name]
    verdict = course.check(name, run(code, notebook)[name])
    assert not verdict.passed and "stub" in verdict.message


@pytest.mark.parametrize(("name", "number"), MISTAKES)
def test_each_classic_mistake_gets_its_own_message(name, number):
    mistake = course.EXERCISES[name].mistakes[number]
    verdict = course.check(name, mistake.answer)
    assert not verdict.passed and verdict.message == mistake.message


def steps(w, x, y, lr, **options):
    return w - lr * torch.autograd.grad((x @ w - y).square().mean(), w, **options)[0]


def detached(w, x, y, lr):
    return steps(w.detach().requires_grad_(), x, y, lr, create_graph=True)


def through_data(w, x, y, lr):
    return steps(w, x, y, lr, create_graph=True).detach()


def summed(w, x, y, lr):
    return w - lr * torch.autograd.grad((x @ w - y).square().sum(), w, create_graph=True)[0]


def losses(w, batch, lr, *, adapt_on, judge_on, step=lambda *a: steps(*a, create_graph=True)):
    found = []
    for task in range(len(batch[0])):
        (ax, ay), (jx, jy) = ((batch[i][task], batch[i + 1][task]) for i in (adapt_on, judge_on))
        found.append((jx @ step(w, ax, ay, lr) - jy).square().mean())
    return torch.stack(found)


# Written independently of the mistakes that the package knows, as a reader might write them.
WRITTEN = [
    ("inner_step", detached, "graph is cut"),
    ("inner_step", through_data, "graph is cut"),
    ("inner_step", lambda w, x, y, lr: steps(w, x, y, lr), "graph is cut"),
    ("inner_step", summed, "Sum and mean"),
    ("inner_step", lambda w, x, y, lr: steps(w, x, y, -lr, create_graph=True), "uphill"),
    ("inner_step", lambda w, x, y, lr: None, "return line"),
    ("inner_step", lambda w, x, y, lr: steps(w, x, y, 2 * lr, create_graph=True), "none of the classic"),
    ("inner_step", lambda w, x, y: w, "TypeError"),
    ("inner_step", 3.0, "must be a function"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=0).mean(), "support set is used as the query"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=2, judge_on=2).mean(), "query set is used as the support"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=2, judge_on=0).mean(), "changed places"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2).sum(), "Sum and mean"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2), "must have shape []"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2)[-1], "Only the last task"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2, step=steps).mean(), "graph is cut"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2, step=detached).mean(), "graph is cut"),
    ("maml_loss", lambda w, b, lr: losses(w, b, lr, adapt_on=0, judge_on=2).mean().item(), "must be a tensor"),
    ("quadratic_meta_gradient", lambda w, a, c, lr: ((1 - lr * a) * a * (w - c)).mean(), "(1 - lr * a) is missing"),
    ("reptile_step", lambda w, adapted, eps: (1 - eps) * w + eps * adapted.mean(), "none of the classic"),
    ("reptile_step", lambda w, adapted, eps: w + eps * (w - adapted).mean(0), "away from"),
    ("split_rows", lambda x, y, shots: (x[:shots], y[:shots], x[:shots], y[:shots]), "used as the query"),
    ("split_rows", lambda x, y, shots: (x[:shots], y[:shots]), "return four tensors"),
    ("interval", lambda losses: (losses.mean(), 1.96 * losses.std() / len(losses)), "root of the number"),
    ("interval", lambda losses: losses.mean(), "return two numbers"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)


@pytest.mark.parametrize("name", course.EXERCISES)
def test_an_answer_cannot_pass_by_chance(name):
    """Every observed tensor has something in it, so that an answer of zeros or of nothing differs."""
    exercise = course.EXERCISES[name]
    for label, tensor in exercise.observe(exercise.right).items():
        assert tensor.numel() and float(tensor.detach().abs().max()) > 1e-3, label


def test_a_verdict_reads_well_as_text_and_as_a_card():
    verdict = course.Verdict(False, "a < b")
    assert repr(verdict) == "Not yet. a < b" and "a &lt; b" in verdict._repr_html_()


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(KeyError, match="inner_step"):
        course.check("inner_stepp", None)
    with pytest.raises(KeyError, match="outer_loop"):
        course.quiz("outer_lop")


@pytest.mark.parametrize("lesson", course.LESSONS)
def test_each_answer_of_a_quiz_is_explained_and_the_right_one_counts(lesson):
    quiz = course.quiz(lesson)
    assert len(quiz.questions) >= 3
    for number, question in enumerate(quiz.questions):
        for answer, (_, why) in enumerate(question.answers):
            reply = quiz.choose(number, answer)
            assert why in reply and reply.startswith("Right." if answer == question.right else "No.")
        quiz.choose(number, question.right)
    assert quiz.score == len(quiz.questions)
    assert all(question.text.split()[0] in quiz.as_html() for question in quiz.questions)


def test_a_click_on_a_quiz_is_a_choice():
    quiz = course.quiz("start_here")
    quiz._buttons[0][1].click()
    assert quiz.chosen == {0: 1} and "Right." in quiz._replies[0].value and "1 of 3" in quiz._total.value


@pytest.mark.parametrize(
    ("answers", "right"), [((("a", "b"),), 0), ((("a", "b"), ("c", "d")), 2), ((("a", "b"), ("c", "")), 0)]
)
def test_a_question_without_answers_or_reasons_is_refused(answers, right):
    with pytest.raises(ValueError, match=r"question needs|every answer"):
        course.Question("why?", answers, right)
