"""Map-style datasets, arrays and tables as rows and numbered labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

Rows = tuple[Tensor, Tensor, tuple[str, ...]]


def rows_and_labels(data: Any, labels: Any, progress: bool) -> Rows:
    """Rows ``[n, ...]``, class numbers ``[n]``, and the name of each class in ascending order of its label.

    Raises:
        TypeError: if the data or an item are of a kind that is not known.
        ValueError: if a value is missing or infinite, a column holds text, shapes differ, or labels do not fit.
    """
    if hasattr(data, "columns") and hasattr(data, "to_numpy"):
        data, labels = _of_table(data, labels)
    elif isinstance(labels, str):
        raise ValueError(f"labels={labels!r} names a column, but the data are no table. Give a label for each row.")
    elif labels is None and not isinstance(data, Tensor | np.ndarray):
        data, labels = _of_dataset(data, progress)
    else:
        data = rows_of(data)
    if labels is None:
        raise ValueError("labels are missing: an array needs one for each of its rows. Give labels=...")
    if len(data) == 0:
        raise ValueError("the data must have a row, got none. Check where they come from.")
    y, names = numbered(labels, len(data))
    return data, y, names


def numbered(labels: Any, rows: int) -> tuple[Tensor, tuple[str, ...]]:
    """Class numbers ``[rows]`` and names of labels: whole numbers in their order, or texts in that of the alphabet."""
    _refuse_missing(labels, "labels")
    values = np.asarray(_plain(labels))
    if values.shape != (rows,):
        raise ValueError(f"labels must be [{rows}], one for each row, got {list(values.shape)}. Flatten or cut them.")
    if values.dtype.kind == "f":
        wrong = np.flatnonzero(values != np.round(values))
        if len(wrong) or not np.isfinite(values).all():
            value = values[wrong[0]] if len(wrong) else values[~np.isfinite(values)][0]
            raise ValueError(f"labels must be whole numbers or texts, got {value}. Cut a quantity into classes first.")
        values = values.astype(np.int64)
    if values.dtype.kind == "O":
        odd = [value for value in values if not isinstance(value, str)]
        if odd:
            raise ValueError(
                f"labels must be whole numbers or texts, got {odd[0]!r}. Convert them: [str(v) for v in ...]."
            )
        values = values.astype(str)
    if values.dtype.kind not in "iubU":
        raise ValueError(f"labels must be whole numbers or texts, got {values.dtype}. Convert them.")
    found, number = np.unique(values, return_inverse=True)
    return torch.from_numpy(number.reshape(-1).astype(np.int64)), tuple(map(str, found.tolist()))


def _plain(values: Any) -> Any:
    """What numpy can take: of a tensor its numbers, of a table's column its array."""
    if isinstance(values, Tensor):
        return values.detach().cpu().numpy()
    if hasattr(values, "to_numpy"):
        return values.to_numpy()
    if isinstance(values, list | tuple):
        return [value.item() if getattr(value, "shape", None) == () else value for value in values]
    return values


def _refuse_missing(column: Any, name: str) -> None:
    """Refuse a column of a table with a gap in it."""
    if hasattr(column, "isna") and (gaps := np.asarray(column.isna())).any():
        raise ValueError(
            f"{name} must have a value in every row; {int(gaps.sum())} of {len(gaps)} are missing, the first in row "
            f"{int(gaps.argmax())}. Leave those rows out, table.dropna(), or fill them, table.fillna(...)."
        )


def _of_table(table: Any, labels: Any) -> tuple[Tensor, Any]:
    """The columns of numbers of a table as float32 ``[n, columns]``; labels may be one of its columns."""
    names = list(table.columns)
    if isinstance(labels, str):
        if labels not in names:
            raise ValueError(f"labels must name a column, got {labels!r}. Columns: {', '.join(map(str, names))}.")
        names.remove(labels)
        labels = table[labels]
    if len(set(names)) < len(names):
        raise ValueError(f"columns must have names of their own, got {', '.join(map(str, names))}. Rename one.")
    if not names:
        raise ValueError("the table must have a column beside the labels. Add the columns to learn from.")
    columns = []
    for name in names:
        _refuse_missing(table[name], f"column {name!r}")
        values = np.asarray(table[name].to_numpy())
        if values.dtype.kind not in "iubf":
            example = values[0] if len(values) else None
            raise ValueError(
                f"column {name!r} must hold numbers, got {example!r}. Leave it out, table.drop(columns=...), or make "
                "columns of 0 and 1 of it, pandas.get_dummies(table, columns=[...])."
            )
        # A number too large for float32 becomes infinite there, which is found below.
        with np.errstate(over="ignore"):
            values = values.astype(np.float32)
        wrong = np.flatnonzero(~np.isfinite(values))
        if len(wrong):
            raise ValueError(
                f"column {name!r} must hold finite numbers, got {values[wrong[0]]} in row {wrong[0]} "
                f"({len(wrong)} such rows). Leave those rows out, or fill them."
            )
        columns.append(values)
    return torch.from_numpy(np.stack(columns, 1)), labels


