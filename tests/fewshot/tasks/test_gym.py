"""gymnasium's own environments with hidden parameters, through the adapter."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dynlm.errors import UserError
from dynlm.fewshot.control.policies import Memoryless
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.learners.learner import Adapted, Learned
from dynlm.fewshot.learners.yardsticks import RandomActions
from dynlm.fewshot.tasks.gym import Gymnasium
from dynlm.fewshot.tasks.source import seeded

gymnasium = pytest.importorskip("gymnasium")


def source_of(**options: Any) -> Gymnasium:
    return Gymnasium(Gymnasium.Options(**{"parameters": {"g": [5.0, 15.0]}, "horizon": 5, "episodes": 2, **options}))


def test_a_task_is_the_environment_with_its_own_gravity() -> None:
    source = source_of()
    environments = source.sample(3, seeded(0))
    gravity_T = environments.parameters["g"]
    assert ((gravity_T >= 5) & (gravity_T <= 15)).all() and len(gravity_T.unique()) == 3
    still = Memoryless(lambda step, seen, randomness: torch.zeros(*seen.rewards.shape, 1))
    randomness = Randomness([seeded(4, task) for task in range(3)], 3)
    acted = rollout(environments, still, randomness, episodes=2, copies=2).trajectories
    assert acted.observations_NTED.shape == (10, 3, 2, 3) and acted.valid_NTE.all()
    # Pendulum's own equation, without a torque: the angular velocity grows by 3 g / (2 l) sin(angle) dt.
    _, sin, velocity = acted.observations_NTED.double().unbind(-1)
    grown = velocity[:-1] + 1.5 * gravity_T[:, None] * sin[:-1] * 0.05
    same_episode = torch.arange(9) != 4
    assert torch.allclose(grown[same_episode], velocity[1:][same_episode], atol=1e-5)


def test_a_task_does_not_depend_on_the_others_in_the_batch() -> None:
    source = source_of()
    environments = source.sample(3, seeded(0))
    policy = RandomActions(RandomActions.Options(), source.problem).policy(
        Learned({}, {}), Adapted({}, environments, 0)
    )

    def returns(tasks: list[int]) -> torch.Tensor:
        randomness = Randomness([seeded(4, task) for task in tasks], len(tasks))
        return rollout(environments[tasks], policy, randomness, episodes=2, copies=2).trajectories.returns_LTE

    assert torch.equal(returns([0, 1, 2]), torch.cat([returns([0]), returns([1, 2])], 1))


def test_discrete_actions_and_an_episode_that_ends_by_itself() -> None:
    source = source_of(environment="CartPole-v1", parameters={"length": [0.3, 0.7]}, horizon=40)
    assert (source.problem.num_actions, source.problem.observation_size) == (2, 4)
    push = Memoryless(lambda step, seen, randomness: torch.ones(seen.rewards.shape, dtype=torch.int64))
    acted = rollout(source.sample(2, seeded(0)), push, Randomness(seeded(1), 2), episodes=2).trajectories
    lengths = acted.returns_LTE[..., 0]
    assert ((lengths >= 5) & (lengths < 20)).all(), "the pole falls when it is pushed to one side"
    assert acted.num_steps == int(lengths.sum())


def test_discrete_observations_are_one_hot_and_whole_numbers_are_drawn_as_such() -> None:
    source = source_of(environment="FrozenLake-v1", parameters={"nrow": [2, 9]})
    environments = source.sample(50, seeded(0))
    assert set(environments.parameters["nrow"].tolist()) == set(range(2, 10))
    acted = rollout(
        environments[:2], Memoryless(lambda step, seen, _: torch.ones(2, 1).long()), Randomness(seeded(0), 2)
    ).trajectories
    assert acted.observations_NTED.shape == (5, 2, 1, 16) and acted.observations_NTED.sum(-1).eq(1).all()
    assert acted.observations_NTED[0, :, :, 0].eq(1).all()


@pytest.mark.parametrize(
    "options, said",
    [
        ({"parameters": {}}, "task.parameters is empty: all tasks of Pendulum-v1 would be the same"),
        ({"parameters": {"gravity": [1, 2]}}, "'gravity', which Pendulum-v1 has neither as argument nor as attribute"),
        ({"parameters": {"g": [5]}}, r"task.parameters has g: \[5\]; write a range"),
        ({"parameters": {"g": [5, 3]}}, r"task.parameters has g: \[5, 3\]"),
        ({"environment": "Pendulun-v1"}, "task.environment 'Pendulun-v1' cannot be made"),
        ({"environment": "Blackjack-v1", "parameters": {"sab": [0, 1]}}, "choose an environment whose spaces are Box"),
        ({"horizon": 0}, "task.horizon is 0"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as refusal:
        source_of(**options)
    assert "\n" not in str(refusal.value)
