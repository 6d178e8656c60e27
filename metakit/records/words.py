"""Words that records and pictures share."""


def count(number: int, noun: str) -> str:
    """A number and its noun, in the plural where there are several."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
