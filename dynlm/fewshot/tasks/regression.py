"""Regression tasks: each task is one random curve. Legend: T tasks, N = S + Q points of a task."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dynlm.fewshot.tasks.source import SOURCES, Episodes, EpisodeShape, Labelled, LabelledSource, Problem


class Curves(LabelledSource):
    """Curves of one family, one for each task, at inputs drawn uniformly from ``low`` to ``high``.

    Splits differ in the generators that they are sampled with, and in nothing else.
    """

    low: ClassVar[float]
    high: ClassVar[float]
    problem = Problem((1,), 1, classifies=False)

    @dataclass
    class Options(LabelledSource.Options):
        is_regression = True
        default_steps = 10

        def size_label(self) -> str:
            return f"{self.shots}-points"

        def summary(self) -> str:
            points = f"{self.shots} support and {self.queries} query points"
            return f"{self.source}: {points}; every task is a new curve"

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        """Draw ``count`` curves, as a function of inputs (T, N, 1)."""

    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        curve, sizes = self.draw(count, generator), [shape.shots, shape.queries]
        x_TN1 = self.low + (self.high - self.low) * torch.rand(count, sum(sizes), 1, generator=generator)
        return Episodes(*map(Labelled, x_TN1.split(sizes, 1), curve(x_TN1).split(sizes, 1)))

    def grid(self, points: int) -> Tensor:
        """Return evenly spaced inputs (N, 1) for plotting."""
        return torch.linspace(self.low, self.high, points)[:, None]


@SOURCES.register_kind("cubic", shots=40, queries=80)
class Cubic(Curves):
    """y = a x^3 + b x^2 + c x + d, coefficients uniform in [-1, 1], x in [-2, 2] (Pan, Gao & Zhou 2020)."""

    low, high = -2.0, 2.0

    def draw(self, count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        a, b, c, d = (2 * torch.rand(4, count, 1, 1, generator=generator) - 1).unbind()
        return lambda x: ((a * x + b) * x + c) * x + d


@SOURCES.register_kind("sinusoid", shots=10, queries=100)
class Sinusoid(Curves):
    """y = A sin(x - p), A in [0.1, 5], p in [0, pi], x in [-5, 5] (Finn et al. 2017, section 5.1)."""

    low, high = -5.0, 5.0

    def draw(self, count: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        amplitude_T11 = 0.1 + 4.9 * torch.rand(count, 1, 1, generator=generator)
        phase_T11 = math.pi * torch.rand(count, 1, 1, generator=generator)
        return lambda x: amplitude_T11 * torch.sin(x - phase_T11)
