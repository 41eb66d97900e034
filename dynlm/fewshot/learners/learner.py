"""What every learner is: something that adapts on a support set and predicts a query set.

Legend: T tasks, S support and Q query examples, O outputs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.models.lstm.model import Params


class Learned(NamedTuple):
    """What meta-training leaves behind: meta-parameters, and buffers that are gathered rather than learned."""

    meta: Params
    buffers: Params


class Adapted(NamedTuple):
    """What a learner knows of T tasks, ``step`` inner steps after it began: any tensors, and the support they saw."""

    state: Params
    support: Labelled
    step: int


class MetaStep(NamedTuple):
    """What a batch of episodes says of the meta-parameters."""

    loss: float
    score: float
    gradients: Params
    buffers: Params


class Learner(ABC):
    """The small interface: adapt on a support set, predict a query set; and learn to from episodes."""

    def __init__(self, classifies: bool):
        self.classifies = classifies

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Learned:
        """What it knows before meta-training."""

    @abstractmethod
    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        """Adapt to T tasks: what is known after 0, 1, ..., ``steps`` steps. A learner without steps yields once.

        What adapting draws at random comes from ``generators``, one for each task, so that a task is adapted to alike
        whichever tasks are beside it.
        """

    @abstractmethod
    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        """Logits of the classes, or values, of query inputs: (T, Q, O)."""

    @abstractmethod
    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        """The meta-gradients of a batch of episodes, ``progress`` (0 to 1) through the training."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of examples: nats, or squared errors."""
        if self.classifies:
            return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())
        return F.mse_loss(outputs, targets)

    def losses(self, outputs_TNO: Tensor, targets_TN: Tensor) -> Tensor:
        """The mean loss of each task: (T,)."""
        if self.classifies:
            return F.cross_entropy(outputs_TNO.transpose(1, 2), targets_TN, reduction="none").mean(1)
        return (outputs_TNO - targets_TN).square().mean((1, 2))

    def scores(self, outputs_TQO: Tensor, targets_TQ: Tensor) -> Tensor:
        """Each task's accuracy, or its mean squared error: (T,)."""
        if self.classifies:
            return (outputs_TQO.argmax(-1) == targets_TQ).double().mean(1)
        return (outputs_TQO - targets_TQ).double().square().mean((1, 2))

    def by_autograd(
        self, learned: Learned, loss: Tensor, outputs_TQO: Tensor, targets_TQ: Tensor, buffers: Params | None = None
    ) -> MetaStep:
        """A meta-step whose gradients are those of ``loss`` in all meta-parameters that it depends on."""
        names = [name for name, tensor in learned.meta.items() if tensor.requires_grad]
        found = torch.autograd.grad(loss, [learned.meta[name] for name in names], allow_unused=True)
        gradients = {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}
        score = float(self.scores(outputs_TQO.detach(), targets_TQ).mean())
        return MetaStep(float(loss.detach()), score, gradients, learned.buffers if buffers is None else buffers)
