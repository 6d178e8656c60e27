"""Recipes: Muon against its equations, and the handwriting recipe from start to end, small."""

import math

import pytest
import torch

from metakit.outer.muon import Muon, orthogonal
from metakit.recipes import handwriting
from metakit.tasks import Glyphs, LabelledData


@pytest.mark.parametrize("shape", [(6, 6), (4, 30), (30, 4)])
def test_the_polynomial_turns_a_matrix_into_nearly_its_orthogonal_factor(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    assert values.min() / values.norm() > 0.01  # the polynomial lifts what is not much smaller than that
    # Its five rounds bring singular values between 0.7 and 1.2; the vectors stay.
    core = u.mT @ orthogonal(matrix) @ v.mT
    assert (core.diagonal() - 1).abs().max() < 0.35
    assert (core - core.diagonal().diag()).abs().max() < 0.06


def test_a_step_of_a_kernel_is_muons_equation():
    generator = torch.Generator().manual_seed(0)
    start, *grads = (torch.randn(4, 2, 3, 3, generator=generator) for _ in range(3))
    kernel, mean, expected = torch.nn.Parameter(start.clone()), torch.zeros_like(start), start.clone()
    optimizer = Muon([kernel], lr=0.1, momentum=0.9, decay=0.5)
    for grad in grads:
        kernel.grad = grad.clone()
        optimizer.step()
        mean = 0.9 * mean + 0.1 * grad
        move = orthogonal((0.1 * grad + 0.9 * mean).reshape(4, 18)).view_as(start)
        expected = (1 - 0.1 * 0.5) * expected - 0.1 * 0.2 * math.sqrt(18) * move
        torch.testing.assert_close(kernel.detach(), expected)


def test_matrices_of_one_shape_step_as_each_would_alone():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, 2, 3, generator=generator)
    together, alone = ([torch.nn.Parameter(w.clone()) for w in start] for _ in range(2))
    optimizers = [Muon(together, lr=0.1), *(Muon([w], lr=0.1) for w in alone)]
    for _ in range(3):
        for ours, theirs in zip(together, alone, strict=True):
            ours.grad = torch.randn(2, 3, generator=generator)
            theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close([w.detach() for w in together], [w.detach() for w in alone])


def test_a_vector_takes_adams_step():
    ours, adams = (torch.nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    one, other = Muon([ours], lr=0.05, betas=(0.9, 0.99)), torch.optim.Adam([adams], lr=0.05, betas=(0.9, 0.99))
    for k in range(4):
        ours.grad = torch.linspace(0.5, -2, 5) * (k + 1)
        adams.grad = ours.grad.clone()
        one.step(), other.step()
    torch.testing.assert_close(ours.detach(), adams.detach())


def test_new_classes_are_made_the_same_for_all_drawings_of_a_class():
    x = torch.rand(8, 1, 28, 28).expand(8, 3, 28, 28).contiguous()
    made = handwriting.NewClasses()(x, torch.Generator().manual_seed(0))
    torch.testing.assert_close(made, made[:, :1].expand_as(made))
    assert ((made - x).abs().mean((1, 2, 3)) > 0.01).all()
    again = handwriting.NewClasses()(x, torch.Generator().manual_seed(0))
    assert torch.equal(made, again)


def test_both_drawings_must_find_each_other():
    scores, labels = torch.randn(2, 5, 5), torch.arange(5).expand(2, 5)
    torch.testing.assert_close(handwriting.both_ways(scores, labels), handwriting.both_ways(scores.mT, labels))
    assert (handwriting.both_ways(10 * torch.eye(5).expand(2, 5, 5), labels) < 0.6).all()
    lost = 10 * torch.eye(5).roll(1, 0).expand(2, 5, 5)
    assert (handwriting.both_ways(lost, labels) > 5).all()


@pytest.mark.parametrize("equal", [True, False], ids=["equal classes", "unequal classes"])
def test_the_recipe_gives_a_learner_that_answers(monkeypatch, equal):
    monkeypatch.setattr(handwriting, "WAYS", 20)  # so many only where mirrored classes are classes of their own
    data = Glyphs(2, 5, 3)
    if not equal:
        y = torch.arange(10).repeat_interleave(3)
        data = LabelledData(data.rows[1:], y[1:])
    learner, history = handwriting.train(data, minutes=0.02, progress=False)
    assert history.steps > 0 and all(map(math.isfinite, history.loss))
    scores = learner.predict(data[3][:1], torch.tensor([0]), data[3][1:])
    assert scores.shape == (2, 1) and scores.isfinite().all()
