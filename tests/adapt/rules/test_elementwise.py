"""The one step: known values, its two forms, and what each rule is a special case of."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynlm.adapt.rules.elementwise import LEVEL_1, Rates, Rule, Statistics, gradient_step, uniform_rule
from dynlm.models.lstm.engine import Gradient
from tests.adapt.readings import NAMES, rule, static_params, statistics


def test_a_step_of_known_values():
    theta, theta_0, u = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]), torch.tensor([10.0, -1.0])
    moved = gradient_step(theta, u, alpha=0.1, scale=torch.tensor([1.0, 2.0]), theta_0=theta_0, beta=0.5)
    assert moved.tolist() == pytest.approx([1 - 0.5 - 1.0, 2 + 1 + 0.2])


def test_home_takes_in_what_consolidation_says_and_nothing_where_it_says_nothing():
    theta, home, theta_0 = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])
    half = Rule("meta", {"a": Rates(0.1, 0.0)}, consolidation={"a": 0.5})
    assert half.next_home("a", theta, home, theta_0).tolist() == [2.0, 1.0]
    assert half.next_home("b", theta, home, theta_0).tolist() == home.tolist()


@pytest.mark.parametrize(
    "options, level",
    [
        ({}, 2),
        ({"flush": {"a": 0.5}}, 3),
        ({"flush": {"a": 0.5}, "consolidation": {"a": 0.5}}, 2),
        ({"flush": {"a": 0.5, "b": 0.5}, "consolidation": {"a": 0.5}}, 3),
        ({"consolidation": {"a": 0.5}, "fading": {"a": 0.1}}, 3),
    ],
)
def test_a_rule_is_of_level_3_where_it_goes_back_to_the_static_parameters(options, level):
    """A flush to slow weights of its own is no way back."""
    assert Rule("meta", {"a": Rates(0.1, 0.0), "b": Rates(0.1, 0.0)}, **options).level == level
    assert Rule("meta", {"a": Rates(0.1, 0.01)}, **options).level == 3
    assert LEVEL_1.level == 1


def test_rms_is_the_published_formula():
    """Krause et al. 2018, equation by equation, in NumPy; r is clipped where lambda r would pass theta_0."""
    held, theta_0 = statistics(), static_params()
    theta = {name: tensor + 0.1 for name, tensor in theta_0.items()}
    u = static_params(seed=9)
    eta, lam, epsilon = 0.01, 0.6, 1e-3
    found = uniform_rule("rms", NAMES, eta, lam, held, epsilon).step(theta, u, theta_0)
    mean = np.mean([tensor.numpy().mean() for tensor in held.rms.values()])
    clipped = 0
    for name in NAMES:
        R = held.rms[name].numpy()
        r = np.minimum(R / mean, 1 / lam)
        clipped += (R / mean > 1 / lam).sum()
        wanted = (
            theta[name].numpy()
            + lam * r * (theta_0[name].numpy() - theta[name].numpy())
            - eta * u[name].numpy() / (R + epsilon)
        )
        np.testing.assert_allclose(found[name].numpy(), wanted, rtol=1e-12)
    assert clipped


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms", "meta"])
def test_in_place_is_the_reference(name, lanes):
    theta_0, made = static_params(), rule(name)
    u, theta = ([static_params(seed=seed + lane) for lane in range(lanes)] for seed in (9, 30))
    wanted = [made.step(theta[lane], u[lane], theta_0) for lane in range(lanes)]
    assert all(torch.equal(theta[0][tensor], static_params(seed=30)[tensor]) for tensor in NAMES)
    for tensor in NAMES:
        stepped = torch.stack([weights[tensor] for weights in theta])
        rows = len(theta_0[tensor])
        for part in (slice(0, rows // 2), slice(rows // 2, rows)):
            part_of_u = torch.stack([gradients[tensor][part] for gradients in u])
            made.step_(stepped, Gradient(tensor, part_of_u, part), theta_0[tensor])
        torch.testing.assert_close(stepped, torch.stack([w[tensor] for w in wanted]), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms"])
def test_a_step_of_some_rows_is_the_step_of_all(name):
    """Rows that are named twice take one step; rows that are not named are pulled all the same."""
    theta_0, made = static_params()["embedding"], rule(name)
    theta_BVE = torch.stack([static_params(seed=seed)["embedding"] for seed in (3, 4)])
    rows_BT = torch.tensor([[4, 2, 4], [0, 0, 9]])
    u_BVE = torch.zeros_like(theta_BVE)
    for lane, rows_T in enumerate(rows_BT):
        u_BVE[lane, rows_T] = static_params(seed=9)["embedding"][rows_T]
    wanted = theta_BVE.clone()
    made.step_(wanted, Gradient("embedding", u_BVE), theta_0)
    made.step_(theta_BVE, Gradient("embedding", u_BVE, rows_BT=rows_BT), theta_0)
    torch.testing.assert_close(theta_BVE, wanted, rtol=1e-13, atol=1e-15)


@given(alpha=st.floats(0, 10), beta=st.floats(0, 1))
def test_without_a_gradient_weights_go_home_and_never_past_it(alpha, beta):
    theta, theta_0 = torch.tensor([5.0, -2.0]).double(), torch.tensor([1.0, 1.0]).double()
    moved = gradient_step(theta, torch.zeros(2).double(), alpha, 1.0, theta_0, beta)
    assert ((moved - theta_0) * (theta - theta_0) >= -1e-12).all()
    assert ((moved - theta_0).abs() <= (theta - theta_0).abs() + 1e-12).all()


def test_flush_update_and_copy_are_corners_of_one_step():
    theta, theta_0, u = torch.tensor([5.0]), torch.tensor([1.0]), torch.tensor([2.0])
    assert gradient_step(theta, u, 0.0, 1.0, theta_0, 1.0).item() == 1.0
    assert gradient_step(theta, u, 0.0, 1.0, theta_0, 0.0).item() == 5.0
    assert gradient_step(theta, u, 0.5, 1.0, theta_0, 0.0).item() == 4.0


def test_a_step_can_be_differentiated_through():
    theta = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda t, a: gradient_step(t, t**3, a, 2.0, torch.ones(1).double(), 0.3), (theta, alpha)
    )


def test_levels():
    assert LEVEL_1.level == 1
    assert rule("sgd").level == 2
    assert rule("rms").level == 3
    assert uniform_rule("rms", NAMES, 0.1, 0.0, statistics(), 0.1).level == 2


def test_a_pull_of_one_or_more_is_home():
    made = Rule("sgd+decay", {"w": Rates(0.0, 7.0)})
    assert made.beta["w"] == 1.0
    held = Statistics({"w": torch.tensor([1.0, 3.0])})
    assert Rule("rms", {"w": Rates(0.0, 1.0)}, held.scale(0.1), held.shape()).beta["w"].tolist() == [0.5, 1.0]
