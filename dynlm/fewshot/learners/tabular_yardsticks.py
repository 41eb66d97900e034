"""Yardsticks of tabular Markov decision processes: each plans, once an episode, on a model from the task's posterior.

The prior is the distribution of tasks: Dirichlet(1) transition probabilities, and normal mean rewards. The transition
out of an episode's last step is not observed.

Legend: T tasks, E copies of each, C models drawn for each copy, S states, A actions, N = S * A,
H steps of an episode, B all models.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.control.planning import action_values, plan
from dynlm.fewshot.control.policies import Decision, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned
from dynlm.fewshot.learners.yardsticks import Yardstick, explore
from dynlm.fewshot.tasks.tabular import REWARD_MEAN, Tabular
from dynlm.runtime.validation import bounded


class Knowledge(NamedTuple):
    """What was observed of each copy of a task, and the plan for its episode."""

    transitions: Tensor
    """Counts (T, E, N, S)."""
    visits: Tensor
    """Counts of rewards (T, E, N)."""
    rewards: Tensor
    """Sums of rewards (T, E, N)."""
    state: Tensor
    """The state before the last step (T, E)."""
    plan: Tensor
    """Action values (H, T, E, S, A) of the episode's steps."""
    step: int


class TabularYardstick(Yardstick):
    """Plans at the beginning of each episode, and follows the plan."""

    tasks = "tabular tasks", Tabular.Options

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        return PlanningPolicy(self, learned)

    @abstractmethod
    def make_plan(self, learned: Learned, known: Knowledge, randomness: Randomness) -> Tensor:
        """Return action values (H, T, E, S, A) for an episode."""

    def choose(self, learned: Learned, values_TEA: Tensor, randomness: Randomness) -> Tensor:
        """Return the actions (T, E) for the values of the actions of the current step."""
        return values_TEA.argmax(-1)


@dataclass(frozen=True)
class PlanningPolicy:
    """Counts transitions and rewards, and lets a yardstick plan."""

    learner: TabularYardstick
    learned: Learned

    def initial_state(self, tasks: int, copies: int) -> Knowledge:
        states, rows = self.learner.problem.observation_size, self._rows
        zeros_TEN = torch.zeros(tasks, copies, rows)
        nowhere_TE = torch.zeros(tasks, copies, dtype=torch.int64)
        return Knowledge(torch.zeros(tasks, copies, rows, states), zeros_TEN, zeros_TEN, nowhere_TE, torch.empty(0), 0)

    @property
    def _rows(self) -> int:
        return self.learner.problem.observation_size * self.learner.problem.num_actions

    def act(self, state: Knowledge, seen: Seen, randomness: Randomness) -> Decision:
        problem, now_TE = self.learner.problem, seen.observations.argmax(-1)
        if state.step:
            row_TE = state.state * problem.num_actions + seen.actions
            took_TEN = F.one_hot(row_TE, self._rows).float()
            arrived_TES = seen.observations * ~seen.ended[..., None]
            state = state._replace(
                transitions=state.transitions + took_TEN[..., None] * arrived_TES[..., None, :],
                visits=state.visits + took_TEN,
                rewards=state.rewards + took_TEN * seen.rewards[..., None],
            )
        time = state.step % problem.horizon
        if not time:
            state = state._replace(plan=self.learner.make_plan(self.learned, state, randomness))
        values_TEA = action_values(state.plan[time], now_TE)
        actions_TE = self.learner.choose(self.learned, values_TEA, randomness)
        return Decision(actions_TE, state._replace(state=now_TE, step=state.step + 1))


@LEARNERS.register_kind("psrl")
class Psrl(TabularYardstick):
    """Posterior sampling (Strens 2000; Osband, Russo & Van Roy 2013, arXiv 1306.0940): plans on one sampled model."""

    label = "PSRL"

    def num_models(self, learned: Learned) -> int:
        """Return the number of models that are sampled for each episode."""
        return 1

    def make_plan(self, learned: Learned, known: Knowledge, randomness: Randomness) -> Tensor:
        problem, models = self.problem, self.num_models(learned)
        shape = (problem.observation_size, problem.num_actions)
        counts_TECNS = known.transitions[:, :, None].expand(-1, -1, models, -1, -1)
        transitions_TECNS = randomness.dirichlet(counts_TECNS + 1)
        mean_TEN, precision_TEN = reward_posterior(known)
        noise_TECN = randomness.normal(*mean_TEN.shape[1:2], models, mean_TEN.shape[2])
        rewards_TECN = mean_TEN[:, :, None] + noise_TECN / precision_TEN[:, :, None].sqrt()
        models_BSAS = transitions_TECNS.flatten(0, 2).unflatten(1, shape)
        values_HBSA, _ = plan(models_BSAS, rewards_TECN.flatten(0, 2).unflatten(1, shape), problem.horizon)
        return values_HBSA.unflatten(1, transitions_TECNS.shape[:3]).amax(3)


@LEARNERS.register_kind("opsrl")
class OptimisticPsrl(Psrl):
    """Optimistic posterior sampling: follows the largest of each action's values in several sampled models.

    As in the code of Osband, Russo & Van Roy, TabulaRL.
    """

    label = "optimistic PSRL"
    constant = "samples"
    grid = (2, 3, 5, 10)

    @dataclass
    class Options(Psrl.Options):
        samples: int | None = bounded(None, 1, 1000)
        """Models that are sampled for each episode; unset: the best of a grid on the valid split."""

    def num_models(self, learned: Learned) -> int:
        return int(self.constant_of(learned))


@LEARNERS.register_kind("epsilon-greedy-q")
class EpsilonGreedyQ(TabularYardstick):
    """Plans on the posterior's mean model; with probability epsilon any action."""

    label = "epsilon-greedy on the mean model"
    constant = "epsilon"
    grid = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3)

    @dataclass
    class Options(TabularYardstick.Options):
        epsilon: float | None = bounded(None, 0, 1)
        """Probability of a random action; unset: the best of a grid on the valid split."""

    def make_plan(self, learned: Learned, known: Knowledge, randomness: Randomness) -> Tensor:
        problem, batch = self.problem, known.state.shape
        shape = (problem.observation_size, problem.num_actions)
        counts_TENS = known.transitions + 1
        transitions_BNS = (counts_TENS / counts_TENS.sum(-1, keepdim=True)).flatten(0, 1)
        rewards_BN = reward_posterior(known)[0].flatten(0, 1)
        values_HBSA, _ = plan(transitions_BNS.unflatten(1, shape), rewards_BN.unflatten(1, shape), problem.horizon)
        return values_HBSA.unflatten(1, batch)

    def choose(self, learned: Learned, values_TEA: Tensor, randomness: Randomness) -> Tensor:
        best_TE = super().choose(learned, values_TEA, randomness)
        return explore(best_TE, self.constant_of(learned), self.problem, randomness)


def reward_posterior(known: Knowledge) -> tuple[Tensor, Tensor]:
    """Return (mean, precision) (T, E, S * A) of each mean reward: prior N(REWARD_MEAN, 1), rewards of variance 1."""
    precision_TEN = 1 + known.visits
    return (REWARD_MEAN + known.rewards) / precision_TEN, precision_TEN
