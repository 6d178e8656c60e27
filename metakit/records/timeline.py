"""A work in the history of a subject."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Event:
    """One work in a history.

    Arguments:
        year: when it came out.
        who: its authors, in short.
        what: its idea, in a few words.
    """

    year: int
    who: str
    what: str
