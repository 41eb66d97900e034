"""A tabular learner that tunes its own meta-parameters while it acts (Schweighofer & Doya 2003, Neural Networks 16).

Legend: T tasks, E copies of each, S states, A actions, M = 3 meta-parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.control.planning import action_values
from dynlm.fewshot.control.policies import Decision, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned
from dynlm.fewshot.learners.yardsticks import Yardstick
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.source import TaskSource
from dynlm.fewshot.tasks.tabular import Tabular
from dynlm.runtime.validation import LARGEST, bounded


class Controlled(NamedTuple):
    """What a copy of a task has learned, and the state of the controller."""

    values: Tensor
    """Action values (T, E, S, A)."""
    state: Tensor
    """The state before the last step (T, E)."""
    base: Tensor
    """The transformed meta-parameters without their perturbation (T, E, M)."""
    noise: Tensor
    """The perturbation (T, E, M)."""
    short: Tensor
    """Running mean reward (T, E)."""
    long: Tensor
    """Running mean of ``short`` (T, E)."""
    step: int


class MetaParameters(NamedTuple):
    """Learning rate, inverse temperature and discount, each (T, E)."""

    rate: Tensor
    inverse_temperature: Tensor
    discount: Tensor

    @classmethod
    def of(cls, transformed_TEM: Tensor) -> MetaParameters:
        """Return them from the numbers that are perturbed, which are unbounded: logit, logarithm and logit."""
        rate_TE, temperature_TE, discount_TE = transformed_TEM.unbind(-1)
        return cls(rate_TE.sigmoid(), temperature_TE.clamp_max(_LARGEST_LOG).exp(), discount_TE.sigmoid())


_LARGEST_LOG, _EDGE = 12.0, 1e-6


@LEARNERS.register_kind("meta-parameters")
class MetaParameterController(Yardstick):
    """Q-learning or SARSA with softmax actions, whose learning rate, inverse temperature and discount are controlled.

    Each transformed meta-parameter b is perturbed by Gaussian noise that is drawn anew every ``hold`` steps, and moves
    along the noise where rewards have become larger than they were:

        short += (r - short) / tau_short,    long += (short - long) / tau_long,    b += mu (short - long) noise

    The inverse temperature is exp(b), the learning rate and the discount sigmoid(b), which keeps them between 0 and 1.
    The paper's tasks last tens of thousands of steps. Here everything begins anew with each task, and the constants are
    those of tasks of 10 to 100 steps.
    """

    label = "meta-parameter controller"
    constant = "inverse_temperature"
    grid = (0.5, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0)

    @dataclass
    class Options(Yardstick.Options):
        algorithm: Literal["q-learning", "sarsa"] = "q-learning"
        """What learns the action values."""
        rate: float = bounded(0.5, 0, 1)
        """Initial learning rate."""
        inverse_temperature: float | None = bounded(None, 0, LARGEST)
        """Initial inverse temperature of the softmax; unset: the best of a grid on the valid split."""
        discount: float = bounded(0.9, 0, 1)
        """Initial discount."""
        control_rate: float = bounded(0.2, 0, LARGEST)
        """Learning rate mu of the meta-parameters; 0: they stay as they are."""
        noise: float = bounded(0.3, 0, LARGEST)
        """Standard deviation of the perturbations."""
        hold: int = bounded(5, 1)
        """Steps between new perturbations."""
        short_steps: float = bounded(5.0, 1, LARGEST)
        """Time constant of the short-term mean reward, in steps."""
        long_steps: float = bounded(5.0, 1, LARGEST)
        """Time constant of the long-term mean reward, in steps."""

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        super().check_task(options, task)
        if not isinstance(task, Bandit.Options | Tabular.Options):
            what = f"learner.kind {options.kind!r} is for bandit and tabular, and task.source is {task.source!r}"
            raise UserError(what, do="choose another of the two")

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        return ControlledPolicy(self, self.constant_of(learned))


@dataclass(frozen=True)
class ControlledPolicy:
    """Acts, learns from what it sees, and lets the controller change the meta-parameters."""

    learner: MetaParameterController
    inverse_temperature: float

    def initial_state(self, tasks: int, copies: int) -> Controlled:
        options, problem = self.learner.options, self.learner.problem
        values_TESA = torch.zeros(tasks, copies, max(1, problem.observation_size), problem.num_actions)
        begun = [_logit(options.rate), math.log(max(self.inverse_temperature, _EDGE)), _logit(options.discount)]
        base_TEM, zeros_TE = torch.tensor(begun).expand(tasks, copies, -1), torch.zeros(tasks, copies)
        nowhere_TE = torch.zeros(tasks, copies, dtype=torch.int64)
        return Controlled(values_TESA, nowhere_TE, base_TEM, torch.zeros_like(base_TEM), zeros_TE, zeros_TE, 0)

    def act(self, state: Controlled, seen: Seen, randomness: Randomness) -> Decision:
        options, has_states = self.learner.options, self.learner.problem.observation_size > 0
        now_TE = seen.observations.argmax(-1) if has_states else torch.zeros_like(state.state)
        if state.step:
            state = self.control(state, seen.rewards)
        if state.step % options.hold == 0:
            state = state._replace(noise=options.noise * randomness.normal(*state.noise.shape[1:]))
        meta = MetaParameters.of(state.base + state.noise)
        # SARSA needs the next action for its update, except where the episode has ended.
        at_once_TE = seen.ended if options.algorithm == "sarsa" else torch.ones_like(seen.ended)
        if state.step:
            next_TE = action_values(state.values, now_TE).amax(-1)
            state = state._replace(values=self.learn(state, seen, meta, next_TE, at_once_TE))
        now_TEA = action_values(state.values, now_TE)
        actions_TE = randomness.categorical(meta.inverse_temperature[..., None] * now_TEA)
        if state.step and options.algorithm == "sarsa":
            next_TE = now_TEA.gather(-1, actions_TE[..., None])[..., 0]
            state = state._replace(values=self.learn(state, seen, meta, next_TE, ~at_once_TE))
        return Decision(actions_TE, state._replace(state=now_TE, step=state.step + 1))

    def learn(self, state: Controlled, seen: Seen, meta: MetaParameters, next_TE: Tensor, where_TE: Tensor) -> Tensor:
        """Return the action values after an update of the last state and action's, where ``where_TE`` is true.

        Q(s, a) += rate (r + discount * next - Q(s, a)),    next = 0 where the episode has ended
        """
        actions = state.values.shape[-1]
        row_TE1 = (state.state * actions + seen.actions)[..., None]
        flat_TEN = state.values.flatten(2)
        target_TE = seen.rewards + meta.discount * next_TE * ~seen.ended
        error_TE = target_TE - flat_TEN.gather(2, row_TE1)[..., 0]
        return flat_TEN.scatter_add(2, row_TE1, (meta.rate * error_TE * where_TE)[..., None]).view_as(state.values)

    def control(self, state: Controlled, rewards_TE: Tensor) -> Controlled:
        """Return the state after a reward: mean rewards, and the meta-parameters without their perturbation."""
        options = self.learner.options
        if state.step == 1:  # No mean yet: both begin at the first reward, and not at zero.
            return state._replace(short=rewards_TE, long=rewards_TE)
        short_TE = state.short + (rewards_TE - state.short) / options.short_steps
        long_TE = state.long + (short_TE - state.long) / options.long_steps
        moved_TE = options.control_rate * (short_TE - long_TE)
        return state._replace(short=short_TE, long=long_TE, base=state.base + moved_TE[..., None] * state.noise)


def _logit(value: float) -> float:
    value = min(max(value, _EDGE), 1 - _EDGE)
    return math.log(value / (1 - value))
