"""The two code examples that the course grew from, in corrected form.

As printed they do not run. In the first, `gradient_descent`: the gradient call is given its variables one by one and
takes them for other arguments; the list of updated variables names the first bias twice, so the second is never
updated; the optimiser is built anew at each iteration; the session is never made. In the second, `search_strategy`:
the search space makes weights that its network does not use, so that training would change nothing; every model is
listed twice; the models all have the same size; none is ever chosen, and if one were, it would be by training loss.
"""

import pytest
import torch
import torch.nn.functional as F

import metakit as mk
from metakit.inner import adapt, stacked

ROWS, LR, STEPS = 100, 0.01, 1000


def linear_data(seed=0):
    """100 rows of 10 features; the targets of the example were pure noise, these can be learned."""
    return mk.tasks.LinearRegression(rows=ROWS, features=10).sample(1, seed=seed)


def test_the_inner_example_trains_all_four_variables():
    torch.manual_seed(0)
    model, batch = mk.models.MLP(10, [5], 1), linear_data()
    start = {name: w.clone() for name, w in stacked(dict(model.named_parameters()), 1).items()}
    weights = adapt(model, start, batch.support_x, batch.support_y, rule=mk.SGD(LR), steps=STEPS, order=1)

    # The same, with nothing but torch: one optimiser, made once, over all variables.
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    x, y = batch.support_x[0], batch.support_y[0]
    before = float(F.mse_loss(model(x), y).detach())
    for _ in range(STEPS):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
    after = float(F.mse_loss(model(x), y).detach())

    assert after < 0.2 * before
    assert set(weights) == {"linear1.weight", "linear1.bias", "head.weight", "head.bias"}
    for name, parameter in model.named_parameters():
        assert torch.allclose(weights[name][0], parameter.detach(), atol=1e-3)
        assert not torch.equal(weights[name][0], start[name][0])  # the second bias too


def test_a_last_bias_that_is_never_updated_costs_the_mean_of_the_targets():
    model, batch = mk.models.MLP(10, [], 1), linear_data()
    shifted = mk.TaskBatch(batch.support_x, batch.support_y + 5, batch.query_x, batch.query_y + 5)

    def loss_after(names):
        learner = mk.MAML(model, rule=mk.SGD(0.05), steps=300, order=1, adapt=names)
        return float(learner(shifted).detach())

    assert loss_after("head") < 0.1 and loss_after("head.weight") > 10


def test_the_outer_example_chooses_one_network_by_validation():
    batch = linear_data()
    space = mk.search.Space(units=(1, 64), learning_rate=(LR,))
    result = mk.search.run(space, batch, strategy=mk.search.Random(10), rounds=1, steps=STEPS, progress=False)
    sizes = [trial.candidate["units"] for trial in result.history]
    assert len(sizes) == len(set(sizes)) == 10  # each size once, each model listed once
    assert result.best.score == min(trial.score for trial in result.history)  # one is chosen
    model = result.model()
    assert model.config["hidden"] == [result.best.candidate["units"]]  # and it is the network that was trained
    with torch.no_grad():
        validation = F.mse_loss(model(batch.query_x[0]), batch.query_y[0])
    assert float(validation) == pytest.approx(result.best.score, rel=1e-3)
    assert all(trial.curve[-1][1] < 0.5 * trial.curve[0][1] for trial in result.history)  # its own weights moved
