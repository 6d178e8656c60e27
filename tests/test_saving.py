"""A trained learner goes into a file and comes back the same, or is refused before anything is written."""

import os

import pytest
import torch
from torch import nn

import metakit as mk


def images(outputs=None):
    return mk.models.ConvNet(size=8, width=4, blocks=2, outputs=outputs)


def curve():
    return mk.models.MLP(1, [8, 8], 1, activation="tanh")


def small_resnet():
    return mk.models.ResNet(size=8, widths=[8, 8], depths=[1, 0], frame=True)


def whitened_views():
    views = mk.models.Views(small_resnet(), turn=5.0, shear=0.1, rounds=2)
    rows = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    return mk.models.Whitened(views, 32, shrink=2.0).estimate(rows, torch.arange(12) % 4)


RULES = {
    "sgd": mk.SGD(0.1),
    "momentum": mk.Momentum(0.1, momentum=0.8),
    "rmsprop": mk.RMSProp(0.02, decay=0.9, eps=1e-6),
    "adam": mk.Adam(0.02, betas=(0.8, 0.99)),
    "a rate per weight": mk.LearnedSGD(0.1),
    "a rate per tensor and step": mk.LearnedSGD(0.1, per="tensor", per_step=True),
}
LEARNERS = {
    **{f"maml by {name}": (lambda rule=rule: mk.MAML(curve(), rule=rule, steps=2)) for name, rule in RULES.items()},
    "maml on images": lambda: mk.MAML(images(3), steps=3, order=1, protocol="inductive"),
    "anil": lambda: mk.MAML(images(3), rule=mk.SGD(0.3), adapt="head"),
    "reptile": lambda: mk.Reptile(curve(), rule=mk.Adam(0.01), steps=3),
    "maml++": lambda: mk.MultiStep(
        mk.MAML(images(3), rule=RULES["a rate per tensor and step"], steps=2), anneal_steps=7
    ),
    "fine-tuned": lambda: mk.FineTune(images(3), rule=mk.Adam(0.01), steps=2, adapt="head"),
    "prototypes": lambda: mk.ProtoNet(images()),
    "cosine prototypes": lambda: mk.ProtoNet(images(), distance="cosine", protocol="inductive"),
    "residual prototypes": lambda: mk.ProtoNet(small_resnet()),
    "refined prototypes": lambda: mk.ProtoNet(images(), distance="cosine", centred=True, refine=2),
    "whitened views": lambda: mk.ProtoNet(whitened_views(), distance="cosine"),
    "matching": lambda: mk.Matching(images(), scale=3.0, learn_scale=False),
    "ridge": lambda: mk.Ridge(images(), penalty=0.5, scale=2.0),
    "ridge on curves": lambda: mk.Ridge(mk.models.MLP(1, [8], 6)),
    "neighbour": lambda: mk.NearestNeighbour(),
}


def tasks_for(learner):
    if any(isinstance(module, mk.models.MLP) for module in learner.modules()):
        return mk.tasks.Sinusoids(shots=5, queries=4)
    data = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return mk.tasks.Episodes((data, torch.arange(24) % 4), 3, 1, 2)


@pytest.mark.parametrize("name", LEARNERS)
def test_a_loaded_learner_is_the_saved_one_to_the_bit(name, tmp_path):
    torch.manual_seed(0)
    learner = LEARNERS[name]()
    tasks = tasks_for(learner)
    if name != "neighbour":
        mk.fit(learner, tasks, steps=3, meta_batch=2, progress=False)
    mk.save(learner, tmp_path / "learner.pt")
    state = torch.get_rng_state()
    loaded = mk.load(tmp_path / "learner.pt")
    assert torch.equal(state, torch.get_rng_state())
    assert repr(loaded) == repr(learner) and loaded.protocol == learner.protocol
    batch = tasks.sample(3, seed=1)
    for protocol in mk.learners.PROTOCOLS:
        for ours, theirs in zip(
            learner.outputs(batch, None, protocol), loaded.outputs(batch, None, protocol), strict=True
        ):
            assert torch.equal(ours, theirs)
    assert torch.equal(learner.predict(*batch.tensors[:3]), loaded.predict(*batch.tensors[:3]))
    if name != "neighbour":  # it goes on learning as the saved one does
        runs = [mk.fit(each, tasks, steps=2, meta_batch=2, progress=False).loss for each in (learner, loaded)]
        assert runs[0] == runs[1]


def test_double_precision_is_kept(tmp_path):
    mk.save(mk.ProtoNet(images()).double(), tmp_path / "learner.pt")
    assert {p.dtype for p in mk.load(tmp_path / "learner.pt").parameters()} == {torch.float64}


def test_a_small_network_takes_less_than_a_megabyte(tmp_path):
    mk.save(mk.MAML(mk.models.ConvNet(width=32, outputs=5), rule=mk.LearnedSGD(0.4)), tmp_path / "learner.pt")
    assert (tmp_path / "learner.pt").stat().st_size < 1_000_000


