"""Bad input is refused where it enters, by an error that gives the rule, the value received and the next move."""

import warnings

import pytest
import torch

import metakit as mk

SINUSOIDS = mk.tasks.Sinusoids(shots=3, queries=3)
X = torch.zeros(2, 4, 1)
CLASSES = torch.zeros(2, 4, dtype=torch.int64)
NAN = torch.full((2, 4, 1), torch.nan)


def maml(**options):
    return mk.MAML(mk.models.MLP(1, [4], 1), **options)


def batch(**changes):
    return mk.TaskBatch(**({"support_x": X, "support_y": X, "query_x": X, "query_y": X} | changes))


def strided_nested():
    with warnings.catch_warnings(action="ignore"):  # torch's, that this kind goes out of use
        return torch.nested.nested_tensor([X[0], X[0, :2]])


def image_batch(ways=3, size=8, channels=1):
    x, y = torch.rand(2, 6, channels, size, size), torch.arange(6).remainder(ways).expand(2, 6)
    return mk.TaskBatch(x, y, x, y)


def convnet(outputs=3):
    return mk.models.ConvNet(size=8, width=2, blocks=1, outputs=outputs)


def fit(learner=None, tasks=SINUSOIDS, **options):
    return mk.fit(learner or maml(), tasks, **({"steps": 1, "progress": False} | options))


def saved_run(path, model):
    mk.fit(mk.MAML(model), SINUSOIDS, steps=1, progress=False, checkpoint=path)
    return path


def resume(path, learner):
    return fit(learner, checkpoint=path, resume=True)


