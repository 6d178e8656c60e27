"""One-shot handwriting from invented alphabets: train on Glyphs alone, judge on real drawings.

    python benchmarks/glyphs_to_omniglot.py --minutes 10 --save model.pt

No real drawing is seen in training; the judging reads the official archives of Omniglot from the folder that
METAKIT_DATA names, or downloads them.
"""

from __future__ import annotations

import handwriting

import metakit as mk

ALPHABETS, CHARACTERS = 400, 20


def main() -> None:
    """Invent, train, save, judge, and write the results."""
    options = handwriting.arguments(__doc__).parse_args()
    data = mk.tasks.Glyphs(ALPHABETS, CHARACTERS, progress=True)
    note = f"{ALPHABETS} invented alphabets of {CHARACTERS} characters; inventing them is not counted in the minutes."
    handwriting.report("glyphs_to_omniglot", "From invented alphabets to real ones", "Glyphs", data, options, note)


if __name__ == "__main__":
    main()
