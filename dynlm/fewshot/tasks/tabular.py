"""Random tabular Markov decision processes. Legend: T tasks, E copies of each, S states, A actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.planning import greedy_actions, plan
from dynlm.fewshot.control.policies import Memoryless, Policy
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.control import ControlSource, control_protocol
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.validation import bounded

REWARD_MEAN = 1.0
"""Mean over tasks of a reward's mean; its variance over tasks, and a reward's around its mean, are 1."""


class TabularEnvironments(Environments):
    """Observations are one-hot states; an episode begins in state 0.

    ``parameters`` are ``transitions`` (T, S, A, S) and mean ``rewards`` (T, S, A).
    """

    def __init__(self, problem: ControlProblem, parameters: dict[str, Tensor]):
        super().__init__(problem, parameters)
        # A row of each task's table for each pair of a state and an action, summed up to be sampled from.
        self._cumulative_TNS = parameters["transitions"].flatten(1, 2).cumsum(-1)
        self._rewards_TN = parameters["rewards"].flatten(1)

    def reset(self, copies: int, randomness: Randomness) -> tuple[Tensor, Tensor]:
        state_TE = torch.zeros(self.tasks, copies, dtype=torch.int64)
        return state_TE, self._observed(state_TE)

    def step(self, state: Tensor, actions: Tensor, randomness: Randomness) -> Step:
        row_TE = state * self.problem.num_actions + actions
        noise_TE = randomness.normal(actions.shape[1])
        rewards_TE = self._rewards_TN.gather(1, row_TE) + noise_TE
        states = self.problem.observation_size
        cumulative_TES = self._cumulative_TNS.gather(1, row_TE[..., None].expand(-1, -1, states))
        next_TE = randomness.weighted_index(cumulative_TES)
        return Step(next_TE, self._observed(next_TE), rewards_TE, torch.zeros_like(next_TE, dtype=torch.bool))

    def _observed(self, state_TE: Tensor) -> Tensor:
        return F.one_hot(state_TE, self.problem.observation_size).float()

    def optimal_returns(self) -> Tensor:
        return self._plan()[1][:, 0]

    def optimal_policy(self) -> Policy:
        values_HTSA, _ = self._plan()
        return Memoryless(lambda step, seen, randomness: greedy_actions(values_HTSA[step % len(values_HTSA)], seen))

    def _plan(self) -> tuple[Tensor, Tensor]:
        transitions_TSAS, rewards_TSA = (self.parameters[name].double() for name in ("transitions", "rewards"))
        return plan(transitions_TSAS, rewards_TSA, self.problem.horizon)


@SOURCES.register_kind("tabular")
class Tabular(ControlSource):
    """Random transition probabilities and rewards (Duan et al. 2016, section 3.2).

    Transition probabilities are Dirichlet(1), mean rewards normal with mean and variance 1, and rewards normal around
    them with variance 1. An episode begins in state 0.
    """

    @dataclass
    class Options(ControlSource.Options):
        states: int = bounded(10, 1, 1000)
        """States."""
        actions: int = bounded(5, 1, 1000)
        """Actions."""
        horizon: int = bounded(10, 1, 10_000)
        """Steps of an episode."""
        episodes: int = bounded(10, 1, 10_000)
        """Episodes of a task."""

        def size_label(self) -> str:
            return f"{self.states}-states-{self.actions}-actions-{self.horizon}-steps-{self.episodes}-episodes"

        def protocol(self) -> dict[str, Any]:
            return control_protocol(self, "states", "actions", "horizon", "episodes")

    def __init__(self, options: Options):
        super().__init__(options)
        states, actions = options.states, options.actions
        self.problem = ControlProblem(states, options.horizon, options.episodes, options.queries, num_actions=actions)

    def sample(self, count: int, generator: torch.Generator) -> TabularEnvironments:
        randomness = Randomness(generator, count)
        states, actions = self.options.states, self.options.actions
        transitions_TSAS = randomness.dirichlet(torch.ones(count, states, actions, states))
        rewards_TSA = REWARD_MEAN + randomness.normal(states, actions)
        return TabularEnvironments(self.problem, {"transitions": transitions_TSAS, "rewards": rewards_TSA})
