"""The explorers of the lesson on agents: the reader's own trial, and a goal to be found, at every end of a slider."""

import itertools

import pytest
import torch
from matplotlib.figure import Figure

import metakit as mk
from metakit import widgets
from metakit.agents.gradient import GaussianPolicy, PolicyMAML
from metakit.contracts import REGRET
from metakit.widgets.bandits import SameArms, drawn_arms, rivals

CLASSICAL = ("Thompson sampling", "UCB1", "Gittins index")


def labels(ax):
    return ax.get_legend_handles_labels()[1]


def game(agent=None, **values):
    explorer = widgets.BanditExplorer(agent)
    for name, value in values.items():
        explorer.controls[name].value = value
    return explorer


@pytest.fixture
def undrawn(monkeypatch):
    """Bandits whose pictures stay empty: what is shown is tested by itself."""
    monkeypatch.setattr(widgets.BanditExplorer, "draw", staticmethod(lambda fig, record: None))


def drawn(record):
    fig = Figure()
    widgets.BanditExplorer.draw(fig, record)
    return fig.axes


def navigator():
    torch.manual_seed(0)
    return PolicyMAML(GaussianPolicy(2, 2, hidden=(8,), std=0.1), episodes=6)


# --- The bandit. ---


def test_what_an_arm_pays_is_settled_before_it_is_pulled(undrawn):
    means, pays = drawn_arms(4, 20, 3)
    assert pays.shape == (4, 20) and torch.equal(means, drawn_arms(4, 20, 3)[0])
    explorer = widgets.BanditExplorer()
    record = explorer.compute(arms=4, pulls=20, seed=3, pulled=(2, 0, 2, 2, 1))
    assert record.paid == tuple(int(pays[arm, n]) for arm, n in ((2, 0), (0, 0), (2, 1), (2, 2), (1, 0)))
    assert torch.equal(record.means, means) and not record.over
    paid = torch.tensor([record.paid[1], record.paid[4], sum(record.paid[i] for i in (0, 2, 3)), 0])
    assert record.beliefs.successes.tolist() == paid.tolist()
    assert record.beliefs.failures.tolist() == (torch.tensor([1, 1, 3, 0]) - paid).tolist()


def test_arms_pay_as_often_as_their_chances_say():
    means, pays = drawn_arms(10, 20_000, 0)
    assert ((pays.float().mean(1) - means).abs() < 4 * 0.5 / 20_000**0.5).all()


def test_the_reader_is_told_his_regret_and_his_place(undrawn):
    explorer = widgets.BanditExplorer()
    means, pays = drawn_arms(3, 10, 1)
    worst = int(means.argmin())
    record = explorer.compute(arms=3, pulls=10, seed=1, pulled=(worst,) * 10)
    gap = float(means.max() - means.min())
    torch.testing.assert_close(record.lost, gap * torch.arange(1.0, 11))
    assert record.over and record.table[-1] == ("you", float(pays[worst].sum()), pytest.approx(10 * gap, rel=1e-5))
    assert f"lost {10 * gap:.1f}, place {len(record.table)} of {len(record.table)} by regret" in str(record)
    assert f"the best arm was {int(means.argmax()) + 1}, with a chance of {float(means.max()):.2f}" in str(record)


def test_the_others_play_the_very_same_arms():
    means = torch.tensor([0.2, 0.9, 0.4])
    record = rivals({"mine": mk.ArmsAgent()}, means, 20, replays=300)
    assert record.names == (*CLASSICAL, "mine") and record.worlds == 300
    # Total paid and regret have to agree: pulls times the best chance, but for luck of at most 0.5 a pull.
    error = 0.5 * (20 / 300) ** 0.5
    for name in record.names:
        assert abs(record.returns[name] + record.lost[name] - 18) < 5 * error
    judged = mk.evaluate(mk.ArmsAgent(), SameArms(means, 20).sample(300), seed=7).scores[REGRET][:, -1]
    mean, half = float(judged.mean()), 3 * float(judged.std()) / 300**0.5
    assert abs(record.lost["mine"] - mean) < 2 * half


def test_the_exact_player_plays_short_trials_and_no_long_ones():
    means = torch.tensor([0.2, 0.8])
    assert rivals({}, means, 10, replays=5).names == (*CLASSICAL, "exact optimum")
    assert rivals({}, means, 11, replays=5).names == CLASSICAL


def test_a_click_is_a_pull_and_the_last_one_ends_the_trial(undrawn):
    explorer = game(arms=3, pulls=10)
    for i in range(9):
        explorer.buttons[i % 3].click()
    assert explorer.record.pulled == (0, 1, 2) * 3 and "pull 9 of 10: arm 3 paid" in str(explorer.record)
    assert explorer.table.value == "" and not explorer.buttons[0].disabled
    explorer.buttons[2].click()
    assert explorer.record.over and all(each.disabled for each in explorer.buttons)
    assert "<b>" not in explorer.table.value and "font-weight:bold'><td>you" in explorer.table.value
    explorer.pull(0)
    assert len(explorer.record.pulled) == 10 and explorer.error is None


def test_as_many_buttons_as_arms_are_shown(undrawn):
    explorer = game(arms=4)
    assert [each.layout.display for each in explorer.buttons] == [""] * 4 + ["none"] * 6
    explorer.pull(7)
    assert explorer.record.pulled == ()


@pytest.mark.parametrize("change", [{"arms": 5}, {"pulls": 20}, {"seed": 9}])
def test_another_trial_begins_anew(change, undrawn):
    explorer = game(arms=3, pulls=10)
    explorer.pull(1)
    for name, value in change.items():
        explorer.controls[name].value = value
    assert explorer.record.pulled == () and explorer.error is None
    explorer.pull(0)
    assert explorer.record.pulled == (0,)


