"""What runs on a CPU runs on a GPU, and says the same."""

import contextlib
import copy

import pytest
import torch
from typer.testing import CliRunner

import metakit as mk
from metakit.cli import app
from metakit.outer.step import OuterStep

pytestmark = pytest.mark.gpu
DEVICE = "cuda"

CONVNET = {"width": 8, "blocks": 3}
RESNET = {"size": 12, "widths": [8, 16], "depths": [1, 1]}


def convnet(**options):
    return mk.models.ConvNet(size=12, **CONVNET, **options)


LEARNERS = {
    "MAML": lambda: mk.MAML(convnet(outputs=3), rule=mk.SGD(0.1), steps=2),
    "MAML, inductive": lambda: mk.MAML(convnet(outputs=3), rule=mk.SGD(0.1), steps=2, protocol="inductive"),
    "MAML, residual": lambda: mk.MAML(mk.models.ResNet(**RESNET, outputs=3, frame=True), rule=mk.SGD(0.1)),
    "MAML, first order": lambda: mk.MAML(convnet(outputs=3), rule=mk.Momentum(0.1), steps=2, order=1),
    "ANIL, Adam": lambda: mk.MAML(convnet(outputs=3), rule=mk.Adam(0.1), steps=2, adapt="head"),
    "Meta-SGD": lambda: mk.MAML(convnet(outputs=3), rule=mk.LearnedSGD(0.1, per_step=True), steps=2),
    "MAML, RMSProp": lambda: mk.MAML(convnet(outputs=3), rule=mk.RMSProp(0.01), steps=1),
    "MAML++ weights": lambda: mk.MultiStep(mk.MAML(convnet(outputs=3), rule=mk.SGD(0.1), steps=2)),
    "Reptile": lambda: mk.Reptile(convnet(outputs=3), rule=mk.SGD(0.1), steps=2),
    "ProtoNet": lambda: mk.ProtoNet(convnet()),
    "ProtoNet, refined": lambda: mk.ProtoNet(convnet(), distance="cosine", centred=True, refine=2),
    "ProtoNet, inductive": lambda: mk.ProtoNet(convnet(), protocol="inductive"),
    "Matching": lambda: mk.Matching(mk.models.ResNet(**RESNET)),
    "Ridge": lambda: mk.Ridge(convnet()),
}


