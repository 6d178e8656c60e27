"""A trained learner goes into a file and comes back the same, or is refused before anything is written."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import metakit as mk
from metakit.saving import saved


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
    "an own model": (lambda: mk.MAML(Own(1, 1)), "model is 'Own', which cannot be saved: it does not say how it is"),
    "an own rule": (lambda: mk.MAML(curve(), rule=OwnRule()), "rule is 'OwnRule', which .* with @mk.saved; or keep"),
    "an own loss": (lambda: mk.MAML(curve(), loss=own_loss), "loss is 'own_loss', which cannot be saved"),
    "a lambda": (lambda: mk.Ridge(images(), loss=lambda a, b: own_loss(a, b)), "loss is '<lambda>', which cannot"),
    "an own learner": (lambda: Own(1, 1), "the learner is 'Own', which"),
    "options without names": (lambda: mk.ProtoNet(nn.LSTM(3, 4)), r"embedding is 'LSTM', which .*: LSTM takes \*args"),
    "an option that is not kept": (lambda: Forgetful(8), r"keep its option 'width'; write self.width = width in"),
    "another head": (with_another_head, "this ProtoNet was changed after it was made"),
    "another activation": (with_another_activation, "this MAML was changed after it was made"),
}


@saved
class Forgetful(nn.Linear):
    def __init__(self, width):
        super().__init__(1, width)


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


# --- Classes of one's own. ---

TOWER = """
import torch, metakit as mk
from metakit.saving import saved
from torch import nn

@saved
class Tower(nn.Module):
    def __init__(self, stem, others=(), *, width: int, noise=0.5):
        super().__init__()
        self.stem, self.others, self.width, self.noise = stem, nn.ModuleList(others), width, noise
        self.top = nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(noise), nn.Linear(width, width))
        self.register_buffer("places", torch.arange(width) / width, persistent=False)

    def forward(self, x):
        return self.top(self.stem(x) + sum(other(x) for other in self.others) + self.places)

@saved(towers="both")
class Pair(nn.Module):
    def __init__(self, *, towers, loss=nn.functional.smooth_l1_loss):
        super().__init__()
        self.both, self.loss = nn.ModuleList(towers), loss

    def forward(self, batch):
        x, y = batch.query_x.flatten(1), batch.query_y.flatten(1)
        return sum(self.loss(tower(x), y, reduction="none").mean(1) for tower in self.both)
