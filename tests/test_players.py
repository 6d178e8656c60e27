"""Players of bandits, held against closed forms, every outcome of short trials, and published totals."""

import itertools
import math
from fractions import Fraction

import pytest
import torch

import metakit as mk
from metakit.agents import exact
from metakit.agents.counts import Counting
from metakit.agents.exact import BayesOptimal
from metakit.agents.gittins import Gittins, gittins_index, gittins_tables
from metakit.agents.players import UCB1, Optimistic, Thompson
from metakit.agents.trial import play
from metakit.contracts import REGRET, RETURN
from metakit.tasks.bandits import BanditBatch

EVERY = [Thompson, UCB1, Optimistic, Gittins, BayesOptimal]


def exact_return(player, arms, pulls):
    """Expected return by going through every sequence of rewards: one trial for each, weighed by its chance."""
    sequences = torch.cartesian_prod(*[torch.arange(2.0)] * pulls)
    state = player.start(len(sequences), arms=arms, pulls=pulls)
    chance = torch.ones(len(sequences), dtype=torch.float64)
    torch.manual_seed(0)  # ties between arms alike; sequences that begin alike may break them otherwise
    for reward in sequences.T:
        action = player.act(state)
        pulled, paid = (state[name].double().gather(1, action[:, None])[:, 0] for name in ("pulled", "paid"))
        p = (paid + 1) / (pulled + 2)
        chance *= torch.where(reward == 1, p, 1 - p)
        state = player.observe(state, action, reward)
    assert abs(float(chance.sum()) - 1) < 1e-9
    return float((chance * sequences.sum(1)).sum())


def best_return(arms, left):
    """The optimum without a trick: arms in their order, fractions, every choice."""
    if left == 0:
        return Fraction(0)

    def worth(a):
        (s, n), p = arms[a], Fraction(arms[a][0] + 1, arms[a][1] + 2)
        after = [(*arms[:a], (s + paid, n + 1), *arms[a + 1 :]) for paid in (0, 1)]
        return p * (1 + best_return(after[1], left - 1)) + (1 - p) * best_return(after[0], left - 1)

    return max(worth(a) for a in range(len(arms)))


def expected(player, arms, pulls, n_tasks, seed=3):
    """Mean return over drawn bandits, its standard error, and that of a published total: the mean over 1,000 bandits.

    The luck of the draws is taken out of the mean, as far as it is known.
    """
    worlds = mk.tasks.Bandits(arms=arms, pulls=pulls).sample(n_tasks, seed=seed)
    torch.manual_seed(seed + 1)  # the numbers that drew the bandits may not draw their rewards
    played, _ = play(player, worlds)
    found, published = pulls * worlds.best + played.merits.sum(1), played.rewards.sum(1).std() / 1000**0.5
    luck = worlds.best - arms / (arms + 1)
    found = found - ((found - found.mean()) * luck).mean() / luck.var() * luck
    return float(found.mean()), float(found.std()) / n_tasks**0.5, float(published)


# --- The optimum. ---


@pytest.mark.parametrize(("arms", "pulls"), [(2, 1), (2, 2), (2, 4), (3, 4), (4, 3)])
def test_the_optimum_is_that_of_every_choice_gone_through(arms, pulls):
    assert BayesOptimal.value(arms, pulls) == pytest.approx(float(best_return(((0, 0),) * arms, pulls)), abs=1e-12)


def test_the_optimum_by_hand():
    # 1/2, then 2/3 after a success, and 1/2 from the other arm after a failure
    assert BayesOptimal.value(2, 2) == pytest.approx(1 / 2 + 1 / 2 * 2 / 3 + 1 / 2 * 1 / 2)


@pytest.mark.parametrize(("arms", "known"), [(5, 6.660), (10, 6.714), (50, 6.714)])
def test_the_optimum_of_ten_pulls_is_the_known_one(arms, known):
    assert BayesOptimal.value(arms, 10) == pytest.approx(known, abs=5e-4)


@pytest.mark.parametrize(("arms", "pulls"), [(2, 5), (3, 8), (5, 10), (12, 6)])
def test_the_optimal_player_earns_the_optimum(arms, pulls):
    assert exact_return(BayesOptimal(), arms, pulls) == pytest.approx(BayesOptimal.value(arms, pulls), abs=1e-9)


