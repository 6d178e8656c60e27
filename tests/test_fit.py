"""The outer loop: the same run from the same seed, cut and resumed, stopped, interrupted, diverged."""

import copy
import math
import os
import signal
import threading

import pytest
import torch

import metakit as mk

TASKS = mk.tasks.Sinusoids(shots=5, queries=5)


def make_learner(seed=0):
    torch.manual_seed(seed)
    return mk.MAML(mk.models.MLP(1, [8, 8], 1), rule=mk.SGD(lr=0.01), steps=1)


def fit(learner, **options):
    return mk.fit(learner, TASKS, **({"steps": 12, "meta_batch": 4, "progress": False} | options))


def weights_of(learner):
    return torch.cat([p.detach().flatten() for p in learner.parameters()])


def make_image_learner():
    torch.manual_seed(0)
    return mk.MAML(mk.models.ConvNet(size=8, width=4, blocks=2, outputs=3), rule=mk.SGD(lr=0.1))


def image_tasks():
    images = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return mk.tasks.Episodes((images, torch.arange(24) % 4), 3, 1, 2)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("images", [False, True], ids=["sinusoids", "images"])
def test_the_outer_step_is_the_optimisers_step_on_the_mean_loss(images, optimizer):
    make, tasks = (make_image_learner, image_tasks()) if images else (make_learner, TASKS)
    ours, theirs = make(), make()
    options = {"steps": 3, "meta_batch": 4, "optimizer": optimizer, "lr": 0.01, "seed": 5, "progress": False}
    mk.fit(ours, tasks, chunk=3, **options)
    plain, generator = optimizer(theirs.parameters(), lr=0.01), torch.Generator().manual_seed(5)
    for _ in range(3):
        plain.zero_grad()
        theirs(tasks.sample(4, generator=generator)).mean().backward()
        plain.step()
    torch.testing.assert_close(weights_of(ours), weights_of(theirs), rtol=1e-4, atol=1e-5)


def image_learners(dtype=torch.float32):
    """Each kind of learner on images, with either norm, in a form whose answer does not hang on a tie."""
    torch.manual_seed(0)
    net = mk.models.ConvNet(size=8, width=8, blocks=2, outputs=3, frame=True)
    yield mk.MAML(net, rule=mk.SGD(lr=0.1), steps=2).to(dtype)
    for distance in ("euclidean", "cosine"):
        embedding = mk.models.ResNet(size=8, widths=[8, 16], depths=[1, 0], frame=True)
        yield mk.ProtoNet(embedding, distance=distance).to(dtype)
    yield mk.Matching(mk.models.ConvNet(size=8, width=8, blocks=2)).to(dtype)
    yield mk.Ridge(mk.models.ConvNet(size=8, width=8, blocks=2)).to(dtype)


@pytest.mark.parametrize("kind", range(5), ids=["maml", "prototypes", "cosine", "matching", "ridge"])
def test_bfloat16_changes_the_gradient_a_little_and_only_the_gradient(kind):
    gradients = []
    for autocast in (None, torch.bfloat16):
        learner = list(image_learners())[kind]
        before = weights_of(learner)
        sgd = torch.optim.SGD(learner.parameters(), lr=1.0)
        loss = mk.outer.OuterStep(learner, sgd, autocast=autocast)(image_tasks().sample(4, seed=0))
        assert {p.dtype for p in learner.parameters()} == {torch.float32}
        gradients.append((before - weights_of(learner), loss))
    (exact, loss), (rounded, near) = gradients
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-5 < error < 0.3, "products in bfloat16 have 8 bits"
    assert near == pytest.approx(loss, rel=0.02)


