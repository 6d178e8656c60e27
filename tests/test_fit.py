"""The outer loop: the same run from the same seed, cut and resumed, stopped, interrupted, diverged."""

import copy
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


def test_the_learning_rate_does_not_change_its_meaning_with_the_meta_batch():
    one, many = make_learner(), make_learner()
    batch = TASKS.sample(1, seed=0)
    repeated = mk.TaskBatch(*(t.expand(6, *t.shape[1:]) for t in batch.tensors))
    for learner, tasks in ((one, batch), (many, repeated)):
        mk.step.OuterStep(learner, torch.optim.SGD(learner.parameters(), lr=0.1))(tasks)
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
    assert mk.checkpoint.read_checkpoint(path, "run")["loss"].__len__() == 6
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


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler, about its own parts
def test_compile_gives_the_same_run():
    plain, compiled = make_learner(), make_learner()
    fit(plain)
    fit(compiled, compile=True)
    torch.testing.assert_close(weights_of(plain), weights_of(compiled), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
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


@pytest.mark.gpu
@pytest.mark.parametrize("compile", [False, True])
def test_a_gpu_gives_the_run_of_the_cpu(compile):
    batches = [TASKS.sample(4, seed=i) for i in range(5)]
    weights = []
    for device in ("cpu", "cuda"):
        learner = make_learner().to(device)
        optimizer = torch.optim.SGD(learner.parameters(), lr=0.01)
        outer_step = mk.step.OuterStep(learner, optimizer, compile=compile and device == "cuda")
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
