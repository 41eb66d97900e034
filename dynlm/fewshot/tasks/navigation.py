"""A point on the plane that has to find a goal. Legend: T tasks, E copies of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.policies import Memoryless, Policy
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.control import ControlSource, control_protocol
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.validation import bounded

SPEED, REACHED, GOAL_RANGE = 0.1, 0.01, 0.5
"""Largest step and the distance at which a goal is reached, along each axis; half the side of the goals' square."""


class NavigationEnvironments(Environments):
    """``parameters`` are the ``goals`` (T, 2); the state is the position (T, E, 2)."""

    def reset(self, copies: int, randomness: Randomness) -> tuple[Tensor, Tensor]:
        position_TE2 = torch.zeros(self.tasks, copies, 2)
        return position_TE2, position_TE2

    def step(self, state: Tensor, actions: Tensor, randomness: Randomness) -> Step:
        position_TE2 = state + actions.clamp(-SPEED, SPEED)
        gap_TE2 = position_TE2 - self.parameters["goals"][:, None]
        x_TE, y_TE = gap_TE2.unbind(-1)
        ended_TE = (x_TE.abs() < REACHED) & (y_TE.abs() < REACHED)
        return Step(position_TE2, position_TE2, -(x_TE.square() + y_TE.square()).sqrt(), ended_TE)

    def optimal_returns(self) -> Tensor:
        """Return those of moving straight to the goal along each axis at once, which is nearest to it at every step."""
        goals_T2 = self.parameters["goals"].double().abs()
        left_HT2 = (goals_T2 - SPEED * torch.arange(1, self.problem.horizon + 1)[:, None, None]).clamp_min(0)
        return -left_HT2.norm(dim=-1).sum(0)

    def optimal_policy(self) -> Policy:
        goals_T12 = self.parameters["goals"][:, None]
        return Memoryless(lambda step, seen, randomness: (goals_T12 - seen.observations).clamp(-SPEED, SPEED))


@SOURCES.register_kind("navigation")
class Navigation(ControlSource):
    """A goal uniform in [-0.5, 0.5]^2, found from the origin (Finn et al. 2017, arXiv 1703.03400, section 5.3).

    Observations are positions, actions steps clipped to 0.1 along each axis, and rewards the negative distance after
    the step. An episode ends within 0.01 of the goal along both axes, as in the authors' code.
    """

    @dataclass
    class Options(ControlSource.Options):
        horizon: int = bounded(100, 1, 10_000)
        """Largest number of steps of an episode."""
        episodes: int = bounded(20, 1, 10_000)
        """Episodes of a task, or of each inner step."""

        def size_label(self) -> str:
            return f"{self.horizon}-steps-{self.episodes}-episodes"

        def protocol(self) -> dict[str, Any]:
            return control_protocol(self, "horizon", "episodes")

    def __init__(self, options: Options):
        super().__init__(options)
        self.problem = ControlProblem(
            2, options.horizon, options.episodes, options.queries, action_size=2, low=-SPEED, high=SPEED
        )

    def sample(self, count: int, generator: torch.Generator) -> NavigationEnvironments:
        goals_T2 = 2 * GOAL_RANGE * torch.rand(count, 2, generator=generator) - GOAL_RANGE
        return NavigationEnvironments(self.problem, {"goals": goals_T2})