class Shift(torch.nn.Module):
    """An embedding that multiplies nothing, so that autocast leaves it alone."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(4))

    def forward(self, x):
        return x + self.weight


@pytest.mark.parametrize(
    "learner",
    [mk.ProtoNet(Shift()), mk.ProtoNet(Shift(), distance="cosine"), mk.Matching(Shift()), mk.Ridge(Shift())],
    ids=["euclidean", "cosine", "matching", "ridge"],
)
def test_under_autocast_distances_stay_exact(learner):
    """They are small differences of large numbers, which 8 bits would drown."""
    x, y = 100 + torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6)[None] % 3
    batch = mk.TaskBatch(x, y, x + 0.01, y)
    exact = next(iter(learner.outputs(batch)))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(next(iter(learner.outputs(batch))), exact)


def test_under_autocast_a_frame_stays_exact():
    x = torch.rand(6, 1, 28, 28)
    with torch.autocast("cpu", torch.bfloat16):
        framed = mk.nn.Frame()(x)
    assert torch.equal(framed, mk.nn.Frame()(x))


def test_the_learning_rate_does_not_change_its_meaning_with_the_meta_batch():
    one, many = make_learner(), make_learner()
    batch = TASKS.sample(1, seed=0)
    repeated = mk.TaskBatch(*(t.expand(6, *t.shape[1:]) for t in batch.tensors))
    for learner, tasks in ((one, batch), (many, repeated)):
        mk.outer.OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1))(tasks)
    torch.testing.assert_close(weights_of(one), weights_of(many))


def test_meta_training_learns():
    learner = make_learner()
    before = mk.evaluate(learner, TASKS, n_tasks=400, steps=1, seed=9).loss
    fit(learner, steps=400, meta_batch=10, lr=3e-3)
    after = mk.evaluate(learner, TASKS, n_tasks=400, steps=1, seed=9).loss
    assert_lower(after[:, 1], before[:, 1])
    assert_lower(after[:, 1], after[:, 0])


def assert_lower(a, b):
    """The same tasks, so the interval of their difference: its far end must be on the right side of zero."""
    difference = b - a
    assert difference.mean() - 1.96 * difference.std() / len(difference) ** 0.5 > 0


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    histories = [fit(make_learner(), seed=seed) for seed in (3, 3, 4)]
    assert histories[0].loss == histories[1].loss
    assert histories[0].loss != histories[2].loss


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
@pytest.mark.parametrize("cut", [1, 5, 11])
def test_a_run_cut_and_resumed_is_bit_identical_to_one_uncut(tmp_path, cut, optimizer):
    options = {"optimizer": optimizer, "lr": 0.01, "seed": 2, "validate_every": 4}
    whole, cut_short = make_learner(), make_learner()
    uncut = fit(whole, **options)
    path = tmp_path / "run.pt"
    fit(cut_short, checkpoint=path, callback=lambda run: run.stop() if run.step == cut else None, **options)
    resumed = make_learner(seed=99)
    history = fit(resumed, checkpoint=path, resume=True, **options)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert history.loss == uncut.loss and history.validation == uncut.validation
    assert (history.steps, history.ended) == (12, "steps spent")


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    class Killed(BaseException):
        pass

    def kill(run):
        if run.step == 8:
            raise Killed

    path = tmp_path / "run.pt"
    whole, killed, resumed = make_learner(), make_learner(), make_learner(seed=1)
    fit(whole)
    with pytest.raises(Killed):
        fit(killed, checkpoint=path, checkpoint_every=3, callback=kill)
    assert mk.files.read_checkpoint(path, "run")["loss"].__len__() == 6
    fit(resumed, checkpoint=path, resume=True)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_dropout_resumes_too(tmp_path):
    def make():
        torch.manual_seed(0)
        layers = mk.nn.Linear(1, 8), torch.nn.Dropout(0.5), mk.nn.Linear(8, 1)
        return mk.MAML(torch.nn.Sequential(*layers))

    whole, resumed, path = make(), make(), tmp_path / "run.pt"
    fit(whole)
    cut_short = make()
    fit(cut_short, checkpoint=path, callback=lambda run: run.stop() if run.step == 5 else None)
    torch.rand(3)
    fit(resumed, checkpoint=path, resume=True)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_a_checkpoint_is_whole_or_not_written(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    fit(make_learner(), checkpoint=path)
    before = path.read_bytes()

    def full(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"could not be written.*The file from before is untouched"):
        fit(make_learner(), checkpoint=path, steps=20, resume=True)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_is_data_only(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    path = tmp_path / "run.pt"
    torch.save({"kind": "run", "learner": Evil()}, path)
    with pytest.raises(ValueError, match="damaged or not a metakit file"):
        fit(make_learner(), checkpoint=path, resume=True)


def test_ctrl_c_ends_at_a_steps_edge_and_keeps_the_history(tmp_path):
    path, learner = tmp_path / "run.pt", make_learner()

    def interrupt(run):
        if run.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    history = fit(learner, checkpoint=path, callback=interrupt)
    assert (history.steps, history.ended) == (4, "interrupted")
    assert signal.getsignal(signal.SIGINT) is before
    resumed = make_learner()
    fit(resumed, checkpoint=path, resume=True)
    whole = make_learner()
    fit(whole)
    assert torch.equal(weights_of(whole), weights_of(resumed))


def test_a_run_in_a_thread_can_be_stopped():
    results, started = [], threading.Event()
    live = []

    def watch(run):
        live.append(run)
        started.set()

    thread = threading.Thread(target=lambda: results.append(fit(make_learner(), steps=100_000, callback=watch)))
    thread.start()
    assert started.wait(10)
    live[0].stop()
    thread.join(10)
    assert not thread.is_alive()
    assert results[0].ended == "stopped" and results[0].steps < 100_000


def test_a_target_ends_the_run():
    history = fit(make_learner(), steps=50, target=1e6, validate_every=5)
    assert (history.steps, history.ended) == (5, "target reached")
    step, mean, half = history.validation[0]
    assert step == 5 and mean < 1e6 and half > 0
    assert fit(make_learner(), steps=10, target=0.0).ended == "steps spent"


def test_validation_does_not_change_the_run():
    assert fit(make_learner()).loss == fit(make_learner(), validate_every=3).loss


class Poisoned:
    """Sinusoids whose fifth meta-batch holds NaN."""

    def __init__(self):
        self.drawn = 0

    def sample(self, n_tasks, *, generator=None, device=None):
        self.drawn += 1
        batch = TASKS.sample(n_tasks, generator=generator, device=device)
        if self.drawn == 5:
            batch.query_y[0] = torch.nan
        return batch


def test_nan_stops_with_the_step_and_keeps_the_last_good_weights():
    learner, good = make_learner(), make_learner()
    with pytest.raises(mk.DivergedError, match=r"outer step 5 the loss was nan. Lower the outer lr") as caught:
        mk.fit(learner, Poisoned(), steps=10, meta_batch=4, progress=False)
    assert caught.value.history.steps == 4
    fit(good, steps=4)
    assert torch.equal(weights_of(learner), weights_of(good))


def test_a_diverging_gradient_stops_before_it_reaches_the_weights():
    learner = mk.MAML(mk.models.MLP(1, [8, 8], 1), rule=mk.SGD(lr=1e3), steps=30)
    with pytest.raises(mk.DivergedError):
        fit(learner, steps=50)
    assert torch.isfinite(weights_of(learner)).all()


def test_the_optimiser_follows_the_learners_kind():
    reptile = mk.Reptile(mk.models.MLP(1, [8], 1), steps=2)
    twin = copy.deepcopy(reptile)
    fit(reptile, steps=1, seed=1)
    batch = TASKS.sample(4, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    twin(batch).mean().backward()
    optimizer.step()
    torch.testing.assert_close(weights_of(reptile), weights_of(twin))


def test_compile_gives_the_same_run():
    plain, compiled = make_learner(), make_learner()
    fit(plain)
    fit(compiled, compile=True)
    torch.testing.assert_close(weights_of(plain), weights_of(compiled), rtol=1e-4, atol=1e-6)


def test_compile_takes_classes_and_tasks_that_lie_apart_in_memory():
    """More rows than classes: the products that the compiler is given turned feed a view."""
    x, y = torch.rand(4, 15, 2), torch.arange(15).remainder(3).expand(4, 15)
    apart = mk.TaskBatch(x[:, :6], y[:, :6], x[:, 6:], y[:, 6:])
    batches = [mk.TaskBatch(*(t.clone() for t in apart.tensors)), apart]
    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        learner = mk.MAML(mk.models.MLP(2, [4], 3))
        step = mk.outer.OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1), compile=compile)
        losses = [step(batch) for batch in batches]
        weights.append(torch.cat([torch.tensor(losses), weights_of(learner)]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-6)


def test_where_compile_is_impossible_it_says_so_once_and_goes_on():
    class Stubborn(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(1))

        def forward(self, batch):
            scale = float(self.w.detach())  # a number read from a weight: nothing that can be traced
            return scale * (self.w * batch.query_x - batch.query_y).square().flatten(1).mean(1)

    plain, compiled = Stubborn(), Stubborn()
    fit(plain, steps=3)
    with pytest.warns(UserWarning, match="compile=True is not possible here") as warned:
        fit(compiled, steps=3, compile=True)
    assert len(warned) == 1
    assert torch.equal(plain.w, compiled.w)


@pytest.mark.parametrize("work", ["draw", "step", "judge"])
def test_small_tasks_are_worked_on_by_one_thread(work, two_threads, monkeypatch):
    """Two threads with one core between them wait for each other at every operation."""
    seen, sine = [], torch.Tensor.sin_
    monkeypatch.setattr(torch.Tensor, "sin_", lambda x: (seen.append(torch.get_num_threads()), sine(x))[1])
    learner = make_learner()
    learner.loss = lambda *sides: (seen.append(torch.get_num_threads()), mk.inner.task_loss(*sides))[1]
    batch = TASKS.sample(4, seed=0)
    seen.clear()
    if work == "draw":
        TASKS.sample(4, seed=0)
    elif work == "step":
        mk.outer.OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.01))(batch)
    else:
        mk.evaluate(learner, batch)
    assert set(seen) == {1} and torch.get_num_threads() == 2


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpu_gives_the_run_of_the_cpu(compile):
    batches = [TASKS.sample(4, seed=i) for i in range(5)]
    weights = []
    for device in ("cpu", "cuda"):
        learner = make_learner().to(device)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
        outer_step = mk.outer.OuterStep(learner, optimizer, compile=compile and device == "cuda")
        for batch in batches:
            outer_step(batch.to(device))
        weights.append(weights_of(learner).cpu())
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-5)


@pytest.mark.gpu
def test_images_on_a_gpu_give_the_losses_of_the_cpu():
    torch.manual_seed(0)
    x, y = torch.rand(4, 10, 1, 28, 28), torch.arange(10).remainder(5).expand(4, 10)
    batch = mk.TaskBatch(x, y, x.flip(1), y.flip(1))
    learner = mk.MAML(mk.models.ConvNet(width=16, outputs=5), rule=mk.SGD(0.1), steps=2)
    grads = []
    for device in ("cpu", "cuda"):
        moved = copy.deepcopy(learner).to(device).double()
        moved(batch.to(device, torch.float64)).mean().backward()
        grads.append([p.grad.cpu() for p in moved.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


SCHEDULES = torch.optim.lr_scheduler


def rates_of(**options):
    """The outer rate at each step of a run, and after it."""
    learner = make_learner()
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.01, momentum=0.5)
    rates = [0.01]
    fit(learner, optimizer=optimizer, callback=lambda run: rates.append(optimizer.param_groups[0]["lr"]), **options)
    return rates


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("CosineAnnealingLR", lambda o: SCHEDULES.CosineAnnealingLR(o, T_max=12)),
        ("OneCycleLR", lambda o: SCHEDULES.OneCycleLR(o, max_lr=0.01, total_steps=12)),
        ("LinearLR", lambda o: SCHEDULES.LinearLR(o, total_iters=12)),
        ("PolynomialLR", lambda o: SCHEDULES.PolynomialLR(o, total_iters=12)),
    ],
)
def test_a_schedule_by_name_is_torchs_own_over_the_steps_of_the_run(name, theirs):
    ours, twin = make_learner(), make_learner()
    fit(ours, schedule=name, optimizer=torch.optim.AdamW, lr=0.01, seed=4)
    optimizer = torch.optim.AdamW(twin.parameters(), lr=0.01, fused=True)
    fit(twin, schedule=theirs, optimizer=optimizer, seed=4)
    assert torch.equal(weights_of(ours), weights_of(twin))
    constant = make_learner()
    fit(constant, optimizer=torch.optim.AdamW, lr=0.01, seed=4)
    assert not torch.equal(weights_of(ours), weights_of(constant))


def test_a_schedule_made_by_a_callable_moves_once_a_step():
    rates = rates_of(schedule=lambda o: SCHEDULES.StepLR(o, step_size=4, gamma=0.1), steps=8)
    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 4 + [1e-4])


@pytest.mark.parametrize("schedule", ["CosineAnnealingLR", "OneCycleLR", lambda o: SCHEDULES.ExponentialLR(o, 0.9)])
@pytest.mark.parametrize("cut", [1, 7, 11])
def test_a_schedule_resumes_to_the_bit(tmp_path, cut, schedule):
    options = {"schedule": schedule, "lr": 0.01, "seed": 2, "keep": "best", "validate_every": 3}
    whole, resumed, path = make_learner(), make_learner(seed=9), tmp_path / "run.pt"
    uncut = fit(whole, **options)
    fit(make_learner(), checkpoint=path, callback=lambda run: run.stop() if run.step == cut else None, **options)
    history = fit(resumed, checkpoint=path, resume=True, **options)
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert history.loss == uncut.loss and history.validation == uncut.validation


class Clock:
    """Time that passes only when it is told to."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("metakit.outer.run.time", clock)
    return clock


