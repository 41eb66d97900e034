"""Tasks that are environments: the base of all their sources."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.tasks.source import LARGEST_COUNT, TaskSource
from dynlm.runtime.validation import bounded


class ControlSource(TaskSource):
    """A distribution of environments.

    A task is episodes in one environment. A policy with a memory acts in ``problem.episodes`` of them in a row, all
    of which are scored. A gradient learner takes that many for each inner step and is scored on ``problem.queries``
    others. Splits differ in the generators that they are sampled with, and in nothing else.
    """

    problem: ControlProblem

    @dataclass
    class Options(TaskSource.Options):
        """Which environments, and how many episodes of each."""

        default_steps = 3
        unit = "episode"
        """What an episode is called."""
        has_oracle = True
        """Whether the best policy of a task is known."""

        queries: int = bounded(20, 1, LARGEST_COUNT)
        """Episodes that score a learner that takes inner steps, after each step (others are scored on all episodes)."""

        def summary(self) -> str:
            return f"{self.source}: {self.size_label().replace('-', ' ')}; every task is new"

    def batch(self, split: str, training: bool, count: int, generator: torch.Generator) -> Environments:
        return self.sample(count, generator)

    @staticmethod
    def concatenate(batches: Sequence[Environments]) -> Environments:
        return type(batches[0]).concatenate(batches)

    @abstractmethod
    def sample(self, count: int, generator: torch.Generator) -> Environments:
        """Draw ``count`` tasks."""


def control_protocol(options: Any, *names: str) -> dict[str, Any]:
    """Return the options ``names`` of a source, which a score has to be reported with."""
    about = {name: getattr(options, name) for name in (*names, "queries")}
    if "episodes" in about:  # The protocol's episodes are the tasks of an evaluation.
        about["task_episodes"] = about.pop("episodes")
    return about | {"unit": options.unit, "size": options.size_label()}
