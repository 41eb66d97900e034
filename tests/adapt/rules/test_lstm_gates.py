"""The gates of a learned rule: their features, their start, and the step they share with every other rule."""

from __future__ import annotations

import math

import pytest
import torch

from dynlm.adapt.rules.lstm_gates import fresh_state, gated_step, initial_gates, log_and_sign


def test_features_of_known_numbers() -> None:
    values = torch.tensor([1.0, -math.exp(-5), math.exp(-10), 0.5 * math.exp(-10), 0.0])
    expected = torch.tensor([[0.0, 1.0], [-0.5, -1.0], [-1.0, 1.0], [-1.0, 0.5], [-1.0, 0.0]])
    torch.testing.assert_close(log_and_sign(values), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_the_rule_starts_close_to_gradient_descent(rate: float) -> None:
    gates = initial_gates(8, rate, torch.Generator().manual_seed(0))
    theta, gradient, loss = torch.randn(50), torch.randn(50), torch.ones(50)
    moved, state = gated_step(gates, fresh_state(gates, 50), theta, gradient, loss)
    torch.testing.assert_close(state.i, torch.full((50,), rate), rtol=0.1, atol=0)
    assert float(state.f.min()) > 0.99
    torch.testing.assert_close(moved, state.f * theta - state.i * gradient)


def test_coordinates_share_the_rule_and_do_not_see_each_other() -> None:
    gates = initial_gates(4, 0.01, torch.Generator().manual_seed(0))
    theta, gradient, loss = torch.randn(6), torch.randn(6), torch.full((6,), 2.0)
    together, _ = gated_step(gates, fresh_state(gates, 6), theta, gradient, loss)
    for index in range(6):
        one = slice(index, index + 1)
        alone, _ = gated_step(gates, fresh_state(gates, 1), theta[one], gradient[one], loss[one])
        torch.testing.assert_close(together[one], alone)


def test_gradients_are_constants_to_the_gates_and_the_gates_are_trained() -> None:
    gates = {name: t.requires_grad_() for name, t in initial_gates(4, 0.01, torch.Generator().manual_seed(0)).items()}
    theta, gradient = torch.randn(6, requires_grad=True), torch.randn(6, requires_grad=True)
    state = fresh_state(gates, 6)
    for _ in range(2):
        theta_next, state = gated_step(gates, state, theta, gradient, torch.ones(6))
    found = torch.autograd.grad(theta_next.square().sum(), [gradient, *gates.values()], allow_unused=True)
    assert found[0] is None
    assert all(tensor is not None and float(tensor.abs().sum()) > 0 for tensor in found[1:])
