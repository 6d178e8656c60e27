"""Hypergradients by every way agree with closed forms, with finite differences and with each other, in float64."""

import weakref
from collections import Counter

import pytest
import torch
from test_exactness import assert_equals_finite_differences, assert_same, gradient, make_batch, make_model
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

import metakit as mk
from metakit.inner.implicit import conjugate_gradients, largest_curvature, neumann_series
from metakit.nn.lending import lent
from metakit.saving import saved

METHODS = ("unrolled", "forward", "implicit", "neumann")
FEATURES = 5


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def saved_bytes(run):
    """The most bytes that autograd keeps at a time for backward passes; a storage counts once."""
    holders, now, peak = Counter(), 0, 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor.detach()  # itself, it would hold the graph that holds it

    def release(place, size):
        nonlocal now
        holders[place] -= 1
        now -= 0 if holders[place] else size

    def pack(tensor):
        nonlocal now, peak
        place, size = tensor.untyped_storage().data_ptr(), tensor.untyped_storage().nbytes()
        now += 0 if holders[place] else size
        peak, kept = max(peak, now), Kept(tensor)
        holders[place] += 1
        weakref.finalize(kept, release, place, size)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        run()
    return peak


# --- Ridge regression with a penalty for each feature: the answer is known. ---


class Ridge:
    """Inner: ``|X w - y|^2 / 2n + sum_j exp(p_j) w_j^2 / 2``; outer: the squares of other rows."""

    def __init__(self):
        self.x, self.y = normal(20, FEATURES), normal(20, seed=1)
        self.other_x, self.other_y = normal(15, FEATURES, seed=2), normal(15, seed=3)
        self.start, self.log_penalty = normal(FEATURES, seed=4), normal(FEATURES, seed=5) - 1

    def inner(self, w, p):
        return (self.x @ w - self.y).square().mean() / 2 + (p.exp() * w.square()).sum() / 2

    def outer(self, w, p):
        return (self.other_x @ w - self.other_y).square().mean() / 2

    @property
    def hessian(self):
        return self.x.T @ self.x / 20 + self.log_penalty.exp().diag()

    def exact(self):
        w = torch.linalg.solve(self.hessian, self.x.T @ self.y / 20)
        slope = self.other_x.T @ (self.other_x @ w - self.other_y) / 15
        return w, -torch.linalg.solve(self.hessian, slope) * self.log_penalty.exp() * w

    def found(self, method, steps, **options):
        rule = mk.SGD(lr=1 / float(torch.linalg.eigvalsh(self.hessian)[-1]))
        options = {"method": method, "steps": steps, "rule": rule, **options}
        return mk.hypergradient(self.inner, self.outer, self.start, self.log_penalty, **options)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_finds_the_closed_form_of_ridge_regression(method):
    problem = Ridge()
    found = problem.found(method, steps=300, solver_steps=400)
    w, exact = problem.exact()
    torch.testing.assert_close(found.weights, w, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.grads, exact, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.loss, problem.outer(w, None))
    assert len(found.inner_losses) == 300 and (found.inner_losses.diff() <= 1e-12).all()
    implicit = method in ("implicit", "neumann")
    assert (found.residual is not None) == implicit and (found.slope is not None) == implicit
    assert not implicit or (found.residual < 1e-9 and found.slope < 1e-9)


def test_unrolling_tends_to_the_answer_as_steps_grow_and_forward_mode_says_the_same():
    problem = Ridge()
    _, exact = problem.exact()
    errors = []
    for steps in (5, 20, 80):
        unrolled, forward = (problem.found(method, steps).grads for method in ("unrolled", "forward"))
        torch.testing.assert_close(unrolled, forward, rtol=1e-10, atol=1e-12)
        errors.append(float((unrolled - exact).norm()))
    assert errors[0] > 10 * errors[1] > 1000 * errors[2]


