"""Lesson 08: right answers by another way, wrong answers as readers might write them, formulas of the lesson."""

import answers
import torch

import metakit as mk
from metakit import course

# ------------------------------------------------------------------------------------------------------ exercises


def last_steps(rate, h, w, steps, stretch, *, before=None):
    """The gradient through the last steps, from the weights that the others led to, in closed form."""
    done = steps - stretch if before is None else before
    start = ((1 - rate * h) ** done * w).detach()
    loss = (h * ((1 - rate * h) ** stretch * start).square()).sum() / 2
    return torch.autograd.grad(loss, rate)[0]


def by_hand(rate, h, w, steps, stretch):
    left = (1 - rate.detach() * h) ** (2 * steps - 1)
    return -(stretch * h**2 * left * w.square()).sum()


def always_cut(rate, h, w, steps, stretch):
    for _ in range(steps):
        w = (w - rate * h * w).detach()
    return torch.autograd.grad((h * w.square()).sum() / 2, rate)[0]


def early(rate, h, w, steps, stretch):
    for k in range(steps):
        w = w.detach() if k < stretch else w
        w = w - rate * h * w
    return torch.autograd.grad((h * w.square()).sum() / 2, rate)[0]


def at_each(rate, h, w, steps, stretch):
    for _ in range(steps):
        w = w.detach() - rate * h * w.detach()
    return torch.autograd.grad((h * w.square()).sum() / 2, rate)[0]


def full(rate, h, w, steps, stretch):
    return last_steps(rate, h, w, steps, steps)


def stacked(loss, theta, sigma, noise, *, power=1, factor=2.0):
    ups = torch.stack([loss(theta + sigma * e) for e in noise])
    downs = torch.stack([loss(theta - sigma * e) for e in noise])
    return (noise.mT @ (ups - downs)) / (factor * len(noise) * sigma**power)


def two_noises(loss, theta, sigma, noise):
    other = torch.cat([noise[-1:], noise[:-1]])
    pairs = zip(noise, other, strict=True)
    return sum(e * (loss(theta + sigma * e) - loss(theta - sigma * o)) for e, o in pairs) / (2 * len(noise) * sigma)


def up_only(loss, theta, sigma, noise):
    return sum(e * loss(theta + sigma * e) for e in noise) / (len(noise) * sigma)


def through_the_solution(x, y, other_x, other_y, log_penalty, *, rows=None, power=None):
    p = log_penalty.detach().clone().requires_grad_()
    penalty = p.exp() if power is None else p
    w = torch.linalg.inv(x.T @ x + torch.diag(penalty)) @ x.T @ y
    squares = (other_x @ w - other_y).square() if rows is None else (x @ w - y).square()
    return torch.autograd.grad(squares.mean() if rows is None else squares.sum() / len(y), p)[0]


def by_the_package(x, y, other_x, other_y, log_penalty):
    def inner(w, p):
        return (x @ w - y).square().sum() / 2 + (p.exp() * w.square()).sum() / 2

    def outer(w, p):
        return (other_x @ w - other_y).square().mean()

    w = torch.linalg.solve(x.T @ x + log_penalty.exp().diag(), x.T @ y)
    return mk.hypergradient(inner, outer, w, log_penalty, steps=0).grads


def without_the_inverse(x, y, other_x, other_y, log_penalty):
    w = torch.linalg.solve(x.T @ x + log_penalty.exp().diag(), x.T @ y)
    return -log_penalty.exp() * w * (2 * other_x.T @ (other_x @ w - other_y) / len(other_y))


WRITTEN = [
    ("truncated_gradient", full, "Nothing is cut"),
    ("truncated_gradient", lambda *a: by_hand(*a) * a[3] / a[4], "Nothing is cut"),
    ("truncated_gradient", early, "none of the classic"),
    ("truncated_gradient", at_each, "only the last step is seen"),
    ("truncated_gradient", always_cut, "behind the last step too"),
    ("truncated_gradient", lambda *a: last_steps(*a, before=0), "taken at all, from the start"),
    ("truncated_gradient", lambda rate, h, w, steps, stretch: w, "must have shape"),
    ("evolution_gradient", lambda *a: stacked(*a, power=0), "Sigma is missing"),
    ("evolution_gradient", lambda *a: stacked(*a, power=2), "once too often"),
    ("evolution_gradient", lambda *a: stacked(*a, factor=1.0), "Divided by n only"),
    ("evolution_gradient", lambda *a: len(a[3]) * stacked(*a), "Sum and mean"),
    ("evolution_gradient", two_noises, "different noise"),
    ("evolution_gradient", up_only, "Only one sign"),
    ("evolution_gradient", lambda *a: -stacked(*a), "sign is turned"),
    ("ridge_hypergradient", lambda *a: -through_the_solution(*a), "sign is turned"),
    ("ridge_hypergradient", lambda *a: through_the_solution(*a) / a[4].exp(), "its logarithm"),
    ("ridge_hypergradient", without_the_inverse, "H is taken for the identity"),
    ("ridge_hypergradient", lambda *a: through_the_solution(*a, rows="its own"), "on the training rows"),
    ("ridge_hypergradient", lambda *a: len(a[3]) * through_the_solution(*a), "Sum and mean"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("truncated_gradient", last_steps),
        ("evolution_gradient", stacked),
        ("ridge_hypergradient", through_the_solution),
        ("ridge_hypergradient", by_the_package),
    ]
)

EXERCISES = course.LESSONS["learned_optimizers"].EXERCISES


# -------------------------------------------------------------------------------------------------------- formulas


def test_a_truncated_gradient_of_one_direction_is_the_share_that_the_lesson_says():
    rate = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    h, w = torch.tensor([0.7], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    right = next(exercise.right for exercise in EXERCISES if exercise.name == "truncated_gradient")
    for stretch in (1, 4, 10):
        assert torch.isclose(right(rate, h, w, 10, stretch), stretch / 10 * right(rate, h, w, 10, 10))


def test_many_pairs_of_evolution_give_the_gradient_of_the_blurred_loss():
    """Of a quadratic, the blurred gradient is the gradient itself."""
    theta = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    noise = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = next(exercise.right for exercise in EXERCISES if exercise.name == "evolution_gradient")
    found = right(lambda at: (scale * at.square()).sum() / 2, theta, 0.5, noise)
    error = (found - scale * theta).abs()
    deviation = ((noise @ (scale * theta))[:, None] * noise).std(0) / len(noise) ** 0.5
    assert (error < 4 * deviation).all() and (deviation < 0.1).all()
