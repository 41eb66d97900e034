"""Guided meta-policy search: adapted policies imitate experts."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.inner_loop import Order
from dynlm.fewshot.learners.learner import Learned
from dynlm.fewshot.learners.policy_gradient import Support
from dynlm.fewshot.learners.policy_gradient_guided import Guided
from dynlm.fewshot.tasks.navigation import NavigationEnvironments
from dynlm.fewshot.tasks.source import seeded
from tests.fewshot.control.test_rollout import environments_of
from tests.fewshot.test_policy_gradient import learner_of, trainable


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_adapted_policies_imitate_experts(share: float) -> None:
    tasks = environments_of("navigation")
    learner = learner_of("guided", tasks.problem, initial_share=share)
    assert isinstance(learner, Guided)
    meta, randomness = trainable(learner.initial(seeded(0))).meta, Randomness(seeded(1), 4)
    states = [learner.start(Learned(meta, {}), 4, [])]
    acted = learner.act(states[0], tasks, randomness, 3)
    support = [Support(acted, learner.experience(acted))]
    states.append(learner.inner_step(meta, states[0], support[0].experience, 0, Order.SECOND))
    collected, _, taken = learner.collect(states[1], tasks, support, randomness)
    assert taken == int(collected.expert.valid_TEH.sum() + collected.adapted.valid_TEH.sum())
    losses = []
    for weights, shown in zip((states[1], states[1], states[0]), collected, strict=True):
        # The expert moves straight to the goal, from wherever it is.
        wanted = (tasks.parameters["goals"][:, None, None] - shown.observations_TEHD).clamp(-0.1, 0.1)
        torch.testing.assert_close(shown.actions_TEH, wanted)
        each = []
        for task in range(4):
            inside = shown.valid_TEH[task].flatten()
            of_task = {name: tensor[task : task + 1] for name, tensor in weights.items()}
            means = learner.net.outputs(of_task, shown.observations_TEHD[task].flatten(0, 1)[None])[0]
            gaps = (means - wanted[task].flatten(0, 1) / 0.1)[inside]
            variance = (2 * of_task["log_std"]).exp().sum()
            each.append(0.5 * (gaps.square().sum(1).mean() + variance))
        losses.append(torch.stack(each).mean())
    expected = (1 - share) * (losses[0] + losses[1]) / 2 + share * losses[2]
    torch.testing.assert_close(learner.outer_loss(states, collected), expected)


class Unknown(NavigationEnvironments):
    """Navigation whose best policy is not known."""

    def optimal_policy(self) -> None:
        return None


def test_experts_are_trained_where_the_best_policy_is_unknown() -> None:
    problem = ControlProblem(2, 12, 20, action_size=2, low=-0.1, high=0.1)
    tasks = Unknown(problem, {"goals": torch.tensor([[0.5, 0.3], [-0.4, 0.0]])})
    learner = learner_of("guided", problem, expert_steps=60, expert_rate=0.02, activation="tanh")
    assert isinstance(learner, Guided)
    expert, taken = learner.expert(tasks, Randomness(seeded(0), 2))
    assert 0.5 * 60 * 2 * 20 * 12 < taken <= 60 * 2 * 20 * 12
    returns: Trajectories = rollout(tasks, expert, Randomness(seeded(1), 2), 1, 50).trajectories
    optimal = tasks.optimal_returns()
    standing = -12 * tasks.parameters["goals"].norm(dim=1)
    assert optimal is not None
    gained = (returns.returns_LTE[0].mean(1) - standing) / (optimal - standing)
    assert (gained > 0.3).all(), gained
    done = next(learner.meta_steps(trainable(learner.initial(seeded(0))), tasks, 0.0, seeded(3)))
    assert done.environment_steps > 0.5 * taken
