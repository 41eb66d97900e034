"""The interface of a task source, the options that all sources have, and the registry of sources.

To add a source, write one module here, or in another package with an entry point in the group ``dynlm.task_sources``:
a subclass of ``TaskOptions`` with its own fields, and a subclass of ``TaskSource`` under ``@register_source``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dynlm.fewshot.registry import Registry
from dynlm.fewshot.tasks.episodes import LARGEST_COUNT, Episodes, EpisodeShape, Problem
from dynlm.runtime.validation import Section, bounded


@dataclass
class TaskOptions(Section):
    """Which tasks, and how many examples their support and query sets have."""

    SECTION = "task"
    is_regression: ClassVar[bool] = False

    source: str = ""
    shots: int = bounded(1, 1, LARGEST_COUNT)
    """Support examples of each class, or points of a curve."""
    queries: int = bounded(15, 1, LARGEST_COUNT)
    """Query examples of each class, or points of a curve."""
    train_shots: int | None = bounded(None, 1, LARGEST_COUNT)
    """Support examples of each class in training; unset: shots."""
    train_queries: int | None = bounded(None, 1, LARGEST_COUNT)
    """Query examples of each class in training; unset: queries."""

    def episode_shape(self, training: bool) -> EpisodeShape:
        """Return the number of classes and examples of an episode."""
        if training:
            return EpisodeShape(1, self.train_shots or self.shots, self.train_queries or self.queries)
        return EpisodeShape(1, self.shots, self.queries)

    def protocol(self) -> dict[str, Any]:
        """Return what a score has to be reported with, beside the numbers of support and query examples."""
        return {}


class TaskSource(ABC):
    """A distribution of tasks. It is constructed from its options; raises UserError where its data cannot be read."""

    options_type: ClassVar[type[TaskOptions]]
    problem: Problem

    @abstractmethod
    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` tasks from a split (train, valid or test); all randomness comes from ``generator``.

        Raises UserError where the split has too few classes or examples.
        """

    def describe(self) -> dict[str, dict[str, int]]:
        """Return counts of what each split holds, by name."""
        return {}

    def image_format(self) -> dict[str, Any]:
        """Return the properties of images that a learner depends on (``ImageTasks.image_format``), if there are any."""
        return {}

    def data_card(self, split: str) -> dict[str, Any]:
        """Return what identifies the data of a split in a file of scores."""
        return {}


SOURCES: Registry[TaskSource, TaskOptions] = Registry(
    TaskOptions, "source", "dynlm.fewshot.tasks", "dynlm.task_sources"
)
SOURCES.ignored = ("ways", "size", "path", "rotations", "test_rotations")
register_source = SOURCES.register