def waiting(clock, seconds):
    """A callback that takes its time."""

    def wait(run):
        clock.now += seconds

    return wait


def test_a_run_ends_when_its_time_is_spent(clock):
    history = mk.fit(make_learner(), TASKS, minutes=1, meta_batch=2, progress=False, callback=waiting(clock, 7))
    assert (history.steps, history.ended, history.seconds) == (10, "time spent", 70)
    history = fit(make_learner(), minutes=1, steps=4, callback=waiting(clock, 7))
    assert (history.steps, history.ended) == (4, "steps spent")


def test_a_resumed_run_goes_on_with_the_seconds_already_used(clock, tmp_path):
    options = {"minutes": 1, "steps": None, "checkpoint": tmp_path / "run.pt"}
    stop = waiting(clock, 7)
    fit(make_learner(), callback=lambda run: (stop(run), run.stop() if run.step == 5 else None), **options)
    clock.now += 1000
    history = fit(make_learner(), resume=True, callback=waiting(clock, 7), **options)
    assert (history.steps, history.ended, history.seconds) == (10, "time spent", 70)
    assert fit(make_learner(), resume=True, **options).steps == 10


def test_a_schedule_by_name_follows_the_share_of_time(clock):
    learner = make_learner()
    optimizer, seen = torch.optim.SGD(learner.parameters(), lr=1e-3), []

    def watch(run):
        seen.append((run.progress, optimizer.param_groups[0]["lr"]))
        clock.now += 6

    fit(learner, steps=None, minutes=1, optimizer=optimizer, schedule="CosineAnnealingLR", callback=watch)
    assert [progress for progress, _ in seen] == pytest.approx([k / 10 for k in range(11)])
    for progress, rate in seen:
        assert rate == pytest.approx(1e-3 * (1 + math.cos(math.pi * progress)) / 2, abs=2e-6)


