"""What people ask a machine, each question with its intent: CLINC150 to learn from, BANKING77 to be judged on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metakit.checks import choice
from metakit.data import _store

Questions = tuple[list[str], list[str]]
"""Questions, and the intent of each."""

DOMAINS = (
    "banking",
    "credit_cards",
    "kitchen_and_dining",
    "home",
    "auto_and_commute",
    "travel",
    "utility",
    "work",
    "small_talk",
    "meta",
)
_BANKING = "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets/master/banking_data"
_BANKING_MD5 = {"train": "cec64185f4197906aabce0781ef9a19b", "test": "8dcd9dc31b686c75ec1f24bf23c140cb"}
_CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/master/data"
_CLINC_MD5 = {"data_full": "30c29dc6ab78edf3b5dfa640be204cde", "domains": "9beee9d0f36e07e914c1e3a626bdcb4a"}


def banking77(split: str = "train", *, root: str | os.PathLike[str] | None = None, download: bool = False) -> Questions:
    """BANKING77: 13,083 questions to a bank, each of one of 77 intents; many of them are hard to tell apart.

    Arguments:
        split: ``train`` (10,003 questions) or ``test`` (3,080, 40 an intent).
        root: folder of data, which holds ``banking77/train.csv`` and ``test.csv``; when left out, that of
            ``METAKIT_DATA``, or the user's cache.
        download: fetch what is missing.

    Raises:
        FileNotFoundError: if the file is not there and ``download`` is off.
        ConnectionError: if a download fails or has not the official checksum.
        ValueError: if the split is unknown, or the file is another.

    Example:
        >>> questions, intents = banking77("test")  # doctest: +SKIP
        >>> len(questions), len(set(intents))  # doctest: +SKIP
        (3080, 77)

    Source: I. Casanueva et al., Efficient Intent Detection with Dual Sentence Encoders, 2020.
    """
    split = choice("split", split, tuple(_BANKING_MD5))
    places = (f"banking77/{split}.csv", f"banking_data/{split}.csv")
    path = _store.located(_store.data_root(root), places, f"{_BANKING}/{split}.csv", _BANKING_MD5[split], download)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
        questions, intents = ([row[name].strip() for row in rows] for name in ("text", "category"))
    except (csv.Error, UnicodeDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(_other(path, "a table with the columns text and category", error)) from None
    return _checked(path, questions, intents, 77)


def clinc150(
    split: str = "train",
    without: Sequence[str] = (),
    *,
    root: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> Questions:
    """CLINC150: questions to an assistant, of 150 intents in ten domains, those out of its scope left out.

    Arguments:
        split: ``train`` (100 an intent), ``val`` (20) or ``test`` (30).
        without: domains to leave out, of ``metakit.data.questions.DOMAINS``; 15 intents each.
        root: folder of data, which holds ``clinc150/data_full.json`` and ``domains.json``; see ``banking77``.
        download: fetch what is missing.

    Raises:
        FileNotFoundError, ConnectionError, ValueError: as ``banking77``, and if a domain is unknown.

    Example:
        >>> questions, intents = clinc150(without=("banking", "credit_cards"))  # doctest: +SKIP
        >>> len(questions), len(set(intents))  # doctest: +SKIP
        (12000, 120)

    Source: S. Larson et al., An Evaluation Dataset for Intent Classification and Out-of-Scope Prediction, 2019.
    """
    split = choice("split", split, ("train", "val", "test"))
    left_out = [choice("domain", domain, DOMAINS) for domain in without]
    base = _store.data_root(root)
    data, domains = (_json(base, name, download) for name in _CLINC_MD5)
    path = base / "clinc150"
    try:
        gone = {intent for domain in left_out for intent in domains[domain]}
        pairs = [(question, intent) for question, intent in data[split] if intent not in gone]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(_other(path, "the official files", error)) from None
    return _checked(path, [q for q, _ in pairs], [i for _, i in pairs], 150 - 15 * len(set(left_out)))


def _json(base: Path, name: str, download: bool) -> Any:
    path = _store.located(base, (f"clinc150/{name}.json",), f"{_CLINC}/{name}.json", _CLINC_MD5[name], download)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(_other(path, "a whole JSON file", error)) from None


def _checked(path: Path, questions: list[str], intents: list[str], count: int) -> Questions:
    found = len(set(intents))
    if found != count or not all(questions):
        empty = f" and {questions.count('')} empty questions" if "" in questions else ""
        raise ValueError(_other(path, f"questions of {count} intents", f"{found} intents{empty}"))
    return questions, intents


def _other(path: Path, wanted: str, got: object) -> str:
    return f"{path} is not {wanted}: {got}. Delete it and fetch it again with download=True."
