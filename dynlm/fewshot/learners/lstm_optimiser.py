"""The LSTM meta-learner of Ravi & Larochelle 2017: initial weights and one update rule of all weights are learned.

Legend: T tasks, S support and Q query examples, O outputs, N weights of the networks of all tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from dynlm.adapt.rules.lstm_gates import fresh_state, gated_step, initial_gates
from dynlm.fewshot.inner_loop import Order, expand_tasks
from dynlm.fewshot.learners.gradient import GradientLearner, GradientOptions
from dynlm.fewshot.learners.learner import Adapted, Learned, MetaStep, register_learner
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.runtime.validation import LARGEST_WIDTH, bounded


@dataclass
class LstmOptimiserOptions(GradientOptions):
    """Options of the LSTM optimiser."""

    kind: str = "lstm-optimiser"
    reader_hidden: int = bounded(128, 1, LARGEST_WIDTH)
    """Width of the LSTM's state (lstm-optimiser: 20 in the paper)."""


@register_learner
class LstmOptimiser(GradientLearner):
    """Meta-parameters are the network's and those of the gates (``adapt.rules.lstm_gates``)."""

    options_type = LstmOptimiserOptions
    label = "LSTM optimiser"

    def initial(self, generator: torch.Generator) -> Learned:
        gates = initial_gates(self.options.reader_hidden, self.options.inner_rate, generator)
        return Learned(self.net.init_params(generator) | gates, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield from self._adapt(learned, support, steps, Order.NONE)

    def _adapt(self, learned: Learned, support: Labelled, steps: int, order: Order) -> Iterator[Adapted]:
        tasks, names = len(support.inputs), self.loop.adapted
        weights = expand_tasks({name: learned.meta[name] for name in names}, tasks)
        sizes = [weights[name][0].numel() for name in names]
        state = fresh_state(learned.meta, tasks * sum(sizes))
        for step in range(steps + 1):
            if order is Order.NONE:
                weights = {name: tensor.detach() for name, tensor in weights.items()}
                state = type(state)(*(tensor.detach() for tensor in state))
            yield Adapted(weights, support, step)
            if step == steps:
                return
            with torch.enable_grad():
                leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
                outputs_TSO, _ = self.loop.forward(leaves, support.inputs)
                losses_T = self.problem.losses(outputs_TSO, support.targets)
                gradients = torch.autograd.grad(losses_T.sum(), list(leaves.values()))
            with torch.set_grad_enabled(order is not Order.NONE):
                theta_N = torch.cat([weights[name].flatten(1) for name in names], 1).flatten()
                gradient_N = torch.cat([gradient.flatten(1) for gradient in gradients], 1).flatten()
                loss_N = losses_T.detach().repeat_interleave(sum(sizes))
                theta_N, state = gated_step(learned.meta, state, theta_N, gradient_N, loss_N)
                parts = theta_N.unflatten(0, (tasks, -1)).split(sizes, 1)
                weights = {name: part.reshape(weights[name].shape) for name, part in zip(names, parts, strict=True)}

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        *_, adapted = self._adapt(learned, episodes.support, self.options.inner_steps, Order.FIRST)
        outputs_TQO = self.predict(learned, adapted, episodes.query.inputs)
        loss = self.problem.loss(outputs_TQO, episodes.query.targets)
        return self.differentiate(learned, loss, outputs_TQO, episodes.query.targets)
