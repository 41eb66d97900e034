"""Planning against a loop over states, and a decision problem whose answer is known."""

from __future__ import annotations

import torch

from dynlm.fewshot.control.planning import plan
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.source import seeded


def test_planning_equals_a_loop() -> None:
    randomness, horizon = Randomness(seeded(0), 2), 4
    transitions = randomness.dirichlet(torch.ones(2, 3, 2, 3, dtype=torch.float64))
    rewards = randomness.normal(3, 2).double()
    values_HTSA, first_TS = plan(transitions, rewards, horizon)
    for task in range(2):

        def value(state: int, left: int, task: int = task) -> float:
            return max(action_value(state, action, left, task) for action in range(2)) if left else 0.0

        def action_value(state: int, action: int, left: int, task: int = task) -> float:
            row = transitions[task, state, action].tolist()
            return float(rewards[task, state, action]) + sum(p * value(s, left - 1, task) for s, p in enumerate(row))

        for step in range(horizon):
            expected = [[action_value(s, a, horizon - step) for a in range(2)] for s in range(3)]
            assert torch.allclose(values_HTSA[step, task], torch.tensor(expected, dtype=torch.float64))
        assert torch.allclose(first_TS[task], values_HTSA[0, task].amax(-1))


def test_a_reward_that_is_far_away_is_worth_walking_to() -> None:
    """Two states: staying in the first pays 1, moving pays nothing, and the second pays 5 for every action."""
    transitions = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    rewards = torch.tensor([[[1.0, 0.0], [5.0, 5.0]]])
    values_HTSA, first_TS = plan(transitions, rewards, 3)
    assert values_HTSA[:, 0, 0].tolist() == [[6, 10], [2, 5], [1, 0]]
    assert first_TS.tolist() == [[10, 15]]
