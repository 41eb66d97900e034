"""The one loop in which policies act in environments.

    policy = ...                                                   # any object with initial_state and act
    done = rollout(environments, policy, Randomness(seeded(0), environments.tasks), episodes=10)
    done.trajectories.returns_LTE                                  # of each episode
    problem.encode(done.trajectories.seen())                       # inputs of a recurrent policy, to differentiate

Legend: T tasks, E copies of each, L episodes, H steps of an episode, N = L * H steps, D numbers of an observation, A
numbers of an action.

An episode that ends before H steps is padded: its further steps have ``valid`` false and reward 0, so that all episodes
have the same length and a policy's memory runs through them in lockstep.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.control.policies import NO_ACTION, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.types import Params


class Trajectories(NamedTuple):
    """What happened in N steps, in order; the first axis is time, also of ``records``."""

    observations_NTED: Tensor
    actions_NTE: Tensor
    """Actions as the policy chose them (N, T, E) or (N, T, E, A), before environments clip them."""
    rewards_NTE: Tensor
    valid_NTE: Tensor
    """Whether the step was taken before its episode ended."""
    ended_NTE: Tensor
    """Whether the episode has ended with this step or before."""
    horizon: int
    first: Seen
    """What was seen before the first step."""
    records: Params

    @property
    def returns_LTE(self) -> Tensor:
        """The sum of rewards of each episode, in float64."""
        return self.rewards_NTE.double().unflatten(0, (-1, self.horizon)).sum(1)

    @property
    def num_steps(self) -> int:
        """The number of environment steps that were taken, all copies of all tasks together, without padding."""
        return int(self.valid_NTE.sum())

    def seen(self) -> Seen:
        """Return what the policy saw before each step, with the steps as the first axis."""
        last = (self.observations_NTED, self.actions_NTE, self.rewards_NTE, self.ended_NTE)
        before = zip(self.first[1:], last, strict=True)
        return Seen(self.observations_NTED, *(torch.cat([first[None], later[:-1]]) for first, later in before))


class Rollout(NamedTuple):
    """The trajectories, with the policy's state and what it sees after the last step, to continue from."""

    trajectories: Trajectories
    state: Any
    seen: Seen


def nothing_seen(problem: ControlProblem, tasks: int, copies: int) -> Seen:
    """Return what is seen before a task's first step, without the observation (zeros)."""
    actions = torch.full((tasks, copies), NO_ACTION)
    if not problem.num_actions:
        actions = torch.zeros(tasks, copies, problem.action_size)
    zeros_TE = torch.zeros(tasks, copies)
    zeros_TED = zeros_TE[..., None].expand(-1, -1, problem.observation_size)
    return Seen(zeros_TED, zeros_TED, actions, zeros_TE, zeros_TE.bool())


def rollout(
    environments: Environments,
    policy: Policy,
    randomness: Randomness,
    episodes: int = 1,
    copies: int = 1,
    begun: Rollout | None = None,
) -> Rollout:
    """Let a policy act for some episodes in ``copies`` of each task, which share nothing but the task.

    The policy's state starts anew, or continues from ``begun``. Nothing is differentiated: learners compute gradients
    from the trajectories.
    """
    problem, tasks = environments.problem, environments.tasks
    state, seen = policy.initial_state(tasks, copies), nothing_seen(problem, tasks, copies)
    if begun is not None:
        state, seen = begun.state, begun.seen
    rows: list[tuple[Tensor, ...]] = []
    records: dict[str, list[Tensor]] = {}
    first = seen
    with torch.no_grad():
        for _ in range(episodes):
            inner, observations_TED = environments.reset(copies, randomness)
            over_TE = torch.zeros(tasks, copies, dtype=torch.bool)
            for step in range(problem.horizon):
                seen = seen._replace(observations=observations_TED)
                decision = policy.act(state, seen, randomness)
                done = environments.step(inner, decision.actions, randomness)
                rewards_TE = done.rewards.masked_fill(over_TE, 0.0)
                ended_TE = over_TE | done.ended if step < problem.horizon - 1 else torch.ones_like(over_TE)
                rows.append((observations_TED, decision.actions, rewards_TE, ~over_TE, ended_TE))
                for name, tensor in decision.records.items():
                    records.setdefault(name, []).append(tensor)
                over_TE, state, inner = ended_TE, decision.state, done.state
                seen = Seen(done.observations, observations_TED, decision.actions, rewards_TE, ended_TE)
                observations_TED = done.observations
    observations, actions, rewards, valid, ended = (torch.stack(column) for column in zip(*rows, strict=True))
    recorded = {name: torch.stack(tensors) for name, tensors in records.items()}
    trajectories = Trajectories(observations, actions, rewards, valid, ended, problem.horizon, first, recorded)
    return Rollout(trajectories, state, seen)
