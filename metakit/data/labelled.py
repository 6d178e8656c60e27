"""Labelled data as tasks are drawn from them: classes of rows, stored compactly, on one device."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from metakit.checks import Device, as_generator, whole
from metakit.data._convert import rows_and_labels


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledData:
    """Classes, each with its rows (drawings, images, vectors), in memory on one device.

    Arguments:
        x: rows. Without ``y``: ``[classes, rows per class, ...]``. With ``y``: ``[n, ...]``. Real numbers, int64 (token
            ids), or uint8 (a quarter of the memory), read back as float32 in [0, 1]; in drawings ink is 1 and paper 0.
        y: class labels ``[n]``, any integers; classes are numbered by ascending label, their rows keep their order.
            ``None`` after construction if every class has as many rows.
        alphabet: number of the alphabet of each class, ``[classes]``, if known.
        character: number of the character within its alphabet, ``[classes]``, if known.
        names: a name per class; by default the labels as text.
        alphabets: a name per alphabet number.
        turn: quarter turns of each class, ``[classes]``; set by :meth:`rotations`.

    Raises:
        TypeError: if x or y is not a tensor.
        ValueError: if shapes or dtypes do not fit, there is no class, or a value is not finite.

    Example:
        >>> data = LabelledData(torch.rand(6, 2), torch.tensor([7, 3, 3, 7, 7, 3]))
        >>> data, data.names
        (LabelledData(2 classes, 3 rows each, row [2] float32), ('3', '7'))
    """

    x: Tensor
    y: Tensor | None = None
    alphabet: Tensor | None = None
    character: Tensor | None = None
    names: tuple[str, ...] = ()
    alphabets: tuple[str, ...] = ()
    turn: Tensor | None = None

    def __post_init__(self) -> None:
        _check_rows(self.x, self.y)
        if self.y is not None:
            self._group_by_class(self.x, self.y)
        classes = len(self)
        if not self.names:
            object.__setattr__(self, "names", tuple(map(str, range(classes))))
        if len(self.names) != classes:
            raise ValueError(f"names must hold one name per class; got {len(self.names)} for {classes} classes.")
        for field in _PER_CLASS:
            value = getattr(self, field)
            if value is not None and (value.shape != (classes,) or value.dtype != torch.int64):
                raise ValueError(
                    f"{field} must be int64 [{classes}], one number per class, got {value.dtype} {list(value.shape)}."
                )

    @classmethod
    def of(cls, data: Any, labels: Any = None, *, progress: bool = True) -> LabelledData:
        """Labelled data of a map-style dataset of pairs (x, y), of an array and labels, or of a table.

        Arguments:
            data: a dataset with ``len(data)`` and ``data[i] -> (x, y)``, as torch's are, or a list of pairs, x a
                tensor, an array or a picture of Pillow; or an array ``[n, ...]``; or a table of pandas, whose columns
                of numbers become float32 as they are. Bytes stay bytes, and so do pictures that are bytes divided by
                255, which loses nothing. Other whole numbers become int64, token ids: of measurements make floats.
            labels: for an array or a table, a whole number or text for each row; or the name of the table's column.
            progress: show a bar when reading a dataset takes over two seconds.

        Raises:
            TypeError: if the data, or an item of a dataset, is of an unknown kind.
            ValueError: if a value is missing or infinite, a column holds text, shapes differ, or labels do not fit.

        Example:
            >>> LabelledData.of([(torch.ones(2), "cat"), (torch.zeros(2), "dog"), (torch.ones(2), "dog")]).names
            ('cat', 'dog')
        """
        x, y, names = rows_and_labels(data, labels, progress)
        return cls(x, y, names=names)

    def _group_by_class(self, x: Tensor, y: Tensor) -> None:
        if (y[1:] < y[:-1]).any():  # rows in order already are not copied: they may be gigabytes
            order = y.argsort(stable=True)
            x, y = x[order], y[order]
        labels, y, counts = y.unique_consecutive(return_inverse=True, return_counts=True)
        regular = bool((counts == counts[0]).all())
        object.__setattr__(self, "x", x.unflatten(0, (len(counts), int(counts[0]))) if regular else x)
        object.__setattr__(self, "y", None if regular else y)
        if not self.names:
            object.__setattr__(self, "names", tuple(map(str, labels.tolist())))

    def __len__(self) -> int:
        return self.x.shape[0] if self.y is None else int(self.y[-1]) + 1

    def __getitem__(self, index: int) -> Tensor:
        """The rows of one class, ``[rows, ...]``, bytes as real numbers."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"class must be below {len(self)}, the number of classes; got {index}.")
        index %= len(self)
        return as_real(self.x[index] if self.y is None else self.x[self.y == index])

    def __repr__(self) -> str:
        counts = self.counts
        low, high = int(counts.min()), int(counts.max())
        rows = f"{low} rows each" if low == high else f"{low} to {high} rows each"
        parts = [f"{len(self)} classes", rows, f"row {list(self.rows.shape[1:])} {str(self.x.dtype)[6:]}"]
        if self.alphabet is not None:
            parts.append(f"{len(self.alphabet.unique())} alphabets")
        return f"LabelledData({', '.join(parts)})"

    @property
    def device(self) -> torch.device:
        """The device that holds the data."""
        return self.x.device

    @property
    def counts(self) -> Tensor:
        """Number of rows of each class, ``[classes]``."""
        if self.y is None:
            return torch.full(self.x.shape[:1], self.x.shape[1], device=self.device)
        return self.y.bincount()

    @property
    def rows(self) -> Tensor:
        """All rows, ``[n, ...]``, class after class, as stored."""
        return self.x.flatten(0, 1) if self.y is None else self.x

    def to(self, device: Device) -> LabelledData:
        """The same data on another device."""
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return self._with(**moved)

    def classes(self, indices: Sequence[int] | Tensor) -> LabelledData:
        """The data of some classes, in the order given.

        Raises:
            ValueError: if no class is chosen, one is chosen twice, or a number is out of range.

        Example:
            >>> LabelledData(torch.rand(5, 2, 3)).classes([4, 0]).names
            ('4', '0')
        """
        chosen = torch.as_tensor(indices)
        if chosen.dim() != 1 or chosen.numel() == 0 or chosen.dtype.is_floating_point or chosen.dtype == torch.bool:
            raise ValueError(f"classes takes a list of class numbers, got {indices!r}. Name at least one class.")
        chosen = chosen.long().to(self.device)
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= len(self):
            wrong = low if low < 0 else high
            raise ValueError(f"class numbers must be from 0 to {len(self) - 1}, got {wrong}. Choose among these.")
        if len(chosen.unique()) < len(chosen):
            raise ValueError("classes must be distinct; one was named twice. Name each class once.")
        parts: dict[str, Tensor | None] = {name: getattr(self, name) for name in _PER_CLASS}
        kept = {name: value[chosen] for name, value in parts.items() if value is not None}
        names = tuple(self.names[i] for i in chosen.tolist())
        if self.y is None:
            return self._with(x=self.x[chosen], names=names, **kept)
        x = torch.cat([self.x[self.y == i] for i in chosen.tolist()])
        y = torch.arange(len(chosen), device=self.device).repeat_interleave(self.counts[chosen])
        return LabelledData(x, y, names=names, alphabets=self.alphabets, **kept)

    def split(
        self, *sizes: int | float, generator: torch.Generator | None = None, seed: int | None = None
    ) -> tuple[LabelledData, ...]:
        """Parts with no class in common, the classes dealt at random.

        Arguments:
            sizes: for each part, its number of classes (ints), or its share of them (floats that add up to 1 at most).
            generator, seed: randomness, as in ``sample``.

        Raises:
            ValueError: if the sizes ask for more than there is, or a part would be empty, or after ``rotations()``.

        Example:
            >>> train, test = LabelledData(torch.rand(10, 2, 3)).split(0.8, 0.2, seed=0)
            >>> len(train), len(test), set(train.names) & set(test.names)
            (8, 2, set())
        """
        if self.turn is not None:
            raise ValueError(
                "split before rotations(): a character and its rotations must not land in different parts. "
                "Call data.split(...), then part.rotations()."
            )
        ends = _ends(sizes, len(self))
        generator = as_generator(generator, seed, self.device)
        place = self.device if generator is None else generator.device
        order = torch.randperm(len(self), generator=generator, device=place)
        return tuple(self.classes(order[start:end]) for start, end in zip([0, *ends], ends, strict=False))

    def rotations(self) -> LabelledData:
        """Four times the classes: each as it is, then all turned by 90, 180 and 270 degrees (counter-clockwise).

        A turned alphabet counts as an alphabet of its own. Source: A. Santoro et al., 2016, section 4.1.

        Raises:
            ValueError: if rows are not square pictures ``[..., H, W]``, or have been turned already.

        Example:
            >>> data = LabelledData(torch.rand(5, 2, 1, 8, 8))
            >>> turned = data.rotations()
            >>> len(turned), turned.names[5], bool((turned[5] == data[0].rot90(1, (-2, -1))).all())
            (20, '0 turned 90', True)
        """
        shape = self.rows.shape[1:]
        if len(shape) < 2 or shape[-1] != shape[-2]:
            raise ValueError(f"rotations need square pictures [..., H, W], got rows {list(shape)}. Crop or pad them.")
        if self.turn is not None:
            raise ValueError("these classes have been turned already. Call rotations() once.")
        turns, n = range(4), max(len(self.alphabets), 1 + int(self.alphabet.max()) if self.alphabet is not None else 0)
        names, alphabets = self.names, self.alphabets
        for k in (1, 2, 3):
            names += tuple(f"{name} turned {90 * k}" for name in self.names)
            alphabets += tuple(f"{name} turned {90 * k}" for name in self.alphabets)
        return self._with(
            x=torch.cat([self.x.rot90(k, (-2, -1)) for k in turns]),
            y=None if self.y is None else torch.cat([self.y + k * len(self) for k in turns]),
            alphabet=None if self.alphabet is None else torch.cat([self.alphabet + k * n for k in turns]),
            character=None if self.character is None else self.character.repeat(4),
            turn=torch.arange(4, device=self.device).repeat_interleave(len(self)),
            names=names,
            alphabets=alphabets,
        )

    def _with(self, **changes: object) -> LabelledData:
        """A copy with other fields, not checked again: they come from checked ones."""
        copy = object.__new__(LabelledData)
        vars(copy).update(vars(self) | changes)
        return copy


