"""Wrong answers to the exercises of lesson 07, as readers might write them, get the word meant for them."""

import answers
import torch


def in_a_loop(z, y, ways):
    return torch.stack([torch.stack([row for row, label in zip(z, y, strict=True) if label == n]).mean(0)
                        for n in range(ways)])  # fmt: skip


def by_one_hot(z, y, ways):
    members = torch.nn.functional.one_hot(y, ways).T.to(z)
    return members @ z / members.sum(1, keepdim=True)


def by_cdist(queries, prototypes, *, pick=torch.argmin, dim=1):
    return pick(torch.cdist(queries, prototypes), dim)


def judged(
    predict, sx, sy, qx, qy, *, learn=None, ask=None, pick=torch.argmax, count=lambda hits: sum(hits) / len(hits)
):
    (lx, ly), (ax, ay) = learn or (sx, sy), ask or (qx, qy)
    return count([bool(a == b) for a, b in zip(pick(predict(lx, ly, ax), 1), ay, strict=True)])


def own_statistics(s, q, eps):
    norm = torch.nn.BatchNorm1d(s.shape[1], eps=eps, affine=False).double()
    return norm(s), norm(q)


def biased(s, q, eps, *, rows=lambda s, q: s):
    std, mean = torch.std_mean(rows(s, q), 0, correction=0)
    root = (std.square() + eps).sqrt()
    return (s - mean) / root, (q - mean) / root


WRITTEN = [
    ("class_means", lambda z, y, ways: torch.stack([z[y == n].mean(1) for n in range(ways)]), "wrong axis"),
    ("class_means", lambda z, y, ways: torch.stack(z.chunk(ways)).mean(1), "lie class by class"),
    ("class_means", lambda z, y, ways: ways * by_one_hot(z, y, ways), "none of the classic"),
    ("class_means", lambda z, y, ways: torch.nn.functional.one_hot(y, ways).T.to(z) @ z, "Sum and mean"),
    ("class_means", lambda z, y, ways: z.mean(0), "must have shape [3, 4]"),
    ("nearest_prototype", lambda q, c: by_cdist(q, c, pick=torch.argmax), "farthest"),
    ("nearest_prototype", lambda q, c: by_cdist(q, c, dim=0), "wrong axis"),
    ("nearest_prototype", lambda q, c: (-torch.cdist(q, c)).argmin(1), "farthest"),
    ("nearest_prototype", lambda q, c: torch.einsum("qd,nd->qn", q, c).argmax(1), "no distance"),
    ("nearest_prototype", lambda q, c: (q - c).argmin(1), "RuntimeError"),
    ("few_shot_accuracy", lambda p, sx, sy, qx, qy: judged(p, sx, sy, qx, qy, ask=(sx, sy)), "used as the query"),
    ("few_shot_accuracy", lambda p, sx, sy, qx, qy: judged(p, sx, sy, qx, qy, learn=(qx, qy)), "with their answers"),
    ("few_shot_accuracy", lambda *a: judged(*a, pick=torch.argmin), "least likely"),
    ("few_shot_accuracy", lambda *a: judged(*a, count=sum), "counts the right"),
    ("inductive_norm", own_statistics, "own mean and variance"),
    ("inductive_norm", lambda s, q, eps: biased(s, q, eps, rows=lambda s, q: torch.cat([s, q])), "leak"),
    ("inductive_norm", lambda s, q, eps: biased(s, q, eps)[0], "return two tensors"),
    ("inductive_norm", lambda s, q, eps: biased(s, q, 0.0), "none of the classic"),
]  # fmt: skip

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("class_means", in_a_loop),
        ("class_means", by_one_hot),
        ("nearest_prototype", by_cdist),
        ("few_shot_accuracy", judged),
        ("inductive_norm", biased),
    ]
)