def test_what_is_shown_may_change_within_a_trial():
    explorer = game(arms=3, pulls=10)
    explorer.pull(1)
    for name in ("beliefs", "regret"):
        before = explorer._view.picture.value
        explorer.controls[name].value = not explorer.controls[name].value
        assert explorer._view.picture.value != before and explorer.record.pulled == (1,)


def test_the_button_draws_other_arms(undrawn):
    explorer = game(arms=3, pulls=10)
    before = explorer.record
    explorer.pull(1)
    next(child for child in explorer.widget.children if getattr(child, "description", "") == "New trial").click()
    assert not torch.equal(explorer.record.means, before.means) and explorer.record.pulled == ()


def test_every_end_of_every_control_of_the_bandit():
    explorer = widgets.BanditExplorer(mk.ArmsAgent())
    for arms, pulls in itertools.product((2, 10), (10, 100)):
        for beliefs, regret, pulled in itertools.product(
            (True, False), (True, False), ((), (1,), (0, 1) * (pulls // 2))
        ):
            record = explorer.compute(arms=arms, pulls=pulls, beliefs=beliefs, regret=regret, pulled=pulled)
            assert record.rivals.regret.isfinite().all() and str(record) and record.over == (len(pulled) == pulls)
    for name, value in {"arms": 2, "pulls": 100, "beliefs": False, "regret": True, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None, name
        assert name == "regret" or explorer._view.picture.value != before, name
    assert "learned agent" in explorer.record.rivals.names


def test_the_true_chances_and_the_regret_are_told_at_the_end():
    explorer = widgets.BanditExplorer({"A": mk.ArmsAgent()})

    def shown(*pulled, **options):
        record = explorer.compute(arms=3, pulls=10, pulled=pulled, **options)
        return record, *drawn(record)

    record, left, right = shown(0, 1, 2)
    assert labels(left) == ["posterior mean"] and right.get_ylabel() == "paid so far"
    assert [label.split(":")[0] for label in labels(right)] == [*CLASSICAL, "A", "exact optimum", "you"]
    assert right.lines[-1].get_ydata() == pytest.approx([sum(record.paid[:k]) for k in (1, 2, 3)])
    assert right.lines[1].get_ydata() == pytest.approx(record.rivals.paid[1].tolist())
    record, _, right = shown(0, 1, 2, regret=True)
    assert right.get_ylabel() == "regret so far" and right.lines[-1].get_ydata() == pytest.approx(record.lost.tolist())
    record, left, right = shown(*[0, 1] * 5)
    assert labels(left) == ["posterior mean", "true chance"] and right.get_ylabel() == "regret so far"
    assert left.lines[1].get_ydata() == pytest.approx(record.means.tolist())
    assert right.lines[1].get_ydata() == pytest.approx(record.rivals.regret[1].tolist())
    record, left, _ = shown(*[0, 1] * 5, beliefs=False)
    assert labels(left) == ["paid", "did not pay"] and "true chances" in left.get_title()
    assert [text.get_text() for text in left.texts] == [f"{mean:.2f}" for mean in record.means.tolist()]


def test_a_failure_is_told(undrawn):
    explorer = widgets.BanditExplorer(mk.RL2(3))  # made for three arms, and there are ten
    assert isinstance(explorer.error, ValueError) and "RL2 was made for 3 actions" in str(explorer.error)
    explorer.pull(0)
    assert all(each.disabled for each in explorer.buttons)
    explorer.controls["arms"].value = 3
    explorer.pull(0)
    assert explorer.error is None and explorer.record.pulled == (0,)


def test_the_others_play_once_in_a_trial(undrawn):
    counted = []

    class Spy(mk.ArmsAgent):
        def begin(self, *told):
            counted.append(told)
            return super().begin(*told)

    explorer = game(Spy(), arms=3, pulls=10)
    before = len(counted)
    explorer.pull(0)
    explorer.pull(1)
    assert len(counted) == before and before <= 3


# --- Navigation. ---


def test_every_end_of_every_control_of_the_navigator():
    explorer = widgets.NavigationExplorer(navigator())
    ends = {name: (c.min, c.max) for name, c in explorer.controls.items() if name not in ("seed", "y")}
    for x, steps, factor in itertools.product(*ends.values()):
        record = explorer.compute(x=x, y=0.5, steps=steps, factor=factor)
        assert record.paths.shape == (steps + 1, 6, 101, 2) and record.returns.isfinite().all() and str(record)
    for name, value in {"x": -0.5, "y": 0.5, "steps": 3, "factor": 4.0, "seed": 7}.items():
        before = explorer._view.picture.value
        explorer.controls[name].value = value
        assert explorer.error is None and explorer._view.picture.value != before, name
    assert explorer.record.goal.tolist() == [-0.5, 0.5] and explorer.record.factor == 4.0


def test_the_picture_of_the_paths_says_what_it_shows():
    explorer = widgets.NavigationExplorer(navigator())
    left, right = explorer.static().axes
    assert labels(left) == ["before adaptation", "after 1 inner step", "start", "goal"]
    assert left.lines[-1].get_xydata()[0].tolist() == pytest.approx([0.3, -0.2])
    assert right.get_ylabel() == "return of an episode" and right.get_xlabel() == "inner step"
    next(child for child in explorer.widget.children if child.description == "Other noise").click()
    assert explorer.controls["seed"].value == 1