_PER_CLASS = ("alphabet", "character", "turn")


def as_real(x: Tensor) -> Tensor:
    """Rows as networks take them: uint8 becomes float32 in [0, 1], other numbers stay as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def _check_rows(x: Tensor, y: Tensor | None) -> None:
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor) and not (name == "y" and value is None):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}. Use torch.as_tensor(...).")
    shape = "[classes, rows per class, ...]" if y is None else "[n, ...]"
    if x.dim() < (3 if y is None else 2):
        raise ValueError(f"x must be {shape}, each row at least a vector; got {list(x.shape)}. Add a dimension.")
    if x.numel() == 0:
        raise ValueError(f"x must not be empty, got {list(x.shape)}. Give at least one class with one row.")
    if not x.is_floating_point() and x.dtype not in (torch.uint8, torch.int64):
        raise ValueError(f"x must hold real numbers, uint8 or int64, got {x.dtype}. Convert it: x.float().")
    if x.is_floating_point() and not x.isfinite().all():
        row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"x must be finite; x[{row}] holds NaN or infinity. Clean the data first.")
    if y is None:
        return
    if y.dim() != 1 or len(y) != len(x):
        raise ValueError(
            f"y must be [{len(x)}], one label per row of x, got {list(y.shape)}. Flatten it, or drop rows."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"y must hold whole class labels, got {y.dtype}. Convert it: y.long().")
    if y.device != x.device:
        raise ValueError(f"x and y must be on one device, got {x.device} and {y.device}. Move them with .to(device).")


def _ends(sizes: tuple[int | float, ...], classes: int) -> list[int]:
    if not sizes:
        raise ValueError("split needs the size of each part. Try data.split(0.8, 0.2).")
    if all(isinstance(size, float) for size in sizes):
        if min(sizes) <= 0 or sum(sizes) > 1 + 1e-9:
            raise ValueError(f"shares must be above 0 and add up to 1 at most, got {sizes}. Lower them.")
        ends = [round(classes * sum(sizes[: i + 1])) for i in range(len(sizes))]
    else:
        counts = [whole("size of a part", size) for size in sizes]
        ends = [sum(counts[: i + 1]) for i in range(len(counts))]
        if ends[-1] > classes:
            raise ValueError(f"the parts ask for {ends[-1]} classes, the data have {classes}. Ask for fewer.")
    if any(end <= start for start, end in zip([0, *ends], ends, strict=False)):
        raise ValueError(f"every part needs a class; shares {sizes} of {classes} classes leave one empty. Raise it.")
    return ends
