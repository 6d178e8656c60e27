"""Heart disease at four hospitals: the same 13 questions, asked of other patients, with other answers missing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from metakit.data import _store

Hospital = tuple[Tensor, Tensor]
"""Patients ``[n, 13]``, NaN where an answer is missing, and whether each has the disease, ``[n]``, int64."""

FEATURES = (
    "age",
    "sex",
    "chest pain",
    "resting blood pressure",
    "cholesterol",
    "fasting sugar",
    "resting ECG",
    "highest heart rate",
    "angina in exercise",
    "ST depression",
    "ST slope",
    "vessels",
    "thallium scan",
)
_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease"
_FILES = {"Cleveland": "cleveland", "Hungary": "hungarian", "Switzerland": "switzerland", "Long Beach": "va"}
_PATIENTS = {"Cleveland": 303, "Hungary": 294, "Switzerland": 123, "Long Beach": 200}
_CHOLESTEROL = FEATURES.index("cholesterol")
_DIGESTS = {
    "Cleveland": "1abe2801ea720f6a451cc2e3567a9bd8",
    "Hungary": "4f6cc6cd65336a138ab1571790d51eec",
    "Switzerland": "db6577325ad20d0d58a1782b92f9469c",
    "Long Beach": "a71e1e4f246b2410b4f5e787edc9aa0a",
}


def hospitals(*, root: str | os.PathLike[str] | None = None, download: bool = False) -> dict[str, Hospital]:
    """Heart disease at four hospitals: 303, 294, 123 and 200 patients, 13 features, and whether they have it.

    A cholesterol of 0, which no one has, was written where it was not measured: it is missing here.

    Arguments:
        root: folder of data, which holds ``heart/processed.*.data``; when left out, that of ``METAKIT_DATA``, or the
            user's cache.
        download: fetch what is missing.

    Raises:
        FileNotFoundError: if a file is not there and ``download`` is off.
        ConnectionError: if a download fails.
        ValueError: if a file is not the official one.

    Example:
        >>> {name: len(y) for name, (x, y) in hospitals().items()}  # doctest: +SKIP
        {'Cleveland': 303, 'Hungary': 294, 'Switzerland': 123, 'Long Beach': 200}

    Source: A. Janosi, W. Steinbrunn, M. Pfisterer, R. Detrano, Heart Disease, UCI, 1988.
    """
    base = _store.data_root(root)
    found = {}
    for name, file in _FILES.items():
        file = f"processed.{file}.data"
        path = _store.located(base, (f"heart/{file}", f"heart-disease/{file}"), f"{_URL}/{file}", None, download)
        found[name] = _read(path, name)
    return found


def _read(path: Path, name: str) -> Hospital:
    try:
        lines = [line.split(",") for line in path.read_text(encoding="ascii").split()]
        table = torch.tensor([[_number(cell) for cell in line] for line in lines], dtype=torch.float32)
        reason = f"got {list(table.shape)}"
    except ValueError as error:  # a cell that is no number, lines of unequal length, no ASCII
        table, reason = torch.empty(0), str(error).partition("\n")[0]
    wanted = [_PATIENTS[name], len(FEATURES) + 1]
    if list(table.shape) != wanted or _digest(table) != _DIGESTS[name]:
        raise ValueError(
            f"{path} is not the official file of {name}, {wanted[0]} lines of {wanted[1]} numbers: {reason}. Delete it "
            "and fetch it again with download=True."
        )
    x, disease = table[:, :-1].clone(), table[:, -1] > 0
    x[x[:, _CHOLESTEROL] == 0, _CHOLESTEROL] = torch.nan
    return x, disease.long()


def _number(cell: str) -> float:
    return float("nan") if cell == "?" else float(cell)


def _digest(table: Tensor) -> str:
    """A checksum of the numbers, however they and what is missing are written."""
    return hashlib.md5(table.nan_to_num(-1e6).numpy().tobytes(), usedforsecurity=False).hexdigest()
