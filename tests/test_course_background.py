"""Lessons 01 and 02: their exercises as readers write them, the story, the glossary and the references."""

import re

import answers
import nbformat
import pytest
import torch

from metakit import course, plots


def pooled(*sides, order=(0, 2), axis=1):
    x = torch.cat([sides[order[0]], sides[order[1]]], axis)
    y = torch.cat([sides[order[0] + 1], sides[order[1] + 1]], axis)
    return x.reshape(-1, 1), y.reshape(-1, 1)


def gain(a, b):
    d = a - b
    return d.mean(), 1.96 * (d.var() / len(d)).sqrt()


def first_below(curve, level):
    for k, loss in enumerate(curve):
        if loss <= level:
            return k
    return None


def neighbour(support_x, support_y, *, largest=False):
    def predictor(x):
        distances = (x[:, None] - support_x[None]).square().sum(-1)
        return support_y[distances.max(1).indices if largest else distances.min(1).indices]

    return predictor


def judged(algorithm, tasks, *, learn=(0, 1), ask=(2, 3), total=torch.mean):
    losses = []
    for task in tasks:
        predictor = algorithm(task[learn[0]], task[learn[1]])
        losses.append(((predictor(task[ask[0]]) - task[ask[1]]) ** 2).mean())
    return total(torch.stack(losses))


def round_of(x, centres, *, total=torch.mean):
    distances = (x[:, None] - centres[None]).square().sum(-1)
    labels = distances.min(1).indices
    return labels, torch.stack([total(x[labels == k], 0) for k in range(len(centres))])


WRITTEN = [
    ("pool_tasks", lambda *s: pooled(*s, order=(0, 0)), "must have shape"),
    ("pool_tasks", lambda sx, sy, qx, qy: (sx.reshape(-1, 1), sy.reshape(-1, 1)), "Only the support rows"),
    ("pool_tasks", lambda sx, sy, qx, qy: (qx.reshape(-1, 1), qy.reshape(-1, 1)), "Only the query rows"),
    ("pool_tasks", lambda sx, sy, qx, qy: (torch.cat([sx, qx], 1), torch.cat([sy, qy], 1)), "still apart"),
    ("pool_tasks", lambda sx, sy, qx, qy: (torch.cat([sx, qx], 1).reshape(-1, 1), sy.reshape(-1, 1)), "needs its y"),
    ("pool_tasks", lambda sx, sy, qx, qy: sx, "return two tensors"),
    ("steps_to", lambda curve, level: int(torch.argmax((curve <= level).int())), "never comes down"),
    (
        "steps_to",
        lambda curve, level: next((k for k, v in enumerate(curve) if v < level), None),
        "exactly at the level",
    ),
    ("steps_to", lambda curve, level: first_below(curve[1:], level), "none of the classic"),
    ("paired_gain", lambda a, b: gain(b, a), "The sign"),
    ("paired_gain", lambda a, b: (gain(a, b)[0], (gain(a, 0 * a)[1] ** 2 + gain(b, 0 * b)[1] ** 2) ** 0.5), "by task"),
    ("paired_gain", lambda a, b: gain(a, b)[0], "return two numbers"),
    ("nearest", lambda sx, sy: neighbour(sx, sy, largest=True), "argmin, not argmax"),
    ("nearest", lambda sx, sy: neighbour(sx, sy)(sx), "return a function"),
    ("nearest", lambda sx, sy: lambda x: sy.mean().expand(len(x), 1), "same answer everywhere"),
    ("nearest", lambda sx, sy: neighbour(sx, sx), "nearest row itself"),
    ("judge_algorithm", lambda a, t: judged(a, t, ask=(0, 1)), "on the support rows"),
    ("judge_algorithm", lambda a, t: judged(a, t, learn=(2, 3), ask=(0, 1)), "changed places"),
    ("judge_algorithm", lambda a, t: judged(a, t, total=torch.sum), "Sum and mean"),
    ("judge_algorithm", lambda a, t: judged(a, t[:1]), "none of the classic"),
    ("kmeans_step", lambda x, c: round_of(x, c, total=torch.sum), "added up"),
    ("kmeans_step", lambda x, c: (round_of(x, c)[0], c), "have not moved"),
    ("kmeans_step", lambda x, c: round_of(x, c)[1], "return two tensors"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("pool_tasks", pooled),
        ("pool_tasks", lambda *s: pooled(*s, order=(2, 0))),
        ("steps_to", first_below),
        ("paired_gain", gain),
        ("nearest", neighbour),
        ("judge_algorithm", judged),
        ("kmeans_step", round_of),
    ]
)


def test_the_story_is_told_in_order_and_to_scale():
    story = course.background.STORY
    years = [event.year for event in story]
    assert years == sorted(years) and years[0] == 1987
    _, ax = plots.figure()
    plots.draw_timeline(ax, story)
    marks = [float(line.get_ydata()[0]) for line in ax.lines if line.get_marker() == "o"]
    assert marks == years
    shown = " ".join(text.get_text() for text in ax.texts)
    assert all(event.who in shown and event.what in shown for event in story)
    assert shown.isascii()


def test_the_diagram_of_the_loops_names_their_parts():
    _, ax = plots.figure()
    plots.draw_loops(ax)
    shown = " ".join(text.get_text() for text in ax.texts)
    assert all(word in shown for word in ("meta-parameters", "support", "query", "inner loop", "outer loop"))


def entries(text):
    """Title and year of each entry of a BibTeX file."""
    found = re.findall(r"@\w+\{([\w-]+),(.*?)\n\}", text, re.S)
    return {
        key: (re.sub(r"[{}]", "", re.search(r"title = \{(.*)\},?\n", body)[1]), re.search(r"year = \{(\d+)\}", body)[1])
        for key, body in found
    }


def plain(title):
    return re.sub(r"[^a-z]", "", title.lower())


def test_every_work_that_a_lesson_cites_is_in_the_list(root):
    listed = entries((root / "notebooks" / "references.bib").read_text(encoding="utf-8"))
    assert list(listed) == sorted(listed) and len(listed) > 30
    titles = {plain(title): year for title, year in listed.values()}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        last = nbformat.read(path, as_version=4).cells[-1].source
        for item in re.split(r"^- ", last, flags=re.M)[1:]:
            title = re.search(r"\*(.+?)\*", item, re.S)[1].rstrip(".")
            assert plain(title) in titles, f"{path.name}: {title!r} is not in references.bib"
            assert titles[plain(title)] in item, f"{path.name}: another year than in references.bib: {title!r}"


def test_the_glossary_has_every_term_once_in_english_and_chinese(root):
    text = (root / "notebooks" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) > 40 and all(len(row) == 3 and all(row) for row in rows)
    terms = [row[0].lower() for row in rows]
    assert terms == sorted(terms) and len(set(terms)) == len(terms)
    names = ("ANIL", "Meta-SGD", "Reptile")  # of algorithms, which Chinese texts leave as they are
    assert all(re.search("[一-鿿]", row[1]) or row[0] in names for row in rows)


@pytest.mark.parametrize("lesson", ["01_background", "02_concepts"])
def test_the_lessons_point_to_the_glossary_and_the_references(lesson, root):
    cells = nbformat.read(root / "notebooks" / f"{lesson}.ipynb", as_version=4).cells
    assert "(glossary.md)" in cells[0].source and "(references.bib)" in cells[-1].source
