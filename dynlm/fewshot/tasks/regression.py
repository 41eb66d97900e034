"""Regression tasks: one random curve a task.

Legend: T tasks, N = S + Q points of a task, 4 coefficients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.options import EpisodeShape
from dynlm.fewshot.tasks.episodes import Episodes, Labelled


@dataclass(frozen=True)
class Curves:
    """Curves of one family, drawn anew for each task, with points drawn uniformly from ``[low, high]``.

    The family has no end, so that its splits differ only in the random numbers they are given.
    """

    draw: Callable[[int, torch.Generator], Callable[[Tensor], Tensor]]
    low: float
    high: float

    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` curves with ``shape.shots`` support and ``shape.queries`` query points; values (T, S, 1)."""
        curve = self.draw(count, generator)
        points = shape.shots + shape.queries
        x_TN1 = self.low + (self.high - self.low) * torch.rand(count, points, 1, generator=generator)
        y_TN1 = curve(x_TN1)
        support, query = slice(shape.shots), slice(shape.shots, None)
        return Episodes(Labelled(x_TN1[:, support], y_TN1[:, support]), Labelled(x_TN1[:, query], y_TN1[:, query]))

    def grid(self, points: int) -> Tensor:
        """Evenly spaced inputs (N, 1), to draw a curve with."""
        return torch.linspace(self.low, self.high, points)[:, None]

    def describe(self) -> dict[str, dict[str, int]]:
        """There is nothing to count."""
        return {}

    def images(self) -> dict[str, Any]:
        """There are none."""
        return {}

    def data(self, split: str) -> dict[str, Any]:
        """Every curve is new."""
        return {}


def _cubics(count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    a, b, c, d = (2 * torch.rand(4, count, 1, 1, generator=generator) - 1).unbind()
    return lambda x: ((a * x + b) * x + c) * x + d


def _sinusoids(count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    amplitude_T11 = 0.1 + 4.9 * torch.rand(count, 1, 1, generator=generator)
    phase_T11 = math.pi * torch.rand(count, 1, 1, generator=generator)
    return lambda x: amplitude_T11 * torch.sin(x - phase_T11)


CURVES = {
    # y = a x^3 + b x^2 + c x + d, coefficients uniform in [-1, 1]: the toy of Pan, Gao & Zhou 2020.
    "cubic": Curves(_cubics, -2.0, 2.0),
    # y = A sin(x - p), A in [0.1, 5] and p in [0, pi]: Finn et al. 2017, section 5.1.
    "sinusoid": Curves(_sinusoids, -5.0, 5.0),
}
