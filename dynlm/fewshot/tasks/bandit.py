"""Bernoulli bandits. Legend: T tasks, E copies of each, N arms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.policies import Memoryless, Policy
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.control import ControlSource, control_protocol
from dynlm.fewshot.tasks.source import LARGEST_COUNT, SOURCES
from dynlm.runtime.validation import bounded


class BanditEnvironments(Environments):
    """A pull is an episode of one step. ``parameters`` are the probabilities of a reward of 1, ``means`` (T, N)."""

    def reset(self, copies: int, randomness: Randomness) -> tuple[Any, Tensor]:
        return None, torch.zeros(self.tasks, copies, 0)

    def step(self, state: Any, actions: Tensor, randomness: Randomness) -> Step:
        wins_TE = randomness.uniform(actions.shape[1]) < self.parameters["means"].gather(1, actions)
        return Step(None, wins_TE.new_zeros(*wins_TE.shape, 0).float(), wins_TE.float(), torch.ones_like(wins_TE))

    def optimal_returns(self) -> Tensor:
        return self.parameters["means"].amax(1).double()

    def optimal_policy(self) -> Policy:
        best_T = self.parameters["means"].argmax(1)
        return Memoryless(lambda step, seen, randomness: best_T[:, None].expand_as(seen.rewards))


@SOURCES.register_kind("bandit")
class Bandit(ControlSource):
    """Each arm gives 1 with its own probability, which is uniform in [0, 1], else 0 (Duan et al. 2016, section 3.1)."""

    @dataclass
    class Options(ControlSource.Options):
        unit = "pull"

        arms: int = bounded(10, 2, LARGEST_COUNT)
        """Arms of a bandit."""
        pulls: int = bounded(10, 1, LARGEST_COUNT)
        """Pulls of a task: k."""

        def size_label(self) -> str:
            return f"{self.arms}-arms-{self.pulls}-pulls"

        def protocol(self) -> dict[str, Any]:
            return control_protocol(self, "arms", "pulls")

    def __init__(self, options: Options):
        super().__init__(options)
        self.problem = ControlProblem(0, 1, options.pulls, options.queries, num_actions=options.arms)

    def sample(self, count: int, generator: torch.Generator) -> BanditEnvironments:
        return BanditEnvironments(self.problem, {"means": torch.rand(count, self.options.arms, generator=generator)})
