"""Policies that are networks without a memory, each task with weights of its own.

All weights have the tasks as their first axis, so that a step of all tasks is a few batched products, without a loop.

Legend: T tasks, N rows of a task, E copies, H steps, D numbers of an observation, A discrete actions or numbers of one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dynlm.fewshot.control.actions import ActionDistribution, Categorical, Gaussian
from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.policies import Decision, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.nets import Perceptron, PerceptronOptions
from dynlm.runtime.validation import LARGEST_WIDTH, bounded
from dynlm.types import Params

LOG_STD = "log_std"


@dataclass
class PolicyNetOptions(PerceptronOptions):
    """Options of a policy's network."""

    hidden: list[int] = field(default_factory=lambda: [100, 100], metadata={"bounds": (1, LARGEST_WIDTH)})
    """Widths of the hidden layers."""
    initial_std: float = bounded(1.0, 1e-6, 100)
    """Initial standard deviation of continuous actions, in units of half their range; it is learned."""
    least_std: float = bounded(0.1, 1e-6, 100)
    """Smallest standard deviation of continuous actions, in the same units."""


class PolicyNet:
    """A perceptron from observations to what ``control.actions`` are drawn from.

    Where actions are numbers, ``log_std`` (A,) are the logarithms of their standard deviations.
    """

    def __init__(self, options: PolicyNetOptions, problem: ControlProblem):
        self.options, self.problem = options, problem
        self.perceptron = Perceptron(options, problem.observation_size, problem.num_actions or problem.action_size)

    def init_params(self, generator: torch.Generator) -> Params:
        """Return initial weights of one task."""
        params = self.perceptron.init_params(generator)
        if not self.problem.num_actions:
            params[LOG_STD] = torch.full((self.problem.action_size,), math.log(self.options.initial_std))
        return params

    def outputs(self, weights: Params, observations_TND: Tensor) -> Tensor:
        """Return the outputs of the perceptron (T, N, A)."""
        return self.perceptron.forward_tasks(weights, observations_TND)

    def distribution(self, weights: Params) -> ActionDistribution:
        """Return how actions are drawn."""
        if self.problem.num_actions:
            return Categorical()
        return Gaussian(self.problem, weights[LOG_STD].clamp_min(math.log(self.options.least_std))[:, None])

    def log_probs(self, weights: Params, observations_TEHD: Tensor, actions_TEH: Tensor) -> Tensor:
        """Return log-probabilities, or log-densities in units of half the range of actions (T, E, H)."""
        outputs_TNA = self.outputs(weights, observations_TEHD.flatten(1, 2))
        log_probs_TN = self.distribution(weights).log_prob(outputs_TNA, actions_TEH.flatten(1, 2))
        return log_probs_TN.unflatten(1, actions_TEH.shape[1:3])

    def imitation_losses(self, weights: Params, observations_TEHD: Tensor, actions_TEH: Tensor) -> Tensor:
        """Return ``imitation_loss`` of the distribution on an expert's actions (T, E, H)."""
        outputs_TNA = self.outputs(weights, observations_TEHD.flatten(1, 2))
        losses_TN = self.distribution(weights).imitation_loss(outputs_TNA, actions_TEH.flatten(1, 2))
        return losses_TN.unflatten(1, actions_TEH.shape[1:3])


@dataclass(frozen=True)
class NetPolicy:
    """Acts by a network with weights of T tasks, and records log-probabilities, ``log_prob``. It has no state."""

    net: PolicyNet
    weights: Params

    def initial_state(self, tasks: int, copies: int) -> None:
        return None

    def act(self, state: None, seen: Seen, randomness: Randomness) -> Decision:
        outputs_TEA = self.net.outputs(self.weights, seen.observations)
        distribution = self.net.distribution(self.weights)
        actions_TE = distribution.draw(outputs_TEA, randomness)
        return Decision(actions_TE, None, {"log_prob": distribution.log_prob(outputs_TEA, actions_TE)})
