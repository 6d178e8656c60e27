"""Markets as tasks, the forecaster of tomorrow's spread, and what it is measured by."""

import math

import pytest
import torch
from typer.testing import CliRunner

import metakit as mk
from metakit.cli import app
from metakit.recipes import finance
from metakit.tasks import MarketWindows, Series, markets


def simulated(n, omega=0.05, alpha=0.15, beta=0.8, seed=0):
    """Returns of GARCH(1,1), and the variance that each was drawn with."""
    generator = torch.Generator().manual_seed(seed)
    variance, returns, variances = omega / (1 - alpha - beta), [], []
    for z in torch.randn(n, generator=generator, dtype=torch.float64).tolist():
        variances.append(variance)
        returns.append(math.sqrt(variance) * z)
        variance = omega + alpha * returns[-1] ** 2 + beta * variance
    return torch.tensor(returns, dtype=torch.float64), torch.tensor(variances, dtype=torch.float64)


def market(n=2000, name="simulated", **options):
    return Series(name, torch.arange(n), simulated(n, **options)[0])


def test_no_row_knows_of_its_day_or_of_a_later_one():
    windows = MarketWindows([market(80)])
    returns = simulated(80)[0][None]
    x = torch.cat([windows.batch(returns).support_x, windows.batch(returns).query_x], 1)
    for day in (20, 33, 70, 79):
        changed = returns.clone()
        changed[0, day] += 5
        other = windows.batch(changed)
        moved = (torch.cat([other.support_x, other.query_x], 1) != x).any(-1)[0]
        assert not moved[: day - 19].any() and moved[day - 19 :].all()


def test_rows_are_running_means_and_markets_of_another_calm_look_alike():
    windows = MarketWindows([market(80)], calm=5, shots=3, queries=2)
    returns = torch.tensor([[2.0, 2.0, 2.0, 2.0, 2.0, 4.0, 0.0, 2.0, 2.0, 2.0]])
    batch = windows.batch(returns)
    assert batch.support_y.flatten().tolist() == [2, 0, 1]
    for column, decay in enumerate((0.5, 0.85, 0.94)):
        means = [1.0, decay + (1 - decay) * 4, decay * (decay + (1 - decay) * 4)]
        torch.testing.assert_close(batch.support_x[0, :, column].exp(), torch.tensor(means))
    louder = windows.batch(7 * returns)
    torch.testing.assert_close(louder.support_x, batch.support_x)
    torch.testing.assert_close(louder.query_y, batch.query_y)


def test_windows_in_turn_ask_every_day_once():
    days = torch.arange(200)
    windows = MarketWindows([Series("count", days, days.double() + 1)], calm=20, shots=40, queries=20)
    asked = torch.cat([windows.in_turn().query_y[i].flatten() * level for i, level in enumerate(_levels(days, 20))])
    assert asked.round().tolist() == list(range(61, 61 + 140))


def _levels(days, step):
    returns = days.double() + 1
    return [float(returns[i : i + 20].square().mean().sqrt()) for i in range(0, len(days) - 79, step)]


def test_the_loss_is_that_of_torch():
    s, y = torch.randn(3, 7, 1), torch.randn(3, 7, 1)
    expected = torch.nn.functional.gaussian_nll_loss(
        torch.zeros(3, 7), y[..., 0], s[..., 0].exp(), full=True, reduction="none"
    )
    torch.testing.assert_close(finance.log_loss(s, y), expected.mean(1))


def test_the_filter_is_that_of_the_package_and_its_fit_finds_what_was_put_in():
    arch = pytest.importorskip("arch")
    returns, variances = simulated(6000)
    omega, alpha, beta = finance.garch(returns)
    assert (omega, alpha, beta) == pytest.approx((0.05, 0.15, 0.8), abs=0.04)
    fitted = arch.arch_model(returns.numpy(), mean="Zero", rescale=False).fit(disp="off")
    theirs = torch.from_numpy(fitted.conditional_volatility).square()
    ours = finance.filtered(returns, omega, alpha, beta, first=theirs[0])
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(finance.filtered(returns, 0.05, 0.15, 0.8, first=variances[0]), variances)


