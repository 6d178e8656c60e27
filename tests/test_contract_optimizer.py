"""The contract proved by a toy: a learned optimiser, trained by truncated unrolls with a carry."""

import dataclasses

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

import metakit as mk
from metakit import plots
from metakit.contracts import LOSS, Estimate

STEPS, STRETCH = 12, 4


@dataclasses.dataclass(frozen=True)
class Quadratics:
    """T jobs: minimise sum c w^2 / 2 from w = start."""

    curvature: torch.Tensor  # [T, D]
    start: torch.Tensor  # [T, D]

    def __len__(self):
        return len(self.start)

    def __getitem__(self, index):
        return Quadratics(self.curvature[index], self.start[index])

    def to(self, device):
        return Quadratics(self.curvature.to(device), self.start.to(device))

    @property
    def device(self):
        return self.start.device

    def loss(self, w):
        return (self.curvature * w.square()).sum(1) / 2


class Jobs:
    def sample(self, n_tasks, *, generator=None, device=None):
        curvature = 0.2 + torch.rand(n_tasks, 3, generator=generator, dtype=torch.float64)
        return Quadratics(curvature, torch.randn(n_tasks, 3, generator=generator, dtype=torch.float64))


class LearnedRates(nn.Module):
    """One learned rate for each of the steps."""

    axis = "optimiser steps"

    def __init__(self):
        super().__init__()
        self.log_rates = nn.Parameter(torch.full((STEPS,), -3.0, dtype=torch.float64))

    def walk(self, batch, w, first, last):
        for k in range(first, last):
            w = w - self.log_rates[k].exp() * batch.curvature * w
            yield w

    def forward(self, batch):
        *_, w = self.walk(batch, batch.start, 0, STEPS)
        return batch.loss(w)

    def scores(self, batch, steps, protocol):
        yield 0, {LOSS: batch.loss(batch.start)}
        for k, w in enumerate(self.walk(batch, batch.start, 0, STEPS), start=1):
            yield k, {LOSS: batch.loss(w)}


def truncated(learner, parameters, batch, carry):
    """The gradient of the loss at the end of a stretch, which begins where the last one ended."""
    w, first = (batch.start, 0) if carry is None else (carry["w"], carry["step"])
    *_, w = learner.walk(batch, w, first, first + STRETCH)
    loss = batch.loss(w).mean()
    grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    last = first + STRETCH
    return Estimate(loss.detach(), grads, None if last == STEPS else {"w": w.detach(), "step": last})


def fit(learner, **options):
    options = {"steps": 25, "meta_batch": 5, "lr": 0.05, "estimator": truncated, "progress": False} | options
    return mk.fit(learner, Jobs(), **options)


def test_truncated_unrolls_train_it():
    learner = LearnedRates()
    before = mk.evaluate(learner, Jobs(), n_tasks=50)
    fit(learner, steps=90)
    after = mk.evaluate(learner, Jobs(), n_tasks=50)
    assert after.loss[:, 0].equal(before.loss[:, 0]) and after.mean()[-1] < 0.3 * before.mean()[-1]
    assert after.axis == "optimiser steps" and after.at == tuple(range(STEPS + 1)) and after.protocol == "unstated"
    assert str(after).endswith("(50 tasks, 12 optimiser steps)")


def test_each_stretch_is_a_move_on_the_same_batch():
    seen = []

    def watched(learner, parameters, batch, carry):
        seen.append((batch.start, None if carry is None else carry["step"]))
        return truncated(learner, parameters, batch, carry)

    fit(LearnedRates(), steps=7, estimator=watched)
    assert [step for _, step in seen] == [None, 4, 8, None, 4, 8, None]
    starts = [start for start, _ in seen]
    assert all(torch.equal(starts[0], start) for start in starts[:3]) and not torch.equal(starts[0], starts[3])


@pytest.mark.parametrize("cut", [6, 7, 8])
@pytest.mark.parametrize("chunk", [None, 2])
def test_it_resumes_to_the_bit_in_the_middle_of_an_unroll(tmp_path, cut, chunk):
    whole, resumed, on, path = *(LearnedRates() for _ in range(3)), tmp_path / "run.pt"
    history = fit(whole, chunk=chunk, validate_every=5)
    part = LearnedRates()
    stop = {"callback": lambda run: run.stop() if run.step == cut else None}
    told = fit(part, checkpoint=path, chunk=chunk, validate_every=5, **stop)
    torch.rand(7)
    again = fit(resumed, checkpoint=path, chunk=chunk, validate_every=5, resume=True)
    from_record = fit(on, chunk=chunk, validate_every=5, resume=told)
    for other, record in ((resumed, again), (on, from_record)):
        assert torch.equal(whole.log_rates, other.log_rates)
        assert record.loss == history.loss and record.validation == history.validation


def test_chunks_do_not_disturb_the_carry():
    whole, parts = LearnedRates(), LearnedRates()
    fit(whole)
    fit(parts, chunk=2)
    torch.testing.assert_close(whole.log_rates, parts.log_rates, rtol=1e-12, atol=1e-12)


def test_it_is_compared_and_drawn():
    trained = LearnedRates()
    history = fit(trained, steps=60)
    result = mk.compare({"trained": trained, "as it began": LearnedRates()}, Jobs(), n_tasks=20, seeds=2)
    assert result.measure == LOSS and result.reference == "trained" and result.protocol == "unstated"
    axes = Figure().subplots(1, 3)
    plots.draw_evaluation(axes[0], mk.evaluate(trained, Jobs(), n_tasks=20))
    plots.draw_history(axes[1], history)
    plots.draw_comparison(axes[2], result)
    assert axes[0].get_xlabel() == "optimiser step"
