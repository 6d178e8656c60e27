"""Learners compared on the same episodes: paired, by formula, and against numbers made by hand."""

import copy

import pytest
import torch

import metakit as mk
from metakit import plots


def tasks():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 1, 6, generator=generator)
    data = mk.tasks.LabelledData(centres + torch.randn(8, 12, 6, generator=generator))
    return mk.tasks.Episodes(data, 4, 1, 3)


def embedding(seed=0):
    torch.manual_seed(seed)
    return mk.models.MLP(6, [8], 6)


def test_all_see_the_same_episodes_and_differences_are_paired():
    pixels, prototypes = mk.NearestNeighbour(), mk.ProtoNet(embedding())
    result = mk.compare({"pixels": pixels, "prototypes": prototypes}, tasks(), n_tasks=60, seeds=2)
    theirs = {}
    for name, learner in (("pixels", pixels), ("prototypes", prototypes)):
        each = [mk.evaluate(learner, tasks(), n_tasks=60, seed=seed, protocol="inductive") for seed in (1, 2)]
        theirs[name] = torch.cat([one.accuracy[:, -1] for one in each])
        assert torch.equal(result.scores[name], theirs[name][None])
    best = max(theirs, key=lambda name: theirs[name].mean())
    (other,) = {*theirs} - {best}
    assert result.reference == best and result.episodes == 120
    gap = theirs[other] - theirs[best]
    assert result.difference(other) == pytest.approx((gap.mean().item(), 1.959964 * gap.std().item() / 120**0.5))
    assert result.difference(best) == (0, 0)
    assert result.mean(best)[0] == pytest.approx(theirs[best].mean().item())


def test_a_twin_differs_by_nothing_though_each_mean_is_uncertain():
    learner = mk.ProtoNet(embedding())
    result = mk.compare({"one": learner, "twin": copy.deepcopy(learner)}, tasks(), n_tasks=40, seeds=1)
    assert result.difference("twin") == (0, 0) and result.mean("twin")[1] > 0.01


def test_copies_are_averaged_in_each_episode_and_told_one_by_one():
    learners = {"prototypes": [mk.ProtoNet(embedding(seed)) for seed in range(3)], "pixels": mk.NearestNeighbour()}
    result = mk.compare(learners, tasks(), n_tasks=30, seeds=1, reference="pixels")
    assert result.scores["prototypes"].shape == (3, 30) and result.reference == "pixels"
    alone = [mk.evaluate(each, tasks(), n_tasks=30, seed=1).mean()[-1].item() for each in learners["prototypes"]]
    assert result.copies("prototypes") == pytest.approx(alone)
    assert result.mean("prototypes")[0] == pytest.approx(sum(alone) / 3)
    assert ", ".join(f"{100 * score:.2f}" for score in alone) in str(result)


def test_of_losses_the_lowest_is_best():
    learners = {f"{steps} steps": mk.MAML(mk.models.MLP(1, [8], 1), steps=steps) for steps in (0, 1)}
    losses = mk.compare(learners, mk.tasks.Sinusoids(), n_tasks=50, seeds=1)
    assert not losses.accuracy
    assert losses.reference == min(learners, key=lambda name: losses.mean(name)[0])
    assert "loss" in str(losses) and "%)" not in str(losses)


def test_the_protocol_is_named_as_it_was():
    images = mk.tasks.Episodes((torch.rand(24, 1, 8, 8), torch.arange(24) % 4), 3, 1, 2)
    learners = {"prototypes": mk.ProtoNet(mk.models.ConvNet(size=8, width=4, blocks=2))}
    for protocol in mk.learners.PROTOCOLS:
        assert mk.compare(learners, images, n_tasks=5, seeds=1, protocol=protocol).protocol == protocol
    bare = {"pixels": mk.NearestNeighbour()}
    assert mk.compare(bare, images, n_tasks=5, seeds=1, protocol="transductive").protocol == "inductive"


RECORD = mk.Comparison(
    {"a": torch.tensor([[0.9, 0.8, 1.0], [0.9, 1.0, 0.8]]), "long name": torch.tensor([[0.7, 0.7, 0.8]])},
    "a",
    True,
    "inductive",
)


def test_the_table_reads_well():
    assert str(RECORD).splitlines() == [
        "learner     accuracy (%)    minus a          copies",
        "a           90.00 +- 0.00   -                90.00, 90.00",
        "long name   73.33 +- 6.53   -16.67 +- 6.53   1",
        "3 episodes, the same for all; 95% intervals over episodes; inductive",
    ]


@pytest.mark.parametrize("difference", [False, True])
def test_the_picture_shows_what_the_record_holds(difference):
    fig, ax = plots.figure()
    plots.draw_comparison(ax, RECORD, difference=difference)
    means = [100 * (RECORD.difference(name) if difference else RECORD.mean(name))[0] for name in RECORD.scores]
    assert [float(box.lines[0].get_xdata()[0]) for box in ax.containers] == pytest.approx(means)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "long name"]
    assert ax.get_xlabel() == ("accuracy (%) minus that of a" if difference else "accuracy (%), inductive")
    assert plots.png(fig).startswith(b"\x89PNG")


WRONG = {
    "nobody": (lambda: mk.compare({}, tasks()), "needs a learner for each name"),
    "no copies": (lambda: mk.compare({"a": []}, tasks()), "needs a learner for each name"),
    "no seeds": (lambda: mk.compare({"a": mk.NearestNeighbour()}, tasks(), seeds=0), "seeds must be a positive"),
    "a stranger": (
        lambda: mk.compare({"a": mk.NearestNeighbour()}, tasks(), reference="b"),
        "reference must be one of a, got 'b'",
    ),
    "two devices": (
        lambda: mk.compare({"a": mk.ProtoNet(embedding()), "b": mk.ProtoNet(embedding()).to("meta")}, tasks()),
        "stand on cpu and meta",
    ),
    "another protocol": (
        lambda: mk.compare({"a": mk.NearestNeighbour()}, tasks(), protocol="honest"),
        "got 'honest'",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused_with_a_reason(call, message):
    with pytest.raises(ValueError, match=message):
        call()