@pytest.fixture
def batch():
    """4 tasks of 3 ways in float64: no rounding can let another pixel win a maximum."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 15, 1, 12, 12, generator=generator, dtype=torch.float64)
    y = torch.arange(15).remainder(3).expand(4, 15)
    return mk.TaskBatch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])


def made(name):
    torch.manual_seed(1)
    return LEARNERS[name]().double()


def gradients(learner, batch):
    losses = learner(batch)
    losses.mean().backward()
    return [losses.detach().cpu(), *(p.grad.cpu() for p in learner.parameters() if p.grad is not None)]


def assert_same(one, other, rtol=1e-7, atol=1e-9):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", LEARNERS)
def test_losses_and_gradients_are_those_of_the_cpu(name, batch):
    learner = made(name)
    here = gradients(copy.deepcopy(learner), batch)
    assert_same(gradients(learner.to(DEVICE), batch.to(DEVICE)), here)


@pytest.mark.parametrize("name", LEARNERS)
def test_answers_are_those_of_the_cpu(name, batch):
    learner = made(name)
    rows = batch.support_x, batch.support_y, batch.query_x
    answers = learner.predict(*rows)
    there = learner.to(DEVICE).predict(*(row.to(DEVICE) for row in rows))
    assert there.device.type == DEVICE
    torch.testing.assert_close(there.cpu(), answers, rtol=1e-7, atol=1e-9)


def test_fine_tuning_and_pixels_answer_too(batch):
    torch.manual_seed(1)
    tuned = mk.FineTune(convnet(outputs=3), steps=2).double()
    for learner in (tuned, mk.NearestNeighbour()):
        here = mk.evaluate(learner, batch)
        there = mk.evaluate(learner.to(DEVICE), batch.to(DEVICE))
        assert there.loss.device.type == "cpu"
        torch.testing.assert_close(there.loss, here.loss, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["MAML", "MAML, first order", "MAML, residual", "Meta-SGD", "ProtoNet", "Reptile", "Ridge"]
)
def test_a_recorded_step_is_the_plain_one(name, batch):
    """In float64, three steps: the second and third replay what the first recorded."""
    batches = [batch.to(DEVICE), mk.TaskBatch(*(t.flip(0) for t in batch.tensors)).to(DEVICE), batch.to(DEVICE)]
    weights = []
    for compile in (False, True):
        learner = made(name).to(DEVICE)
        step = OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1), compile=compile)
        losses = [step(each) for each in batches]
        weights.append([torch.tensor(losses), *(p.detach().cpu() for p in learner.parameters())])
    assert_same(*weights)


@pytest.mark.parametrize("name", ["ProtoNet", "MAML, residual"])
def test_a_recorded_step_casts_the_weights_as_they_are_now(name, batch):
    """Under autocast, with large steps: weights cast once and kept would show."""
    rounded = batch.to(DEVICE, torch.float32)
    losses = []
    for compile in (False, True):
        learner = made(name).float().to(DEVICE)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.5)
        step = OuterStep(learner, optimizer, compile=compile, autocast=torch.bfloat16)
        losses.append([step(rounded) for _ in range(6)])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=0.05, atol=0.02)
    assert losses[0][-1] < 0.9 * losses[0][0]


def test_each_shape_is_recorded_apart(batch):
    small = mk.TaskBatch(*(t[:2] for t in batch.tensors))
    batches = [each.to(DEVICE) for each in (batch, small, batch, small)]
    losses = []
    for compile in (False, True):
        learner = made("ProtoNet").to(DEVICE)
        step = OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1), compile=compile)
        losses.append([step(each) for each in batches])
    torch.testing.assert_close(*map(torch.tensor, losses), rtol=1e-7, atol=1e-9)


def test_what_cannot_be_recorded_is_said_once_and_goes_on_without(batch):
    class Reader(mk.ProtoNet):
        def forward(self, batch):
            losses = super().forward(batch)
            return losses * (1.0 + 0.0 * float(losses.detach().mean()))  # a number read: the GPU must be waited for

    weights = []
    for kind, compile in ((mk.ProtoNet, False), (Reader, True)):
        torch.manual_seed(1)
        learner = kind(convnet()).double().to(DEVICE)
        step = OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1), compile=compile)
        with pytest.warns(UserWarning, match="not possible here") if compile else contextlib.nullcontext():
            step(batch.to(DEVICE))
        step(batch.to(DEVICE))
        weights.append([p.detach().cpu() for p in learner.parameters()])
    assert_same(*weights)


def test_a_chunk_changes_nothing(batch):
    weights = []
    for chunk in (None, 1, 3):
        learner = made("MAML").to(DEVICE)
        step = OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1), chunk=chunk)
        weights.append([torch.tensor(step(batch.to(DEVICE))), *(p.detach().cpu() for p in learner.parameters())])
    assert_same(weights[0], weights[1])
    assert_same(weights[0], weights[2])


def data(**options):
    return mk.tasks.Glyphs(4, 10, 6, size=12, seed=0, **options)


TASKS = {
    "sinusoids": lambda: mk.tasks.Sinusoids(),
    "lines": lambda: mk.tasks.LinearRegression(),
    "all classes": lambda: mk.tasks.Pooled(data(), rows=8),
    "episodes": lambda: mk.tasks.Episodes(data(), 3, 1, 2),
    "within, changed": lambda: mk.tasks.Episodes(
        data(), 3, 1, 2, within="alphabet", drawers="different", augment=mk.tasks.Augment()
    ),
    "data that lie there": lambda: mk.tasks.Episodes(data(device=DEVICE).rotations(), 3, 1, 2),
}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_drawn_there_and_the_same_seed_draws_the_same(name):
    tasks = TASKS[name]()
    one, two = (tasks.sample(4, generator=torch.Generator(DEVICE).manual_seed(5), device=DEVICE) for _ in range(2))
    other = tasks.sample(4, seed=6, device=DEVICE)
    for a, b, c in zip(one.tensors, two.tensors, other.tensors, strict=True):
        assert a.device.type == b.device.type == c.device.type == DEVICE
        assert torch.equal(a, b)
    assert not torch.equal(one.query_x, other.query_x)
    assert one.query_x.isfinite().all()


def test_a_cpu_generator_draws_the_tasks_of_the_cpu():
    tasks = TASKS["within, changed"]()
    here = tasks.sample(4, seed=5)
    there = tasks.sample(4, generator=torch.Generator().manual_seed(5), device=DEVICE)
    torch.testing.assert_close(there.query_x.cpu(), here.query_x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ["MAML", "MAML, residual", "ProtoNet", "Reptile"])
def test_it_learns(name, precision):
    learner = made(name).float()
    tasks = mk.tasks.Episodes(data(), 3, 2, 3)
    history = mk.fit(learner, tasks, steps=120, meta_batch=8, device=DEVICE, autocast=precision, progress=False)
    assert next(learner.parameters()).device.type == DEVICE
    first, last = sum(history.loss[:20]), sum(history.loss[-20:])
    assert last < 0.9 * first


def test_a_resumed_run_goes_on_as_the_uncut_one(tmp_path):
    options = {"meta_batch": 4, "device": DEVICE, "progress": False, "schedule": "CosineAnnealingLR"}
    tasks, learners = mk.tasks.Sinusoids(), []
    for cuts in ([20], [8, 20]):
        torch.manual_seed(0)
        learner = mk.MAML(mk.models.MLP(1, [20], 1))
        for end in cuts:
            callback = (lambda run, end=end: run.stop() if run.step == end else None) if end < 20 else None
            file = tmp_path / f"{len(cuts)}.pt"
            mk.fit(learner, tasks, steps=20, checkpoint=file, resume=True, callback=callback, **options)
        learners.append([p.detach().cpu() for p in learner.parameters()])
    assert_same(*learners, rtol=1e-4, atol=1e-6)


def test_what_was_saved_there_is_loaded_here(tmp_path, batch):
    learner = made("ProtoNet").to(DEVICE)
    mk.save(learner, tmp_path / "learner.pt")
    loaded, rows = mk.load(tmp_path / "learner.pt"), (batch.support_x, batch.support_y, batch.query_x)
    assert next(loaded.parameters()).device.type == "cpu"
    there = learner.predict(*(row.to(DEVICE) for row in rows)).cpu()
    torch.testing.assert_close(loaded.predict(*rows), there, rtol=1e-7, atol=1e-9)


def test_learners_are_compared_on_the_very_same_tasks():
    torch.manual_seed(0)
    learner = mk.ProtoNet(convnet()).to(DEVICE)
    tasks = mk.tasks.Episodes(data(device=DEVICE), 3, 1, 2)
    table = mk.compare({"one": learner, "two": copy.deepcopy(learner)}, tasks, n_tasks=20, seeds=2)
    assert "one" in str(table)


def test_views_and_whitening():
    torch.manual_seed(0)
    x, y = torch.rand(60, 1, 12, 12, dtype=torch.float64), torch.arange(60) % 6
    embedding = mk.models.ResNet(**RESNET, frame=True).double()
    better = mk.models.Whitened(mk.models.Views(embedding), embedding.features)
    here = copy.deepcopy(better).estimate(x, y)(x).detach()
    there = better.to(DEVICE).estimate(x.to(DEVICE), y.to(DEVICE))(x.to(DEVICE)).detach().cpu()
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-7)


def test_the_command_line_trains_and_judges(tmp_path):
    model = tmp_path / "model.pt"
    words = ["train", "sinusoid", "--steps", 5, "--test-tasks", 10, "--device", DEVICE, "--save", model]
    for line in (words, ["evaluate", model, "sinusoid"]):
        result = CliRunner().invoke(app, [str(word) for word in line])
        assert result.exit_code == 0, result.output
    assert "inner steps" in result.output
