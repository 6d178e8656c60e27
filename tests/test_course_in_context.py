"""Lesson 10: right answers by another way, wrong answers as readers might write them, formulas of the lesson."""

import math

import answers
import pytest
import torch

import metakit as mk
from metakit import course
from metakit.models.transformer import attention

# ------------------------------------------------------------------------------------------------------ exercises


def joint(kernel, noise, x, y, query):
    """The joint normal of all targets, cut into what is seen and what is not."""
    every = torch.cat([x, query])
    covariance = kernel(every, every) + noise**2 * torch.eye(len(every), dtype=x.dtype)
    s = len(x)
    inverse = torch.linalg.inv(covariance[:s, :s])
    left = covariance[s:, s:] - covariance[s:, :s] @ inverse @ covariance[:s, s:]
    return covariance[s:, :s] @ inverse @ y, left.diag()


def by_precision(kernel, noise, x, y, query):
    """From the precision of one query target and all seen ones, one query after the other."""
    found = []
    for q in query:
        every = torch.cat([x, q[None]])
        covariance = kernel(every, every)
        covariance.diagonal().add_(noise**2)
        precision = covariance.inverse()
        found.append((-precision[-1, :-1] @ y / precision[-1, -1], 1 / precision[-1, -1]))
    return torch.stack([mean for mean, _ in found]), torch.stack([variance for _, variance in found])


def by_cholesky(kernel, noise, x, y, query, *, seen=True, own=True, squared=True):
    power = noise**2 if squared else noise
    matrix = kernel(x, x)
    if seen:
        matrix = matrix + power * torch.eye(len(x), dtype=x.dtype)
    factor = torch.linalg.cholesky(matrix + 1e-12 * torch.eye(len(x), dtype=x.dtype))
    half = torch.linalg.solve_triangular(factor, kernel(x, query), upper=False)
    mean = half.T @ torch.linalg.solve_triangular(factor, y[:, None], upper=False)[:, 0]
    return mean, kernel(query, query).diagonal() - half.square().sum(0) + (power if own else 0)


def with_other(kernel, noise, x, y, query, *, mean=None, variance=None):
    right = joint(kernel, noise, x, y, query)
    matrix = kernel(x, x) + noise**2 * torch.eye(len(x), dtype=x.dtype)
    return (
        right[0] if mean is None else mean(kernel, matrix, x, y, query),
        right[1] if variance is None else variance(right[1], kernel(query, query).diag(), noise),
    )


def noise_everywhere(kernel, noise, x, y, query):
    k_inv = torch.linalg.inv(kernel(x, x) + noise**2)
    cross = kernel(query, x)
    return cross @ k_inv @ y, torch.stack([kernel(q[None], q[None])[0, 0] for q in query]) + noise**2 - torch.diag(
        cross @ k_inv @ cross.T
    )


def row_by_row(q, k, v, context):
    rows = []
    for asking in q:
        weights = [math.exp(float(asking @ key) / math.sqrt(len(asking))) for key in k[:context]]
        rows.append(sum(w / sum(weights) * value for w, value in zip(weights, v[:context], strict=True)))
    return torch.stack(rows)


def by_the_package(q, k, v, context):
    return attention(q, k[:context], v[:context])


def masked(*, hidden, dim=-1, fill=-1e30, scale=True):
    def attend(q, k, v, context):
        scores = q @ k.T
        if scale:
            scores = scores / math.sqrt(q.shape[-1])
        mask = torch.zeros_like(scores, dtype=torch.bool)
        hidden(mask, context)
        scores[mask] = fill
        return torch.softmax(scores, dim) @ v

    return attend


def columns(mask, context):
    mask[:, context:] = True


def columns_but_oneself(mask, context):
    mask[:, context:] = True
    mask.fill_diagonal_(False)


def later(mask, context):
    mask |= torch.ones_like(mask).triu(1)


def nothing(mask, context):
    pass


def cut_after(q, k, v, context):
    weights = torch.softmax(q @ k.T / q.shape[1] ** 0.5, -1).clone()
    weights[:, context:] = 0
    return weights @ v


def wrong_dimension(q, k, v, context):
    return torch.softmax(q @ k[:context].T / q.shape[1] ** 0.5, dim=0) @ v[:context]


def by_autograd(tokens, context, lr):
    """A gradient step from 0 on the context's targets; what each token has left of its own."""
    x, y = tokens[:, :-1], tokens[:, -1]
    w = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)
    (x[:context] @ w - y[:context]).square().mean().backward()
    return torch.cat([x, (y + lr * x @ w.grad)[:, None]], 1)


def in_loops(tokens, context, lr, *, read=None, change=0, factor=2.0, over=None, sign=-1, whole=False, soft=False):
    rows = tokens.tolist()
    new = [list(row) for row in rows]
    for j in range(change, len(rows)):
        read_rows = rows[: context if read is None else read]
        ends = None if whole else -1
        products = [sum(a * b for a, b in zip(row[:ends], rows[j][:ends], strict=True)) for row in read_rows]
        if soft:
            weights = [math.exp(p) for p in products]
            products = [w / sum(weights) for w in weights]
        total = sum(p * row[-1] for p, row in zip(products, read_rows, strict=True))
        new[j][-1] += sign * (1 if soft else factor * lr / (over or context)) * total
    return torch.tensor(new, dtype=tokens.dtype)


