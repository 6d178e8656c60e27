"""The explorer of noisy examples: a few clean rows teach which of the training rows to believe."""

from __future__ import annotations

from typing import Any

import ipywidgets as ipw
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from metakit import plots, records
from metakit.checks import real, whole
from metakit.inner import hypergradient
from metakit.widgets.explorer import LATE, VIEWED, Explorer, another
from metakit.widgets.optimizers import draw_two

_CENTRE, _PENALTY, _OUTER_LR = (1.3, 0.9), 0.01, 0.3
_ODDS = 3.0  # a row of class B is mislabelled so many times as readily as one of class A
_NEW_ROWS, _NEWTON_STEPS = 2000, 20


def noisy_examples(
    *, wrong: float = 0.3, rows: int = 60, validation: int = 20, outer_steps: int = 20, seed: int = 0
) -> records.NoisyExamples:
    """Learn a weight for each training row from the hypergradient of the loss on a few clean rows.

        inner: w(e) = argmin_w 1/R sum_i e_i loss(w; x_i, y_i) + 0.005 |w|^2,    outer: F(e) = mean loss on clean rows
        e <- max(0, e - 0.3 R dF/de),    then scaled to a mean of 1

    The model is logistic regression. Its minimum is found by Newton's method, and dF/de there by the implicit function
    theorem, in ``metakit.hypergradient``.

    Arguments:
        wrong: share of the training rows whose label is wrong, 0 to 0.5; those of class B are hit more often.
        rows: training rows R.
        validation: clean rows.
        outer_steps: moves of the weights, 0 or more.
        seed: of all rows, and of which labels are wrong.

    Raises:
        ValueError: if a number is out of its range.

    Example:
        >>> record = noisy_examples(outer_steps=5)
        >>> bool(record.weights[record.wrong].mean() < record.weights[~record.wrong].mean()), record.course.shape
        (True, torch.Size([6]))

    Source: Franceschi, Donini, Frasconi and Pontil 2017, section 5.1, data hyper-cleaning.
    """
    wrong, rows = real("wrong", wrong, least=0.0, most=0.5), whole("rows", rows, least=2)
    validation, outer_steps = whole("validation", validation), whole("outer_steps", outer_steps, least=0)
    generator = torch.Generator().manual_seed(seed)
    (x, truth), (new_x, new_y) = (_drawn(count, generator) for count in (rows, _NEW_ROWS))
    keys = torch.rand(rows, generator=generator, dtype=torch.float64) ** (1 / (1 + (_ODDS - 1) * truth))
    mislabelled = torch.zeros(rows, dtype=torch.bool)
    mislabelled[keys.argsort(descending=True)[: round(wrong * rows)]] = True
    y = torch.where(mislabelled, 1 - truth, truth)
    clean_x, clean_y = _drawn(validation, generator)

    def inner(w: Tensor, e: Tensor) -> Tensor:
        losses = cross_entropy(x @ w, y, reduction="none")
        return (e * losses).mean() + _PENALTY / 2 * w.square().sum()

    def outer(w: Tensor, e: Tensor) -> Tensor:
        return cross_entropy(clean_x @ w, clean_y)

    weights = torch.ones(rows, dtype=torch.float64)
    w = before = minimum(x, y, weights)
    course = []
    for _ in range(outer_steps):
        found = hypergradient(inner, outer, w, weights, method="implicit", steps=0)
        course.append(found.loss)
        weights = (weights - _OUTER_LR * rows * found.grads).clamp(min=0)
        weights = weights / weights.mean().clamp(min=1e-12)
        w = minimum(x, y, weights, w)
    course.append(outer(w, weights))
    first, last = (float(((new_x @ each > 0) == (new_y > 0)).double().mean()) for each in (before, w))
    labels = y.to(torch.int64)
    return records.NoisyExamples(
        x[:, :2], labels, mislabelled, weights, before, w, torch.stack(course), (first, last), validation
    )


def minimum(x: Tensor, y: Tensor, weights: Tensor, start: Tensor | None = None) -> Tensor:
    """The slopes of a logistic regression on weighted rows, ``[D]``, by Newton's method with halved steps.

    Arguments:
        x, y: rows ``[R, D]`` and their labels, 0 or 1, ``[R]``.
        weights: of the rows, ``[R]``.
        start: where to begin; at zero when left out.

    Example:
        >>> x, one = torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([1.0, 1.0, 0.0])
        >>> minimum(x, one, torch.tensor([1.0, 1.0, 2.0]))  # as much weight on either side
        tensor([0.])
    """
    w = torch.zeros_like(x[0]) if start is None else start
    ridge = _PENALTY * torch.eye(len(w), dtype=w.dtype)

    def loss(w: Tensor) -> Tensor:
        return cross_entropy(x @ w, y, weights) + w @ ridge @ w / 2

    for _ in range(_NEWTON_STEPS):
        p = (x @ w).sigmoid()
        slope = (weights * (p - y)) @ x / len(x) + ridge @ w
        if float(slope.norm()) < 1e-10:
            break
        curvature = (weights * p * (1 - p) / len(x) * x.mT) @ x + ridge
        move = torch.linalg.solve(curvature, slope)
        before, share = loss(w), 1.0
        while share > 1e-3 and loss(w - share * move) > before:
            share /= 2
        w = w - share * move
    return w


def _drawn(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows with a 1 at their end, ``[R, 3]``, of two classes, 0 and 1, ``[R]``."""
    kind: Any = {"generator": generator, "dtype": torch.float64}
    y = (torch.rand(count, **kind) < 0.5).double()
    x = torch.randn(count, 2, **kind) + (2 * y - 1)[:, None] * torch.tensor(_CENTRE, dtype=torch.float64)
    return torch.cat([x, torch.ones(count, 1, dtype=torch.float64)], 1), y


class NoisyExamplesExplorer:
    """Turn the share of wrong labels and the number of clean rows; see which training rows are no longer believed.

    After each change ``.record`` is the ``records.NoisyExamples`` shown, and ``.error`` the exception if there was one.
    Controls by name: wrong, validation, outer_steps, seed.

    Example:
        >>> explorer = NoisyExamplesExplorer()
        >>> explorer.controls["wrong"].value = 0.0
        >>> explorer.record.precision, explorer.error
        (nan, None)
    """

    controls, record, error, widget, static, _ipython_display_ = VIEWED

    def __init__(self) -> None:
        controls = {
            "wrong": ipw.FloatSlider(description="Wrong labels", min=0, max=0.45, step=0.05, value=0.3, **LATE),
            "validation": ipw.IntSlider(description="Clean rows", min=4, max=60, value=20, **LATE),
            "outer_steps": ipw.IntSlider(description="Outer steps", min=0, max=40, value=20, **LATE),
            "seed": ipw.IntText(value=0),
        }
        again = another(controls["seed"], "Other task", "Draw other rows and other wrong labels")
        rows = [*(control for name, control in controls.items() if name != "seed"), again]
        told = "An explorer with sliders for wrong labels, clean rows and outer steps"
        self._view = Explorer(controls, noisy_examples, self.draw, rows=rows, instead=told)
        self._view.refresh()

    @staticmethod
    def draw(fig: Figure, record: records.NoisyExamples) -> None:
        """The rows on the left, their weights in order on the right."""
        draw_two(fig, record, plots.draw_noisy_examples, plots.draw_example_weights)