def test_the_solver_is_as_good_as_its_steps_and_says_so():
    problem = Ridge()
    _, exact = problem.exact()
    for method in ("implicit", "neumann"):
        found = [problem.found(method, 300, solver_steps=steps) for steps in (1, 3, 5, 60)]
        errors = [float((f.grads - exact).norm()) for f in found]
        residuals = [f.residual for f in found]
        assert errors == sorted(errors, reverse=True) and residuals == sorted(residuals, reverse=True)
    assert problem.found("implicit", 300, solver_steps=FEATURES).residual < 1e-10  # as many steps as features
    loose = problem.found("implicit", 300, tolerance=0.1).residual
    assert 1e-6 < loose <= 0.1


def test_damping_adds_to_the_diagonal():
    problem = Ridge()
    w, _ = problem.exact()
    slope = problem.other_x.T @ (problem.other_x @ w - problem.other_y) / 15
    system = problem.hessian + 0.3 * torch.eye(FEATURES, dtype=torch.float64)
    expected = -torch.linalg.solve(system, slope) * problem.log_penalty.exp() * w
    torch.testing.assert_close(problem.found("implicit", 300, damping=0.3).grads, expected, rtol=1e-8, atol=1e-9)


def test_weights_of_examples_have_the_gradient_of_the_normal_equations():
    problem, share = Ridge(), normal(20, seed=6).sigmoid()

    def inner(w, p):
        return (p * (problem.x @ w - problem.y).square()).sum() / 2 + w.square().sum() / 2

    found = mk.hypergradient(inner, problem.outer, problem.start, share, rule=mk.SGD(lr=0.02), steps=2000)
    system = problem.x.T @ (share[:, None] * problem.x) + torch.eye(FEATURES, dtype=torch.float64)
    w = torch.linalg.solve(system, problem.x.T @ (share * problem.y))
    v = torch.linalg.solve(system, problem.other_x.T @ (problem.other_x @ w - problem.other_y) / 15)
    torch.testing.assert_close(found.grads, -(problem.x @ v) * (problem.x @ w - problem.y), rtol=1e-8, atol=1e-10)


# --- A small network: no closed form, so finite differences. ---


class Network:
    """Inner: weighed squares of a tanh network on stretched rows, with a penalty; outer: squares and a price."""

    def __init__(self):
        self.weights = {"in": 0.5 * normal(3, 4), "out": 0.5 * normal(4, seed=1)}
        self.parameters = {
            "example": torch.full((6,), 0.5, dtype=torch.float64),
            "log_penalty": torch.tensor(-2.0, dtype=torch.float64),
            "stretch": torch.tensor([[1.0, 0.8, 1.2]], dtype=torch.float64),
        }
        self.x, self.y = normal(6, 3, seed=2), normal(6, seed=3)

    def inner(self, w, p):
        rows = torch.tanh(self.x * p["stretch"] @ w["in"]) @ w["out"]
        penalty = p["log_penalty"].exp() * (w["in"].square().sum() + w["out"].square().sum())
        return (p["example"] * (rows - self.y).square()).mean() + penalty

    def outer(self, w, p):
        return (torch.tanh(self.x.flip(0) @ w["in"]) @ w["out"]).square().mean() + 0.1 * p["stretch"].sum()

    def found(self, method, rule, steps=6, parameters=None, **options):
        parameters = parameters or self.parameters
        options = {"method": method, "rule": rule, "steps": steps, **options}
        return mk.hypergradient(self.inner, self.outer, self.weights, parameters, **options)


@saved
class ByLoss(nn.Module):
    """A rule that uses all it is told: steps as long as the loss, along a mean that starts where it has learned to."""

    def __init__(self):
        super().__init__()
        self.start = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.lr = nn.Parameter(torch.tensor(0.1, dtype=torch.float64))

    def init_state(self, weights):
        return {"seen": 0, "means": [self.start * torch.ones_like(w) for w in weights.values()]}

    def step(self, now, state):
        means = [0.5 * m + 0.5 * g for m, g in zip(state["means"], now.grads.values(), strict=True)]
        rate = self.lr * now.loss[0] / (1 + state["seen"])
        after = {name: w - rate * m for (name, w), m in zip(now.weights.items(), means, strict=True)}
        return after, {"seen": state["seen"] + 1, "means": means}


