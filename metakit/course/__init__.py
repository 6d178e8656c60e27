"""The course's helpers: exercises that say what is wrong, and quiz cards that explain their answers.

course.check("inner_step", inner_step)      # a verdict, with the reason if it is not right yet
course.quiz("outer_loop")                   # cards to click, each answer explained
"""

from metakit.course import (
    algorithm_steps,
    applications,
    architecture_search,
    background,
    challenges,
    concepts,
    few_shot_images,
    in_context,
    inner_loop,
    learned_optimizers,
    meta_reinforcement_learning,
    outer_loop,
    start_here,
    trends,
)
from metakit.course.exercises import Exercise, Mistake, Verdict, judge
from metakit.course.quizzes import Question, Quiz

LESSONS = {
    "start_here": start_here,
    "background": background,
    "concepts": concepts,
    "algorithm_steps": algorithm_steps,
    "inner_loop": inner_loop,
    "outer_loop": outer_loop,
    "architecture_search": architecture_search,
    "few_shot_images": few_shot_images,
    "learned_optimizers": learned_optimizers,
    "meta_reinforcement_learning": meta_reinforcement_learning,
    "in_context": in_context,
    "applications": applications,
    "challenges": challenges,
    "trends": trends,
}
EXERCISES = {exercise.name: exercise for lesson in LESSONS.values() for exercise in lesson.EXERCISES}

__all__ = ["EXERCISES", "LESSONS", "Exercise", "Mistake", "Question", "Quiz", "Verdict", "check", "quiz"]


def check(name: str, answer: object) -> Verdict:
    """Judge an answer to the exercise of this name; never raises because of the answer.

    Raises:
        KeyError: if there is no such exercise.

    Example:
        >>> check("split_rows", lambda x, y, shots: (x[:shots], y[:shots], x, y)).passed
        False
    """
    if name not in EXERCISES:
        raise KeyError(f"there is no exercise {name!r}. There are: {', '.join(EXERCISES)}.")
    return judge(EXERCISES[name], answer)


def quiz(lesson: str) -> Quiz:
    """The quiz of a lesson, as cards to click.

    Raises:
        KeyError: if there is no such lesson.
    """
    if lesson not in LESSONS:
        raise KeyError(f"there is no lesson {lesson!r}. There are: {', '.join(LESSONS)}.")
    return Quiz(LESSONS[lesson].QUESTIONS)
