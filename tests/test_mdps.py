"""Worlds with states: decision processes and mazes, their known best, and planners that keep a belief about them."""

import itertools
import math

import pytest
import torch

import metakit as mk
from metakit.agents import play
from metakit.agents.planners import PSRL, KnownModel, PosteriorMean
from metakit.contracts import REGRET, RETURN, Worlds
from metakit.tasks.maze import MazeBatch, Mazes, distances
from metakit.tasks.mdps import MDPBatch, MDPs, backward_induction


class Random(mk.agents.Agent):
    """It plays at random."""

    def begin(self, n_tasks, arms, pulls, observation, device):
        return {"observation": observation, "arms": arms}

    def remember(self, state, action, reward, observation, done):
        return {"observation": observation}

    def choose(self, state, sample):
        return torch.randint(state["arms"], (state["n_tasks"],))


def played(agent, worlds, seed=0, **options):
    torch.manual_seed(seed)
    return play(agent, worlds, **options)[0]


def walk(worlds, actions, seed=0):
    """Sights and turns of a trial of given actions, [T, L]."""
    torch.manual_seed(seed)
    state, seen = worlds.begin()
    sights, turns = [seen], []
    for action in actions.unbind(1):
        state, turn = worlds.step(state, action)
        sights.append(turn.observation)
        turns.append(turn)
    return sights, turns


# --- Decision processes. ---


def returns_by_hand(means, transitions, policy, horizon):
    """The expected return of one deterministic policy, [H][S] actions, by going through every way there is."""

    def from_here(h, s):
        if h == horizon:
            return 0.0
        a = policy[h][s]
        ways = (transitions[s, a, after] * from_here(h + 1, after) for after in range(len(means)))
        return float(means[s, a] + sum(ways))

    return from_here(0, 0)


def test_backward_induction_finds_the_best_of_all_policies():
    worlds = MDPs(2, 2, 3, episodes=4).sample(5, seed=0)
    policies = list(itertools.product(itertools.product(range(2), repeat=2), repeat=3))
    for means, transitions, best in zip(worlds.means, worlds.transitions, worlds.optimum, strict=True):
        found = max(returns_by_hand(means, transitions, policy, 3) for policy in policies)
        assert float(best) == pytest.approx(4 * found, rel=1e-5)
    values = backward_induction(worlds.means.double(), worlds.transitions.double(), 3)
    assert torch.allclose(values.float(), worlds.values, atol=1e-5)


def test_worlds_are_drawn_as_the_article_says():
    worlds = MDPs().sample(4000, seed=0)
    assert isinstance(worlds, Worlds) and worlds.transitions.shape == (4000, 10, 5, 10)
    assert worlds.means.mean().item() == pytest.approx(1, abs=0.01) and worlds.means.std().item() == pytest.approx(
        1, abs=0.01
    )
    assert torch.allclose(worlds.transitions.sum(-1), torch.ones(()), atol=1e-5)
    # Each chance of a flat Dirichlet of 10 is Beta(1, 9): its variance is 9 / (100 * 11).
    assert worlds.transitions.var().item() == pytest.approx(9 / 1100, rel=0.01)


@pytest.mark.parametrize(("episodes", "published"), [(10, 218.3), (25, 545.6)])
def test_one_who_knows_the_worlds_does_as_published(episodes, published):
    optimum = MDPs(episodes=episodes).sample(4000, seed=1).optimum
    error = optimum.std() / len(optimum) ** 0.5
    # The published figure is itself a mean over 1000 worlds.
    assert abs(optimum.mean() - published) < 3 * error * (1 + 4000 / 1000) ** 0.5


def test_one_who_plays_at_random_earns_one_a_step():
    rewards = played(Random(), MDPs().sample(1000, seed=0)).rewards.sum(1)
    assert abs(rewards.mean() - 100) < 4 * rewards.std() / 1000**0.5


