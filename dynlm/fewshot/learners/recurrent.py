"""Learners that are LSTMs: one that reads labelled examples, and one that is the optimiser.

Legend: T tasks, S support and Q query examples, O outputs, D features, E = D + O + 1, H width of the LSTM's state, N
weights of the networks of all tasks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.adapt.rules.lstm_gates import fresh_state, gated_step, initial_gates
from dynlm.fewshot.inner_loop import Order, expand_tasks
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Generators, Learned, MetaStep
from dynlm.fewshot.learners.maml import GradientLearner
from dynlm.fewshot.learners.prototypes import EmbeddingLearner
from dynlm.fewshot.nets import uniform
from dynlm.fewshot.tasks.source import Episodes, Labelled
from dynlm.models.lstm.model import fused_layer
from dynlm.runtime.validation import LARGEST_WIDTH, bounded
from dynlm.types import Params


@LEARNERS.register_kind("lstm-reader")
class LstmReader(EmbeddingLearner):
    """An LSTM whose state after the support set's (input, target) pairs answers each query independently.

    Hochreiter, Younger & Conwell 2001; Santoro et al. 2016 without their external memory.
    """

    label = "LSTM that reads"

    @dataclass
    class Options(EmbeddingLearner.Options):
        reader_hidden: int = bounded(128, 1, LARGEST_WIDTH)

    def initial(self, generator: torch.Generator) -> Learned:
        hidden, outputs = self.options.reader_hidden, self.problem.num_outputs
        draw = functools.partial(uniform, bound=1 / math.sqrt(hidden), generator=generator)
        meta, buffers = super().initial(generator)
        meta |= {
            "reader.input": draw((4 * hidden, (self.net.features if self.net else 1) + outputs + 1)),
            "reader.recurrent": draw((4 * hidden, hidden)),
            "reader.bias": torch.zeros(4 * hidden).index_fill(0, torch.arange(hidden, 2 * hidden), 1.0),
            "reader.output.weight": draw((hidden, outputs)),
            "reader.output.bias": torch.zeros(outputs),
        }
        return Learned(meta, buffers)

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        state = self._read(learned.meta, self.features(learned, support.inputs), support.targets)
        yield Adapted(state, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return self._answer(learned.meta, adapted.state, self.features(learned, inputs_TQ))

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support_TSD, query_TQD, buffers = self.training_features(learned, episodes)
        state = self._read(learned.meta, support_TSD, episodes.support.targets)
        outputs_TQO = self._answer(learned.meta, state, query_TQD)
        return self.differentiate(learned, outputs_TQO, episodes.query.targets)._replace(buffers=buffers)

    def _read(self, meta: Params, features_TSD: Tensor, targets_TS: Tensor) -> Params:
        targets_TSO = targets_TS
        if self.problem.classifies:
            targets_TSO = F.one_hot(targets_TS, self.problem.num_outputs).to(features_TSD)
        is_query_TS1 = torch.zeros_like(features_TSD[..., :1])
        pairs_STE = torch.cat([features_TSD, targets_TSO, is_query_TS1], -1).transpose(0, 1)
        zeros_TH = features_TSD.new_zeros(len(features_TSD), self.options.reader_hidden)
        _, (h_TH, c_TH) = _lstm(meta, pairs_STE, zeros_TH, zeros_TH)
        return {"h": h_TH, "c": c_TH}

    def _answer(self, meta: Params, state: Params, features_TQD: Tensor) -> Tensor:
        tasks, queries, _ = features_TQD.shape
        blank_TQO = features_TQD.new_zeros(tasks, queries, self.problem.num_outputs)
        queries_TQE = torch.cat([features_TQD, blank_TQO, torch.ones_like(features_TQD[..., :1])], -1)
        h, c = (state[name].repeat_interleave(queries, 0) for name in ("h", "c"))
        hidden_1NH, _ = _lstm(meta, queries_TQE.flatten(0, 1)[None], h, c)
        outputs_NO = hidden_1NH[0] @ meta["reader.output.weight"] + meta["reader.output.bias"]
        return outputs_NO.unflatten(0, (tasks, queries))


def _lstm(meta: Params, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return fused_layer(x, (h, c), meta["reader.input"], meta["reader.recurrent"], meta["reader.bias"])


@LEARNERS.register_kind("lstm-optimiser")
class LstmOptimiser(GradientLearner):
    """The LSTM meta-learner of Ravi & Larochelle 2017: initial weights and one update rule of all weights are learned.

    Meta-parameters are the network's and those of the gates (``adapt.rules.lstm_gates``).
    """

    label = "LSTM optimiser"

    @dataclass
    class Options(GradientLearner.Options):
        reader_hidden: int = bounded(128, 1, LARGEST_WIDTH)
        """Width of the LSTM's state (lstm-optimiser: 20 in the paper)."""

    def initial(self, generator: torch.Generator) -> Learned:
        gates = initial_gates(self.options.reader_hidden, self.options.inner_rate, generator)
        return Learned(self.net.init_params(generator) | gates, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Generators, order: Order = Order.NONE
    ) -> Iterator[Adapted]:
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
                losses_T = self.problem.losses(self.loop.forward(leaves, support.inputs)[0], support.targets)
                gradients = torch.autograd.grad(losses_T.sum(), list(leaves.values()))
            with torch.set_grad_enabled(order is not Order.NONE):
                theta_N = torch.cat([weights[name].flatten(1) for name in names], 1).flatten()
                gradient_N = torch.cat([gradient.flatten(1) for gradient in gradients], 1).flatten()
                loss_N = losses_T.detach().repeat_interleave(sum(sizes))
                theta_N, state = gated_step(learned.meta, state, theta_N, gradient_N, loss_N)
                parts = theta_N.unflatten(0, (tasks, -1)).split(sizes, 1)
                weights = {name: part.reshape(weights[name].shape) for name, part in zip(names, parts, strict=True)}

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        *_, adapted = self.adapt(learned, episodes.support, self.options.inner_steps, [], Order.FIRST)
        outputs_TQO = self.predict(learned, adapted, episodes.query.inputs)
        return self.differentiate(learned, outputs_TQO, episodes.query.targets)