class Own(nn.Linear):
    """A network of the user's own."""


def own_loss(outputs, targets):
    return mk.inner.task_loss(outputs, targets)


def with_another_head():
    model = images(3)
    model.head = nn.Identity()
    return mk.ProtoNet(model)


def with_another_activation():
    model = curve()
    model.tanh1 = nn.ReLU()
    return mk.MAML(model)


UNFIT = {
    "an own model": (lambda: mk.MAML(Own(1, 1)), "model is a Own, which is not one of MLP, ConvNet"),
    "an own rule": (lambda: mk.MAML(curve(), rule=OwnRule()), "rule is a OwnRule, which is not one of"),
    "an own loss": (lambda: mk.MAML(curve(), loss=own_loss), "loss is 'own_loss', code of your own"),
    "a lambda": (lambda: mk.Ridge(images(), loss=lambda a, b: own_loss(a, b)), "loss is '<lambda>', code of your own"),
    "a module as loss": (lambda: mk.Ridge(images(), loss=nn.MSELoss()), "loss is a MSELoss"),
    "an own learner": (lambda: Own(1, 1), "the learner is a Own"),
    "another head": (with_another_head, "this ProtoNet was changed after it was made"),
    "another activation": (with_another_activation, "this MAML was changed after it was made"),
}


class OwnRule(nn.Module):
    def init_state(self, weights):
        return None

    def step(self, weights, grads, state, k):
        return weights, None


@pytest.mark.parametrize(("make", "message"), UNFIT.values(), ids=UNFIT)
def test_what_a_file_cannot_carry_is_refused_before_anything_is_written(make, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        mk.save(make(), tmp_path / "new" / "learner.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(tmp_path):
    mk.save(mk.ProtoNet(images()), tmp_path / "learner.pt")
    return tmp_path / "learner.pt"


@pytest.mark.parametrize("keep", [0, 1, 10, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, keep):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"learner.pt is damaged or not a metakit file"):
        mk.load(saved)


def test_no_flipped_byte_loads_as_something_else_without_a_word(saved):
    whole, expected = saved.read_bytes(), mk.load(saved).state_dict()
    refused = 0
    for place in range(0, len(whole), 7):
        saved.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            loaded = mk.load(saved).state_dict()
        except ValueError:
            refused += 1
        else:  # the byte was that which tells that there is a checksum
            assert all(torch.equal(expected[name], loaded[name]) for name in expected)
    assert refused > len(whole) // 7 - 3


def change(path, **changes):
    torch.save(torch.load(path, weights_only=True) | changes, path)


def spoil(path, **options):
    learner = torch.load(path, weights_only=True)["learner"]
    learner["options"] |= options
    change(path, learner=learner)


FOREIGN = {
    "another kind of record": (lambda p: change(p, kind="run"), "must hold a metakit learner, but holds 'run'"),
    "a list": (lambda p: torch.save([1], p), "must hold a metakit learner, but holds 'list'"),
    "a later format": (lambda p: change(p, format=2), r"has format 2, this metakit reads 1. Update metakit"),
    "an unknown learner": (lambda p: change(p, learner={"module": "Oracle", "options": {}}), "holds a Oracle, which"),
    "no learner": (lambda p: change(p, learner=None), "is damaged"),
    "a number for a learner": (lambda p: change(p, learner=3), "is damaged"),
    "an unknown option": (lambda p: spoil(p, depth=3), "is damaged: .*unexpected keyword argument 'depth'"),
    "an option out of range": (lambda p: spoil(p, distance="l1"), "is damaged: distance must be one of"),
    "weights that are missing": (lambda p: change(p, weights={}), "is damaged: .*Missing key"),
    "no weights": (lambda p: change(p, weights=None), "is damaged"),
    "weights of another width": (
        lambda p: change(p, weights=mk.ProtoNet(mk.models.ConvNet(size=8, width=5, blocks=2)).state_dict()),
        "is damaged: .*size mismatch",
    ),
    "text": (lambda p: p.write_text("hello"), "is damaged or not a metakit file"),
}


@pytest.mark.parametrize(("spoil_file", "message"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused_with_a_reason(saved, spoil_file, message):
    spoil_file(saved)
    with pytest.raises(ValueError, match=rf"(?s)learner.pt {message}"):
        mk.load(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.pt"):
        mk.load(tmp_path / "none.pt")


def test_nothing_in_a_file_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"kind": "learner", "format": 1, "learner": Evil(), "weights": {}}, tmp_path / "learner.pt")
    with pytest.raises(ValueError, match="damaged or not a metakit file"):
        mk.load(tmp_path / "learner.pt")
    assert not (tmp_path / "executed").exists()


def test_a_learner_saved_over_another_replaces_it_whole_or_not(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="The file from before is untouched"):
        mk.save(mk.ProtoNet(images()), saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == ["learner.pt"]