"""


def define(source=TOWER):
    names = {"__name__": "notebook"}
    exec(source, names)
    return names


def pair_of_towers():
    names = define()
    stems = [nn.Sequential(nn.Linear(5, 5), nn.Tanh()), mk.models.MLP(5, [4], 5)]
    towers = [names["Tower"](stem, [nn.Identity(), nn.Linear(5, 5, bias=False)], width=5) for stem in stems]
    return names["Pair"](towers=towers)


BATCH = mk.tasks.Sinusoids(shots=3, queries=5).sample(4, seed=3)


def test_a_network_of_ones_own_is_loaded_in_another_process(tmp_path):
    learner = pair_of_towers().eval()
    mk.save(learner, tmp_path / "pair.pt")
    load = f"mk.load({str(tmp_path / 'pair.pt')!r})"
    batch = "mk.tasks.Sinusoids(shots=3, queries=5).sample(4, seed=3)"
    run = [sys.executable, "-c", f"{TOWER}\nprint({load}({batch}).tolist())"]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert told.strip() == str(learner(BATCH).tolist())
    run[-1] = f"import metakit as mk\n{load}"
    error = subprocess.run(run, capture_output=True, text=True).stderr.splitlines()[-1]
    assert "holds a Pair, which is not known here. Define or import it, decorated with @mk.saved" in error


def test_a_loaded_network_is_frozen_resting_tied_and_precise_where_the_saved_one_was(tmp_path):
    learner = pair_of_towers().double()
    first, second = learner.both
    first.stem.requires_grad_(False)
    second.top[0].eval()
    mk.save(learner, tmp_path / "pair.pt")
    loaded = mk.load(tmp_path / "pair.pt")
    for ours, theirs in zip(learner.named_parameters(), loaded.named_parameters(), strict=True):
        assert ours[0] == theirs[0] and ours[1].requires_grad == theirs[1].requires_grad
        assert torch.equal(ours[1], theirs[1])
    assert [m.training for m in learner.modules()] == [m.training for m in loaded.modules()]


def test_tied_weights_stay_tied(tmp_path):
    @saved
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.there, self.back = nn.Linear(3, 3), nn.Linear(3, 3)
            self.back.weight = self.there.weight

    mk.save(Tied().double(), tmp_path / "tied.pt")
    loaded = mk.load(tmp_path / "tied.pt")
    assert loaded.back.weight is loaded.there.weight and loaded.back.weight.dtype == torch.float64


def test_a_cell_that_is_run_again_replaces_its_class(tmp_path):
    learner = pair_of_towers().eval()
    again = define()
    mk.save(learner, tmp_path / "pair.pt")
    loaded = mk.load(tmp_path / "pair.pt")
    assert type(loaded) is again["Pair"] and torch.equal(loaded(BATCH), learner(BATCH))


OF_TORCH = {
    "words": lambda: nn.Sequential(nn.Embedding(5, 3), nn.GELU(), nn.LayerNorm(3), nn.Linear(3, 2)),
    "pictures": lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False, padding="same"), nn.BatchNorm2d(2), nn.MaxPool2d(2)
    ),
    "a loss": lambda: mk.ProtoNet(nn.Linear(2, 2), loss=nn.functional.cross_entropy),
}


@pytest.mark.parametrize("make", OF_TORCH.values(), ids=OF_TORCH)
def test_layers_and_losses_of_torch_are_known(make, tmp_path):
    learner = make()
    mk.save(learner, tmp_path / "layers.pt")
    loaded = mk.load(tmp_path / "layers.pt")
    assert repr(loaded) == repr(learner) and vars(loaded).get("loss") is vars(learner).get("loss")
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(loaded.parameters(), learner.parameters(), strict=True)
    )


def test_a_loss_of_ones_own_is_saved_by_its_name(tmp_path):
    @saved
    def squared(outputs, targets):
        return (outputs - targets).square().flatten(1).mean(1)

    mk.save(mk.MAML(curve(), loss=squared), tmp_path / "maml.pt")
    assert mk.load(tmp_path / "maml.pt").loss is squared


def test_a_name_is_that_of_one_class_only():
    with pytest.raises(ValueError, match=r"the name MLP is taken by metakit.models.*MLP. Give mine.MLP another"):
        saved(type("MLP", (nn.Module,), {"__module__": "mine"}))


@pytest.mark.parametrize(
    ("make", "kept_as", "message"),
    [
        (lambda self, **options: None, {}, r"takes \*\*options, which has no names to be saved under"),
        (lambda self, width: None, {"depth": "layers"}, "has no option 'depth'. Its options: width"),
    ],
)
def test_a_constructor_whose_options_cannot_be_told_is_refused_at_once(make, kept_as, message):
    with pytest.raises(TypeError, match=message):
        saved(**kept_as)(type("Strange", (nn.Module,), {"__init__": make}))
    with pytest.raises(TypeError, match=r"<lambda> has no name to be saved under. Define it with def"):
        saved(make)


# --- Files. ---


@pytest.fixture
def file(tmp_path):
    mk.save(mk.ProtoNet(images()), tmp_path / "learner.pt")
    return tmp_path / "learner.pt"


@pytest.mark.parametrize("keep", [0, 1, 10, 0.2, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(file, keep):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match=r"learner.pt is damaged or not a metakit file"):
        mk.load(file)


def test_no_flipped_byte_loads_as_something_else_without_a_word(file):
    whole, expected = file.read_bytes(), mk.load(file).state_dict()
    refused = 0
    for place in range(0, len(whole), 7):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            loaded = mk.load(file).state_dict()
        except ValueError:
            refused += 1
        else:  # the byte was one of those between the members, which say nothing
            assert all(torch.equal(expected[name], loaded[name]) for name in expected)
    assert refused > len(whole) // 7 // 2


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
def test_a_foreign_file_is_refused_with_a_reason(file, spoil_file, message):
    spoil_file(file)
    with pytest.raises(ValueError, match=rf"(?s)learner.pt {message}"):
        mk.load(file)


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


def test_a_learner_saved_over_another_replaces_it_whole_or_not(file, monkeypatch):
    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="The file from before is untouched"):
        mk.save(mk.ProtoNet(images()), file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == ["learner.pt"]
