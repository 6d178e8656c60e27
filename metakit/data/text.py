"""Texts as rows: hashed n-grams of words and characters, or any encoder of one's own."""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from metakit.checks import whole, whole_span
from metakit.data._convert import numbered, rows_of
from metakit.data.labelled import LabelledData

_WORD = re.compile(r"\w+(?:'\w+)?")
_CHUNK = 2048  # texts counted at a time


class Encoder(Protocol):
    """What makes rows of texts: sentence-transformers' models are such encoders."""

    def encode(self, texts: list[str]) -> Any:
        """Rows ``[n, features]``, a tensor or an array."""


@dataclasses.dataclass(frozen=True)
class HashedNgrams:
    """Texts as vectors of length 1, without a vocabulary: n-grams of words, and of the characters within a word.

    Each n-gram g goes to the place ``h(g) mod D`` with a sign, both from one checksum, so that of two that meet in a
    place neither is favoured. With tf the signed count in a place,

        v = sign(tf) log(1 + |tf|),    row = v / |v|.

    Case is ignored. A text without a word is a row of zeros. The same text gives the same row on every machine.

    Arguments:
        features: length of a row, D.
        words: range of the lengths of word n-grams.
        characters: range of the lengths of character n-grams, a word's ends counted as characters; ``None`` for none.

    Raises:
        TypeError: if a number is no whole number.
        ValueError: if one is below 1 or a range is empty.

    Example:
        >>> rows = HashedNgrams(features=512).encode(["Where is my card?", "where is my CARD", "top up failed"])
        >>> rows.shape, round(float(rows[0] @ rows[1]), 4), bool(rows[0] @ rows[2] < 0.3)
        (torch.Size([3, 512]), 1.0, True)

    Source: K. Weinberger et al., Feature Hashing for Large Scale Multitask Learning, 2009, section 2; characters: P.
    Bojanowski et al., Enriching Word Vectors with Subword Information, 2017, section 3.2.
    """

    features: int = 4096
    words: int | tuple[int, int] = (1, 2)
    characters: int | tuple[int, int] | None = (3, 5)

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", whole("features", self.features))
        object.__setattr__(self, "words", whole_span("words", self.words))
        if self.characters is not None:
            object.__setattr__(self, "characters", whole_span("characters", self.characters))

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Rows of length 1, float32 ``[n, features]``."""
        texts = _checked(texts)
        known: dict[str, list[int]] = {}
        rows = torch.zeros(len(texts), self.features)
        for start in range(0, len(texts), _CHUNK):
            places, owners = [], []
            for i, text in enumerate(texts[start : start + _CHUNK]):
                found = self._places(_WORD.findall(text.lower()), known)
                places += found
                owners += [i] * len(found)
            at = np.array(places, dtype=np.int64)  # a place twice over, and its sign in the lowest bit
            flat = torch.from_numpy(np.array(owners, dtype=np.int64) * self.features + (at >> 1))
            part = rows[start : start + _CHUNK].view(-1)
            part.index_add_(0, flat, torch.from_numpy((2 * (at & 1) - 1).astype(np.float32)))
        rows = rows.sign() * rows.abs().log1p()
        return torch.nn.functional.normalize(rows, dim=1)

    def _places(self, words: list[str], known: dict[str, list[int]]) -> list[int]:
        """Twice the place of each n-gram of a text, and 1 more for those that count up; ``known`` words are kept."""
        places = []
        for word in words:
            if word not in known:
                known[word] = [self._place("c" + piece) for piece in self._pieces(f"<{word}>")]
            places += known[word]
        low, high = whole_span("words", self.words)
        for n in range(low, high + 1):
            places += [self._place("w" + " ".join(words[i : i + n])) for i in range(len(words) - n + 1)]
        return places

    def _pieces(self, word: str) -> list[str]:
        if self.characters is None:
            return []
        low, high = whole_span("characters", self.characters)
        return [word[i : i + n] for n in range(low, high + 1) for i in range(len(word) - n + 1)]

    def _place(self, ngram: str) -> int:
        code = zlib.crc32(ngram.encode("utf-8", "surrogatepass"))
        return (code >> 1) % self.features * 2 + (code & 1)


def texts(
    texts: Sequence[str],
    labels: Any,
    encode: Encoder | Callable[[list[str]], Any] | None = None,
) -> LabelledData:
    """Labelled texts: a row of float32 for each, a class for each label.

    Arguments:
        texts: n texts.
        labels: a whole number or text for each.
        encode: makes rows ``[n, features]`` of a list of texts: a function, or what has a method ``encode``, such as a
            model of sentence-transformers. By default :class:`HashedNgrams`.

    Raises:
        TypeError: if a text is none, or ``encode`` cannot be called.
        ValueError: if there is no text, or labels or rows do not fit.

    Example:
        >>> texts(["where is my card", "no money came", "card lost"], ["card", "cash", "card"])
        LabelledData(2 classes, 1 to 2 rows each, row [4096] float32)
    """
    given = _checked(texts)
    if not given:
        raise ValueError("texts must have a text, got none. Check where they come from.")
    y, names = numbered(labels, len(given))
    encoder = HashedNgrams() if encode is None else encode
    function = getattr(encoder, "encode", encoder)
    if not callable(function):
        raise TypeError(f"encode must take a list of texts, got {type(encode).__name__}. Give a function.")
    rows = rows_of(function(given))
    if rows.dim() != 2 or len(rows) != len(given):
        raise ValueError(
            f"encode must return a row for each of {len(given)} texts, [{len(given)}, features], got "
            f"{list(rows.shape)}. Check its return."
        )
    return LabelledData(rows, y, names=names)


def _checked(texts: Sequence[str]) -> list[str]:
    if isinstance(texts, str):
        raise TypeError(f"texts must be a list of texts, got the one text {texts[:40]!r}. Wrap it: [text].")
    given = list(texts)
    wrong = next((i for i, text in enumerate(given) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"texts must be texts, got {given[wrong]!r} at place {wrong}. Leave it out, or fill it: ''.")
    return given