def test_nobody_earns_more_than_the_optimum_and_the_index_nearly_as_much():
    best = BayesOptimal.value(3, 9)
    index, bound, hope = (exact_return(player, 3, 9) for player in (Gittins(), UCB1(), Optimistic()))
    assert best - 0.05 < index < best + 1e-9
    assert max(bound, hope) < best + 1e-9 and min(bound, hope) > best - 0.3


def test_drawn_bandits_pay_the_optimum():
    mean, error, _ = expected(BayesOptimal(), 5, 10, 2000)
    assert abs(mean - 6.660) < 4 * error and error < 0.05


@pytest.mark.parametrize(("arms", "pulls"), [(2, 6), (3, 5), (5, 9), (20, 9)])
def test_states_are_counted_before_they_are_gone_through(arms, pulls):
    assert exact._states(min(arms, pulls), pulls) == len(exact._plan(min(arms, pulls), pulls).known)


# --- The Gittins index. ---


def gain(s, f, left, known, memory):
    """What pulling at least once gains on a known arm, in float64, one state at a time."""
    if left == 0:
        return 0.0
    if (s, f) not in memory:
        p = (s + 1) / (s + f + 2)
        rest = [max(0.0, gain(*then, left - 1, known, memory)) for then in ((s + 1, f), (s, f + 1))]
        memory[s, f] = p - known + p * rest[0] + (1 - p) * rest[1]
    return memory[s, f]


def exact_index(s, f, left):
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(s, f, left, middle, {}) > 0 else (low, middle)
    return low


@pytest.mark.parametrize("left", [1, 2, 3, 10, 25])
def test_the_index_is_where_the_gain_is_nothing(left):
    for s, f in [(0, 0), (1, 0), (0, 1), (2, 3), (9, 0), (0, 9), (13, 2)]:
        assert gittins_index(s, f, left) == pytest.approx(exact_index(s, f, left), abs=1e-3)


def test_the_index_by_hand():
    assert gittins_index(3, 1, 1) == pytest.approx(4 / 6, abs=1e-6)  # the last pull is worth the mean
    # 1/2 - l + 1/2 (2/3 - l) = 0; only after a success does one stay
    assert gittins_index(0, 0, 2) == pytest.approx(5 / 9, abs=1e-3)


def test_the_index_grows_with_the_pulls_left_and_with_what_was_paid():
    tables = gittins_tables(50)
    for fewer, more in itertools.pairwise(tables):
        assert bool((more >= fewer[: len(more)] - 1e-5).all())
    assert gittins_index(2, 1, 20) > gittins_index(1, 1, 20) > gittins_index(1, 2, 20)


def test_the_player_pulls_the_highest_index_with_so_many_pulls_left():
    player, chosen = Gittins(), []
    for left in (1, 2, 3, 5, 8, 20):  # an arm known to be fair is better at the end, one never tried before it
        state = player.start(arms=2, pulls=left + 5)
        for reward in (1.0, 1.0, 0.0, 1.0, 0.0):
            state = player.observe(state, torch.tensor([0]), torch.tensor([reward]))
        chosen.append(int(player.act(state)))
        assert chosen[-1] == int(exact_index(0, 0, left) > exact_index(3, 2, left))
    assert chosen == sorted(chosen) and set(chosen) == {0, 1}


@pytest.mark.parametrize(("arms", "known"), [(5, 78.3), (10, 82.8), (50, 85.2)])
def test_the_index_earns_the_published_totals(arms, known):
    mean, error, published = expected(Gittins(), arms, 100, 500)
    assert abs(mean - known) < 4 * math.hypot(error, published)


# --- Thompson sampling. ---


def chance_of_more(a, b, c, d):
    """P(x > y), x ~ Beta(a, b), y ~ Beta(c, d), whole numbers."""

    def log_beta(x, y):
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    terms = [log_beta(c + i, b + d) - math.log(b + i) - log_beta(1 + i, b) - log_beta(c, d) for i in range(a)]
    return sum(math.exp(term) for term in terms)


def shares(player, pulled, paid, n_tasks=20_000):
    torch.manual_seed(1)
    state = player.start(n_tasks, arms=len(pulled), pulls=100)
    counts = {"pulled": torch.tensor(pulled).expand(n_tasks, -1), "paid": torch.tensor(paid).expand(n_tasks, -1)}
    return torch.bincount(player.act(state | counts), minlength=len(pulled)) / n_tasks


