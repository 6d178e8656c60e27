"""One-shot handwriting from five alphabets: train on Omniglot's small1 or small2 alone, judge on unseen alphabets.

    python benchmarks/few_alphabets.py --train small1 --minutes 10 --save model.pt

Reads the official archives from the folder that METAKIT_DATA names, or downloads them. No picture of the evaluation
part is seen in training. Published errors, 20-way within an alphabet, by the original protocol of 20 fixed runs (Lake,
Salakhutdinov and Tenenbaum 2019): prototypical network 30.1%, plain convolutional network 23.2%, BPL 4.2%, people at
most 4.5%.
"""

from __future__ import annotations

import handwriting

import metakit as mk


def main() -> None:
    """Train, save, judge, and write the results."""
    parser = handwriting.arguments(__doc__)
    parser.add_argument("--train", choices=("small1", "small2"), default="small1")
    options = parser.parse_args()
    data = mk.tasks.omniglot(split=options.train, rotations=True)
    mk.tasks.check_disjoint(data, mk.tasks.omniglot(split="evaluation"))
    note = "Published, by the original protocol: prototypical network 30.1, plain convolutional network 23.2, BPL 4.2."
    handwriting.report("few_alphabets", "One shot from five alphabets", options.train, data, options, note)


if __name__ == "__main__":
    main()