@pytest.mark.parametrize("agent", [Random(), PosteriorMean(4, 3, 5)], ids=["random", "planner"])
def test_merits_add_up_to_what_was_lost_against_the_best(agent):
    worlds = MDPs(4, 3, 5, episodes=8).sample(1500, seed=0)
    record = played(agent, worlds)
    assert (record.merits <= 0).all()
    gap = record.rewards.sum(1) - worlds.optimum - record.merits.sum(1)
    assert abs(gap.mean()) < 4 * gap.std() / len(gap) ** 0.5
    assert gap.std() < 0.8 * record.rewards.sum(1).std() + record.merits.sum(1).std()


def test_states_follow_by_their_chances_and_rewards_are_normal():
    means, chances = torch.tensor([[1.0, -2.0]] * 3), torch.tensor([0.5, 0.2, 0.3])
    worlds = MDPBatch(means.expand(6000, 3, 2), chances.expand(6000, 3, 2, 3), horizon=4, episodes=1)
    torch.manual_seed(0)
    _, turn = worlds.step(worlds.begin()[0], torch.ones(6000, dtype=torch.int64))
    assert torch.allclose(turn.observation.mean(0), chances, atol=4 * 0.5 / 6000**0.5)
    assert abs(turn.reward.mean() + 2) < 4 / 6000**0.5 and abs(turn.reward.std() - 1) < 4 / 12000**0.5


def test_an_episode_ends_after_its_horizon_and_the_next_begins_in_the_first_state():
    worlds = MDPs(5, 2, 3, episodes=4).sample(50, seed=0)
    sights, turns = walk(worlds, torch.randint(2, (50, 12)))
    done = torch.stack([turn.done for turn in turns], 1)
    assert done[0].tolist() == 4 * [False, False, True] and (done == done[0]).all()
    assert all((sights[k].argmax(-1) == 0).all() for k in (0, 3, 6, 9, 12))
    assert (sights[1].argmax(-1) != 0).any() and all((seen.sum(-1) == 1).all() for seen in sights)


def test_a_range_of_episodes_is_drawn_and_a_batch_can_be_split():
    tasks, generator = MDPs(3, 2, 4, episodes=(2, 20)), torch.Generator().manual_seed(0)
    lengths = {tasks.sample(2, generator=generator).steps for _ in range(40)}
    assert min(lengths) >= 8 and max(lengths) <= 80 and len(lengths) > 5
    worlds = MDPs(3, 2).sample(6, seed=0)
    assert torch.equal(worlds[2:5].optimum, worlds.optimum[2:5]) and len(worlds[2:5]) == 3
    assert torch.equal(worlds.means, MDPs(3, 2).sample(6, seed=0).means)


# --- Planners. ---


def test_beliefs_are_the_posterior_of_what_was_seen():
    agent = PSRL(2, 2, 3)
    state = agent.start(1, pulls=9, observation=torch.tensor([[1.0, 0.0]]))
    for action, reward, at, done in ((1, 3.0, 1, False), (0, -1.0, 0, False), (1, 5.0, 0, True), (0, 2.0, 1, False)):
        seen = torch.eye(2)[[at]]
        state = agent.observe(state, torch.tensor([action]), torch.tensor([reward]), seen, torch.tensor([done]))
    assert state["tried"][0].tolist() == [[1, 2], [1, 0]] and state["paid"][0].tolist() == [[2, 8], [-1, 0]]
    # The third step ended an episode: where the next begins is not where it led.
    assert state["moves"][0].tolist() == [[[0, 1], [0, 1]], [[1, 0], [0, 0]]]
    assert state["h"].tolist() == [1] and state["at"].tolist() == [1]


