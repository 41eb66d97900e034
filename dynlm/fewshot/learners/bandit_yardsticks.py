"""Yardsticks of Bernoulli bandits: policies of the successes and failures of each arm.

Estimates are those of a uniform prior, (successes + 1) / (pulls + 2), so that an arm that was never pulled has one too:
with as many arms as pulls, a rule that begins with each arm once would only ever do that. Equal values are chosen among
at random.

Legend: T tasks, E copies of each, N arms.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.control.gittins import LARGEST_PULLS, gittins_indices
from dynlm.fewshot.control.policies import Decision, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned
from dynlm.fewshot.learners.yardsticks import Yardstick, explore
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.source import TaskSource
from dynlm.runtime.validation import bounded


class Counts(NamedTuple):
    """Successes and failures of each arm (T, E, N), and the number of pulls so far."""

    wins: Tensor
    losses: Tensor
    step: int


@dataclass(frozen=True)
class CountingPolicy:
    """Pulls the arm of the largest value, which is a function of all counts."""

    learner: BanditYardstick
    learned: Learned

    def initial_state(self, tasks: int, copies: int) -> Counts:
        zeros_TEN = torch.zeros(tasks, copies, self.learner.problem.num_actions)
        return Counts(zeros_TEN, zeros_TEN, 0)

    def act(self, state: Counts, seen: Seen, randomness: Randomness) -> Decision:
        if state.step:
            arm_TE1, won_TE1 = seen.actions[..., None], seen.rewards[..., None]
            wins_TEN = state.wins.scatter_add(2, arm_TE1, won_TE1)
            state = Counts(wins_TEN, state.losses.scatter_add(2, arm_TE1, 1 - won_TE1), state.step)
        actions_TE = self.learner.choose(self.learned, state, randomness)
        return Decision(actions_TE, state._replace(step=state.step + 1))


class BanditYardstick(Yardstick):
    """A policy of counts; ``values`` says what each arm is worth."""

    tasks = "bandits", Bandit.Options

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        return CountingPolicy(self, learned)

    @abstractmethod
    def values(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        """Return the value of each arm (T, E, N)."""

    def choose(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        """Return the arms to pull (T, E)."""
        return randomness.argmax(self.values(learned, counts, randomness))


def estimates(counts: Counts) -> Tensor:
    """Return the mean of each arm's posterior (T, E, N)."""
    return (counts.wins + 1) / (counts.wins + counts.losses + 2)


@LEARNERS.register_kind("greedy")
class Greedy(BanditYardstick):
    """The arm of the largest estimate."""

    label = "greedy"

    def values(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        return estimates(counts)


@LEARNERS.register_kind("epsilon-greedy")
class EpsilonGreedy(Greedy):
    """The arm of the largest estimate, or with probability epsilon any arm."""

    label = "epsilon-greedy"
    constant = "epsilon"
    grid = (0.0, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5)

    @dataclass
    class Options(Greedy.Options):
        epsilon: float | None = bounded(None, 0, 1)
        """Probability of a random action; unset: the best of a grid on the valid split."""

    def choose(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        return explore(super().choose(learned, counts, randomness), self.constant_of(learned), self.problem, randomness)


@LEARNERS.register_kind("ucb1")
class Ucb1(BanditYardstick):
    """The largest upper confidence bound, estimate + c sqrt(2 ln t / (pulls of the arm + 1)) at pull t.

    UCB1 (Auer, Cesa-Bianchi & Fischer 2002) has c = 1, means without a prior, and pulls each arm once at first.
    """

    label = "UCB1"
    constant = "confidence"
    grid = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)

    @dataclass
    class Options(BanditYardstick.Options):
        confidence: float | None = bounded(None, 0, 100)
        """Factor c of the confidence bound's width; unset: the best of a grid on the valid split."""

    def values(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        width_TEN = (2 * math.log(counts.step + 1) / (counts.wins + counts.losses + 1)).sqrt()
        return estimates(counts) + self.constant_of(learned) * width_TEN


@LEARNERS.register_kind("thompson")
class Thompson(BanditYardstick):
    """The largest of one sample from each arm's posterior (Thompson 1933)."""

    label = "Thompson sampling"

    def values(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        return randomness.beta(counts.wins + 1, counts.losses + 1)


@LEARNERS.register_kind("gittins")
class Gittins(BanditYardstick):
    """The largest finite-horizon Gittins index (``control.gittins``) with the pulls that are left."""

    label = "Gittins index"

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        super().check_task(options, task)
        if isinstance(task, Bandit.Options) and task.pulls > LARGEST_PULLS:
            what = f"task.pulls is {task.pulls}, and learner.kind 'gittins' computes indices of {LARGEST_PULLS} at most"
            raise UserError(what, do="choose fewer pulls, or another learner.kind")

    def values(self, learned: Learned, counts: Counts, randomness: Randomness) -> Tensor:
        table_KK = gittins_indices(self.problem.episodes)[self.problem.episodes - counts.step]
        return table_KK[counts.wins.long(), counts.losses.long()]
