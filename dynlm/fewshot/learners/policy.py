"""The base of learners that act: a policy adapts to new environments, by its memory or by gradient steps.

Legend: T tasks, E copies of each, L episodes, J numbers of inner steps.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.control.policies import Policy
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Rollout, rollout
from dynlm.fewshot.learners.learner import Adapted, Generators, Learned, Learner, Scores
from dynlm.fewshot.tasks.control import ControlSource
from dynlm.fewshot.tasks.source import TaskSource


class PolicyLearner(Learner):
    """Acts in environments of new tasks.

    One that ``takes_steps`` yields its state after 0, 1, ... inner steps from ``adapt``, each with trajectories of its
    own, and its score is the mean return of other episodes after each. One that does not adapts while it acts: its
    policy's memory runs through all episodes of a task, and each of these is scored.
    """

    problem: ControlProblem

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        if not isinstance(task, ControlSource.Options):
            what = f"learner.kind {options.kind!r} acts in environments, and task.source {task.source!r} has none"
            raise UserError(what, do="choose another of the two")

    def adapt(self, learned: Learned, support: Environments, steps: int, generators: Generators) -> Iterator[Adapted]:
        yield Adapted({}, support, 0)

    @abstractmethod
    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        """Return the policy that acts in the environments ``adapted.support``, of T tasks."""

    def scores(self, learned: Learned, tasks: Environments, steps: int, generators: Generators) -> Scores:
        """Return mean returns of ``problem.queries`` episodes after each inner step, or the return of each episode."""
        randomness = Randomness(generators, tasks.tasks)
        columns, numbers = [], []
        for adapted in self.adapt(learned, tasks, steps, generators):
            if not self.takes_steps:
                returns_LT = self.lifetime(learned, adapted, randomness).trajectories.returns_LTE[..., 0]
                return Scores(list(range(1, len(returns_LT) + 1)), returns_LT.T)
            acted = rollout(tasks, self.policy(learned, adapted), randomness, 1, self.problem.queries)
            columns.append(acted.trajectories.returns_LTE[0].mean(1))
            numbers.append(adapted.step)
        return Scores(numbers, torch.stack(columns, 1))

    def lifetime(self, learned: Learned, adapted: Adapted, randomness: Randomness, copies: int = 1) -> Rollout:
        """Let the policy act in all episodes of each task, which its memory runs through."""
        policy = self.policy(learned, adapted)
        return rollout(adapted.support, policy, randomness, self.problem.episodes, copies)

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"adapts": "by steps" if self.takes_steps else "while acting"}