def test_a_forecaster_of_simulated_markets_comes_near_those_who_know_the_variance():
    others = [market(3000, f"m{i}", seed=i) for i in range(2)]
    learner, _ = finance.train(others, steps=150, progress=False)
    windows = MarketWindows([market(4000, seed=7)])
    losses = finance.plain(learner, windows.in_turn())
    returns, variances = simulated(4000, seed=7)
    level = returns.unfold(0, 80, 20)[:, :20].square().mean(1, keepdim=True)
    known = (variances.unfold(0, 80, 20)[:, 60:] / level).log()[..., None]
    best = finance.log_loss(known, windows.in_turn().query_y.double()).mean()
    assert 0 <= float(losses["adapted"].mean() - best) < 0.05
    assert float(losses["the support days' variance"].mean() - losses["adapted"].mean()) > 0.02


def test_no_contender_knows_of_the_day_that_it_is_judged_on():
    pytest.importorskip("arch")
    learner, _ = finance.train([market()], steps=2, progress=False)
    returns = simulated(80, seed=3)[0].repeat(3, 1)
    returns[:, -1] = returns[0, -1] + torch.tensor([0.0, 3.0, 6.0])
    windows = MarketWindows([market(80)]).batch(returns)
    losses = finance.contenders([market()], learner, windows)
    squares = windows.query_y[:, -1, 0].double().square()
    for name, loss in losses.items():
        # With a variance v fixed the evening before, a day costs y^2 / 2v and no more: the loss is a line in y^2.
        slopes = loss.diff() / squares.diff()
        assert float(slopes[0]) > 0, name
        torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-3, atol=0, msg=name)
    with torch.no_grad():
        start = finance.log_loss(learner.model(windows.query_x), windows.query_y)
    torch.testing.assert_close(losses["start, not adapted"].float(), start)
    assert not torch.allclose(losses["adapted"].float(), start)


def test_what_does_not_fit_is_refused():
    days = torch.arange(100)
    with pytest.raises(ValueError, match="return 3 of oil is not finite"):
        Series("oil", days, torch.randn(100).index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(ValueError, match="must rise"):
        Series("oil", days.flip(0), torch.randn(100))
    with pytest.raises(ValueError, match="a day for each"):
        Series("oil", days, torch.randn(99))
    with pytest.raises(ValueError, match="a window takes 80 days, oil has 60"):
        MarketWindows([Series("oil", days[:60], torch.randn(60))])
    with pytest.raises(ValueError, match="there must be a market"):
        MarketWindows([])
    pytest.importorskip("arch")
    with pytest.raises(ValueError, match="market"):
        markets(["tulips"])


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "arch", None)
    monkeypatch.setitem(__import__("sys").modules, "arch.data", None)
    for call in (markets, lambda: finance.garch(torch.randn(50))):
        with pytest.raises(ImportError, match=r"metakit\[finance\]"):
            call()


def test_a_market_left_out_from_the_terminal(tmp_path):
    pytest.importorskip("arch")

    def run(*words):
        return CliRunner().invoke(app, [str(word) for word in words])

    trained = run("train", "finance", "--without", "wti", "--steps", 5, "--save", tmp_path / "f.pt")
    assert trained.exit_code == 0 and "5 outer steps on 2 markets" in trained.output
    judged = run("evaluate", tmp_path / "f.pt", "finance", "--market", "wti", "--after", "2017-01-01")
    assert judged.exit_code == 0 and "GARCH(1,1) of the window alone" in judged.output
    assert "no market is called 'tulips'" in run("train", "finance", "--without", "tulips").stderr
    mk.save(mk.ProtoNet(torch.nn.Identity()), tmp_path / "p.pt")
    assert "no such learner" in run("evaluate", tmp_path / "p.pt", "finance", "--market", "wti").stderr