def test_progress_is_that_of_steps_or_time_whichever_is_further(clock):
    seen = []
    fit(make_learner(), steps=4, minutes=1, callback=lambda run: seen.append(run.progress) or waiting(clock, 18)(run))
    assert seen == pytest.approx([0.25, 0.5, 0.75, 1.0])
    seen.clear()
    fit(make_learner(), steps=40, minutes=1, callback=lambda run: seen.append(run.progress) or waiting(clock, 18)(run))
    assert seen == pytest.approx([0.025, 0.3, 0.6, 0.9, 1.0])


@pytest.fixture
def scripted(monkeypatch):
    """Let validations give the losses or accuracies of a list, in turn."""

    def script(scores, *, accuracy=False):
        left = iter(scores)

        def told(learner, tasks, *, n_tasks, seed):
            value = torch.full((n_tasks, 1), next(left))
            return mk.Evaluation(value, value if accuracy else None, "inductive")

        monkeypatch.setattr("metakit.outer.state.evaluate", told)

    return script


@pytest.mark.parametrize(
    ("scores", "accuracy", "best"),
    [
        ([4.0, 2.0, 3.0, 2.0], False, 2),
        ([0.4, 0.2, 0.9, 0.3], True, 3),
        ([math.nan, 5.0, 6.0, math.nan], False, 2),
        ([1.0, 2.0, 3.0, 4.0], False, 1),
    ],
)
def test_the_best_validated_weights_are_kept(scripted, tmp_path, scores, accuracy, best):
    kept, seen, path = make_learner(), [], tmp_path / "run.pt"
    scripted(scores, accuracy=accuracy)
    options = {"keep": "best", "validate_every": 3, "checkpoint": path}
    fit(kept, callback=lambda run: seen.append(weights_of(kept).clone()), **options)
    assert torch.equal(weights_of(kept), seen[3 * best - 1])
    resumed = make_learner(seed=5)  # a run that is over and resumed ends as it did
    fit(resumed, resume=True, **options)
    assert torch.equal(weights_of(kept), weights_of(resumed))
    last = make_learner()  # the checkpoint holds the last weights too, to go on from
    fit(last, resume=True, **(options | {"keep": "last"}))
    assert torch.equal(weights_of(last), seen[-1])


