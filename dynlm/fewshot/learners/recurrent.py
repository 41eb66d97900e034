"""The recurrent families: an LSTM that reads the labelled stream, and the LSTM that is the optimiser.

Legend: T tasks, S support and Q query examples, O outputs, D features, E = D + O + 1, H width of the LSTM's state, N
coordinates of the network that is optimised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.adapt.rules.lstm_gates import fresh_state, gated_step, initial_gates
from dynlm.fewshot.inner_loop import Through, for_each_task, forward
from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, MetaStep
from dynlm.fewshot.nets import ConvNet, Net, initial_params
from dynlm.fewshot.options import LearnerConfig
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.models.lstm.model import Params, fused_layer

_RUNNING = "running."
_MOMENTUM = 0.1


class LstmReader(Learner):
    """An LSTM that reads (input, target) pairs, and is then asked for the target of an input alone.

    Hochreiter, Younger & Conwell 2001; Santoro et al. 2016 without their external memory. What it knows of a task is
    the LSTM's state after its support set; each query is answered from that state, none sees another. Images go
    through a convolutional network first, normalised by training's running statistics.
    """

    def __init__(self, config: LearnerConfig, net: ConvNet | None, outputs: int, classifies: bool):
        super().__init__(classifies)
        self.config, self.net, self.outputs = config, net, outputs
        self.width = (1 if net is None else net.features) + outputs + 1

    def initial(self, generator: torch.Generator) -> Learned:
        hidden = self.config.reader_hidden
        bound = 1 / math.sqrt(hidden)

        def uniform(*shape: int) -> Tensor:
            return bound * (2 * torch.rand(shape, generator=generator) - 1)

        meta = {} if self.net is None else initial_params(self.net, generator)
        meta |= {
            "reader.input": uniform(4 * hidden, self.width),
            "reader.recurrent": uniform(4 * hidden, hidden),
            "reader.bias": torch.zeros(4 * hidden).index_fill(0, torch.arange(hidden, 2 * hidden), 1.0),
            "reader.output.weight": uniform(hidden, self.outputs),
            "reader.output.bias": torch.zeros(self.outputs),
        }
        buffers: Params = {}
        if self.net is not None:
            for name, shape in self.net.statistics_shapes().items():
                buffers[_RUNNING + name] = torch.full(shape, float(name.endswith("variance")))
        return Learned(meta, buffers)

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield Adapted(self._read(learned.meta, self._features(learned, support.inputs), support.targets), support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return self._answer(learned.meta, adapted.state, self._features(learned, inputs_TQ))

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support, query = episodes
        inputs_TN, buffers = torch.cat([support.inputs, query.inputs], 1), dict(learned.buffers)
        if self.net is None:
            features_TND = inputs_TN
        else:
            features_ND, used = self.net.forward(learned.meta, inputs_TN.flatten(0, 1))
            features_TND = features_ND.unflatten(0, inputs_TN.shape[:2])
            for name, value in used.items():
                buffers[_RUNNING + name] = buffers[_RUNNING + name].lerp(value.detach(), _MOMENTUM)
        shots = support.inputs.shape[1]
        state = self._read(learned.meta, features_TND[:, :shots], support.targets)
        outputs_TQO = self._answer(learned.meta, state, features_TND[:, shots:])
        return self.by_autograd(learned, self.loss(outputs_TQO, query.targets), outputs_TQO, query.targets, buffers)

    def _features(self, learned: Learned, inputs_TN: Tensor) -> Tensor:
        if self.net is None:
            return inputs_TN
        running = {name.removeprefix(_RUNNING): tensor for name, tensor in learned.buffers.items()}
        features_ND, _ = self.net.forward(learned.meta, inputs_TN.flatten(0, 1), running)
        return features_ND.unflatten(0, inputs_TN.shape[:2])

    def _read(self, meta: Params, features_TSD: Tensor, targets_TS: Tensor) -> Params:
        targets_TSO = F.one_hot(targets_TS, self.outputs).to(features_TSD) if self.classifies else targets_TS
        asked_TS1 = torch.zeros_like(features_TSD[..., :1])
        pairs_STE = torch.cat([features_TSD, targets_TSO, asked_TS1], -1).transpose(0, 1)
        zeros_TH = features_TSD.new_zeros(len(features_TSD), self.config.reader_hidden)
        _, (h_TH, c_TH) = self._layer(meta, pairs_STE, zeros_TH, zeros_TH)
        return {"h": h_TH, "c": c_TH}

    def _answer(self, meta: Params, state: Params, features_TQD: Tensor) -> Tensor:
        tasks, queries, _ = features_TQD.shape
        blank_TQO = features_TQD.new_zeros(tasks, queries, self.outputs)
        asked_TQE = torch.cat([features_TQD, blank_TQO, torch.ones_like(features_TQD[..., :1])], -1)
        h, c = (state[name].repeat_interleave(queries, 0) for name in ("h", "c"))
        read_1NH, _ = self._layer(meta, asked_TQE.flatten(0, 1)[None], h, c)
        outputs_NO = read_1NH[0] @ meta["reader.output.weight"] + meta["reader.output.bias"]
        return outputs_NO.unflatten(0, (tasks, queries))

    def _layer(self, meta: Params, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return fused_layer(x, (h, c), meta["reader.input"], meta["reader.recurrent"], meta["reader.bias"])


class LstmOptimiser(Learner):
    """The LSTM meta-learner of Ravi & Larochelle 2017: start and update rule are learned, coordinates share the rule.

    Meta-parameters are the network's start and the gates' (``memory.gates``, where a language model's memory finds them
    too). Query statistics as in MAML.
    """

    def __init__(self, config: LearnerConfig, net: Net, classifies: bool):
        super().__init__(classifies)
        self.config, self.net = config, net
        self.names = tuple(net.shapes())

    def initial(self, generator: torch.Generator) -> Learned:
        gates = initial_gates(self.config.reader_hidden, self.config.inner_rate, generator)
        return Learned(initial_params(self.net, generator) | gates, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield from self._adapt(learned, support, steps, Through.NOTHING)

    def _adapt(self, learned: Learned, support: Labelled, steps: int, through: Through) -> Iterator[Adapted]:
        tasks = len(support.inputs)
        weights = for_each_task({name: learned.meta[name] for name in self.names}, tasks)
        sizes = [weights[name][0].numel() for name in self.names]
        state = fresh_state(learned.meta, tasks * sum(sizes))
        for step in range(steps + 1):
            if through is Through.NOTHING:
                weights = {name: tensor.detach() for name, tensor in weights.items()}
                state = type(state)(*(tensor.detach() for tensor in state))
            yield Adapted(weights, support, step)
            if step == steps:
                return
            with torch.enable_grad():
                leaves = {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
                outputs_TSO, _ = forward(self.net, leaves, self.names, support.inputs)
                losses_T = self.losses(outputs_TSO, support.targets)
                gradients = torch.autograd.grad(losses_T.sum(), list(leaves.values()))
            with torch.set_grad_enabled(through is not Through.NOTHING):
                theta_N = torch.cat([weights[name].flatten(1) for name in self.names], 1).flatten()
                gradient_N = torch.cat([gradient.flatten(1) for gradient in gradients], 1).flatten()
                loss_N = losses_T.detach().repeat_interleave(sum(sizes))
                theta_N, state = gated_step(learned.meta, state, theta_N, gradient_N, loss_N)
                parts = theta_N.unflatten(0, (tasks, -1)).split(sizes, 1)
                weights = {
                    name: part.reshape(weights[name].shape) for name, part in zip(self.names, parts, strict=True)
                }

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        statistics = None
        if self.config.statistics == "inductive" and isinstance(self.net, ConvNet):
            _, statistics = forward(self.net, adapted.state, self.names, adapted.support.inputs)
        return forward(self.net, adapted.state, self.names, inputs_TQ, statistics)[0]

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        *_, adapted = self._adapt(learned, episodes.support, self.config.inner_steps, Through.WEIGHTS)
        outputs_TQO = self.predict(learned, adapted, episodes.query.inputs)
        loss = self.loss(outputs_TQO, episodes.query.targets)
        return self.by_autograd(learned, loss, outputs_TQO, episodes.query.targets)