def test_posterior_samples_have_the_moments_of_the_belief(monkeypatch):
    drawn = []

    def spy(means, transitions, horizon):
        drawn.append((means, transitions))
        return backward_induction(means, transitions, horizon)

    monkeypatch.setattr("metakit.agents.planners.backward_induction", spy)
    told = {"tried": torch.tensor([[3.0, 0.0]]), "paid": torch.tensor([[7.0, 0.0]]), "moves": torch.zeros(1, 2, 1)}
    told["moves"][0, 0] = 3.0
    told = {name: value.expand(20000, *value.shape) for name, value in told.items()}
    torch.manual_seed(0)
    PSRL(1, 2, 2).planned(told, torch.ones(20000, dtype=torch.bool), {})
    means = drawn[0][0][:, 0]
    assert torch.allclose(means.mean(0), torch.tensor([2.0, 1.0]), atol=4 / 20000**0.5)
    assert torch.allclose(means.std(0), torch.tensor([0.5, 1.0]), atol=4 / 40000**0.5)
    told = {"tried": torch.zeros(20000, 2, 1), "paid": torch.zeros(20000, 2, 1), "moves": torch.zeros(20000, 2, 1, 2)}
    told["moves"][:, 0, 0, 0] = 4.0
    PSRL(2, 2, 2).planned(told, torch.ones(20000, dtype=torch.bool), {})
    chances = drawn[1][1][:, 0, 0, 0]  # Beta(5, 1)
    assert abs(chances.mean() - 5 / 6) < 4 * chances.std() / 20000**0.5
    assert abs(chances.var() - 5 / 252) < 4e-4


def test_a_posterior_sample_is_kept_for_the_episode():
    agent = PSRL(3, 2, 4)
    state = agent.start(2, pulls=12, observation=torch.eye(3)[[0, 0]])
    plans, early = [state["plan"]], torch.tensor([False, True])
    for k in range(8):
        seen, done = torch.eye(3)[torch.randint(3, (2,))], early & (k == 1)  # in the second world one ends early
        state = agent.observe(state, agent.act(state), torch.randn(2), seen, done)
        plans.append(state["plan"])
    same = [[torch.equal(a[i], b[i]) for a, b in itertools.pairwise(plans)] for i in (0, 1)]
    assert same[0] == [True, True, True, False, True, True, True, False]
    assert same[1] == [True, False, True, True, True, False, True, True]


def test_told_all_the_planner_plays_the_best():
    worlds = MDPs(4, 3, 5, episodes=1).sample(30, seed=0)
    agent, many = PosteriorMean(4, 3, 5, bonus=1.0), 1e7
    state = agent.start(30, pulls=5, observation=worlds.begin()[1])
    state |= {"tried": torch.full((30, 4, 3), many), "paid": worlds.means * many, "moves": worlds.transitions * many}
    for h, at in itertools.product(range(5), range(4)):
        here = state | {"h": torch.full((30,), h), "at": torch.full((30,), at)}
        assert torch.allclose(agent.worths(here), worlds.values[:, h, at], atol=0.01)


def test_planners_stand_in_the_order_that_is_known():
    scores = {}
    for agent in (Random(), PSRL(10, 5, 10), PosteriorMean(10, 5, 10), KnownModel()):
        result = mk.evaluate(agent, MDPs(), n_tasks=200, seed=3)
        assert result.measure == RETURN and REGRET in result.scores
        scores[type(agent).__name__] = result.mean()[-1]
    assert scores["Random"] < 105 < 125 < scores["PSRL"] < 145 < 155 < scores["PosteriorMean"] < 175
    assert 212 < scores["KnownModel"] < 225


def test_one_who_knows_loses_nothing_and_is_told_or_says_what_it_needs():
    worlds = MDPs(3, 2, 4, episodes=5).sample(20, seed=0)
    assert (played(KnownModel(worlds), worlds).merits == 0).all()
    assert (mk.evaluate(KnownModel(), worlds).scores[REGRET] == 0).all()
    with pytest.raises(ValueError, match=r"told the 20 worlds .* told 0.*KnownModel\(worlds\)"):
        played(KnownModel(), worlds)
    with pytest.raises(TypeError, match=r"mk.tasks.MDPs.*BanditBatch"):
        mk.evaluate(KnownModel(), mk.tasks.Bandits(), n_tasks=5)


