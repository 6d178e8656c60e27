"""Facts of Omniglot: its archives, its alphabets with their number of characters, and the published splits."""

from __future__ import annotations

Character = tuple[str, int]
SPLITS = ("background", "evaluation", "small1", "small2", "train", "val", "test")


def _table(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in (line.split() for line in text.split(",") if line.strip())}


_BACKGROUND = _table(
    """
    Alphabet_of_the_Magi 20, Anglo-Saxon_Futhorc 29, Arcadian 26, Armenian 41, Asomtavruli_(Georgian) 40, Balinese 24,
    Bengali 46, Blackfoot_(Canadian_Aboriginal_Syllabics) 14, Braille 26, Burmese_(Myanmar) 34, Cyrillic 33,
    Early_Aramaic 22, Futurama 26, Grantha 43, Greek 24, Gujarati 48, Hebrew 22,
    Inuktitut_(Canadian_Aboriginal_Syllabics) 16, Japanese_(hiragana) 52, Japanese_(katakana) 47, Korean 40, Latin 26,
    Malay_(Jawi_-_Arabic) 40, Mkhedruli_(Georgian) 41, N_Ko 33, Ojibwe_(Canadian_Aboriginal_Syllabics) 14, Sanskrit 42,
    Syriac_(Estrangelo) 23, Tagalog 17, Tifinagh 55
    """
)
_EVALUATION = _table(
    """
    Angelic 20, Atemayar_Qelisayer 26, Atlantean 26, Aurek-Besh 26, Avesta 26, Ge_ez 26, Glagolitic 45, Gurmukhi 45,
    Kannada 41, Keble 26, Malayalam 47, Manipuri 40, Mongolian 30, Old_Church_Slavonic_(Cyrillic) 45, Oriya 46,
    Sylheti 28, Syriac_(Serto) 23, Tengwar 25, Tibetan 42, ULOG 26
    """
)
ALPHABETS = {
    "images_background": _BACKGROUND,
    "images_evaluation": _EVALUATION,
    "images_background_small1": {
        name: _BACKGROUND[name] for name in ("Balinese", "Early_Aramaic", "Greek", "Korean", "Latin")
    },
    "images_background_small2": {
        name: _BACKGROUND[name] for name in ("Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog")
    },
}
_OFFICIAL = dict(zip(SPLITS, ALPHABETS, strict=False))
# The split of Vinyals et al. 2016 goes by whole alphabets, except Gurmukhi, whose last four characters are tested on.
# Source: the list published with jakesnell/prototypical-networks (data/omniglot/splits/vinyals), which the lists of
# tristandeleu/pytorch-meta (torchmeta/datasets/assets/omniglot) give in full.
_VAL = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_TEST = (
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)", "Oriya"),
    *("Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
)
_CUT, _CUT_AT = "Gurmukhi", 42


def wanted(split: str) -> dict[str, list[Character]]:
    """The characters ``(alphabet, number)`` of a split, by the archive that holds them."""
    parts = [_OFFICIAL[split]] if split in _OFFICIAL else ["images_background", "images_evaluation"]
    characters = {
        part: [(a, c) for a, n in ALPHABETS[part].items() for c in range(1, n + 1) if _is_in(split, a, c)]
        for part in parts
    }
    return {part: chosen for part, chosen in characters.items() if chosen}


def _is_in(split: str, alphabet: str, character: int) -> bool:
    tested = alphabet in _TEST or (alphabet == _CUT and character >= _CUT_AT)
    if split == "test":
        return tested
    if split == "val":
        return alphabet in _VAL
    return split != "train" or not (tested or alphabet in _VAL)
