"""The base of learners whose policies adapt by policy gradients, and those without an outer policy gradient.

An inner step is REINFORCE on episodes of the task, with a linear baseline fitted to them:

    theta_i = theta + alpha * gradient of the surrogate objective (control.surrogates) at theta

Legend: T tasks, E episodes, H steps of an episode.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.control.experience import Experience, experience_of
from dynlm.fewshot.control.networks import NetPolicy, PolicyNet, PolicyNetOptions
from dynlm.fewshot.control.policies import Policy
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.control.surrogates import Surrogate, surrogate
from dynlm.fewshot.inner_loop import Order, expand_tasks, inner_step
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Generators, Learned, Learner, MetaStep, gradients_of
from dynlm.fewshot.learners.policy import PolicyLearner
from dynlm.fewshot.tasks.source import LARGEST_COUNT
from dynlm.runtime.validation import bounded
from dynlm.types import Params

_LR = "rate."


class Support(NamedTuple):
    """The episodes of an inner step, and the constants that the step is computed from."""

    trajectories: Trajectories
    experience: Experience


class PolicyGradientLearner(PolicyLearner):
    """A policy network whose weights are adapted to each task by policy-gradient steps."""

    takes_steps = True

    @dataclass
    class Options(PolicyNetOptions, Learner.Options):
        COMMON = "kind hidden inner_rate inner_steps"

        inner_rate: float = 0.5
        """Learning rate alpha of the inner steps; where rates are learned, their initial value."""
        inner_steps: int = bounded(1, 1, LARGEST_COUNT)
        """Inner steps in training."""
        later_rate_factor: float = bounded(1.0, 0, 100)
        """Factor of the learning rate in inner steps after the first (Finn et al. 2017, appendix A.2: 0.5)."""
        discount: float = bounded(0.99, 0, 1)
        """Discount of a reward for each step until it."""
        gae_lambda: float = bounded(1.0, 0, 1)
        """Lambda of generalised advantage estimation; 1: returns minus the baseline."""
        normalised: bool = True
        """Shift and scale the advantages of each task to mean 0 and variance 1."""

    def __init__(self, options: Any, problem: ControlProblem):
        super().__init__(options, problem)
        self.net = PolicyNet(options, problem)
        self.names = tuple(self.net.init_params(torch.Generator()))
        self.inner_surrogate: Surrogate = "lvc"

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned(self.net.init_params(generator), {})

    def start(self, learned: Learned, tasks: int, generators: Generators) -> Params:
        """Return the weights before any step, with the tasks as their first axis."""
        return expand_tasks({name: learned.meta[name] for name in self.names}, tasks)

    def initial_lr(self, meta: Params, name: str) -> Tensor | float:
        """Return the learning rate of a tensor in the first inner step."""
        return float(self.options.inner_rate)

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        return NetPolicy(self.net, adapted.state)

    def act(self, weights: Params, tasks: Environments, randomness: Randomness, copies: int) -> Trajectories:
        """Return an episode in each of ``copies`` of each task."""
        return rollout(tasks, NetPolicy(self.net, weights), randomness, 1, copies).trajectories

    def experience(self, trajectories: Trajectories) -> Experience:
        """Return the episodes with their advantages."""
        options = self.options
        return experience_of(trajectories, options.discount, options.gae_lambda, options.normalised)

    def log_probs(self, weights: Params, experience: Experience) -> Tensor:
        """Return the log-probabilities of the actions that were taken (T, E, H)."""
        return self.net.log_probs(weights, experience.observations_TEHD, experience.actions_TEH)

    def inner_step(self, meta: Params, weights: Params, experience: Experience, step: int, order: Order) -> Params:
        """Return the weights after inner step number ``step`` (from 0), on some episodes."""
        factor = self.options.later_rate_factor if step else 1.0

        def loss(weights: Params) -> Tensor:
            return -surrogate(self.inner_surrogate, self.log_probs(weights, experience), experience).sum()

        return inner_step(weights, self.names, loss, lambda name: factor * self.initial_lr(meta, name), order)

    def adapt(self, learned: Learned, support: Environments, steps: int, generators: Generators) -> Iterator[Adapted]:
        weights, randomness = self.start(learned, support.tasks, generators), Randomness(generators, support.tasks)
        for step in range(steps + 1):
            weights = {name: tensor.detach() for name, tensor in weights.items()}
            yield Adapted(weights, support, step)
            if step < steps:
                acted = self.act(weights, support, randomness, self.problem.episodes)
                weights = self.inner_step(learned.meta, weights, self.experience(acted), step, Order.NONE)

    def protocol(self) -> dict[str, Any]:
        names = ("later_rate_factor", "discount", "gae_lambda", "normalised")
        return super().protocol() | {name: getattr(self.options, name) for name in names}


@LEARNERS.register_kind("policy-random")
class PolicyRandom(PolicyGradientLearner):
    """No meta-training: each task starts from its own random weights, drawn from its generator."""

    label = "random initialisation"
    is_trained = False

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def start(self, learned: Learned, tasks: int, generators: Generators) -> Params:
        starts = [self.net.init_params(generator) for generator in generators]
        return {name: torch.stack([start[name] for start in starts]) for name in self.names}


@LEARNERS.register_kind("policy-reptile")
class PolicyReptile(PolicyGradientLearner):
    """Reptile: the meta-gradient is theta - mean theta_i, for an outer step of ``train.optimizer`` sgd."""

    label = "Reptile"

    def meta_step(self, learned: Learned, tasks: Environments, progress: float, generator: torch.Generator) -> MetaStep:
        randomness, weights, taken = Randomness(generator, tasks.tasks), self.start(learned, tasks.tasks, []), 0
        for step in range(self.options.inner_steps):
            weights = {name: tensor.detach() for name, tensor in weights.items()}
            acted = self.act(weights, tasks, randomness, self.problem.episodes)
            taken += acted.num_steps
            weights = self.inner_step(learned.meta, weights, self.experience(acted), step, Order.NONE)
        with torch.no_grad():
            gradients = {name: learned.meta[name] - weights[name].mean(0) for name in self.names}
        score = float(acted.returns_LTE.mean())  # Before the last step: no episodes are needed after it.
        return MetaStep(-score, score, gradients, learned.buffers, taken)


class OuterPolicyLearner(PolicyGradientLearner):
    """Gradients through the inner steps; the base of MAML with policies and of its variants.

    The optimiser takes ``epochs`` steps on the episodes of a batch of tasks, after each of which the inner steps are
    computed anew, on the same episodes, from the weights as they are then.
    """

    order = Order.SECOND

    @dataclass
    class Options(PolicyGradientLearner.Options):
        learned_rates: bool = False
        """Learn a learning rate of each weight."""
        epochs: int = bounded(1, 1, 1000)
        """Passes over the episodes of a meta-step, in each of which the optimiser takes a step."""

    @property
    def training_steps(self) -> int:
        """Inner steps in training."""
        return int(self.options.inner_steps)

    def initial(self, generator: torch.Generator) -> Learned:
        meta = self.net.init_params(generator)
        if self.options.learned_rates:
            meta |= {_LR + name: torch.full_like(meta[name], self.options.inner_rate) for name in self.names}
        return Learned(meta, {})

    def initial_lr(self, meta: Params, name: str) -> Tensor | float:
        return meta[_LR + name] if self.options.learned_rates else super().initial_lr(meta, name)

    @abstractmethod
    def collect(
        self, weights: Params, tasks: Environments, support: Sequence[Support], randomness: Randomness
    ) -> tuple[Any, float, int]:
        """Return (what the outer loss is computed from, the mean return of an episode, environment steps taken).

        ``weights`` are adapted, and ``support`` are the episodes that they were adapted on.
        """

    @abstractmethod
    def outer_loss(self, states: Sequence[Params], collected: Any) -> Tensor:
        """Return the mean loss of the weights after 0, 1, ..., K inner steps."""

    def meta_steps(
        self, learned: Learned, tasks: Environments, progress: float, generator: torch.Generator
    ) -> Iterator[MetaStep]:
        randomness = Randomness(generator, tasks.tasks)
        states, support = [self.start(learned, tasks.tasks, [])], list[Support]()
        for step in range(self.training_steps):
            acted = self.act(states[-1], tasks, randomness, self.problem.episodes)
            support.append(Support(acted, self.experience(acted)))
            states.append(self.inner_step(learned.meta, states[-1], support[-1].experience, step, self.order))
        adapted = {name: tensor.detach() for name, tensor in states[-1].items()}
        collected, score, taken = self.collect(adapted, tasks, support, randomness)
        taken += sum(each.trajectories.num_steps for each in support)
        for epoch in range(self.options.epochs):
            if epoch:
                states = [self.start(learned, tasks.tasks, [])]
                for step, each in enumerate(support):
                    states.append(self.inner_step(learned.meta, states[-1], each.experience, step, self.order))
            loss = self.outer_loss(states, collected)
            gradients = gradients_of(loss, learned.meta)
            yield MetaStep(float(loss.detach()), score, gradients, learned.buffers, 0 if epoch else taken)