def test_planners_refuse_other_worlds_and_are_saved(tmp_path):
    with pytest.raises(ValueError, match=r"plans for 2 actions.*have 5 actions"):
        mk.evaluate(PSRL(10, 2, 10), MDPs(), n_tasks=2)
    with pytest.raises(ValueError, match="no parameters to train"):
        mk.fit(PSRL(10, 5, 10), MDPs(), steps=1, progress=False)
    mk.save(PosteriorMean(3, 2, 5, bonus=0.25), tmp_path / "planner.pt")
    again = mk.load(tmp_path / "planner.pt")
    assert (again.states, again.actions, again.horizon, again.bonus) == (3, 2, 5, 0.25)


# --- Mazes. ---


def steps_by_hand(walls, start):
    """Distances from a cell by breadth-first search, one maze at a time."""
    size, found, edge = len(walls), {start: 0}, [start]
    while edge:
        now = edge.pop(0)
        row, column = divmod(now, size)
        for r, c in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            after = r * size + c
            if 0 <= r < size and 0 <= c < size and not walls[r][c] and after not in found:
                found[after] = found[now] + 1
                edge.append(after)
    return [found.get(cell, size**2) for cell in range(size**2)]


def test_distances_are_those_of_breadth_first_search():
    walls = torch.rand(40, 6, 6, generator=torch.Generator().manual_seed(0)) < 0.35
    source = (~walls).flatten(1).float().argmax(1)
    found = distances(walls, source).flatten(1).tolist()
    assert found == [steps_by_hand(*pair) for pair in zip(walls.tolist(), source.tolist(), strict=True)]
    assert max(max(row) for row in found) == 36 and sum(9 < d < 36 for row in found for d in row) > 5


