"""What a policy is: what it sees, what it returns, and its interface.

Legend: T tasks, E copies of each, D numbers of an observation, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from dynlm.fewshot.control.randomness import Randomness
from dynlm.types import Params

NO_ACTION = -1
"""The last discrete action before the first step."""
_NOTHING: Params = {}


class Seen(NamedTuple):
    """What a policy sees before a step. A leading axis of steps is allowed, as in ``Trajectories.seen``."""

    observations: Tensor
    """(T, E, D)."""
    last_observations: Tensor
    """Observations that the last actions were taken in (T, E, D); 0 before the first."""
    actions: Tensor
    """Last actions (T, E) or (T, E, A); NO_ACTION or 0 before the first."""
    rewards: Tensor
    """Last rewards (T, E); 0 before the first."""
    ended: Tensor
    """Whether the last step ended an episode, so that the observation is the first of the next one (T, E); false before
    the first step."""


class Decision(NamedTuple):
    """A policy's actions (T, E) or (T, E, A), its next state, and tensors to record, such as log-probabilities."""

    actions: Tensor
    state: Any
    records: Params = _NOTHING


class Policy(Protocol):
    """Acts in E copies of T tasks at once. Its state is a value, and runs through all episodes of a task."""

    def initial_state(self, tasks: int, copies: int) -> Any:
        """Return the state before a task's first episode."""
        ...

    def act(self, state: Any, seen: Seen, randomness: Randomness) -> Decision:
        """Return the actions for what is seen; the last action and its reward are part of that."""
        ...


@dataclass(frozen=True)
class Memoryless:
    """A policy whose actions are a function of the number of steps so far and of what is seen."""

    choose: Callable[[int, Seen, Randomness], Tensor]

    def initial_state(self, tasks: int, copies: int) -> int:
        return 0

    def act(self, state: int, seen: Seen, randomness: Randomness) -> Decision:
        return Decision(self.choose(state, seen, randomness), state + 1)
