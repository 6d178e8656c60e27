"""Tables as people have them: cells that are numbers, words or missing, made numbers by what was there in training."""

from __future__ import annotations

import dataclasses
import numbers as number_types
from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data
from torch import Tensor


class Rows:
    """Cells of tables, checked as scikit-learn checks them."""

    @staticmethod
    def of(estimator: Any, X: Any, y: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray]:
        """Cells ``[n, D]``, of the type that they have, and targets ``[n]``; ``reset`` where features are learned."""
        options: dict[str, Any] = {"dtype": None, "ensure_all_finite": False, "reset": reset}
        if y is None:
            return validate_data(estimator, X, **options), np.empty(0)
        cells, y = validate_data(estimator, X, y, **options)
        return cells, y


@dataclasses.dataclass(frozen=True)
class Columns:
    """How the cells of a table become numbers: categories, where a column has words, by their order in the alphabet.

    Arguments:
        categories: of each column, its words in order; ``None`` where its cells are numbers.

    Example:
        >>> cells = np.array([["red", 1.0], ["blue", None]], dtype=object)
        >>> Columns.of(cells).numbers(np.array([["blue", 2], ["green", 3.0]], dtype=object))
        tensor([[0., 2.],
                [nan, 3.]], dtype=torch.float64)
    """

    categories: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def of(cls, cells: np.ndarray) -> Columns:
        """What the cells of a training table ``[n, D]`` tell."""
        return cls(tuple(_words(column) for column in cells.T))

    def numbers(self, cells: np.ndarray) -> Tensor:
        """Cells ``[n, D]`` as numbers, NaN where one is missing, infinite, or a word that training had not."""
        columns = [
            _as_numbers(column) if words is None else _as_codes(column, words)
            for column, words in zip(cells.T, self.categories, strict=True)
        ]
        found = torch.as_tensor(np.stack(columns, 1)) if columns else torch.zeros(len(cells), 0)
        return found.masked_fill(~found.isfinite(), torch.nan)


def _missing(cell: Any) -> bool:
    return cell is None or cell != cell or type(cell).__name__ in ("NAType", "NaTType")


def _number(cell: Any) -> float:
    if _missing(cell):
        return np.nan
    return float(cell)


def _as_numbers(column: np.ndarray) -> np.ndarray:
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    found = np.empty(len(column))
    for i, cell in enumerate(column):
        try:
            found[i] = _number(cell)
        except ValueError:
            raise ValueError(
                f"a column had numbers alone in training, and now {cell!r} in row {i}. Leave such cells empty (NaN), "
                "or fit on a table that has them."
            ) from None
    return found


def _as_codes(column: np.ndarray, words: tuple[str, ...]) -> np.ndarray:
    place = {word: float(i) for i, word in enumerate(words)}
    return np.array([np.nan if _missing(cell) else place.get(str(cell), np.nan) for cell in column])


def _words(column: np.ndarray) -> tuple[str, ...] | None:
    """The words of a column in order, or ``None`` if its cells are numbers, or words for numbers."""
    if column.dtype.kind in "biuf":
        return None
    found = set()
    for i, cell in enumerate(column):
        if _missing(cell) or isinstance(cell, number_types.Number):
            continue
        if not isinstance(cell, str):
            raise TypeError(
                f"a cell must be a number, a string or missing: argument must be a string or a number, got {cell!r} in "
                f"row {i}. Put each value into a column of its own."
            )
        try:
            float(cell)
        except ValueError:
            found.add(cell)
    if not found:
        return None
    return tuple(sorted({str(cell) for cell in column if not _missing(cell)}))