RULES = {
    "sgd": lambda: mk.SGD(0.1),
    "momentum": lambda: mk.Momentum(0.1, momentum=0.8),
    "rmsprop": lambda: mk.RMSProp(0.02, decay=0.9, eps=1e-4),
    "adam": lambda: mk.Adam(0.02, eps=1e-4),
    "composed": lambda: mk.Clipped(mk.Decayed(mk.Momentum(0.1), 0.01), 0.05),
    "rates": lambda: mk.LearnedSGD(0.1, per="tensor", per_step=True),
    "by the loss": ByLoss,
}


@pytest.mark.parametrize("name", RULES)
def test_forward_mode_unrolling_and_finite_differences_agree(name):
    problem, rule = Network(), RULES[name]()
    unrolled, forward = problem.found("unrolled", rule), problem.found("forward", rule)
    assert unrolled.grads.keys() == problem.parameters.keys() == forward.grads.keys()
    assert_same(unrolled.grads.values(), forward.grads.values())
    assert_same(unrolled.weights.values(), forward.weights.values())
    assert_same([unrolled.loss, unrolled.inner_losses], [forward.loss, forward.inner_losses])
    assert unrolled.rule_grads.keys() == forward.rule_grads.keys() == dict(rule.named_parameters()).keys()
    assert_same(unrolled.rule_grads.values(), forward.rule_grads.values())
    for key, grad in unrolled.grads.items():
        direction = normal(*grad.shape, seed=7)
        ends = [
            problem.found(
                "unrolled", rule, parameters=problem.parameters | {key: problem.parameters[key] + h * direction}
            )
            for h in (1e-5, -1e-5)
        ]
        slope = float(ends[0].loss - ends[1].loss) / 2e-5
        assert float((grad * direction).sum()) == pytest.approx(slope, rel=1e-6, abs=1e-9)
    for p, grad in zip(rule.parameters(), unrolled.rule_grads.values(), strict=True):
        losses = []
        for h in (1e-5, -2e-5):
            p.data += h
            losses.append(float(problem.found("unrolled", rule).loss))
        p.data += 1e-5
        assert float(grad.sum()) == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-6, abs=1e-9)


def test_a_rule_keeps_its_rates_from_call_to_call():
    problem, rule = Network(), mk.LearnedSGD(0.1, per="tensor")
    before = problem.found("unrolled", rule)
    with torch.no_grad():
        for p in rule.parameters():
            p.mul_(2)
    again = problem.found("unrolled", rule)
    assert_same(again.weights.values(), problem.found("unrolled", mk.SGD(0.2)).weights.values())
    assert not torch.equal(before.loss, again.loss)