WRITTEN = [
    ("gp_posterior", lambda *a: by_cholesky(*a, seen=False), "missing on the diagonal"),
    ("gp_posterior", lambda *a: by_cholesky(*a, own=False), "noise of its own"),
    ("gp_posterior", lambda *a: by_cholesky(*a, own=False, seen=False), "The noise is nowhere"),
    ("gp_posterior", lambda *a: by_cholesky(*a, squared=False), "Variances add"),
    ("gp_posterior", noise_everywhere, "every entry of K"),
    ("gp_posterior", lambda *a: with_other(*a, mean=lambda kernel, m, x, y, q: kernel(q, x) @ m @ y), "by its inverse"),
    ("gp_posterior", lambda *a: with_other(*a, mean=lambda kernel, m, x, y, q: kernel(q, x) @ y), "count twice"),
    (
        "gp_posterior",
        lambda *a: with_other(*a, mean=lambda kernel, m, x, y, q: kernel(q, x) @ kernel(x, x).inverse() @ y),
        "Both take the same matrix",
    ),
    ("gp_posterior", lambda *a: with_other(*a, variance=lambda v, k, noise: 2 * (k + noise**2) - v), "grows with"),
    ("gp_posterior", lambda *a: with_other(*a, variance=lambda v, k, noise: v - k + 1), "taken for 1"),
    ("gp_posterior", lambda *a: with_other(*a, variance=lambda v, k, noise: v**0.5), "without the root"),
    ("gp_posterior", lambda kernel, noise, x, y, query: kernel(query, x) @ y, "It stopped with ValueError"),
    ("attend", masked(hidden=nothing), "Queries are seen"),
    ("attend", masked(hidden=columns_but_oneself), "looks at itself"),
    ("attend", masked(hidden=later), "causal mask"),
    ("attend", wrong_dimension, "the wrong dimension"),
    ("attend", masked(hidden=columns, dim=0, fill=-torch.inf), "the wrong dimension"),
    ("attend", masked(hidden=columns, fill=0.0), "exp(0) is 1"),
    ("attend", cut_after, "after the softmax"),
    ("attend", masked(hidden=columns, scale=False), "sqrt(d)"),
    ("attend", lambda q, k, v, context: row_by_row(q[context:], k, v, context), "must have shape"),
    ("descent_layer", lambda *a: in_loops(*a, factor=1.0), "factor 2"),
    ("descent_layer", lambda *a: in_loops(*a, over=1), "Sum and mean"),
    ("descent_layer", lambda *a: in_loops(*a, over=len(a[0])), "number of all tokens"),
    ("descent_layer", lambda tokens, context, lr: in_loops(tokens, context, 1.0), "The rate is missing"),
    ("descent_layer", lambda *a: in_loops(*a, sign=1), "The sign"),
    ("descent_layer", lambda *a: in_loops(*a, soft=True), "softmax is left in"),
    ("descent_layer", lambda *a: in_loops(*a, read=len(a[0])), "as if they were examples"),
    ("descent_layer", lambda *a: in_loops(*a, change=a[1]), "Only the queries are changed"),
    ("descent_layer", lambda *a: in_loops(*a, whole=True), "products are those of whole tokens"),
    ("descent_layer", lambda tokens, context, lr: tokens[:, -1:], "must have shape"),
]

test_wrong_answers_as_readers_write_them_are_understood = answers.wrong(WRITTEN)

test_right_answers_by_another_way_pass = answers.right(
    [
        ("gp_posterior", joint),
        ("gp_posterior", by_precision),
        ("gp_posterior", by_cholesky),
        ("attend", row_by_row),
        ("attend", by_the_package),
        ("attend", masked(hidden=columns)),
        ("descent_layer", by_autograd),
        ("descent_layer", in_loops),
    ]
)

RIGHT = {exercise.name: exercise.right for exercise in course.LESSONS["in_context"].EXERCISES}


# -------------------------------------------------------------------------------------------------------- formulas


def test_the_posterior_of_the_exercise_is_that_of_the_package():
    prior = mk.tasks.GaussianProcesses(lengthscale=0.7, noise=0.3, outputscale=1.2, context=6, queries=9)
    batch = prior.sample(1, seed=0)
    hyper = batch.hyper[0]
    mean, variance = RIGHT["gp_posterior"](
        lambda a, b: prior.covariance(hyper, a[:, None], b[:, None]),
        0.3,
        *(side[0, :, 0].double() for side in (batch.support_x, batch.support_y, batch.query_x)),
    )
    exact = mk.ExactGP(prior).respond(batch)
    torch.testing.assert_close(mean, exact.means[0, :, 0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(variance, exact.spreads[0, :, 0].square(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_layers_of_the_exercise_take_the_gradient_steps_of_the_package(layers):
    """What the queries have left is minus the prediction after as many steps of gradient descent from 0."""
    batch = mk.tasks.LinearRegression(rows=7, features=3, noise=0.3, queries=4).sample(1, seed=0)
    x, y, query = (side[0].double() for side in (batch.support_x, batch.support_y, batch.query_x))
    tokens = torch.cat([torch.cat([x, y], 1), torch.cat([query, torch.zeros(4, 1, dtype=x.dtype)], 1)])
    for _ in range(layers):
        tokens = RIGHT["descent_layer"](tokens, 7, 0.1)
    model = mk.models.MLP(3, [], 1).double()
    torch.nn.init.zeros_(model.head.bias)
    start = {"head.weight": torch.zeros(1, 1, 3, dtype=x.dtype, requires_grad=True)}
    weights = mk.adapt(model, start, x[None], y[None], rule=mk.SGD(lr=0.1), steps=layers)
    torch.testing.assert_close(-tokens[7:, -1:], query @ weights["head.weight"][0].mT)
