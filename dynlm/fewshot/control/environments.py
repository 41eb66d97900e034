"""Environments of T tasks, E copies of each, that step at once; and what all tasks of a source share.

An environment is a value: its tasks are tensors of parameters, and ``step`` takes a state and returns the next one.

Legend: T tasks, E copies of each, D numbers of an observation, A numbers of an action, N discrete actions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.control.policies import NO_ACTION, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.types import Params


@dataclass(frozen=True)
class ControlProblem:
    """What all tasks of a source share: sizes of observations and actions, and how long a task lasts.

    Actions are integers from 0 to ``num_actions`` - 1, or, where that is 0, ``action_size`` numbers within ``low`` and
    ``high``, which environments clip them to.
    """

    observation_size: int
    """D; 0 where there is nothing to observe, as in a bandit."""
    horizon: int
    """Largest number of steps of an episode."""
    episodes: int
    """Episodes of a task: all that a policy with a memory has, and those of one inner step of a gradient learner."""
    queries: int = 1
    """Episodes that score a gradient learner after each inner step."""
    num_actions: int = 0
    action_size: int = 0
    low: float = -1.0
    high: float = 1.0
    metric: ClassVar[str] = "return"

    @property
    def steps(self) -> int:
        """The steps of all episodes of a task."""
        return self.episodes * self.horizon

    @property
    def seen_size(self) -> int:
        """The numbers of ``encode``: D + N (or A) + 2."""
        return self.observation_size + (self.num_actions or self.action_size) + 2

    @property
    def interactions_size(self) -> int:
        """The numbers of ``encode_interactions``: N (2D + 1), or A (2D + 1)."""
        return (self.num_actions or self.action_size) * (2 * self.observation_size + 1)

    def encode(self, seen: Seen) -> Tensor:
        """Return all that a policy sees as numbers (..., seen_size), such as an RL^2 policy's input.

        They are the observation, the last action (one-hot if discrete, zeros before the first), the last reward, and 1
        where an episode has just ended (Duan et al. 2016, arXiv 1611.02779, section 2.2).
        """
        first = self.observation_size
        numbers = seen.observations.new_zeros(*seen.rewards.shape, self.seen_size)
        numbers[..., :first] = seen.observations
        if self.num_actions:
            index = seen.actions[..., None].clamp_min(0) + first
            numbers.scatter_(-1, index, (seen.actions != NO_ACTION)[..., None].to(numbers))
        else:
            numbers[..., first:-2] = seen.actions
        numbers[..., -2] = seen.rewards
        numbers[..., -1] = seen.ended
        return numbers

    def encode_interactions(self, seen: Seen) -> Tensor:
        """Return products of what a policy sees (..., interactions_size), which a linear layer cannot form.

        They are those of the last observation o and the last action a, and of a and (1, o) with the last reward: in a
        tabular task, one number for each pair of a state and an action that is 1 in the step after it, and the reward
        of each pair.
        """
        actions = self.encode(seen)[..., self.observation_size : -2]
        pairs = (seen.last_observations[..., None] * actions[..., None, :]).flatten(-2)
        return torch.cat([pairs, torch.cat([actions, pairs], -1) * seen.rewards[..., None]], -1)


class Step(NamedTuple):
    """The result of a step: the next state, what is observed there, rewards (T, E), and whether that ends episodes."""

    state: Any
    observations: Tensor
    rewards: Tensor
    ended: Tensor
    """Whether the episode ended by itself (T, E), before the limit of ``horizon`` steps, which the rollout sets."""


class Environments(ABC):
    """T tasks of one source. ``parameters`` are tensors with the tasks as their first axis."""

    def __init__(self, problem: ControlProblem, parameters: Params):
        self.problem, self.parameters = problem, parameters

    @property
    def tasks(self) -> int:
        """The number of tasks T."""
        return len(next(iter(self.parameters.values())))

    def __getitem__(self, tasks: slice | Sequence[int]) -> Environments:
        """Return some of the tasks."""
        return type(self)(self.problem, {name: tensor[tasks] for name, tensor in self.parameters.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[Environments]) -> Environments:
        """Return the tasks of environments of one source as one batch."""
        names = parts[0].parameters
        return type(parts[0])(
            parts[0].problem, {name: torch.cat([part.parameters[name] for part in parts]) for name in names}
        )

    @abstractmethod
    def reset(self, copies: int, randomness: Randomness) -> tuple[Any, Tensor]:
        """Begin an episode in E copies of each task; return (state, observations (T, E, D))."""

    @abstractmethod
    def step(self, state: Any, actions: Tensor, randomness: Randomness) -> Step:
        """Take actions (T, E), or (T, E, A) which are clipped to their bounds, in all environments at once.

        What the copies return whose episode has ended is not defined, except that it is finite.
        """

    def optimal_returns(self) -> Tensor | None:
        """Return the expected return of an episode under each task's best policy (T,); None where it is not known."""
        return None

    def optimal_policy(self) -> Policy | None:
        """Return each task's best policy, the oracle; None where it is not known."""
        return None
