"""Element-wise rules: known values, in place as by the formula, and the special cases of one step."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynlm.adapt.rules.base import Statistics, StepEvent
from dynlm.adapt.rules.boundary import Boundary
from dynlm.adapt.rules.elementwise import LEVEL_1, ElementwiseRule, Rates
from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.models.protocol import Gradient
from dynlm.models.scratch import Scratch
from tests.adapt.readings import NAMES, rule, static_params, statistics


def event_of(gradient, theta, theta_0):
    """Return the event of a rule without slots."""
    lanes = slice(0, len(theta))
    part = gradient.part
    return StepEvent(
        gradient, gradient.tensor, theta[:, part], theta_0[part], {}, lanes, torch.zeros(len(theta)), Scratch()
    )


def test_a_step_of_known_values():
    theta, theta_0, u = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), torch.tensor([10.0, -1.0])
    moved = gradient_step(theta, u, lr=0.1, precondition=torch.tensor([1.0, 2.0]), anchor=theta_0, beta=0.5)
    assert moved.tolist() == pytest.approx([1 - 0.5 - 1.0, 2 + 1 + 0.2])


def test_the_anchor_moves_by_the_slow_rate_after_the_slow_decay():
    theta, anchor, theta_0 = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    half = Boundary(slow_rate={"a": 0.5})
    assert half.next_anchor("a", theta, anchor, theta_0).tolist() == [2.0, 1.0]
    assert half.next_anchor("b", theta, anchor, theta_0).tolist() == anchor.tolist()
    decayed = Boundary(slow_rate={"a": 0.5}, slow_decay={"a": 0.25})
    assert decayed.next_anchor("a", theta, anchor, theta_0).tolist() == [1.75, 0.75]


def test_an_article_starts_at_the_share_of_the_way_to_the_anchor():
    theta_0 = torch.tensor([0.0, 4.0])
    for share, expected in ((0.0, [2.0, 2.0]), (0.25, [1.5, 2.5]), (1.0, [0.0, 4.0])):
        theta = torch.tensor([2.0, 2.0])
        Boundary({"a": share}).carry_over_("a", theta, {}, theta_0)
        assert theta.tolist() == expected
    slots = {"anchor": torch.tensor([1.0, 4.0]), "velocity": torch.ones(2)}
    slow = ElementwiseRule("meta", {"a": Rates(0.1, 0.0)}, boundary=Boundary({"a": 1.0}, {"a": 0.5}), momentum=0.1)
    slow.carry_over_("a", theta := torch.tensor([3.0, 4.0]), slots, theta_0)
    assert theta.tolist() == slots["anchor"].tolist() == [2.0, 4.0]
    assert not slots["velocity"].any()


@pytest.mark.parametrize(
    "options, level",
    [
        ({}, 2),
        ({"reset": {"a": 0.5}}, 3),
        ({"reset": {"a": 0.5}, "slow_rate": {"a": 0.5}}, 2),
        ({"reset": {"a": 0.5, "b": 0.5}, "slow_rate": {"a": 0.5}}, 3),
        ({"slow_rate": {"a": 0.5}, "slow_decay": {"a": 0.1}}, 3),
    ],
)
def test_a_rule_that_returns_to_the_static_parameters_is_of_level_3(options, level):
    """A boundary reset to slow weights is no return."""
    boundary = Boundary(**options)
    assert ElementwiseRule("meta", {"a": Rates(0.1, 0.0), "b": Rates(0.1, 0.0)}, boundary=boundary).level == level
    assert ElementwiseRule("meta", {"a": Rates(0.1, 0.01)}, boundary=boundary).level == 3
    assert LEVEL_1.level == 1


def test_rms_is_the_published_formula():
    """Krause et al. 2018, equation by equation, in NumPy; r is clipped where lambda r would pass theta_0."""
    held, theta_0 = statistics(), static_params()
    theta = {name: tensor + 0.1 for name, tensor in theta_0.items()}
    u = static_params(seed=9)
    eta, lam, epsilon = 0.01, 0.6, 1e-3
    found = uniform_rule("rms", NAMES, eta, lam, (held, epsilon)).step(theta, u, theta_0)
    mean = np.mean([tensor.numpy().mean() for tensor in held.rms.values()])
    clipped = 0
    for name in NAMES:
        R = held.rms[name].numpy()
        r = np.minimum(R / mean, 1 / lam)
        clipped += (R / mean > 1 / lam).sum()
        expected = (
            theta[name].numpy()
            + lam * r * (theta_0[name].numpy() - theta[name].numpy())
            - eta * u[name].numpy() / (R + epsilon)
        )
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-12)
    assert clipped


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms", "meta"])
def test_steps_in_place_equal_the_formula(name, lanes):
    theta_0, made = static_params(), rule(name)
    u, theta = ([static_params(seed=seed + lane) for lane in range(lanes)] for seed in (9, 30))
    expected = [made.step(theta[lane], u[lane], theta_0) for lane in range(lanes)]
    assert all(torch.equal(theta[0][tensor], static_params(seed=30)[tensor]) for tensor in NAMES)
    for tensor in NAMES:
        stepped = torch.stack([weights[tensor] for weights in theta])
        rows = len(theta_0[tensor])
        for part in (slice(0, rows // 2), slice(rows // 2, rows)):
            part_of_u = torch.stack([gradients[tensor][part] for gradients in u])
            made.step_(event_of(Gradient(tensor, part_of_u, part), stepped, theta_0[tensor]))
        torch.testing.assert_close(stepped, torch.stack([w[tensor] for w in expected]), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms"])
def test_a_step_of_some_rows_equals_that_of_all(name):
    """Rows that occur twice take one step; the others decay all the same."""
    theta_0, made = static_params()["embedding"], rule(name)
    theta_BVE = torch.stack([static_params(seed=seed)["embedding"] for seed in (3, 4)])
    rows_BT = torch.tensor([[4, 2, 4], [0, 0, 9]])
    u_BVE = torch.zeros_like(theta_BVE)
    for lane, rows_T in enumerate(rows_BT):
        u_BVE[lane, rows_T] = static_params(seed=9)["embedding"][rows_T]
    expected = theta_BVE.clone()
    made.step_(event_of(Gradient("embedding", u_BVE), expected, theta_0))
    made.step_(event_of(Gradient("embedding", u_BVE, rows_BT=rows_BT), theta_BVE, theta_0))
    torch.testing.assert_close(theta_BVE, expected, rtol=1e-13, atol=1e-15)


@given(lr=st.floats(0, 10), beta=st.floats(0, 1))
def test_without_a_gradient_weights_go_to_the_anchor_and_never_past_it(lr, beta):
    theta, theta_0 = torch.tensor([5.0, -2.0]).double(), torch.tensor([1.0, 1.0]).double()
    moved = gradient_step(theta, torch.zeros(2).double(), lr, 1.0, theta_0, beta)
    assert ((moved - theta_0) * (theta - theta_0) >= -1e-12).all()
    assert ((moved - theta_0).abs() <= (theta - theta_0).abs() + 1e-12).all()


def test_reset_copy_and_update_are_special_cases_of_one_step():
    theta, theta_0, u = torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([2.0])
    assert gradient_step(theta, u, 0.0, 1.0, theta_0, 1.0).item() == 1.0
    assert gradient_step(theta, u, 0.0, 1.0, theta_0, 0.0).item() == 5.0
    assert gradient_step(theta, u, 0.5, 1.0, theta_0, 0.0).item() == 4.0


def test_a_step_can_be_differentiated_through():
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t, a: gradient_step(t, t**3, a, 2.0, torch.ones(1).double(), 0.3), (theta, lr)
    )


def test_levels():
    assert LEVEL_1.level == 1
    assert rule("sgd").level == 2
    assert rule("rms").level == 3
    assert uniform_rule("rms", NAMES, 0.1, 0.0, (statistics(), 0.1)).level == 2


def test_a_decay_is_at_most_one():
    made = ElementwiseRule("sgd+decay", {"w": Rates(0.0, 7.0)})
    assert made.beta["w"] == 1.0
    held = Statistics({"w": torch.tensor([1.0, 3.0])})
    made = ElementwiseRule("rms", {"w": Rates(0.0, 1.0)}, held.precondition(0.1), held.decay_shape())
    assert made.beta["w"].tolist() == [0.5, 1.0]


@pytest.mark.parametrize("name", ["sgd", "rms", "g", "lstm"])
def test_a_rule_of_some_tensors_has_their_constants(name):
    made = rule(name)
    some = made.of(["output.bias", "lstm.0.input"])
    assert some.tensors == ("lstm.0.input", "output.bias")
    assert some.describe() == {tensor: made.describe()[tensor] for tensor in some.tensors}
    assert all(torch.equal(torch.as_tensor(b), torch.as_tensor(made.decays()[t])) for t, b in some.decays().items())
    if name == "g":
        rows = [NAMES.index(tensor) for tensor in some.tensors]
        assert torch.equal(some.gates.lr_KJ, made.gates.lr_KJ[rows])


@pytest.mark.parametrize("name", ["none", "sgd", "rms", "g", "lstm"])
def test_a_rule_standing_still_has_rates_of_zero(name):
    still = rule(name).standing_still()
    assert still.tensors == rule(name).tensors
    assert all(rates == {"lr": 0.0, "decay": 0.0} for rates in still.describe().values())