def test_patience_ends_a_run_that_does_not_improve(scripted):
    scripted([5.0, 4.0, 4.0, 4.5, 3.0])
    history = fit(make_learner(), validate_every=1, patience=2)
    assert (history.steps, history.ended) == (4, "no improvement")
    scripted([0.1, 0.2, 0.2, 0.3, 0.3, 0.3], accuracy=True)
    assert fit(make_learner(), validate_every=1, patience=2).steps == 6


def test_a_target_of_accuracy_is_reached_from_below(scripted):
    scripted([0.5, 0.7, 0.9, 1.0], accuracy=True)
    history = fit(make_learner(), validate_every=1, target=0.8)
    assert (history.steps, history.ended) == (3, "target reached")


WRONG_RUNS = {
    "no end": ({"steps": None}, "give steps=, minutes=, or both"),
    "no time": ({"minutes": 0}, "minutes must be a positive number, got 0"),
    "no patience": ({"patience": 0}, "patience must be a positive whole number"),
    "keeping the worst": ({"keep": "worst"}, 'keep must be "last" or "best", got \'worst\''),
    "half precision": ({"autocast": torch.float16}, "autocast must be torch.bfloat16 or left out"),
    "a schedule of no name": ({"schedule": "Cosine"}, "lr_scheduler, got 'Cosine'"),
    "a function that is no schedule": ({"schedule": "warn"}, "must name a class of"),
    "a schedule that needs more": ({"schedule": "StepLR"}, "StepLR needs step_size, which the length"),
    "a schedule that measures": ({"schedule": "ReduceLROnPlateau"}, "needs a measure at each step"),
}


@pytest.mark.parametrize(("options", "message"), WRONG_RUNS.values(), ids=WRONG_RUNS)
def test_a_run_that_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(make_learner(), **options)


def test_a_callable_that_makes_no_schedule_is_refused():
    with pytest.raises(TypeError, match="must return a scheduler of torch, got int"):
        fit(make_learner(), schedule=lambda optimizer: 3)


def test_a_resumed_run_keeps_its_schedule(tmp_path):
    path = tmp_path / "run.pt"
    fit(make_learner(), checkpoint=path, schedule="CosineAnnealingLR")
    learner = make_learner(seed=3)
    before = weights_of(learner).clone()
    for changes, message in (
        ({"schedule": None}, "was made with a schedule"),
        ({"schedule": "LinearLR"}, "schedule of name CosineAnnealingLR, this one has LinearLR"),
        ({"steps": 20}, "schedule of ticks 12, this one has 20"),
    ):
        options = {"schedule": "CosineAnnealingLR"} | changes
        with pytest.raises(ValueError, match=message):
            fit(learner, checkpoint=path, resume=True, **options)
    assert torch.equal(weights_of(learner), before)