@pytest.mark.parametrize(
    ("pulled", "paid"), [([0.0, 0.0], [0.0, 0.0]), ([3.0, 1.0], [2.0, 0.0]), ([9.0, 2.0], [6.0, 2.0])]
)
def test_an_arm_is_pulled_as_often_as_it_is_likely_to_be_the_best(pulled, paid):
    a, b, c, d = (int(x) for arm in (0, 1) for x in (1 + paid[arm], 1 + pulled[arm] - paid[arm]))
    wanted = chance_of_more(a, b, c, d)
    error = math.sqrt(wanted * (1 - wanted) / 20_000)
    assert abs(float(shares(Thompson(), pulled, paid)[0]) - wanted) < 4 * error


def test_so_is_a_normal_arm():
    pulled, paid = [4.0, 1.0], [3.0, -1.0]
    apart, spread = 3 / 5 + 1 / 2, math.sqrt(1 / 5 + 1 / 2)
    wanted = 0.5 * (1 + math.erf(apart / spread / math.sqrt(2)))
    error = math.sqrt(wanted * (1 - wanted) / 20_000)
    assert abs(float(shares(Thompson("gaussian"), pulled, paid)[0]) - wanted) < 4 * error


# --- Bounds and hopes. ---


def choice_of(player, pulled, paid, pulls=100):
    state = player.start(arms=len(pulled), pulls=pulls)
    counts = {"pulled": torch.tensor([pulled]), "paid": torch.tensor([paid]), "k": int(sum(pulled))}
    return int(player.act(state | counts))


def test_without_a_prior_every_arm_is_tried_once_before_any_again():
    torch.manual_seed(0)
    player, worlds = UCB1(prior=0), mk.tasks.Bandits(arms=7, pulls=8).sample(20, seed=0)
    actions = play(player, worlds)[0].actions
    assert all(sorted(row) == list(range(7)) for row in actions[:, :7].tolist())


@pytest.mark.parametrize("prior", [0.0, 1.0])
@pytest.mark.parametrize(("pulled", "paid"), [([2.0, 1.0], [2.0, 0.0]), ([30.0, 6.0], [21.0, 3.0])])
def test_the_bound_is_the_mean_and_what_is_not_known(prior, pulled, paid):
    n, t = [x + 2 * prior for x in pulled], sum(pulled) + 1
    ahead = (paid[0] + prior) / n[0] - (paid[1] + prior) / n[1]
    scale = ahead / (math.sqrt(math.log(t) / n[1]) - math.sqrt(math.log(t) / n[0]))  # where both bounds are the same
    assert choice_of(UCB1(0.99 * scale, prior=prior), pulled, paid) == 0
    assert choice_of(UCB1(1.01 * scale, prior=prior), pulled, paid) == 1


@pytest.mark.parametrize(("arms", "known"), [(5, 78.0), (10, 82.4), (50, 84.3)])
def test_the_bound_earns_the_published_totals(arms, known):
    mean, error, published = expected(UCB1(), arms, 100, 500)
    assert abs(mean - known) < 4 * math.hypot(error, published)


def test_hope_lasts_until_it_is_disappointed():
    # (2.7 + 3) / (3 + 4) = 0.81 against 0.9 of an arm never tried; (2.7 + 4) / (3 + 4) = 0.957
    assert choice_of(Optimistic(), [4.0, 0.0], [3.0, 0.0]) == 1
    assert choice_of(Optimistic(), [4.0, 0.0], [4.0, 0.0]) == 0
    # (0.5 + 1) / (1 + 2) = 0.5 of either start: with less weight the arm that was seen counts as seen
    assert choice_of(Optimistic(0.6, weight=0.1), [2.0, 0.0], [1.0, 0.0]) == 1
    assert choice_of(Optimistic(0.4, weight=0.1), [2.0, 0.0], [1.0, 0.0]) == 0


@pytest.mark.parametrize("make", EVERY)
def test_arms_alike_are_pulled_alike_often(make):
    torch.manual_seed(0)
    player = make()
    first = torch.bincount(player.act(player.start(4000, arms=4, pulls=6)), minlength=4)
    assert bool((first - 1000).abs().max() < 4 * math.sqrt(4000 * 3 / 16))


# --- As agents and learners. ---


def test_players_are_judged_by_what_they_earn_and_compared_by_regret():
    worlds = mk.tasks.Bandits(arms=3, pulls=50)
    result = mk.evaluate(Thompson(), worlds, n_tasks=100)
    assert result.measure == RETURN and result.axis == "pulls" and result.at[-1] == 50
    found = mk.compare({"thompson": Thompson(), "gittins": Gittins(), "bound": UCB1()}, worlds, n_tasks=200, seeds=2)
    assert found.measure == REGRET
    less, half = mk.compare({"a": Gittins(), "b": Thompson()}, worlds, n_tasks=200, seeds=2, reference="a").difference(
        "b"
    )
    assert less - half > 0  # Thompson sampling regrets more