def rows_of(data: Any) -> Tensor:
    """An array as a tensor of float32, int64 or uint8; values that are not finite are named by their place."""
    try:
        values = np.asarray(_plain(data))
    except ValueError as error:
        raise ValueError(f"the rows must be of one length: {error}. Cut or fill them.") from error
    x = _in_few_kinds(values, "the data")
    if x.is_floating_point() and not x.isfinite().all():
        place = (~x.isfinite()).nonzero()[0].tolist()
        where = f"row {place[0]}" + (f", column {place[1]}" if len(place) == 2 else "")
        raise ValueError(
            f"the data must be finite, got {x[tuple(place)]} in {where}. Leave such rows out, or fill them."
        )
    return x


def _in_few_kinds(values: np.ndarray, what: str) -> Tensor:
    kind = values.dtype.kind
    if kind not in "iubf":
        raise TypeError(f"{what} must be numbers, got {values.dtype}. Convert them; for texts there is tasks.texts.")
    if values.dtype == np.uint8:
        return torch.from_numpy(np.array(values))
    with np.errstate(over="ignore"):
        return torch.from_numpy(values.astype(np.int64 if kind in "iu" else np.float32))


def _of_dataset(dataset: Any, progress: bool) -> tuple[Tensor, list[Any]]:
    """All items of a map-style dataset, in its order."""
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__") or isinstance(dataset, dict | str):
        raise TypeError(
            "data must be an array, a table, or a dataset of pairs (x, y) with a length, got "
            f"{type(dataset).__name__}. Make a list of it: list(data)."
        )
    stack, labels = _Stack(len(dataset)), []
    for i in tqdm(range(len(dataset)), unit="row", delay=2, mininterval=0.5, disable=not progress):
        item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            kind = f"{len(item)} things" if isinstance(item, tuple | list) else type(item).__name__
            raise TypeError(f"item {i} must be a pair (x, y), got {kind}. Wrap it: [(item[...], item[...]) for ...].")
        stack.put(i, item[0])
        labels.append(item[1])
    return stack.x, labels


class _Stack:
    """Rows of one shape, put down one by one: pictures as bytes as long as bytes hold all that they say."""

    def __init__(self, rows: int) -> None:
        self.rows, self.x, self.packed = rows, torch.empty(0), False

    def put(self, i: int, row: Any) -> None:
        """Put down row ``i``; row 0 first."""
        values = _in_few_kinds(_pixels(row) if hasattr(row, "getbands") else np.asarray(_plain(row)), f"x of item {i}")
        if values.is_floating_point() and not values.isfinite().all():
            raise ValueError(f"x of item {i} must be finite, got NaN or infinity. Leave the item out, or repair it.")
        # Of bytes divided by 255, as picture datasets give them, the bytes are kept: a quarter of the memory.
        packed = _bytes_of(values) if values.is_floating_point() and values.dim() == 3 else None
        if i == 0:
            self.packed = packed is not None
            first = values if packed is None else packed
            self.x = torch.empty(self.rows, *first.shape, dtype=first.dtype)
        elif self.packed and packed is None and values.is_floating_point():
            self.x, self.packed = self.x.float().div_(255), False
        kept = packed if packed is not None and self.packed else values
        if kept.shape != self.x.shape[1:] or kept.dtype != self.x.dtype:
            raise ValueError(
                f"all x must be alike; item {i} is {kept.dtype} {list(kept.shape)}, item 0 {self.x.dtype} "
                f"{list(self.x.shape[1:])}. Resize or convert them in the dataset's transform."
            )
        self.x[i] = kept


def _bytes_of(values: Tensor) -> Tensor | None:
    """The bytes of which values are the 255th part, exactly; ``None`` if they are of none."""
    scaled = (values * 255).round()
    if scaled.min() < 0 or scaled.max() > 255 or not torch.equal(scaled / 255, values):
        return None
    return scaled.to(torch.uint8)


def _pixels(image: Any) -> np.ndarray:
    """A picture of Pillow as ``[C, H, W]``."""
    from metakit.data._decoding import plain

    pixels = np.asarray(plain(image))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
