"""No class, and no drawing, on both sides: what an evaluation rests on."""

from __future__ import annotations

import hashlib

from torch import Tensor

from metakit.data.labelled import LabelledData
from metakit.tasks.episodes import Episodes


def check_disjoint(seen: LabelledData | Episodes, unseen: LabelledData | Episodes) -> None:
    """Refuse two sets of classes that share one: what is trained on must not be what is judged on.

    Classes with an alphabet are compared by name, a turned one counting as the one it was turned from; rows of one
    shape and dtype are compared bit by bit, whatever their names.

    Arguments:
        seen: the classes to train on, or the episodes that draw from them.
        unseen: those to judge on.

    Raises:
        ValueError: if a class or a row is in both; it is named.

    Example:
        >>> import torch
        >>> data = LabelledData(torch.arange(12.0).view(4, 3, 1))
        >>> check_disjoint(data.classes([0, 1]), data.classes([2, 3]))
        >>> check_disjoint(data.classes([0, 1]), data.classes([1, 2]))
        Traceback (most recent call last):
        ValueError: a row of class '1' is in both sets, as class '1' of the other. Split the classes: data.split(...).
    """
    a, b = (side.data if isinstance(side, Episodes) else side for side in (seen, unseen))
    if a.alphabet is not None and b.alphabet is not None:
        shared = _names(a) & _names(b)
        if shared:
            raise ValueError(
                f"{len(shared)} classes are in both sets, {min(shared)!r} among them. Split the classes: "
                "data.split(...), or take another part."
            )
    if a.rows.shape[1:] != b.rows.shape[1:] or a.rows.dtype != b.rows.dtype:
        return
    owner = dict(zip(_digests(a.rows), _owners(a), strict=True))
    for digest, name in zip(_digests(b.rows), _owners(b), strict=True):
        if digest in owner:
            raise ValueError(
                f"a row of class {name!r} is in both sets, as class {owner[digest]!r} of the other. "
                "Split the classes: data.split(...)."
            )


def _names(data: LabelledData) -> set[str]:
    return {name.partition(" turned ")[0] for name in data.names}


def _owners(data: LabelledData) -> list[str]:
    """The class of each row."""
    return [name for name, count in zip(data.names, data.counts.tolist(), strict=True) for _ in range(count)]


def _digests(rows: Tensor) -> list[bytes]:
    return [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in rows.flatten(1).cpu().numpy()]