def test_as_a_learner_a_player_loses_what_it_missed_per_pull():
    torch.manual_seed(0)
    worlds = mk.tasks.Bandits(arms=2, pulls=400).sample(30, seed=0)
    losses = UCB1()(worlds)
    apart = worlds.means.amax(1) - worlds.means.amin(1)
    assert losses.shape == (30,) and bool(((losses >= 0) & (losses <= apart)).all())
    assert float(losses.mean()) < 0.2 * float(apart.mean())  # half of it by chance
    alike = BanditBatch(torch.tensor([[0.5, 0.5]]), 9)
    assert UCB1()(alike).tolist() == [0.0]


def test_normal_arms_are_played_by_those_who_can():
    worlds = mk.tasks.Bandits(arms=4, pulls=60, kind="gaussian")
    for player in (Thompson("gaussian"), UCB1(1.0, prior=0), Optimistic(2.0)):
        lost = mk.evaluate(player, worlds, n_tasks=100).scores[REGRET][:, -1].mean()
        assert float(lost) < 0.6 * 60 * 1.03  # by chance 1.03, the mean of the best of four
    for player in (Thompson(), Gittins()):
        with pytest.raises(ValueError, match=r"arms that pay 0 or 1, and one paid .*gaussian"):
            mk.evaluate(player, worlds, n_tasks=4)


def test_options_are_kept_in_a_file(tmp_path):
    for player, options in [
        (Thompson("gaussian"), {"kind": "gaussian"}),
        (UCB1(0.7, prior=0), {"scale": 0.7, "prior": 0.0}),
        (Optimistic(0.8, weight=2), {"mean": 0.8, "weight": 2.0}),
        (Gittins(), {}),
        (BayesOptimal(), {}),
    ]:
        mk.save(player, tmp_path / "player.pt")
        again = mk.load(tmp_path / "player.pt")
        assert type(again) is type(player) and all(getattr(again, name) == kept for name, kept in options.items())


@pytest.mark.gpu
@pytest.mark.parametrize("make", EVERY)
def test_players_play_where_the_bandits_are(make):
    worlds = mk.tasks.Bandits(arms=3, pulls=8).sample(50, seed=0, device="cuda")
    played, _ = play(make(), worlds)
    assert played.actions.is_cuda and make()(worlds).shape == (50,)


# --- At the door. ---


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Thompson("poisson"), "kind must be one of bernoulli, gaussian"),
        (lambda: UCB1(-0.1), "scale must be finite and at least 0"),
        (lambda: UCB1(prior=-1), "prior must be finite and at least 0"),
        (lambda: Optimistic(math.nan), "mean must be finite"),
        (lambda: Optimistic(weight=0), "weight must be finite and above 0"),
        (lambda: gittins_index(-1, 0, 3), "successes must be at least 0"),
        (lambda: gittins_index(0, 0, 0), "left must be at least 1"),
        (lambda: gittins_index(600, 0, 500), "at most 1000 pulls .* got 1100.*Thompson"),
        (lambda: Gittins().start(arms=5, pulls=1001), "at most 1000 pulls .* got 1001"),
        (lambda: BayesOptimal.value(1, 5), "arms must be at least 2"),
        (lambda: BayesOptimal.value(10, 30), "at most 1,000,000 .* 30 pulls of 10 arms .*Gittins"),
        (lambda: BayesOptimal().start(arms=500, pulls=500), "at most 1,000,000 .* 500 pulls of 500 arms"),
        (lambda: BayesOptimal().start(arms=2, pulls=500), "500 pulls of 2 arms"),
        (lambda: Thompson().start(pulls=5), "Thompson must be told the number of arms"),
        (lambda: UCB1().start(arms=2, pulls=5, observation=torch.zeros(1, 3)), "UCB1 sees nothing but its rewards"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_counts_are_all_that_is_remembered():
    memory = Counting()
    state = memory.begin(2, 3, 10, None, "cpu")
    for action, reward in (([0, 2], [1.0, 0.5]), ([0, 1], [0.0, -2.0])):
        state = memory.remember(state, torch.tensor(action), torch.tensor(reward), None, None)
    assert state["pulled"].tolist() == [[2, 0, 0], [0, 1, 1]]
    assert state["paid"].tolist() == [[1, 0, 0], [0, -2, 0.5]]
