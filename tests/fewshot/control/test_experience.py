"""Experience beside its definition."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.control.baseline import fit_baseline
from dynlm.fewshot.control.experience import experience_of
from dynlm.fewshot.control.policies import Decision, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.tasks.source import seeded
from tests.fewshot.control.test_rollout import countdown, environments_of


class Recording:
    """Random steps, with the records that experience needs."""

    def initial_state(self, tasks: int, copies: int) -> None:
        return None

    def act(self, state: None, seen: Seen, randomness: Randomness) -> Decision:
        actions = 0.05 * randomness.normal(seen.rewards.shape[1], 2)
        return Decision(actions, None, {"log_prob": actions.sum(-1)})


@pytest.mark.parametrize("gae_lambda", [1.0, 0.9])
def test_advantages_by_the_definition(gae_lambda: float) -> None:
    environments, discount = environments_of("navigation", 2, horizon=8), 0.95
    trajectories = rollout(environments, Recording(), Randomness(seeded(0), 2), copies=6).trajectories
    experience = experience_of(trajectories, discount, gae_lambda, normalised=False)
    rewards = trajectories.rewards_NTE.movedim(0, -1)
    returns = torch.zeros_like(rewards)
    for step in range(8):
        returns[..., step] = sum(discount ** (later - step) * rewards[..., later] for later in range(step, 8))
    values = fit_baseline(experience.observations_TEHD, returns, experience.valid_TEH)
    for step in range(8):
        expected = torch.zeros(2, 6)
        for later in range(step, 8):
            following = values[..., later + 1] if later < 7 else 0.0
            residual = rewards[..., later] + discount * following - values[..., later]
            expected += (discount * gae_lambda) ** (later - step) * residual
        torch.testing.assert_close(experience.advantages_TEH[..., step], expected, rtol=1e-3, atol=1e-4)
    if gae_lambda == 1:
        torch.testing.assert_close(experience.advantages_TEH, returns - values, rtol=1e-3, atol=1e-4)
    assert torch.equal(experience.actions_TEH[1, 2, 3], trajectories.actions_NTE[3, 1, 2])
    assert torch.equal(experience.log_probs_TEH[1, 2, 3], trajectories.records["log_prob"][3, 1, 2])


def test_normalised_advantages_leave_padding_out() -> None:
    class Acts(Recording):
        def act(self, state: None, seen: Seen, randomness: Randomness) -> Decision:
            drawn = randomness.uniform(seen.rewards.shape[1])
            return Decision((drawn > 0.5).long(), None, {"log_prob": drawn})

    trajectories = rollout(countdown(6, [2, 5]), Acts(), Randomness(seeded(0), 2), copies=3).trajectories
    noisy = trajectories._replace(rewards_NTE=trajectories.rewards_NTE * torch.rand(6, 2, 3, generator=seeded(3)))
    experience = experience_of(noisy, 1.0, 1.0, normalised=True)
    for task, length in enumerate((2, 5)):
        assert experience.valid_TEH[task].sum(-1).tolist() == [length] * 3
        inside = experience.advantages_TEH[task][experience.valid_TEH[task]]
        assert float(inside.mean()) == pytest.approx(0, abs=1e-5)
        assert float(inside.std(correction=0)) == pytest.approx(1, abs=1e-3)