@pytest.mark.parametrize(
    "tasks", [Mazes(), Mazes(5, 3, walls=0.4, limit=12), Mazes(4, 3, walls=0.5, limit=99)], ids=str
)
def test_every_maze_has_a_goal_that_is_out_of_sight_and_in_reach(tasks):
    worlds = tasks.sample(500, seed=0)
    assert isinstance(worlds, Worlds) and worlds.begin()[1].shape == (500, 2, tasks.view, tasks.view)
    assert (worlds.shortest < tasks.size**2).all() and (worlds.shortest <= tasks.limit).all()
    assert (worlds.shortest > tasks.view // 2).all()
    assert (worlds.begin()[1][:, 1] == 0).all()
    assert not worlds.walls.flatten(1).gather(1, torch.stack([worlds.start, worlds.goal], 1)).any()
    assert torch.equal(worlds.walls, tasks.sample(500, seed=0).walls)
    assert torch.equal(worlds[3:9].optimum, worlds.optimum[3:9])


def follow(worlds):
    """Steps along the shortest ways, as one who knows them goes."""
    state, total, merits = worlds.begin()[0], 0, 0
    wide = torch.nn.functional.pad(worlds.to_goal.view(-1, worlds.size, worlds.size), (1,) * 4, value=10**6)
    for _ in range(worlds.steps):
        row, column = state["at"] // worlds.size + 1, state["at"] % worlds.size + 1
        each = torch.arange(len(worlds))
        moves = ((-1, 0), (0, 1), (1, 0), (0, -1))
        away = torch.stack([wide[each, row + dy, column + dx] for dy, dx in moves], 1)
        state, turn = worlds.step(state, away.argmin(1))
        total, merits = total + turn.reward, merits + turn.merit
    return total, merits


def test_who_goes_the_shortest_way_earns_the_optimum():
    worlds = Mazes(6, 3, steps=47, limit=15).sample(200, seed=0)
    total, merits = follow(worlds)
    assert torch.allclose(total, worlds.optimum, atol=1e-4) and (merits == 0).all()
    assert torch.allclose(worlds.optimum + 0.47, (47 // worlds.shortest).float(), atol=1e-4)


def test_merits_in_a_maze_add_up_exactly():
    worlds = Mazes(4, 3, steps=40, limit=9, walls=0.2).sample(500, seed=0)
    record = played(Random(), worlds)
    assert (record.merits <= 0).all() and (record.rewards > 0).any() and record.done.any()
    assert torch.allclose(record.rewards.sum(1), worlds.optimum + record.merits.sum(1), atol=1e-4)


def test_the_worth_of_a_step_is_the_best_that_can_follow():
    walls = torch.tensor([[[False, False, True], [True, False, False], [True, True, False]]])
    worlds = MazeBatch(walls, torch.tensor([0]), torch.tensor([8]), view=3, steps=8, limit=5, cost=0.5)

    known = {}

    def best(state, left):
        place = tuple(int(value) for value in state.values())
        if place not in known and left:
            after = [worlds.step(state, torch.tensor([a])) for a in range(4)]
            known[place] = max(float(turn.reward) + best(now, left - 1) for now, turn in after)
        return known.get(place, 0.0)

    state = worlds.begin()[0]
    assert best(state, 8) == pytest.approx(float(worlds.optimum)) == 2 - 4
    for left in (8, 7, 6, 5, 4):  # a step onward, then waiting at the wall
        action = torch.tensor([1 if left == 8 else 0])
        now, turn = worlds.step(state, action)
        assert float(turn.merit) == pytest.approx(
            float(turn.reward) + best(now, left - 1) - best(state, left), abs=1e-5
        )
        state = now


def test_a_picture_shows_the_walls_around_and_the_goal_when_near():
    walls = torch.zeros(1, 4, 4, dtype=torch.bool)
    walls[0, 1, 0] = walls[0, 0, 3] = True
    worlds = MazeBatch(walls, torch.tensor([0]), torch.tensor([6]), view=3, steps=9, limit=9, cost=0.0)
    up, right, down, left = range(4)
    sights, turns = walk(worlds, torch.tensor([[up, down, left, right, right, left, down, right]]))
    assert sights[0][0].tolist() == [[[1, 1, 1], [1, 0, 0], [1, 1, 0]], [[0, 0, 0]] * 3]
    assert all(torch.equal(sights[k], sights[0]) for k in (1, 2, 3))  # walked into walls
    assert sights[4][0].tolist() == [[[1, 1, 1], [0, 0, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 0, 1]]]
    assert sights[5][0].tolist() == [[[1, 1, 1], [0, 0, 1], [0, 0, 0]], [[0, 0, 0], [0, 0, 0], [0, 1, 0]]]
    assert [bool(turn.done) for turn in turns] == [False] * 7 + [True]
    assert turns[-1].reward.item() == 1 and torch.equal(sights[8], sights[0])


def test_a_recurrent_agent_is_trained_in_both():
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(18, 8), torch.nn.ReLU())
    in_maze = mk.RL2(4, (2, 3, 3), hidden=8, body=body)
    in_states = mk.RL2(2, (3,), hidden=8, reward_mean=1.0, reward_spread=1.4)
    for agent, tasks in ((in_maze, Mazes(5, 3, steps=20, limit=10)), (in_states, MDPs(3, 2, 4, episodes=5))):
        history = mk.fit(agent, tasks, steps=4, meta_batch=8, progress=False)
        assert history.steps == 4 and all(math.isfinite(loss) and loss > 0 for loss in history.loss)  # merits are lost
        assert REGRET in mk.evaluate(agent, tasks, n_tasks=4).scores


# --- At the door. ---


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: MDPs(actions=1), ValueError, "actions must be at least 2"),
        (lambda: MDPs(horizon=0), ValueError, "horizon must be at least 1"),
        (lambda: MDPs(episodes=(5, 2)), ValueError, "Swap the two"),
        (lambda: MDPs(states=2.5), TypeError, "states must be a whole number"),
        (lambda: PosteriorMean(3, 2, 5, bonus=-1.0), ValueError, "bonus must be"),
        (lambda: Mazes(5, 4), ValueError, "view must be odd"),
        (lambda: Mazes(3, 5), ValueError, "at most 3"),
        (lambda: Mazes(7, 5, limit=2), ValueError, "at most 3"),
        (lambda: Mazes(walls=1.5), ValueError, "walls must be"),
        (lambda: Mazes(walls=1.0).sample(2, seed=0), ValueError, "Choose fewer walls"),
    ],
)
def test_what_cannot_be_is_refused(make, error, words):
    with pytest.raises(error, match=words):
        make()
