"""Episodes: tasks with a support set to learn from and a query set to be judged by.

Legend: T tasks side by side, S support examples, Q query examples, D the shape of one input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dynlm.fewshot.options import EpisodeShape


class Labelled(NamedTuple):
    """Inputs (T, S, *D) with their targets: classes (T, S) as integers, or numbers (T, S, 1)."""

    inputs: Tensor
    targets: Tensor

    def part(self, index_N: Tensor) -> Labelled:
        """The examples of these places, the same in each task."""
        return Labelled(self.inputs[:, index_N], self.targets[:, index_N])


class Episodes(NamedTuple):
    """T tasks, each with its support and its query set."""

    support: Labelled
    query: Labelled

    @property
    def tasks(self) -> int:
        """How many tasks there are."""
        return len(self.support.inputs)

    def task(self, index: int) -> Episodes:
        """One of the tasks, as episodes of a single task."""
        support, query = (Labelled(*(tensor[index : index + 1] for tensor in part)) for part in self)
        return Episodes(support, query)


def side_by_side(episodes: Sequence[Episodes]) -> Episodes:
    """Episodes of one shape as one batch of tasks."""

    def joined(parts: Sequence[Labelled]) -> Labelled:
        return Labelled(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))

    return Episodes(joined([one.support for one in episodes]), joined([one.query for one in episodes]))


class Tasks(Protocol):
    """A distribution of tasks."""

    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` tasks from the classes of ``split``; the generator's state alone decides which.

        Raises UserError where the split has too few classes or examples.
        """
        ...

    def describe(self) -> dict[str, dict[str, int]]:
        """What each split holds: numbers by name."""
        ...

    def images(self) -> dict[str, Any]:
        """What images are like (``classification.ImageTasks.images``); nothing where inputs are numbers."""
        ...

    def data(self, split: str) -> dict[str, Any]:
        """What a figure of ``split`` has to be read with beside the options: which images they are."""
        ...


def seeded(*parts: int) -> torch.Generator:
    """A generator that these numbers alone decide: (seed, purpose, step), so that no step depends on the last."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
