"""Wrong answers to the exercises of lesson 06, as readers might write them, get the word meant for them."""

import math

import answers
import pytest
import torch


def chosen(sizes, train, support, query, *, learned=None, judged=None, pick=min, repeat=1):
    """A dictionary of losses, which is not how the package writes it."""
    found = {}
    for size in sizes:
        predict = train(size, *(learned or support))
        x, y = judged or query
        found[size] = float(((predict(x) - y) ** 2).mean())
    losses = torch.tensor([loss for loss in found.values() for _ in range(repeat)], dtype=torch.float64)
    return pick(found, key=found.get), losses


def one_by_one(x, w1, b1, w2, b2, units, *, more=0):
    outputs = []
    for p, u in enumerate((units + more).clamp(max=w1.shape[1]).tolist()):
        h = torch.sigmoid(x @ w1[p, :u].T + b1[p, :u])
        outputs.append(h @ w2[p, :u] + b2[p])
    return torch.stack(outputs)


def counted(share, chance):
    missing, draws = 1.0, 0
    while 1 - missing < chance:
        missing, draws = missing * (1 - share), draws + 1
    return draws


WRITTEN = [
    ("choose_size", lambda z, t, s, q: chosen(z, t, s, q, judged=s), "rows that they learned"),
    ("choose_size", lambda z, t, s, q: chosen(z, t, s, q, repeat=2), "listed twice"),
    ("choose_size", lambda z, t, s, q: chosen(z, t, s, q, pick=max), "largest loss is chosen"),
    (
        "choose_size",
        lambda z, t, s, q: chosen(z, t, s, q, learned=[torch.cat(pair) for pair in zip(s, q, strict=True)]),
        "validation rows are learned",
    ),
    ("choose_size", lambda z, t, s, q: chosen(z, t, s, q, learned=q), "trained on the query rows"),
    ("choose_size", lambda z, t, s, q: [t(size, *s) for size in z], "return two things"),
    ("choose_size", lambda z, t, s, q: (z[1], chosen(z, t, s, q)[1]), "none of the classic"),
    ("padded_output", lambda *a: one_by_one(*a, more=1), "one unit too many"),
    ("padded_output", lambda *a: one_by_one(*a, more=9), "padding is not masked"),
    ("padded_output", lambda *a: one_by_one(*a).mean(0), "must have shape [4, 5]"),
    ("padded_output", lambda *a: one_by_one(*a) * 2, "none of the classic"),
    ("draws_needed", lambda share, chance: counted(share, chance) - 1, "Rounded down"),
    ("draws_needed", lambda share, chance: counted(chance, share), "changed places"),
    ("draws_needed", lambda share, chance: round(1 / share + 0.49), "on average"),
    ("draws_needed", lambda share, chance: counted(share, chance) + 1, "none of the classic"),
    ("draws_needed", lambda share, chance: None, "TypeError"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [("choose_size", chosen), ("padded_output", one_by_one), ("draws_needed", counted)]
)


def test_the_draws_needed_are_those_of_random_search():
    draws = counted(0.05, 0.95)
    assert draws == 59 and 1 - 0.95**draws >= 0.95 > 1 - 0.95 ** (draws - 1)
    generator = torch.Generator().manual_seed(0)
    best = torch.rand(20_000, draws, generator=generator).amin(1)
    assert float((best < 0.05).double().mean()) == pytest.approx(0.95, abs=3 * math.sqrt(0.05 * 0.95 / 20_000) + 0.002)
