"""Rollouts: what policies see, where episodes end, and results that do not depend on the batch.

Legend: T tasks, E copies of each, L episodes, N steps, D numbers of an observation.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.policies import NO_ACTION, Decision, Memoryless, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.tasks.source import SOURCES, seeded

KINDS = ("bandit", "tabular", "navigation")


def environments_of(kind: str, tasks: int = 4, **options: Any) -> Environments:
    sizes: dict[str, Any] = {"bandit": {"pulls": 6}, "tabular": {"horizon": 3, "episodes": 2}}.get(kind, {"horizon": 4})
    source = SOURCES[kind](SOURCES[kind].Options(**{**sizes, **options}))
    environments: Environments = source.batch("test", False, tasks, seeded(3))
    return environments


class Countdown(Environments):
    """An episode ends after as many steps as the task says; the reward is 1, and the observation is the step."""

    def reset(self, copies: int, randomness: Randomness) -> tuple[Tensor, Tensor]:
        step_TE = torch.zeros(self.tasks, copies)
        return step_TE, step_TE[..., None]

    def step(self, state: Tensor, actions: Tensor, randomness: Randomness) -> Step:
        after = state + 1
        return Step(after, after[..., None], torch.ones_like(after), after >= self.parameters["length"][:, None])


def countdown(horizon: int, lengths: list[int]) -> Countdown:
    problem = ControlProblem(1, horizon, 2, num_actions=3)
    return Countdown(problem, {"length": torch.tensor(lengths)})


def cycling(step: int, seen: Seen, randomness: Randomness) -> Tensor:
    return torch.full(seen.rewards.shape, step % 3)


def test_an_episode_that_ends_early_is_padded_without_reward() -> None:
    acted = rollout(countdown(4, [1, 3, 9]), Memoryless(cycling), Randomness(seeded(0), 3), episodes=2).trajectories
    assert acted.returns_LTE[..., 0].tolist() == [[1, 3, 4], [1, 3, 4]]
    assert acted.valid_NTE[:4, :, 0].T.int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert acted.ended_NTE[:4, :, 0].T.int().tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert acted.num_steps == 16
    assert acted.observations_NTED[4].eq(0).all(), "a new episode begins with the first observation"


def test_a_policy_sees_its_last_action_and_what_came_of_it() -> None:
    seen_steps: list[Seen] = []

    def choose(step: int, seen: Seen, randomness: Randomness) -> Tensor:
        seen_steps.append(seen)
        return cycling(step, seen, randomness)

    acted = rollout(countdown(3, [2]), Memoryless(choose), Randomness(seeded(0), 1), episodes=2).trajectories
    assert [int(seen.actions) for seen in seen_steps] == [NO_ACTION, 0, 1, 2, 0, 1]
    assert [float(seen.rewards) for seen in seen_steps] == [0, 1, 1, 0, 1, 1]
    assert [bool(seen.ended) for seen in seen_steps] == [False, False, True, True, False, True]
    again = acted.seen()
    for name, rows in again._asdict().items():
        assert torch.equal(rows, torch.stack([getattr(seen, name) for seen in seen_steps])), name


def test_a_recurrent_policy_sees_numbers() -> None:
    problem = ControlProblem(1, 3, 2, num_actions=3)
    observations, ones = torch.tensor([[[5.0]], [[6.0]]]), torch.ones(2, 1)
    seen = Seen(observations, 10 * observations, torch.tensor([[NO_ACTION], [2]]), ones, ones > 0)
    assert problem.encode(seen).tolist() == [[[5, 0, 0, 0, 1, 1]], [[6, 0, 0, 1, 1, 1]]]
    assert problem.seen_size == 6
    box = ControlProblem(1, 3, 2, action_size=2)
    assert box.encode(seen._replace(actions=torch.zeros(2, 1, 2))).shape == (2, 1, box.seen_size)


def test_a_recurrent_policy_sees_products() -> None:
    """Of an action with the observation that it was taken in, and of both with the reward; the reward here is -2."""
    problem, twos = ControlProblem(2, 3, 2, num_actions=2), torch.full((2, 1), -2.0)
    last = torch.tensor([[[0.0, 5.0]], [[3.0, 4.0]]])
    seen = Seen(7 * last, last, torch.tensor([[NO_ACTION], [1]]), twos, twos > 0)
    wanted = [0, 3, 0, 4], [0, -2], [0, -6, 0, -8]
    assert problem.encode_interactions(seen).tolist() == [[[0] * 10], [[number for part in wanted for number in part]]]
    assert problem.interactions_size == 10
    box = ControlProblem(2, 3, 2, action_size=1)
    numbers = box.encode_interactions(seen._replace(actions=torch.full((2, 1, 1), 0.5)))
    assert numbers[1].tolist() == [[1.5, 2, -1, -3, -4]] and box.interactions_size == 5
    bandit = ControlProblem(0, 1, 2, num_actions=2)
    nothing = last[..., :0]
    numbers = bandit.encode_interactions(seen._replace(observations=nothing, last_observations=nothing))
    assert numbers[1].tolist() == [[0, -2]] and bandit.interactions_size == 2


def test_a_rollout_continues_where_another_ended() -> None:
    class Counting:
        def initial_state(self, tasks: int, copies: int) -> int:
            return 0

        def act(self, state: int, seen: Seen, randomness: Randomness) -> Decision:
            actions = (seen.actions + 1).remainder(3)
            return Decision(actions, state + 1, {"state": torch.full(seen.rewards.shape, state)})

    environments, randomness = countdown(3, [2, 5]), Randomness(seeded(0), 2)
    whole = rollout(environments, Counting(), randomness, episodes=3)
    begun = rollout(environments, Counting(), randomness, episodes=1)
    rest = rollout(environments, Counting(), randomness, episodes=2, begun=begun)
    for name in ("actions_NTE", "rewards_NTE", "ended_NTE"):
        parts = [getattr(part.trajectories, name) for part in (begun, rest)]
        assert torch.equal(torch.cat(parts), getattr(whole.trajectories, name)), name
    assert rest.state == whole.state == 9
    records = [part.trajectories.records["state"] for part in (begun, rest)]
    assert torch.equal(torch.cat(records), whole.trajectories.records["state"])
    assert torch.equal(
        torch.cat([part.trajectories.seen().actions for part in (begun, rest)]), whole.trajectories.seen().actions
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_does_not_depend_on_the_others_in_the_batch(kind: str) -> None:
    environments = environments_of(kind, tasks=4)

    def choose(step: int, seen: Seen, randomness: Randomness) -> Tensor:
        if environments.problem.num_actions:
            return randomness.categorical(torch.zeros(*seen.rewards.shape, environments.problem.num_actions))
        return randomness.normal(seen.rewards.shape[1], environments.problem.action_size)

    def acted(tasks: list[int]) -> Tensor:
        randomness = Randomness([seeded(7, task) for task in tasks], len(tasks))
        return rollout(
            environments[tasks], Memoryless(choose), randomness, episodes=2, copies=3
        ).trajectories.returns_LTE

    assert torch.equal(acted([0, 1, 2, 3]), torch.cat([acted([0, 1]), acted([2]), acted([3])], 1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_has_the_optimal_return(kind: str) -> None:
    environments = environments_of(kind, tasks=3)
    acted = rollout(environments, environments.optimal_policy(), Randomness(seeded(1), 3), copies=20_000)
    returns_TE = acted.trajectories.returns_LTE[0]
    error_T = returns_TE.std(1) / returns_TE.shape[1] ** 0.5
    optimal_T = environments.optimal_returns()
    assert optimal_T is not None
    # Rewards of navigation leave out what remains within .01 of the goal.
    assert ((returns_TE.mean(1) - optimal_T).abs() < 4 * error_T + 1e-5).all()


def test_generators_are_one_for_each_task() -> None:
    with pytest.raises(ValueError, match="2 generators, for 3 tasks"):
        Randomness([seeded(0), seeded(1)], 3)


def test_draws_have_their_distributions() -> None:
    randomness = Randomness(seeded(0), 2)
    logits = torch.tensor([0.0, 1.0, -torch.inf, 2.0])
    drawn_TE = randomness.categorical(logits.expand(2, 20_000, 4))
    shares = torch.bincount(drawn_TE.flatten(), minlength=4) / drawn_TE.numel()
    assert torch.allclose(shares, logits.softmax(0), atol=0.01) and shares[2] == 0
    best_TE = randomness.argmax(torch.tensor([1.0, 3.0, 3.0]).expand(2, 20_000, 3))
    assert torch.allclose(torch.bincount(best_TE.flatten()) / best_TE.numel(), torch.tensor([0, 0.5, 0.5]), atol=0.01)
    beta = randomness.beta(torch.full((2, 20_000), 2.0), torch.full((2, 20_000), 3.0))
    assert float(beta.mean()) == pytest.approx(0.4, abs=0.01) and float(beta.var()) == pytest.approx(0.04, abs=0.002)
    assert torch.allclose(randomness.dirichlet(torch.ones(2, 5, 3)).sum(-1), torch.ones(2, 5))
