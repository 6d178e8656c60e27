"""Few-shot classification of pictures: an episode, an embedding, and one drawing between others."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Episode:
    """One N-way K-shot task of pictures, and what a learner answered.

    Arguments:
        support_x: pictures to learn from, ``[S, 1, H, W]``, ink 1 and paper 0.
        support_y: their classes, ``[S]``, 0 to N - 1.
        query_x: pictures to name, ``[Q, 1, H, W]``.
        query_y: their true classes, ``[Q]``.
        scores: the learner's score of each class for each query, ``[Q, N]``; the highest is its answer.
        learner: name of the learner.
        alphabet: name of the alphabet.
    """

    support_x: Tensor
    support_y: Tensor
    query_x: Tensor
    query_y: Tensor
    scores: Tensor
    learner: str = "the learner"
    alphabet: str = ""

    @property
    def ways(self) -> int:
        """Classes N."""
        return int(self.support_y.max()) + 1

    @property
    def shots(self) -> int:
        """Support pictures K of each class."""
        return len(self.support_y) // self.ways

    @property
    def answers(self) -> Tensor:
        """The class that the learner names for each query, ``[Q]``."""
        return self.scores.argmax(-1)

    @property
    def right(self) -> Tensor:
        """Which answers are right, ``[Q]``."""
        return self.answers == self.query_y

    def __str__(self) -> str:
        named = f"{int(self.right.sum())} of {len(self.right)} right"
        home = f" of {self.alphabet}" if self.alphabet else ""
        return (
            f"{self.learner}: {named}, {self.ways}-way {self.shots}-shot{home}. "
            f"Guessing would name {len(self.right) / self.ways:.1f}."
        )


@dataclasses.dataclass(frozen=True)
class EmbeddingMap:
    """Pictures as points of the plane that shows most of how they spread.

    Arguments:
        points: ``[n, 2]``, coordinates along the two directions of largest variance.
        labels: class of each, ``[n]``.
        pictures: one picture of each class, ``[N, 1, H, W]``.
        kept: share of the variance that the plane keeps, 0 to 1.
        spread: mean squared distance to the class mean, as a share of that to the overall mean, in all dimensions.
    """

    points: Tensor
    labels: Tensor
    pictures: Tensor
    kept: float
    spread: float

    def __str__(self) -> str:
        return (
            f"{100 * self.spread:.0f} % of the spread is within classes; the plane keeps {100 * self.kept:.0f} % of it."
        )


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A drawing, the drawings it was compared with, and how likely each is to show the same character.

    Arguments:
        support: one picture for each of N characters, ``[N, 1, H, W]``, ink 1 and paper 0.
        query: the picture to name, ``[1, H, W]``.
        names: of the characters, N.
        chances: softmax of the learner's scores, ``[N]``.
    """

    support: Tensor
    query: Tensor
    names: tuple[str, ...]
    chances: Tensor

    @property
    def answer(self) -> str:
        """The name of the most likely character."""
        return self.names[int(self.chances.argmax())]

    def __str__(self) -> str:
        each = ", ".join(
            f"{name} {100 * chance:.0f} %" for name, chance in zip(self.names, self.chances.tolist(), strict=True)
        )
        return f"It looks like {self.answer}: {each}."
