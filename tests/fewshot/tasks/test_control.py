"""Distributions of environments: their tasks, rewards and transitions, seeds of splits, and refusals."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import Environments
from dynlm.fewshot.control.policies import Memoryless
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.navigation import Navigation
from dynlm.fewshot.tasks.source import SOURCES, TaskSource, seeded, task_sampler
from dynlm.fewshot.tasks.tabular import Tabular
from dynlm.runtime.validation import section_of


def always(action: Any) -> Memoryless:
    return Memoryless(lambda step, seen, randomness: torch.full(seen.rewards.shape, action))


def test_a_bandit_gives_one_as_often_as_its_arm_says() -> None:
    environments = Bandit(Bandit.Options(arms=3, pulls=2)).sample(5, seeded(0))
    means_TN = environments.parameters["means"]
    assert means_TN.shape == (5, 3) and float(means_TN.min()) >= 0 and float(means_TN.max()) < 1
    acted = rollout(environments, always(1), Randomness(seeded(1), 5), episodes=2, copies=20_000).trajectories
    assert set(acted.rewards_NTE.unique().tolist()) == {0.0, 1.0} and acted.ended_NTE.all()
    assert torch.allclose(acted.rewards_NTE.mean((0, 2)), means_TN[:, 1], atol=0.012)


def test_tabular_tasks_have_the_distributions_of_the_paper() -> None:
    environments = Tabular(Tabular.Options()).sample(2000, seeded(0))
    transitions, rewards = environments.parameters["transitions"], environments.parameters["rewards"]
    assert transitions.shape == (2000, 10, 5, 10) and torch.allclose(transitions.sum(-1), torch.ones(2000, 10, 5))
    # A component of Dirichlet(1) over ten states is Beta(1, 9): mean 1/10, variance 9 / (100 * 11).
    assert float(transitions[..., 3].var()) == pytest.approx(9 / 1100, rel=0.03)
    assert float(rewards.mean()) == pytest.approx(1, abs=0.02) and float(rewards.var()) == pytest.approx(1, rel=0.03)


def test_tabular_steps_follow_the_tables() -> None:
    environments = Tabular(Tabular.Options(states=3, actions=2, horizon=2)).sample(2, seeded(0))
    copies = 50_000
    acted = rollout(environments, always(1), Randomness(seeded(1), 2), copies=copies).trajectories
    assert acted.observations_NTED[0, ..., 0].eq(1).all(), "an episode begins in state 0"
    shares_TS = acted.observations_NTED[1].mean(1)
    assert torch.allclose(shares_TS, environments.parameters["transitions"][:, 0, 1], atol=0.01)
    first = acted.rewards_NTE[0]
    assert torch.allclose(first.mean(1), environments.parameters["rewards"][:, 0, 1], atol=0.02)
    assert torch.allclose(first.var(1), torch.ones(2), atol=0.03)


def test_navigation_moves_no_faster_than_it_may_and_ends_at_the_goal() -> None:
    environments = Navigation(Navigation.Options(horizon=6)).sample(1, seeded(0))
    environments.parameters["goals"][:] = torch.tensor([0.3, -0.05])
    acted = rollout(environments, environments.optimal_policy(), Randomness(seeded(0), 1)).trajectories
    expected = [(0.0, 0.0), (0.1, -0.05), (0.2, -0.05), (0.3, -0.05)]
    assert torch.allclose(acted.observations_NTED[:4, 0, 0], torch.tensor(expected), atol=1e-6)
    assert acted.rewards_NTE[:, 0, 0].tolist() == pytest.approx([-0.2, -0.1, 0, 0, 0, 0], abs=1e-6)
    assert acted.num_steps == 3
    optimal = environments.optimal_returns()
    assert optimal is not None and float(optimal) == pytest.approx(-0.3)
    far = rollout(
        environments, Memoryless(lambda *_: torch.tensor([[[9.0, 9.0]]])), Randomness(seeded(0), 1)
    ).trajectories
    assert torch.allclose(far.observations_NTED[5, 0, 0], torch.tensor([0.5, 0.5]))
    assert float(far.rewards_NTE[5]) == pytest.approx(-math.hypot(0.3, 0.65))


@pytest.mark.parametrize("kind", ["bandit", "tabular", "navigation", "cubic"])
def test_splits_share_no_task_and_tasks_do_not_depend_on_each_other(kind: str) -> None:
    source = SOURCES[kind](SOURCES[kind].Options())

    def numbers(tasks: Any) -> torch.Tensor:
        if isinstance(tasks, Environments):
            return torch.cat([tensor.flatten(1) for tensor in tasks.parameters.values()], 1)
        return tasks.support.inputs.flatten(1)

    drawn = {split: numbers(task_sampler(source, 0, split)(range(20))) for split in ("train", "valid", "test")}
    rows = torch.cat(list(drawn.values()))
    assert len(rows.unique(dim=0)) == 60
    assert torch.equal(numbers(task_sampler(source, 0, "test")([7, 3])), drawn["test"][[7, 3]])
    assert not torch.equal(numbers(task_sampler(source, 1, "test")([7])), drawn["test"][[7]])


@pytest.mark.parametrize(
    "options, said",
    [
        ({"source": "bandit", "pulls": 0}, "task.pulls is 0; choose a value"),
        ({"source": "bandit", "arms": 1}, "task.arms is 1"),
        ({"source": "tabular", "horizon": 0}, "task.horizon is 0; choose a value"),
        ({"source": "navigation", "episodes": 0}, "task.episodes is 0"),
        ({"source": "navigation", "queries": 0}, "task.queries is 0"),
        ({"source": "bandit", "shots": 3}, "task.shots is set, but task.source 'bandit' does not use it"),
    ],
)
def test_sizes_of_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        section_of(TaskSource.Options, options)