@pytest.mark.parametrize("method", ["implicit", "neumann"])
def test_implicit_methods_equal_finite_differences_of_the_minimum(method):
    """Logistic regression with weighed examples: convex, so that any training ends at the one minimum."""
    x, other, y = normal(12, 3), normal(8, 3, seed=1), (normal(12, seed=2) > 0).double()
    parameters = {"example": torch.ones(12, dtype=torch.float64), "log_penalty": torch.tensor(-2.0).double()}
    parameters["price"] = torch.tensor(0.5, dtype=torch.float64)

    def inner(w, p):
        rows = nn.functional.softplus(x @ w["w"] + w["bias"]) - y * (x @ w["w"] + w["bias"])
        return (p["example"] * rows).mean() + p["log_penalty"].exp() * (w["w"].square().sum() + w["bias"] ** 2)

    def outer(w, p):
        return torch.sigmoid(other @ w["w"] + w["bias"]).mean() + p["log_penalty"].square() + p["price"] * w["bias"]

    def found(parameters, method="implicit"):
        weights = {"w": torch.zeros(3, dtype=torch.float64), "bias": torch.zeros((), dtype=torch.float64)}
        options = {"method": method, "rule": mk.SGD(lr=1.0), "steps": 300, "solver_steps": 300}
        return mk.hypergradient(inner, outer, weights, parameters, **options)

    at = found(parameters, method)
    for key, grad in at.grads.items():
        direction = normal(*grad.shape, seed=7)
        ends = [found(parameters | {key: parameters[key] + h * direction}).loss for h in (1e-5, -1e-5)]
        assert float((grad * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_weights_that_are_trained_already_need_no_steps():
    problem = Ridge()
    w, exact = problem.exact()
    problem.start = w
    torch.testing.assert_close(problem.found("implicit", 0).grads, exact, rtol=1e-9, atol=1e-10)


def test_a_hypergradient_can_be_asked_for_where_gradients_are_off_and_changes_nothing():
    problem = Network()
    p = {name: t.clone().requires_grad_() for name, t in problem.parameters.items()}
    with torch.no_grad():
        quiet = problem.found("unrolled", mk.SGD(0.1), parameters=p)
    assert_same(quiet.grads.values(), problem.found("unrolled", mk.SGD(0.1)).grads.values())
    assert all(t.grad is None for t in p.values()) and not any(g.requires_grad for g in quiet.grads.values())


def test_only_unrolling_keeps_its_steps():
    problem = Network()
    bytes_of = {
        method: [
            saved_bytes(lambda m=method, k=steps: problem.found(m, mk.SGD(0.05), steps=k, damping=2.0))
            for steps in (5, 10, 40)
        ]
        for method in METHODS
    }
    assert bytes_of["unrolled"][2] > 3 * bytes_of["unrolled"][1] > 4 * bytes_of["unrolled"][0]
    for method in ("implicit", "neumann", "forward"):
        assert len(set(bytes_of[method])) == 1, method


# --- What is refused. ---

ONE = torch.ones(2, dtype=torch.float64)


def bowl(w, p):
    return (p * w.square()).sum() / 2


def distance(w, p):
    return (w - 1).square().sum()


WRONG = {
    "an unknown method": (
        lambda: mk.hypergradient(bowl, distance, ONE, ONE, method="reverse"),
        "one of implicit, neum",
    ),
    "too many for forward mode": (
        lambda: mk.hypergradient(lambda w, p: bowl(w, p.sum()), distance, ONE, torch.ones(101), method="forward"),
        r"100 at most, got 101. Use method='implicit'",
    ),
    "rows of losses": (lambda: mk.hypergradient(lambda w, p: w * p, distance, ONE, ONE), r"inner_loss must .* \[2\]"),
    "rows of outer losses": (lambda: mk.hypergradient(bowl, lambda w, p: w, ONE, ONE), "outer_loss must return one"),
    "a number of Python": (lambda: mk.hypergradient(bowl, lambda w, p: 1.0, ONE, ONE), "tensor of shape .*got float"),
    "detached weights": (
        lambda: mk.hypergradient(lambda w, p: bowl(w.detach(), p), distance, ONE, ONE),
        "inner_loss does not depend on the weights",
    ),
    "an outer loss of no weights": (
        lambda: mk.hypergradient(bowl, lambda w, p: p.sum(), ONE, ONE),
        "outer_loss does not depend on the weights",
    ),
    "a saddle": (
        lambda: mk.hypergradient(lambda w, p: -bowl(w, p), distance, ONE, ONE, steps=3),
        "must curve upwards at a minimum, got a curvature of -1 .*damping=",
    ),
    "a plane": (
        lambda: mk.hypergradient(lambda w, p: (p * w).sum(), distance, 2 * ONE, ONE, steps=3),
        "got a curvature of 0 ",
    ),
    "a series that diverges": (
        lambda: mk.hypergradient(bowl, distance, 3 * ONE, ONE, method="neumann", steps=1, rate=2.5),
        "residual of .*smaller rate=",
    ),
    "learned rates at a minimum": (
        lambda: mk.hypergradient(bowl, distance, ONE, ONE, rule=mk.LearnedSGD()),
        r"parameters of its own, 'rates.weights' .* Use method='unrolled'",
    ),
    "no solver": (
        lambda: mk.hypergradient(bowl, distance, ONE, ONE, solver_steps=0),
        "solver_steps must be at least 1",
    ),
    "negative damping": (lambda: mk.hypergradient(bowl, distance, ONE, ONE, damping=-1), "damping must be"),
    "negative steps": (lambda: mk.hypergradient(bowl, distance, ONE, ONE, steps=-1), "steps must be at least 0"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_what_has_no_hypergradient_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("method", METHODS)
def test_a_parameter_that_plays_no_part_is_named(method):
    parameters = {"used": ONE, "idle": ONE}
    with pytest.raises(ValueError, match="parameter 'idle' plays no part"):
        mk.hypergradient(lambda w, p: bowl(w, p["used"]), distance, ONE, parameters, method=method, steps=3)


@pytest.mark.parametrize("method", METHODS)
def test_inner_training_that_diverges_is_refused_with_its_step(method):
    with pytest.raises(FloatingPointError, match=r"the loss before step \d+ is inf.*Lower the lr"):
        mk.hypergradient(bowl, distance, ONE.float(), ONE.float(), rule=mk.SGD(lr=1e6), method=method)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": {}}, "weights must be a tensor or tensors by name"),
        ({"weights": [1.0]}, "weights must be a tensor or tensors by name"),
        ({"parameters": {"p": 0.1}}, r"parameters must hold real tensors, got 0.1 for 'p'. torch.tensor\(0.1\)"),
        ({"parameters": torch.ones(2, dtype=torch.int64)}, "got torch.int64"),
        ({"rule": 0.1}, "rule must be an nn.Module"),
    ],
)
def test_what_are_no_tensors_or_rules_is_refused(given, message):
    with pytest.raises(TypeError, match=message):
        mk.hypergradient(bowl, distance, **{"weights": ONE, "parameters": ONE, **given})


def test_an_outer_loss_that_is_not_finite_and_a_state_of_strange_things_are_refused():
    with pytest.raises(FloatingPointError, match="outer_loss is nan"):
        mk.hypergradient(bowl, lambda w, p: (w - 9).sum().sqrt(), ONE, ONE)

    class Strange(mk.SGD):
        def init_state(self, weights):
            return Ridge()

        def step(self, now, state):
            return super().step(now, None)[0], state

    with pytest.raises(TypeError, match=r"forward mode needs a rule whose state .* got Ridge"):
        mk.hypergradient(bowl, distance, ONE, ONE, rule=Strange(), method="forward")


# --- The solvers, for many tasks at once. ---


def systems(tasks=4, size=6):
    a = normal(tasks, size, size)
    return a @ a.mT + 2 * torch.eye(size, dtype=torch.float64), {"u": normal(tasks, 2), "v": normal(tasks, 2, 2)}


def product_of(h):
    def product(v):
        rows = torch.cat([v["u"], v["v"].flatten(1)], 1)
        image = (h @ rows[..., None])[..., 0]
        return {"u": image[:, :2], "v": image[:, 2:].view(-1, 2, 2)}

    return product


@pytest.mark.parametrize("solve", [conjugate_gradients, neumann_series], ids=lambda f: f.__name__)
def test_a_solver_solves_every_task_with_steps_of_its_own(solve):
    h, b = systems()
    h = torch.stack([h[0], 100 * h[1], 0.01 * h[2], h[3]])  # one rate or one step size for all would not do
    b = {name: torch.stack([x[0], x[1], x[2], 0 * x[3]]) for name, x in b.items()}  # the last has nothing to solve
    found = solve(product_of(h), b, steps=8 if solve is conjugate_gradients else 300)
    rows = torch.cat([b["u"], b["v"].flatten(1)], 1)
    expected = torch.linalg.solve(h, rows[..., None])[..., 0]
    torch.testing.assert_close(found.vector["u"], expected[:, :2], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(found.vector["v"], expected[:, 2:].view(-1, 2, 2), rtol=1e-7, atol=1e-10)
    assert found.residual.shape == (4,) and (found.residual < 1e-8).all() and (found.curvature > 0).all()
    for t in range(4):
        own = {name: x[t : t + 1] for name, x in b.items()}
        alone = solve(product_of(h[t : t + 1]), own, steps=8 if solve is conjugate_gradients else 300)
        torch.testing.assert_close(alone.vector["u"][0], found.vector["u"][t], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solve", [conjugate_gradients, neumann_series], ids=lambda f: f.__name__)
def test_a_solver_tells_the_true_residual_and_stops_when_all_tasks_are_done(solve):
    h, b = systems()
    few, done = solve(product_of(h), b, steps=3), solve(product_of(h), b, steps=1000, tolerance=1e-3)
    image = product_of(h)(few.vector)
    left, size = (torch.cat([v[n].flatten(1) for n in b], 1).norm(dim=1) for v in ({n: b[n] - image[n] for n in b}, b))
    torch.testing.assert_close(few.residual, left / size, rtol=1e-9, atol=0)
    assert few.steps == 3 and (few.residual > 1e-3).all()
    assert done.steps < 1000 and (done.residual <= 1e-3).all()


def test_the_largest_curvature_is_the_largest_eigenvalue():
    h, b = systems()
    torch.testing.assert_close(largest_curvature(product_of(h), b, steps=300), torch.linalg.eigvalsh(h)[:, -1])


def test_conjugate_gradients_keep_what_they_have_where_nothing_curves_upwards():
    h = torch.stack([torch.diag(torch.tensor([-1.0, -2.0])), torch.diag(torch.tensor([2.0, -1.0]))])
    b = {"w": torch.tensor([[1.0, 1.0], [1.0, 0.1]])}
    found = conjugate_gradients(lambda v: {"w": (h @ v["w"][..., None])[..., 0]}, b, steps=5)
    assert torch.equal(found.vector["w"][0], b["w"][0])  # at the very first step: steepest descent
    torch.testing.assert_close(found.vector["w"][1], 1.01 / 1.99 * b["w"][1])  # one good step, then no more
    assert (found.curvature < 0).all()


# --- Implicit MAML. ---


def implicit(model=None, **options):
    model = model or mk.models.MLP(2, [5], 2, activation="tanh").double()
    return mk.ImplicitMAML(model, **{"rule": mk.SGD(0.1), "steps": 100, "penalty": 3.0, "solver_steps": 15, **options})


def test_implicit_maml_of_linear_regression_equals_its_closed_form():
    x, y, qx, qy = normal(1, 8, 3), normal(1, 8, 1, seed=1), normal(1, 8, 3, seed=2), normal(1, 8, 1, seed=3)
    learner, penalty = implicit(mk.models.MLP(3, [], 1).double(), penalty=0.7, steps=300), 0.7
    head = learner.model.head
    ours = gradient(learner(mk.TaskBatch(x, y, qx, qy)), [head.weight, head.bias])
    a, b = (torch.cat([rows[0], torch.ones(8, 1, dtype=torch.float64)], 1) for rows in (x, qx))
    w, eye = torch.cat([head.weight.detach()[0], head.bias.detach()]), torch.eye(4, dtype=torch.float64)
    hessian = 2 / 8 * a.T @ a
    minimum = torch.linalg.solve(hessian + penalty * eye, 2 / 8 * a.T @ y[0, :, 0] + penalty * w)
    expected = torch.linalg.solve(eye + hessian / penalty, 2 / 8 * b.T @ (b @ minimum - qy[0, :, 0]))
    torch.testing.assert_close(torch.cat([ours[0][0], ours[1]]), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adapt", [None, "head"])
def test_implicit_maml_equals_finite_differences_of_the_minimum(adapt):
    torch.manual_seed(0)
    learner = implicit(adapt=adapt)
    assert_equals_finite_differences(learner, make_batch("mlp"), h=1e-6)
    assert (learner.adapt(make_batch("mlp")).keys() == {"head.weight", "head.bias"}) == (adapt is not None)


def test_implicit_maml_equals_unrolling_to_the_minimum():
    """Another way there: MAML with the penalty in its rule, unrolled until it has converged."""

    class Near(mk.SGD):
        def init_state(self, weights):
            return weights

        def step(self, now, start):
            return {n: w - 0.1 * (now.grads[n] + 3.0 * (w - start[n])) for n, w in now.weights.items()}, start

    torch.manual_seed(0)
    learner, batch = implicit(), make_batch("mlp")
    unrolled = mk.MAML(learner.model, rule=Near(), steps=100)
    assert_same([learner(batch)], [unrolled(batch)])
    everything = list(learner.parameters())
    assert_same(gradient(learner(batch), everything), gradient(unrolled(batch), everything), 1e-9)
    unequal = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)
    ours, theirs = ((unequal @ each(batch)) for each in (learner, unrolled))
    assert_same(torch.autograd.grad(ours, everything), torch.autograd.grad(theirs, everything), 1e-9)


def test_a_learned_inner_loss_and_frozen_layers_get_their_exact_share():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, outputs, targets):
            return self.scale.square() * (outputs - targets).square().flatten(1).mean(1)

    torch.manual_seed(0)
    learner = implicit(inner_loss=Scaled(), loss=mk.inner.task_loss)
    learner.model.linear1.bias.requires_grad_(False)
    assert_equals_finite_differences(learner, make_batch("mlp"), h=1e-6)
    assert "linear1.bias" not in learner.initial and "linear1.bias" in learner.adapt(make_batch("mlp"))


@pytest.mark.parametrize("adapt", [None, "head"])
def test_no_solver_steps_are_first_order_maml(adapt):
    torch.manual_seed(0)
    learner, batch = implicit(solver_steps=0, adapt=adapt), make_batch("mlp")
    adapted = {n: w.requires_grad_() for n, w in learner.adapt(batch).items()}
    losses = learner.query_losses(learner.answer(adapted, batch, "transductive"), batch)
    slopes = [g.mean(0) for g in torch.autograd.grad(losses.sum(), list(adapted.values()))]
    assert_same(gradient(learner(batch), learner.initial.values()), slopes)


@pytest.mark.parametrize("network", ["layers of metakit", "layers of torch"])
def test_a_convnet_runs_by_either_road_and_in_pieces(network, monkeypatch):
    model = make_model("convnet")
    options = {"steps": 3, "penalty": 5.0, "solver_steps": 3, "protocol": "inductive"}
    if network == "layers of torch":
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(147, 3)).double()
    learner, batch = implicit(model, **options), make_batch("convnet")
    whole = gradient(learner(batch), learner.parameters())
    alone = [gradient(learner(batch[t]), learner.parameters()) for t in range(3)]
    assert_same(whole, [sum(parts) / 3 for parts in zip(*alone, strict=True)])
    monkeypatch.setattr("metakit.learners.implicit.chunk_size", lambda *inputs: 1)
    assert_same(gradient(learner(batch), learner.parameters()), whole)
    head = mk.ImplicitMAML(model, adapt="head" if network == "layers of metakit" else "3", **options)
    in_pieces = gradient(head(batch), head.parameters())
    monkeypatch.undo()
    assert_same(in_pieces, gradient(head(batch), head.parameters()))


def test_masked_rows_count_for_nothing():
    learner, batch = implicit(), make_batch("mlp")
    few = mk.TaskBatch(*(t[:1, :3] for t in batch.tensors))
    both = mk.TaskBatch.pad([batch, few])
    ours = learner(both)
    assert_same([ours[:3], ours[3:]], [learner(batch), learner(few)])
    parts = [gradient(learner(part) * len(part), learner.parameters()) for part in (batch, few)]
    assert_same(gradient(ours * 4, learner.parameters()), [a + b for a, b in zip(*parts, strict=True)])


def test_the_memory_of_implicit_maml_does_not_grow_with_its_inner_steps():
    batch, model = mk.tasks.Sinusoids().sample(4, seed=0), mk.models.MLP(1, [16, 16], 1)

    def bytes_of(kind, steps):
        learner = kind(model, steps=steps)
        return saved_bytes(lambda: learner(batch).mean().backward())

    constant = [bytes_of(mk.ImplicitMAML, steps) for steps in (2, 10, 50)]
    growing = [bytes_of(mk.MAML, steps) for steps in (2, 10, 50)]
    assert len(set(constant)) == 1
    assert growing[2] > 4 * growing[1] > 12 * growing[0] and growing[2] > 10 * constant[2]


def test_implicit_maml_is_saved_judged_and_trained_like_the_others(tmp_path):
    torch.manual_seed(0)
    tasks = mk.tasks.Sinusoids()
    options = {"rule": mk.SGD(0.02), "steps": 8, "penalty": 0.5, "solver_steps": 3, "adapt": ["head"]}
    learner = mk.ImplicitMAML(mk.models.MLP(1, [20, 20], 1), **options)
    before = mk.evaluate(learner, tasks, n_tasks=50, seed=5).mean()[-1]
    mk.fit(learner, tasks, steps=100, meta_batch=10, lr=0.005, progress=False, seed=0)
    assert mk.evaluate(learner, tasks, n_tasks=50, seed=5).mean()[-1] < 0.6 * before
    mk.save(learner, tmp_path / "learner.pt")
    loaded, batch = mk.load(tmp_path / "learner.pt"), tasks.sample(3, seed=1)
    assert repr(loaded) == repr(learner)
    assert (loaded.penalty, loaded.solver_steps, loaded.adapted) == (0.5, 3, ("head.weight", "head.bias"))
    for ours, theirs in zip(learner.outputs(batch), loaded.outputs(batch), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(learner.predict(*batch.tensors[:3]), loaded.predict(*batch.tensors[:3]))
    assert torch.equal(learner.learn(*batch.tensors[:2])(batch.query_x), ours)
    runs = [mk.fit(each, tasks, steps=2, meta_batch=2, progress=False).loss for each in (learner, loaded)]
    assert runs[0] == runs[1]


def test_implicit_maml_reads_no_number_on_its_way_so_that_it_can_be_compiled_or_recorded():
    """What was traced on one batch says the same on another as the learner itself."""
    learner, batches = implicit(steps=3, solver_steps=4), (make_batch("mlp"), make_batch("mlp").each(torch.sin))
    names = [name for name, _ in learner.named_parameters()]

    def found(*tensors):
        weights = {n: p.detach().requires_grad_() for n, p in zip(names, tensors, strict=False)}
        losses = lent(learner, weights)(mk.TaskBatch.trusted(*tensors[len(names) :]))
        return [losses.detach(), *torch.autograd.grad(losses.mean(), list(weights.values()))]

    given = [[*(p.detach() for p in learner.parameters()), *batch.tensors] for batch in batches]
    traced = make_fx(found)(*given[0])
    assert_same(traced(*given[1]), found(*given[1]))


def test_it_can_be_differentiated_once():
    learner, batch = implicit(steps=2), make_batch("mlp")
    with pytest.raises(RuntimeError, match="not differentiated again, got create_graph=True"):
        torch.autograd.grad(learner(batch).mean(), list(learner.parameters()), create_graph=True)


WRONG_LEARNERS = {
    "no penalty": (lambda m: mk.ImplicitMAML(m, penalty=0.0), ValueError, "penalty must be finite and above 0"),
    "negative steps": (lambda m: mk.ImplicitMAML(m, solver_steps=-1), ValueError, "solver_steps must be at least 0"),
    "a learned rule": (lambda m: mk.ImplicitMAML(m, rule=mk.LearnedSGD()), ValueError, "needs MAML"),
    "no layer": (lambda m: mk.ImplicitMAML(m, adapt="tail"), ValueError, "names 'tail', which has no parameters"),
    "no model": (lambda m: mk.ImplicitMAML(None), TypeError, "model must be a torch.nn.Module"),
    "no batch": (lambda m: mk.ImplicitMAML(m)(torch.ones(2)), TypeError, "takes a TaskBatch"),
}


@pytest.mark.parametrize(("call", "kind", "message"), WRONG_LEARNERS.values(), ids=WRONG_LEARNERS)
def test_an_implicit_maml_that_cannot_be_is_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call(mk.models.MLP(1, [4], 1))
