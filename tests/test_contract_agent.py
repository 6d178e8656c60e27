"""The contract proved by a toy: a recurrent agent in a toy environment, with several moves on one batch."""

import dataclasses

import torch
from matplotlib.figure import Figure
from torch import nn

import metakit as mk
from metakit import plots
from metakit.contracts import LOSS, RETURN, Estimate

PULLS, ARMS, MOVES = 8, 2, 3


@dataclasses.dataclass(frozen=True)
class Worlds:
    """T slot machines whose arms pay with a hidden chance."""

    chance: torch.Tensor  # [T, ARMS]

    def __len__(self):
        return len(self.chance)

    def __getitem__(self, index):
        return Worlds(self.chance[index])

    def to(self, device):
        return Worlds(self.chance.to(device))

    @property
    def device(self):
        return self.chance.device


class Machines:
    """One arm pays nine times in ten, the other once; which, is hidden."""

    def sample(self, n_tasks, *, generator=None, device=None):
        good = torch.randint(ARMS, (n_tasks, 1), generator=generator)
        return Worlds(torch.where(torch.arange(ARMS) == good, 0.9, 0.1))


class Agent(nn.Module):
    """It sees its last action and reward, and remembers."""

    axis = "pulls"

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.GRUCell(ARMS, 16), nn.Linear(16, ARMS)

    def play(self, worlds, actions=None, rewards=None):
        """Log-chances of the actions taken, actions and rewards, each [T, PULLS]; replayed where they are given."""
        seen, state = torch.zeros(len(worlds), ARMS), torch.zeros(len(worlds), 16)
        told, done, paid = [], [], []
        for k in range(PULLS):
            state = self.cell(seen, state)
            policy = torch.distributions.Categorical(logits=self.head(state))
            action = policy.sample() if actions is None else actions[:, k]
            chance = worlds.chance.gather(1, action[:, None])[:, 0]
            reward = torch.bernoulli(chance) if rewards is None else rewards[:, k]
            told.append(policy.log_prob(action))
            done.append(action)
            paid.append(reward)
            seen = nn.functional.one_hot(action, ARMS) * (2 * reward[:, None] - 1)
        return torch.stack(told, 1), torch.stack(done, 1), torch.stack(paid, 1)

    def forward(self, worlds):
        told, _, paid = self.play(worlds)
        return -(told.sum(1) * paid.sum(1))

    def scores(self, worlds, steps, protocol):
        _, _, paid = self.play(worlds)
        for k in (PULLS // 2, PULLS):
            yield k, {RETURN: paid[:, :k].sum(1)}


def several_moves(agent, parameters, worlds, carry):
    """A clipped policy gradient: the trial is played once, and learned from three times."""
    if carry is None:
        with torch.no_grad():
            told, actions, paid = agent.play(worlds)
        carry = {"told": told, "actions": actions, "paid": paid, "move": 0}
    told, _, _ = agent.play(worlds, carry["actions"], carry["paid"])
    to_come = carry["paid"].flip(1).cumsum(1).flip(1)
    advantage = to_come - to_come.mean(0)
    ratio = (told - carry["told"]).exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage).sum(1).mean()
    grads = torch.autograd.grad(loss, list(parameters.values()))
    move = carry["move"] + 1
    return Estimate(loss.detach(), grads, None if move == MOVES else carry | {"move": move})


def make():
    torch.manual_seed(0)
    return Agent()


def fit(agent, **options):
    options = {"steps": 30, "meta_batch": 64, "lr": 0.01, "estimator": several_moves, "progress": False} | options
    return mk.fit(agent, Machines(), **options)


def test_it_learns_to_explore():
    agent = make()
    before = mk.evaluate(agent, Machines(), n_tasks=200)
    fit(agent, steps=240)
    after = mk.evaluate(agent, Machines(), n_tasks=200)
    assert before.measure == RETURN and before.mean()[-1] < 4.6  # chance: 8 pulls at one half
    assert after.interval()[0][-1] > 5.2
    assert str(after).startswith("return ") and str(after).endswith("(200 tasks, 8 pulls)") and after.at == (4, 8)


def test_judging_it_twice_by_one_seed_is_the_same():
    agent = make()
    results = [mk.evaluate(agent, Machines(), n_tasks=20).score for _ in range(2)]
    assert torch.equal(*results)
    assert not torch.equal(results[0], mk.evaluate(agent, Machines(), n_tasks=20, seed=2).score)


def test_it_resumes_to_the_bit_between_two_moves_on_one_trial(tmp_path):
    whole, resumed, path = make(), make(), tmp_path / "run.pt"
    history = fit(whole)
    fit(make(), checkpoint=path, steps=11)  # the second of three moves
    torch.rand(5)
    again = fit(resumed, checkpoint=path, resume=True)
    assert again.loss == history.loss
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_its_best_return_is_kept_and_a_target_is_reached_from_below():
    history = fit(make(), steps=600, validate_every=10, target=6.0, keep="best")
    assert history.ended == "target reached" and history.measure == RETURN
    assert history.validation[-1][1] >= 6.0 > history.validation[0][1]


def test_it_is_compared_and_drawn():
    trained = make()
    history = fit(trained, steps=150, validate_every=50)
    result = mk.compare({"trained": trained, "untrained": make()}, Machines(), n_tasks=100, seeds=2)
    assert result.measure == RETURN and result.reference == "trained" and "return" in str(result)
    axes = Figure().subplots(1, 3)
    plots.draw_evaluation(axes[0], mk.evaluate(trained, Machines(), n_tasks=20))
    plots.draw_history(axes[1], history)
    plots.draw_comparison(axes[2], result)
    assert axes[0].get_ylabel() == "return" and axes[0].get_xlabel() == "pull"
    assert axes[2].get_xlabel().startswith("return")


def test_a_plain_policy_gradient_is_its_forward():
    agent = make()
    loss = fit(agent, steps=2, estimator=None).loss
    with torch.random.fork_rng():
        again = fit(make(), steps=2, estimator=None).loss
    assert loss == again and LOSS not in mk.evaluate(agent, Machines(), n_tasks=5).scores
