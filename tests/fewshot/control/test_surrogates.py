"""Surrogate objectives: derivatives equal those of the enumerated expectation.

Legend: T tasks (here one trajectory each), E episodes, H steps, S states, A actions.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian

from dynlm.fewshot.control.experience import Experience
from dynlm.fewshot.control.surrogates import Surrogate, clipped, surrogate
from dynlm.fewshot.tasks.source import seeded

# Two actions in a row; the second is chosen knowing the first. Trajectories (a_0, a_1), rewards of both steps.
FIRST, SECOND = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
REWARDS_TH = torch.tensor([[1.0, -2.0], [1.0, 3.0], [-0.5, 0.7], [-0.5, 2.0]], dtype=torch.float64)
BASELINE_TH = torch.tensor([[0.3, 0.9], [0.3, 0.9], [0.3, -1.2], [0.3, -1.2]], dtype=torch.float64)
THETA = torch.randn(3, 2, generator=seeded(0), dtype=torch.float64)


def log_probs(theta_SA: Tensor) -> Tensor:
    """Log-probabilities of the actions of all trajectories (T, H)."""
    table_SA = theta_SA.log_softmax(-1)
    return torch.stack([table_SA[0, FIRST], table_SA[1 + FIRST, SECOND]], 1)


def expected_return(theta_SA: Tensor) -> Tensor:
    return (log_probs(theta_SA).sum(1).exp() * REWARDS_TH.sum(1)).sum()


def expected_surrogate(kind: str, theta_SA: Tensor, **options: Any) -> Tensor:
    """Expectation of the surrogate under ``THETA``; the sums of two steps are divided by two."""
    sampled_TH = log_probs(THETA)
    advantages_TH = REWARDS_TH.flip(1).cumsum(1).flip(1) - BASELINE_TH
    valid_TEH = torch.ones(4, 1, 2, dtype=torch.bool)
    actions_TEH = torch.stack([FIRST, SECOND], 1)[:, None]
    experience = Experience(
        torch.zeros(4, 1, 2, 0), actions_TEH, sampled_TH[:, None], advantages_TH[:, None], valid_TEH
    )
    current_TEH = log_probs(theta_SA)[:, None]
    values_T = clipped(current_TEH, experience, **options) if options else surrogate(kind, current_TEH, experience)  # type: ignore[arg-type]
    return 2 * (sampled_TH.sum(1).exp() * values_T).sum()


def gradient(function: Any) -> Tensor:
    theta = THETA.clone().requires_grad_()
    (found,) = torch.autograd.grad(function(theta), theta)
    return found


@pytest.mark.parametrize("kind", get_args(Surrogate))
def test_first_derivatives_are_those_of_the_expected_return(kind: str) -> None:
    torch.testing.assert_close(gradient(lambda t: expected_surrogate(kind, t)), gradient(expected_return))


def test_the_first_derivative_of_the_clipped_objective() -> None:
    torch.testing.assert_close(gradient(lambda t: expected_surrogate("", t, ratio_clip=0.2)), gradient(expected_return))
    # Beyond the clip nothing is gained: from a far policy no action that it favours rightly has a gradient.
    experience = Experience(
        torch.zeros(1, 1, 2, 0),
        torch.zeros(1, 1, 2),
        torch.zeros(1, 1, 2),
        torch.tensor([[[1.0, -1.0]]]),
        torch.ones(1, 1, 2, dtype=torch.bool),
    )
    logs = torch.tensor([[[0.5, -0.5]]], requires_grad=True)
    (found,) = torch.autograd.grad(clipped(logs, experience, 0.2).sum(), logs)
    assert found.eq(0).all()
    (found,) = torch.autograd.grad(clipped(-logs, experience, 0.2).sum(), logs)
    assert found.ne(0).all()


def test_second_derivatives() -> None:
    exact = hessian(expected_return, THETA)
    second = {kind: hessian(lambda t, k=kind: expected_surrogate(k, t), THETA) for kind in get_args(Surrogate)}
    torch.testing.assert_close(second["dice"], exact)
    assert not torch.allclose(second["score"], exact, atol=0.05)
    # lvc leaves out products of different steps: what is missing has no block within one state.
    missing = (second["lvc"] - exact).abs()
    assert float(missing.amax()) > 0.05
    for state in range(3):
        assert float(missing[state, :, state].amax()) < 1e-12


def test_one_step_has_no_products_of_different_steps() -> None:
    """A bandit: lvc and dice are equal to any order."""
    valid_TEH = torch.ones(2, 1, 1, dtype=torch.bool)
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64)
    sampled = theta.log_softmax(0).view(2, 1, 1)
    experience = Experience(
        torch.zeros(2, 1, 1, 0), torch.tensor([0, 1]), sampled, torch.tensor([0.2, 0.9]).view(2, 1, 1), valid_TEH
    )

    def value(kind: Surrogate, theta: Tensor) -> Tensor:
        return (
            theta.log_softmax(0).view(2, 1, 1).exp()[:, 0, 0].detach()
            * surrogate(kind, theta.log_softmax(0).view(2, 1, 1), experience)
        ).sum()

    torch.testing.assert_close(hessian(lambda t: value("lvc", t), theta), hessian(lambda t: value("dice", t), theta))


@pytest.mark.parametrize("kind", get_args(Surrogate))
def test_padding_counts_for_nothing(kind: Surrogate) -> None:
    logs = torch.randn(1, 2, 3, generator=seeded(1)).requires_grad_()
    valid_TEH = torch.tensor([[[True, True, True], [True, False, False]]])
    advantages = torch.randn(1, 2, 3, generator=seeded(2))
    base = Experience(torch.zeros(1, 2, 3, 0), torch.zeros(1, 2, 3), logs.detach(), advantages, valid_TEH)
    other = base._replace(advantages_TEH=advantages.where(valid_TEH, 77.0))
    values, gradients = [], []
    for experience in (base, other):
        values.append(surrogate(kind, logs, experience))
        gradients.append(torch.autograd.grad(values[-1].sum(), logs)[0])
    assert torch.equal(values[0], values[1]) and torch.equal(gradients[0], gradients[1])
    assert gradients[0][~valid_TEH].eq(0).all()
    torch.testing.assert_close(gradients[0], (advantages * valid_TEH) / 4)
