"""Advantages beside their definition."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.control.advantages import generalised_advantages, returns_to_go
from dynlm.fewshot.control.policies import Memoryless
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.tasks.source import seeded
from tests.fewshot.control.test_rollout import countdown, cycling


def acted() -> Trajectories:
    """Two episodes of at most four steps; in the first two tasks they end earlier."""
    done = rollout(countdown(4, [1, 3, 9]), Memoryless(cycling), Randomness(seeded(0), 3), 2, copies=2).trajectories
    noise = torch.randn(done.rewards_NTE.shape, generator=seeded(1))
    return done._replace(rewards_NTE=done.rewards_NTE * noise)


@pytest.mark.parametrize("discount, lam", [(1.0, 1.0), (0.9, 0.7), (0.99, 0.0)])
def test_advantages_equal_their_definition(discount: float, lam: float) -> None:
    trajectories = acted()
    values = torch.randn(trajectories.rewards_NTE.shape, generator=seeded(2))
    advantages, returns = generalised_advantages(trajectories, values, discount, lam)
    for task in range(3):
        for copy in range(2):
            taken = trajectories.valid_NTE[:, task, copy].nonzero()[:, 0].tolist()
            rewards = trajectories.rewards_NTE[taken, task, copy].tolist()
            known = [*values[taken, task, copy].tolist(), 0.0]
            deltas = [r + discount * known[t + 1] - known[t] for t, r in enumerate(rewards)]
            wanted = [
                sum((discount * lam) ** (later - t) * deltas[later] for later in range(t, len(taken)))
                for t in range(len(taken))
            ]
            assert advantages[taken, task, copy].tolist() == pytest.approx(wanted, abs=1e-5)
    assert advantages[~trajectories.valid_NTE].eq(0).all() and returns[~trajectories.valid_NTE].eq(0).all()
    torch.testing.assert_close(returns, (advantages + values) * trajectories.valid_NTE)


def test_returns_go_through_all_episodes_of_a_task() -> None:
    trajectories = acted()
    returns = returns_to_go(trajectories, 1.0)
    torch.testing.assert_close(returns[0], trajectories.rewards_NTE.sum(0))
    torch.testing.assert_close(returns[4], trajectories.rewards_NTE[4:].sum(0))
