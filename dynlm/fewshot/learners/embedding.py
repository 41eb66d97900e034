"""What learners share whose network is the same for all tasks: features of images, by running batch statistics.

Legend: T tasks, S support and Q query examples, N = S + Q, D features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.nets import ConvNet
from dynlm.fewshot.tasks.episodes import Episodes, Problem
from dynlm.models.lstm.model import Params

_RUNNING = "running."
_MOMENTUM = 0.1


class EmbeddingLearner(Learner):
    """A network without a head for images, none for curves.

    Meta-parameters are the network's; buffers are ``running.NAME`` (F,), the averaged statistics of training batches.
    """

    def __init__(self, options: Any, problem: Problem):
        super().__init__(options, problem)
        self.net: ConvNet | None = options.conv_net(problem.input_shape, None) if problem.classifies else None

    @property
    def query_statistics(self) -> str:
        return "running"

    def initial(self, generator: torch.Generator) -> Learned:
        if self.net is None:
            return Learned({}, {})
        statistics = {_RUNNING + name: tensor for name, tensor in self.net.init_statistics().items()}
        return Learned(self.net.init_params(generator), statistics)

    def features(self, learned: Learned, inputs_TN: Tensor) -> Tensor:
        """Return features (T, N, D) under running statistics: all tasks are one batch, since they share the weights."""
        if self.net is None:
            return inputs_TN
        running = {name.removeprefix(_RUNNING): tensor for name, tensor in learned.buffers.items()}
        features_ND, _ = self.net.forward(learned.meta, inputs_TN.flatten(0, 1), running)
        return features_ND.unflatten(0, inputs_TN.shape[:2])

    def training_features(self, learned: Learned, episodes: Episodes) -> tuple[Tensor, Tensor, Params]:
        """Return support (T, S, D) and query (T, Q, D) features under the batch's statistics, and the next buffers."""
        inputs_TN, buffers = torch.cat([part.inputs for part in episodes], 1), learned.buffers
        features_TND = inputs_TN
        if self.net is not None:
            features_ND, used = self.net.forward(learned.meta, inputs_TN.flatten(0, 1))
            features_TND = features_ND.unflatten(0, inputs_TN.shape[:2])
            averaged = {name: buffers[_RUNNING + name].lerp(value.detach(), _MOMENTUM) for name, value in used.items()}
            buffers = {_RUNNING + name: tensor for name, tensor in averaged.items()}
        shots = episodes.support.inputs.shape[1]
        return features_TND[:, :shots], features_TND[:, shots:], buffers
