"""Episodes: tasks with a support set to adapt on and a query set to be scored on.

Legend: T tasks in a batch, S support examples, Q query examples, D the shape of one input, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_COUNT = 100_000
"""Largest number of classes, examples, inner steps or tasks of a batch: their arrays are allocated at once."""


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

    def task(self, index: int) -> Episodes:
        """Return one of the tasks as a batch of one."""
        support, query = (Labelled(*(tensor[index : index + 1] for tensor in part)) for part in self)
        return Episodes(support, query)


@dataclass(frozen=True)
class EpisodeShape:
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


def concatenate(episodes: Sequence[Episodes]) -> Episodes:
    """Return episodes of one shape as one batch."""
    support, query = (
        Labelled(torch.cat([part.inputs for part in parts]), torch.cat([part.targets for part in parts]))
        for parts in zip(*episodes, strict=True)
    )
    return Episodes(support, query)


def seeded(*parts: int) -> torch.Generator:
    """Return a generator seeded by these numbers, such as (seed, purpose, step), so that steps are independent."""
    state = np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