WRONG = {
    # batches of tasks
    "a list for a tensor": (lambda: batch(support_x=[[1.0]]), TypeError, "support_x must be a torch.Tensor, got list"),
    "one task without its dimension": (
        lambda: batch(support_x=X[0]),
        ValueError,
        r"One task\? Add a leading dimension",
    ),
    "labels without a task dimension": (lambda: batch(support_y=CLASSES[0]), ValueError, r"support_y\[None\]"),
    "an empty set": (lambda: batch(query_x=X[:, :0], query_y=X[:, :0]), ValueError, "query_x must not be empty"),
    "unequal numbers of tasks": (lambda: batch(query_x=X[:1], query_y=X[:1]), ValueError, "same number of tasks T"),
    "unequal numbers of rows": (lambda: batch(query_y=X[:, :3]), ValueError, "as many rows; got 4 and 3"),
    "rows of another shape": (lambda: batch(query_x=torch.zeros(2, 4, 2)), ValueError, "rows of one shape and dtype"),
    "rows of another dtype": (lambda: batch(query_x=X.double()), ValueError, "rows of one shape and dtype"),
    "truth values as inputs": (
        lambda: batch(support_x=X > 0, query_x=X > 0),
        ValueError,
        r"got torch.bool. Convert it: support_x.float\(\)",
    ),
    "a nested tensor": (
        lambda: batch(support_x=torch.nested.nested_tensor([X[0], X[0, :2]], layout=torch.jagged)),
        ValueError,
        r"support_x must be a dense tensor, got a nested one.*TaskBatch.pad\(\[batch, ...\]\)",
    ),
    "an older nested tensor": (
        lambda: batch(query_y=strided_nested()),
        ValueError,
        "query_y must be a dense tensor, got a nested one",
    ),
    "a sparse tensor": (lambda: batch(query_x=X.to_sparse()), ValueError, r"got a sparse one.*to_dense\(\)"),
    "real targets without outputs": (
        lambda: batch(support_y=X[..., 0], query_y=X[..., 0]),
        ValueError,
        r"\[T, rows, outputs\] .* got \[2, 4\]. One output\? support_y\[..., None\]",
    ),
    "real targets of pictures": (
        lambda: batch(support_y=X[..., None], query_y=X[..., None]),
        ValueError,
        r"support_y.flatten\(2\)",
    ),
    "a mask of numbers": (lambda: batch(support_mask=X[..., 0]), ValueError, r"support_mask must be bool \[T, rows\]"),
    "a mask of other rows": (
        lambda: batch(query_mask=torch.ones(2, 3, dtype=torch.bool)),
        ValueError,
        "query_x and query_mask must have as many rows; got 4 and 3",
    ),
    "a task without a real row": (
        lambda: batch(query_mask=torch.tensor([[True] * 4, [False] * 4])),
        ValueError,
        "query_mask must leave every task a row; task 1 has none",
    ),
    "labels where there is no row": (
        lambda: batch(support_y=CLASSES, query_y=CLASSES + 1, query_mask=torch.tensor([[True, True, False, True]] * 2)),
        ValueError,
        "query_y must be 0 where query_mask is False",
    ),
    "class numbers of other tasks": (
        lambda: batch(support_y=CLASSES, query_y=CLASSES, classes=CLASSES),
        ValueError,
        r"classes must be int64 \[2, 1\] on cpu, got torch.int64 \[2, 4\]",
    ),
    "class numbers as a list": (
        lambda: batch(support_y=CLASSES, query_y=CLASSES, classes=[0, 0]),
        TypeError,
        "classes must be a torch.Tensor, got list",
    ),
    "no batch to put together": (lambda: mk.TaskBatch.pad([]), ValueError, "got none. Give it at least one"),
    "something else to put together": (lambda: mk.TaskBatch.pad([X]), TypeError, "got Tensor in it"),
    "batches of other rows to put together": (
        lambda: mk.TaskBatch.pad([batch(), image_batch()]),
        ValueError,
        r"must be alike; got rows \[1\] torch.float32, targets \[1\].*and rows \[1, 8, 8\].*targets \[\] torch.int64",
    ),
    "targets of two kinds": (lambda: batch(query_y=CLASSES), ValueError, "targets of one shape and dtype"),
    "another device": (lambda: batch(query_x=X.to("meta")), ValueError, "support_x is on cpu, query_x on meta"),
    "NaN inputs": (lambda: batch(support_x=NAN), ValueError, "task 0 holds NaN or infinity"),
    "infinite targets": (lambda: batch(query_y=X / 0), ValueError, "query_y must be finite"),
    "labels as int32": (lambda: batch(support_y=CLASSES.int(), query_y=CLASSES.int()), ValueError, "as int64, got"),
    "negative labels": (
        lambda: batch(support_y=CLASSES - 1, query_y=CLASSES),
        ValueError,
        "class numbers from 0, got -1",
    ),
    "one-hot labels": (
        lambda: batch(support_y=CLASSES[..., None], query_y=CLASSES[..., None]),
        ValueError,
        r"must be \[T, rows\]",
    ),
    "a task beyond the last": (lambda: batch()[2], IndexError, "below 2, the number of tasks; got 2"),
    # models
    "no units": (lambda: mk.models.MLP(1, [0], 1), ValueError, "at least 1, got 0"),
    "an unknown activation": (lambda: mk.models.MLP(1, [4], 1, activation="sine"), ValueError, "one of relu, tanh"),
    "an image too small": (lambda: mk.models.ConvNet(size=8, blocks=4), ValueError, "Use 3 blocks at most"),
    "a negative width": (lambda: mk.models.ConvNet(width=-1), ValueError, "width must be at least 1, got -1"),
    # inner rules
    "a negative rate": (lambda: mk.SGD(lr=-0.1), ValueError, "lr must be a finite number that is not negative"),
    "an infinite rate": (lambda: mk.LearnedSGD(lr=float("inf")), ValueError, "got inf"),
    "momentum of one": (lambda: mk.Momentum(momentum=1.0), ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    "an unknown kind of rate": (lambda: mk.LearnedSGD(per="layer"), ValueError, '"weight" or "tensor"'),
    # learners
    "something else than a model": (lambda: mk.MAML(lambda x: x), TypeError, "torch.nn.Module, got function"),
    "a model without weights": (lambda: mk.MAML(torch.nn.ReLU()), ValueError, "nothing to learn"),
    "a layer that remembers its tasks": (
        lambda: mk.MAML(torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4))),
        ValueError,
        r"layer '1' \(BatchNorm1d\) keeps running statistics",
    ),
    "a lazy layer": (lambda: mk.MAML(torch.nn.LazyLinear(4)), ValueError, "has no weights yet"),
    "third order": (lambda: maml(order=3), ValueError, r"order must be 2 .* got 3"),
    "negative steps": (lambda: maml(steps=-1), ValueError, "whole number of inner steps, 0 or more; got -1"),
    "half a step": (lambda: maml(steps=0.5), ValueError, "got 0.5"),
    "a rule that is a number": (lambda: maml(rule=0.01), TypeError, r"such as mk.SGD\(lr=0.01\), got 0.01"),
    "a layer that is not there": (lambda: maml(adapt="tail"), ValueError, "The layers are: head, linear1"),
    "no layer to adapt": (lambda: maml(adapt=[]), ValueError, "adapt must name a layer"),
    "an unknown protocol": (lambda: maml(protocol="both"), ValueError, "transductive, inductive, got 'both'"),
    "Reptile with a learned rule": (
        lambda: mk.Reptile(mk.models.MLP(1, [4], 1), rule=mk.LearnedSGD()),
        ValueError,
        "needs MAML",
    ),
    "a tuple for a batch": (lambda: maml()((X, X, X, X)), TypeError, "takes a TaskBatch, got tuple"),
    "a batch of another dtype": (lambda: maml().double()(batch()), ValueError, "the batch holds torch.float32"),
    "a batch on another device": (lambda: maml().to("meta")(batch()), ValueError, "is on cpu, the model on meta"),
    "rows too wide": (
        lambda: maml()(batch(support_x=torch.zeros(2, 4, 3), query_x=torch.zeros(2, 4, 3))),
        ValueError,
        r"takes rows of 1 numbers, got rows of shape \[3\]",
    ),
    "images too large": (lambda: mk.MAML(convnet())(image_batch(size=9)), ValueError, r"takes images \[1, 8, 8\]"),
    "more ways than outputs": (lambda: mk.MAML(convnet(2))(image_batch()), ValueError, "too few for a 3-way task"),
    "targets too wide": (
        lambda: maml()(batch(support_y=X.expand(2, 4, 3), query_y=X.expand(2, 4, 3))),
        ValueError,
        "Give the model as many outputs",
    ),
    "prototypes of numbers": (lambda: mk.ProtoNet(mk.models.MLP(1, [4], 2))(batch()), ValueError, "use MAML"),
    "a class beyond the ways": (
        lambda: mk.TaskBatch(X, CLASSES, X, CLASSES + 2, ways=2),
        ValueError,
        "ways must be above every class number, got 2 and a class 2. Leave it out",
    ),
    "a class without support": (
        lambda: mk.ProtoNet(mk.models.MLP(1, [4], 2))(batch(support_y=CLASSES, query_y=CLASSES + 1)),
        ValueError,
        "class 1 of task 0 has no support row",
    ),
    "a loss of every row": (
        lambda: maml(loss=torch.nn.MSELoss(reduction="none"), steps=0)(batch()),
        ValueError,
        r"one number per task, shape \[1\], got \[4, 1\]",
    ),
    "a prediction without rows": (
        lambda: maml().predict(X[0], X[0], X[0, :0]),
        ValueError,
        "query_x must not be empty",
    ),
    "a prediction from NaN": (lambda: maml().predict(NAN, X, X), ValueError, "support_x must be finite"),
    # outer loop and evaluation
    "no steps": (lambda: fit(steps=0), ValueError, "steps must be a positive whole number, got 0"),
    "an empty meta-batch": (lambda: fit(meta_batch=0), ValueError, "meta_batch must be a positive whole number"),
    "a zero rate": (lambda: fit(lr=0.0), ValueError, "lr must be a positive number"),
    "a negative chunk": (lambda: fit(chunk=-1), ValueError, "chunk must be a positive whole number"),
    "tasks that cannot be drawn": (lambda: fit(tasks=[1, 2]), TypeError, r"tasks must have sample"),
    "tasks that take no generator": (
        lambda: fit(tasks=type("Own", (), {"sample": lambda self, n_tasks: SINUSOIDS.sample(n_tasks)})()),
        TypeError,
        r"sample\(T, generator=, device=\), but that of Own takes \(n_tasks\)",
    ),
    "a function for a learner": (lambda: fit(learner=lambda b: b), TypeError, "learner must be a module"),
    "a rate beside a made optimiser": (
        lambda: (lambda m: fit(m, optimizer=torch.optim.SGD(m.parameters(), lr=1.0), lr=1.0))(maml()),
        ValueError,
        "lr must be left out",
    ),
    "no validation step": (lambda: fit(validate_every=0), ValueError, "validate_every must be a positive"),
    "resuming from nowhere": (lambda: fit(resume=True), ValueError, "resume=True needs checkpoint="),
    "evaluation on one task": (lambda: mk.evaluate(maml(), SINUSOIDS, n_tasks=1), ValueError, "at least 2"),
    "evaluation by another protocol": (
        lambda: mk.evaluate(maml(), SINUSOIDS, protocol="honest"),
        ValueError,
        "got 'honest'",
    ),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_refused_with_a_reason(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = saved_run(tmp_path / "run.pt", mk.models.MLP(1, [4], 1))
    with pytest.raises(ValueError, match=r"is of another model: it holds a MAML.*differ in model.head.weight"):
        resume(path, mk.MAML(mk.models.MLP(1, [5], 1)))
    with pytest.raises(ValueError, match="it holds a MAML, this is a Reptile"):
        resume(path, mk.Reptile(mk.models.MLP(1, [4], 1)))


@pytest.mark.parametrize("keep", [0, 10, 0.5])
def test_a_truncated_checkpoint_is_refused(tmp_path, keep):
    path = saved_run(tmp_path / "run.pt", mk.models.MLP(1, [4], 1))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep) if keep < 1 else keep])
    with pytest.raises(ValueError, match=r"run.pt is damaged or not a metakit file"):
        resume(path, maml())


def test_a_file_of_another_kind_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="must hold a metakit run, but holds None"):
        resume(tmp_path / "other.pt", maml())


def test_inductive_answers_from_a_layer_that_cannot_give_them_are_refused():
    layers = torch.nn.Linear(1, 4), torch.nn.BatchNorm1d(4, track_running_stats=False), torch.nn.Linear(4, 1)
    learner = mk.MAML(torch.nn.Sequential(*layers))
    with pytest.raises(ValueError, match=r"layer '1' \(BatchNorm1d\) normalises query rows together"):
        learner.predict(X, X, X)
    assert mk.learners.predict(learner, X, X, X, protocol="transductive").shape == (2, 4, 1)
