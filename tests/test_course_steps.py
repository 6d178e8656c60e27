"""Wrong answers to the exercises of lessons 03 and 04, as readers might write them, get the word meant for them."""

import answers
import torch


def one_sided(f, w, eps):
    slopes = []
    for i in range(len(w)):
        moved = w.clone()
        moved[i] += eps
        slopes.append((f(moved) - f(w)) / eps)
    return torch.stack(slopes)


def in_a_loop(hessians, v, lr):
    for k in range(len(hessians)):
        v = (torch.eye(len(v), dtype=v.dtype) - lr * hessians[k]) @ v
    return v


def by_autograd(x, y, *weights, loss=lambda e: e.square().mean()):
    w1, b1, w2, b2 = weights = [w.clone().requires_grad_() for w in weights]
    return torch.autograd.grad(loss(torch.relu(x @ w1.T + b1) @ w2.T + b2 - y), weights)


def mended(x, y, query_x, query_y, weights, lr, steps, *, judge=None, momentum=0.9, updated=4, skip_last=False):
    weights = [w.detach().clone().requires_grad_() for w in weights]

    def loss(x, y):
        w1, b1, w2, b2 = weights
        return (torch.relu(x @ w1.T + b1) @ w2.T + b2 - y).square().mean()

    optimizer = torch.optim.SGD(weights[:updated], lr=lr, momentum=momentum)
    for _ in range(steps - skip_last):
        optimizer.zero_grad()
        loss(x, y).backward()
        optimizer.step()
    return weights, loss(*(judge or (query_x, query_y))).detach()


def adam(w, g, m, s, k, lr, *, start=0, root=torch.sqrt):
    m, s = m.lerp(g, 0.1), s.lerp(g * g, 0.001)
    return w - lr * (m / (1 - 0.9 ** (k - start))) / (root(s / (1 - 0.999 ** (k - start))) + 1e-8), m, s


def stacked_gradient(w, x, y, *, over_rows=torch.mean, over_tasks=torch.sum):
    outputs = torch.einsum("tsd,td->ts", x, w)
    return torch.autograd.grad(over_tasks(over_rows((outputs - y).square(), 1)), w)[0]


WRITTEN = [
    ("finite_difference", one_sided, "one-sided"),
    ("finite_difference", lambda f, w, eps: 2 * one_sided(f, w, eps), "none of the classic"),
    ("finite_difference", lambda f, w, eps: (f(w + eps) - f(w - eps)) / (2 * eps), "must have shape [3]"),
    ("meta_gradient", lambda h, g, lr: g.mean(0), "Hessian term is missing"),
    ("meta_gradient", lambda h, g, lr: (g + lr * torch.einsum("tij,tj->ti", h, g)).mean(0), "The sign"),
    ("meta_gradient", lambda h, g, lr: (g - lr * torch.einsum("tij,tj->ti", h, g)).sum(0), "Sum and mean"),
    ("meta_gradient", lambda h, g, lr: g - lr * torch.einsum("tij,tj->ti", h, g), "must have shape [3]"),
    ("through_steps", in_a_loop, "backwards"),
    ("through_steps", lambda h, v, lr: in_a_loop(h[-1:], v, lr), "Only the last"),
    ("through_steps", lambda h, v, lr: in_a_loop(h.sum(0, keepdim=True), v, lr), "are added"),
    ("reached", lambda losses, target: losses.mean() < target, "The mean alone"),
    ("reached", lambda losses, target: bool((losses < target).any()), "best task"),
    ("reached", lambda losses, target: bool((losses < target).all()), "worst task"),
    ("backward", lambda *a: by_autograd(*a, loss=lambda e: e.square().sum()), "Sum and mean"),
    ("backward", lambda *a: by_autograd(*a, loss=lambda e: e.square().mean() / 2), "factor 2"),
    ("backward", lambda *a: by_autograd(*a)[:2], "return four gradients"),
    ("fixed_descent", lambda *a: mended(*a, judge=a[:2]), "rows that were learned"),
    ("fixed_descent", lambda *a: mended(*a, momentum=0.0), "made anew"),
    ("fixed_descent", lambda *a: mended(*a, updated=3), "never moves"),
    ("fixed_descent", lambda *a: mended(*a)[0], "return two things"),
    ("fixed_descent", lambda *a: mended(*a, skip_last=True), "none of the classic"),
    ("adam_step", lambda w, g, m, s, k, lr: adam(w, g, m, s, k + 1, lr), "none of the classic"),
    ("adam_step", lambda *a: adam(*a, start=1), "k counts from 1"),
    ("adam_step", lambda *a: adam(*a, root=lambda s: s), "root of the corrected"),
    ("adam_step", lambda *a: adam(*a)[0], "return three tensors"),
    ("per_task_gradients", lambda *a: stacked_gradient(*a, over_tasks=torch.mean), "number of tasks"),
    ("per_task_gradients", lambda *a: stacked_gradient(*a, over_rows=torch.sum), "over the rows"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("backward", by_autograd),
        ("fixed_descent", mended),
        ("adam_step", adam),
        ("per_task_gradients", stacked_gradient),
    ]
)
