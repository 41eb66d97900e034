"""Distributions of actions, given the outputs of a network.

Legend: T tasks, A numbers of an action, or discrete actions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.randomness import Randomness


class ActionDistribution(Protocol):
    """Actions given outputs (T, E, A), which may have leading axes except where actions are drawn."""

    def draw(self, outputs: Tensor, randomness: Randomness) -> Tensor:
        """Return random actions."""
        ...

    def mode(self, outputs: Tensor) -> Tensor:
        """Return the most probable actions."""
        ...

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return the log-probability (density) of actions, in nats."""
        ...

    def entropy(self, outputs: Tensor) -> Tensor:
        """Return the entropy in nats."""
        ...

    def imitation_loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return how far what is drawn is from the actions of an expert."""
        ...


class Categorical:
    """Discrete actions; outputs are logits."""

    def draw(self, outputs: Tensor, randomness: Randomness) -> Tensor:
        return randomness.categorical(outputs)

    def mode(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        return log_softmax(outputs).gather(-1, actions[..., None])[..., 0]

    def entropy(self, outputs: Tensor) -> Tensor:
        log_probs = log_softmax(outputs)
        return -(log_probs.exp() * log_probs).sum(-1)

    def imitation_loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return minus the log-probability."""
        return -self.log_prob(outputs, actions)


@dataclass(frozen=True)
class Gaussian:
    """Independent normal numbers around the outputs, with standard deviations that all states of a task share.

    Outputs and ``log_std`` are in units in which the bounds are -1 and 1. What is drawn may be outside: environments
    clip it, and the log-probability is that before clipping, as usual for PPO (Andrychowicz et al. 2021, arXiv
    2006.05990, section 3.2).
    """

    problem: ControlProblem
    log_std: Tensor
    """(A,), or (T, 1, A) where each task has its own."""

    def draw(self, outputs: Tensor, randomness: Randomness) -> Tensor:
        noise = randomness.normal(*outputs.shape[1:])
        return self.mode(outputs + self.log_std.exp() * noise)

    def mode(self, outputs: Tensor) -> Tensor:
        return self._centre + self._half_range * outputs

    def log_prob(self, outputs: Tensor, actions: Tensor) -> Tensor:
        z = ((actions - self._centre) / self._half_range - outputs) * (-self.log_std).exp()
        shared = self.log_std.sum(-1) + 0.5 * math.log(2 * math.pi) * outputs.shape[-1]
        return -0.5 * z.square().sum(-1) - shared

    def entropy(self, outputs: Tensor) -> Tensor:
        each = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return each.sum(-1).expand(outputs.shape[:-1])

    def imitation_loss(self, outputs: Tensor, actions: Tensor) -> Tensor:
        """Return half the expected squared distance, ((mean - action)^2 + variance) / 2, in units of the outputs."""
        gaps = (actions - self._centre) / self._half_range - outputs
        return 0.5 * (gaps.square().sum(-1) + (2 * self.log_std).exp().sum(-1))

    @property
    def _centre(self) -> float:
        return (self.problem.low + self.problem.high) / 2

    @property
    def _half_range(self) -> float:
        return (self.problem.high - self.problem.low) / 2


def log_softmax(logits: Tensor) -> Tensor:
    """Return ``torch.log_softmax`` along the last axis, which takes several times as long for few classes on a CPU."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - shifted.exp().sum(-1, keepdim=True).log()
