"""Two tests that the exercises of every lesson share, each made for a list of answers as readers might write them."""

import pytest

from metakit import course


def wrong(written):
    """A test that each ``(exercise, answer, words)`` is refused with these words."""

    @pytest.mark.parametrize(("name", "answer", "words"), written, ids=[f"{n}-{words}" for n, _, words in written])
    def test(name, answer, words):
        verdict = course.check(name, answer)
        assert not verdict.passed and words in verdict.message, verdict.message

    return test


def right(written):
    """A test that each ``(exercise, answer)``, written in another way than the package does, passes."""

    @pytest.mark.parametrize(("name", "answer"), written, ids=[name for name, _ in written])
    def test(name, answer):
        verdict = course.check(name, answer)
        assert verdict.passed, verdict.message

    return test
