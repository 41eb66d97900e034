"""Policies that nobody trained, beside which every learned one is reported: random actions and the oracle.

Legend: T tasks, E copies of each, A numbers of an action.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.policies import Memoryless, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned, TaskSampler
from dynlm.fewshot.learners.policy import PolicyLearner
from dynlm.fewshot.tasks.source import TaskSource, seeded

TUNING_TASKS = 1000
"""Tasks of the valid split on which constants are chosen."""
_TUNING = 14
"""Purpose of the generators of acting in them."""


class Yardstick(PolicyLearner):
    """A policy with a memory, without anything to train.

    Its constant, where it has one, is the meta-parameter of that name: the option, or, where that is unset, the value
    of ``grid`` with the largest mean return on tasks of the valid split.
    """

    is_trained = False
    constant: ClassVar[str | None] = None
    grid: ClassVar[Sequence[float]] = ()
    tasks: ClassVar[tuple[str, type[TaskSource.Options]] | None] = None
    """The kind of tasks that it is for, and their options; None: any in which policies act."""

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        super().check_task(options, task)
        if cls.tasks is not None and not isinstance(task, cls.tasks[1]):
            what = f"learner.kind {options.kind!r} is for {cls.tasks[0]}, and task.source is {task.source!r}"
            raise UserError(what, do="choose another of the two")

    def initial(self, generator: torch.Generator) -> Learned:
        if self.constant is None:
            return Learned({}, {})
        given = getattr(self.options, self.constant)
        return Learned({self.constant: torch.tensor(math.nan if given is None else given, dtype=torch.float64)}, {})

    def tune(self, learned: Learned, sample: TaskSampler) -> tuple[Learned, dict[str, Any]]:
        if self.constant is None:
            return learned, {}
        if getattr(self.options, self.constant) is not None:
            return learned, {self.constant: getattr(self.options, self.constant)}
        tasks = sample(range(TUNING_TASKS))
        returns = []
        for value in self.grid:
            tried = Learned({self.constant: torch.tensor(value, dtype=torch.float64)}, {})
            adapted = Adapted({}, tasks, 0)
            acted = self.lifetime(tried, adapted, Randomness(seeded(0, _TUNING), tasks.tasks))
            returns.append(float(acted.trajectories.returns_LTE.sum(0).mean()))
        best = max(range(len(returns)), key=returns.__getitem__)
        about = {self.constant: self.grid[best], "grid": list(self.grid), "returns": [round(r, 4) for r in returns]}
        about |= {"split": "valid", "tasks": TUNING_TASKS, "episodes": self.problem.episodes}
        return Learned({self.constant: torch.tensor(self.grid[best], dtype=torch.float64)}, {}), about

    def constant_of(self, learned: Learned) -> float:
        """Return the constant that was given or chosen."""
        assert self.constant is not None
        return float(learned.meta[self.constant])


def explore(actions_TE: Tensor, epsilon: float, problem: ControlProblem, randomness: Randomness) -> Tensor:
    """Return the actions, each replaced by any action with probability ``epsilon``."""
    copies = actions_TE.shape[1]
    is_random_TE = randomness.uniform(copies) < epsilon
    return torch.where(is_random_TE, randomness.integers(problem.num_actions, copies), actions_TE)


@LEARNERS.register_kind("random-actions")
class RandomActions(Yardstick):
    """Actions drawn uniformly."""

    label = "random actions"

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        return Memoryless(self._choose)

    def _choose(self, step: int, seen: Seen, randomness: Randomness) -> Tensor:
        problem, copies = self.problem, seen.rewards.shape[1]
        if problem.num_actions:
            return randomness.integers(problem.num_actions, copies)
        return problem.low + (problem.high - problem.low) * randomness.uniform(copies, problem.action_size)


@LEARNERS.register_kind("oracle")
class Oracle(Yardstick):
    """The best policy of each task, which knows the task."""

    label = "oracle"

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        super().check_task(options, task)
        if not getattr(task, "has_oracle", False):
            what = f"learner.kind 'oracle' needs each task's best policy, which {task.source} does not know"
            raise UserError(what, do="choose another of the two")

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        policy: Policy | None = adapted.support.optimal_policy()
        assert policy is not None, "the options of a source say whether it has one"
        return policy
