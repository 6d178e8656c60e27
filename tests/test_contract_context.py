"""The contract proved by a toy: a learner that has no inner loop, and reads the support rows as its context."""

import torch
from matplotlib.figure import Figure
from torch import nn

import metakit as mk
from metakit import plots
from metakit.contracts import LOSS

TASKS = mk.tasks.LinearRegression(rows=8, features=1, noise=0.1, queries=4)


class Reader(nn.Module):
    """Each query row looks at the support rows, by attention, and answers."""

    axis = "context rows"
    protocol = "inductive"
    answers_together = False

    def __init__(self, width=16):
        super().__init__()
        self.row, self.query = nn.Linear(2, width), nn.Linear(1, width)
        self.answer = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 1))
        self.drop = nn.Dropout(0.1)

    def read(self, batch, rows):
        context = torch.cat([batch.support_x, batch.support_y], -1)[:, :rows]
        keys, asked = self.row(context), self.query(batch.query_x)
        looked = (asked @ keys.mT / keys.shape[-1] ** 0.5).softmax(-1) @ keys
        return self.answer(self.drop(torch.cat([asked, looked], -1)))

    def forward(self, batch):
        return (self.read(batch, 8) - batch.query_y).square().mean((1, 2))

    def scores(self, batch, steps, protocol):
        for rows in (1, 2, 4, 8):
            yield rows, {LOSS: (self.read(batch, rows) - batch.query_y).square().mean((1, 2))}


def make():
    torch.manual_seed(0)
    return Reader()


def test_more_context_answers_better():
    learner = make()
    history = mk.fit(learner, TASKS, steps=400, lr=3e-3, clip=1.0, progress=False)
    result = mk.evaluate(learner, TASKS, n_tasks=200)
    assert result.at == (1, 2, 4, 8) and result.axis == "context rows" and result.protocol == "inductive"
    assert result.mean()[3] < 0.75 * result.mean()[0] and learner.training
    assert torch.equal(result.loss, mk.evaluate(learner, TASKS, n_tasks=200).loss)  # no dropout when it is judged
    axes = Figure().subplots(1, 2)
    plots.draw_evaluation(axes[0], result)
    plots.draw_history(axes[1], history)
    assert axes[0].get_xlabel() == "context row" and list(axes[0].lines[0].get_xdata()) == [1, 2, 4, 8]


def test_it_resumes_to_the_bit_dropout_and_all(tmp_path):
    whole, resumed, path = make(), make(), tmp_path / "run.pt"
    options = {"lr": 1e-2, "progress": False, "schedule": None}
    history = mk.fit(whole, TASKS, steps=12, **options)
    mk.fit(make(), TASKS, steps=5, checkpoint=path, **options)
    assert mk.fit(resumed, TASKS, steps=12, checkpoint=path, resume=True, **options).loss == history.loss
    assert mk.fit(make(), TASKS, steps=12, **options).loss == history.loss  # one seed, one run


def test_it_is_compared_with_a_learner_of_another_kind():
    learners = {"reader": make(), "ridge": mk.Ridge(mk.models.MLP(1, [8], 8))}
    result = mk.compare(learners, TASKS, n_tasks=20, seeds=1)
    assert result.measure == LOSS and result.protocol == "inductive"
