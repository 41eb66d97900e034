"""The interface and registry of task sources, and those whose tasks are labelled examples.

To add a source, write one module here, or in another package with an entry point in the group ``dynlm.task_sources``:
a subclass of ``LabelledSource`` (support and query examples) or of ``tasks.control.ControlSource`` (environments) under
``@SOURCES.register_kind``, with its own ``Options``.

Legend: T tasks in a batch, S support and Q query examples, D the shape of one input, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.registry import KindOptions, OptionsRegistry
from dynlm.runtime.validation import bounded

LARGEST_COUNT = 100_000
"""Largest number of classes, examples, inner steps or tasks of a batch: their arrays are allocated at once."""
EVALUATION = 10
"""Purpose of the generators of tasks that are scored."""
SOURCES = OptionsRegistry("task", "source", "dynlm.fewshot.tasks", "dynlm.task_sources")
SOURCES.ignored = ("ways", "size", "path", "rotations", "test_rotations")


class Labelled(NamedTuple):
    """Inputs (T, S, *D) with their targets: class indices (T, S), or values (T, S, 1)."""

    inputs: Tensor
    targets: Tensor


class Episodes(NamedTuple):
    """A batch of T tasks, each with its support and its query set."""

    support: Labelled
    query: Labelled

    @property
    def tasks(self) -> int:
        """The number of tasks T."""
        return len(self.support.inputs)

    @staticmethod
    def concatenate(episodes: Sequence[Episodes]) -> Episodes:
        """Return episodes of one shape as one batch."""
        parts = zip(*episodes, strict=True)
        return Episodes(*(Labelled(*map(torch.cat, zip(*part, strict=True))) for part in parts))


class EpisodeShape(NamedTuple):
    """The number of classes (1 for regression), and of support and query examples of each."""

    ways: int
    shots: int
    queries: int


@dataclass(frozen=True)
class Problem:
    """What all tasks of a source share: the shape of an input, the number of outputs O, the loss and the score."""

    input_shape: tuple[int, ...]
    """(1,) for curves, (height, width, channels) for images."""
    num_outputs: int
    classifies: bool

    @property
    def metric(self) -> str:
        """The name of the score."""
        return "accuracy" if self.classifies else "mean squared error"

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of examples: cross-entropy in nats, or the squared error."""
        if self.classifies:
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        return F.mse_loss(outputs, targets)

    def losses(self, outputs_TNO: Tensor, targets_TN: Tensor) -> Tensor:
        """Return the mean loss of each task (T,)."""
        if self.classifies:
            return F.cross_entropy(outputs_TNO.transpose(1, 2), targets_TN, reduction="none").mean(1)
        return (outputs_TNO - targets_TN).square().mean((1, 2))

    def scores(self, outputs_TQO: Tensor, targets_TQ: Tensor) -> Tensor:
        """Return each task's accuracy (0 to 1) or mean squared error, in float64 (T,)."""
        if self.classifies:
            return (outputs_TQO.argmax(-1) == targets_TQ).double().mean(1)
        return (outputs_TQO - targets_TQ).double().square().mean((1, 2))


class TaskSource(ABC):
    """A distribution of tasks. It is constructed from its options; raises UserError where its data cannot be read."""

    problem: Any
    """What its tasks share: a ``Problem`` of labelled examples, or a ``ControlProblem`` of environments."""

    @dataclass
    class Options(KindOptions):
        """Which tasks, and how much of each a learner adapts to and is scored on."""

        SECTION, COMMON, REGISTRY = "task", "source shots queries", SOURCES
        # Not annotated, as what follows in subclasses: these are no options.
        default_steps = 0
        """Inner steps of gradient learners in evaluation; 0: those of training."""

        source: str = "glyphs"
        """glyphs, omniglot, imagefolder, cubic, sinusoid, bandit, tabular, navigation, gymnasium, or one that another
        package registers (entry points dynlm.task_sources)."""

        def size_label(self) -> str:
            """Return the size of a task in a word, for names of files."""
            return ""

        def summary(self) -> str:
            """Return what a task is, in one line."""
            return f"{self.source}: {self.size_label()}"

        def protocol(self) -> dict[str, Any]:
            """Return what a score has to be reported with."""
            return {}

    def __init__(self, options: Any):
        self.options = options

    @abstractmethod
    def batch(self, split: str, training: bool, count: int, generator: torch.Generator) -> Any:
        """Draw ``count`` tasks from a split (train, valid or test), for training or for evaluation.

        All randomness comes from ``generator``. Returns ``Episodes`` or ``Environments``. Raises UserError where the
        split has too few classes or examples.
        """

    @staticmethod
    @abstractmethod
    def concatenate(batches: Sequence[Any]) -> Any:
        """Return some batches of tasks as one."""

    def describe(self) -> dict[str, dict[str, int]]:
        """Return counts of what each split holds, by name."""
        return {}

    def image_format(self) -> dict[str, Any]:
        """Return the properties of images that a learner depends on (``ImageTasks.image_format``), if there are any."""
        return {}

    def data_card(self, split: str) -> dict[str, Any]:
        """Return what identifies the data of a split in a file of scores."""
        return {}


class LabelledSource(TaskSource):
    """A distribution of tasks that are support and query examples with their labels."""

    problem: Problem

    @dataclass
    class Options(TaskSource.Options):
        """Which tasks, and how many examples their support and query sets have."""

        is_regression = False

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
            return {"shots": self.shots, "queries": self.queries}

    def batch(self, split: str, training: bool, count: int, generator: torch.Generator) -> Episodes:
        return self.sample(split, self.options.episode_shape(training), count, generator)

    @staticmethod
    def concatenate(batches: Sequence[Episodes]) -> Episodes:
        return Episodes.concatenate(batches)

    @abstractmethod
    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` tasks of some shape from a split, as ``batch`` does."""


def seeded(*parts: int) -> torch.Generator:
    """Return a generator seeded by these numbers, such as (seed, purpose, step), so that steps are independent."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


# Parts of the seeds of each split's tasks: splits share none, even where they differ in nothing else.
_SPLITS: dict[str, tuple[int, ...]] = {"train": (1,), "valid": (2,), "test": ()}


def task_generator(seed: int, split: str, purpose: int, index: int) -> torch.Generator:
    """Return the generator of one task of a split, which does not depend on other tasks."""
    return seeded(seed, purpose, index, *_SPLITS[split])


def task_sampler(
    source: TaskSource, seed: int, split: str, purpose: int = EVALUATION
) -> Callable[[Sequence[int]], Any]:
    """Return a function that draws the tasks of a split with some numbers, as one batch."""

    def sample(indices: Sequence[int]) -> Any:
        generators = [task_generator(seed, split, purpose, index) for index in indices]
        return source.concatenate([source.batch(split, False, 1, generator) for generator in generators])

    return sample
