"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv 1703.05175): the nearest class mean in a learned space.

    p(class k | x) = softmax over k of -||f(x) - mean of f over class k's support examples||^2

Nothing is adapted: what is known of a task are its prototypes. Legend: T tasks, S support and Q query examples, K
classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, MetaStep
from dynlm.fewshot.nets import BatchStatistics, ConvNet, initial_params
from dynlm.fewshot.options import LearnerConfig
from dynlm.fewshot.tasks.episodes import Episodes, Labelled

_RUNNING = "running."
_MOMENTUM = 0.1


class Prototypes(Learner):
    """Meta-parameters are the network's; buffers are ``running.NAME``: the batch statistics of training.

    ``learner.statistics`` running embeds each example for itself; transductive normalises an episode's support and
    query sets together.
    """

    def __init__(self, config: LearnerConfig, net: ConvNet):
        super().__init__(classifies=True)
        self.config, self.net = config, net

    def initial(self, generator: torch.Generator) -> Learned:
        buffers = {
            _RUNNING + name: torch.full(shape, float(name.endswith("variance")))
            for name, shape in self.net.statistics_shapes().items()
        }
        meta = initial_params(self.net, generator)
        # Squared distances grow with the number of features: begun at some nats, they are not sure of wrong classes.
        last = f"norm.{self.net.layers - 1}.scale"
        meta[last] = meta[last] * 2 / math.sqrt(self.net.features)
        return Learned(meta, buffers)

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        state = {}
        if self.config.statistics == "running":
            embedded_TSD = self._embed(learned, support.inputs)
            state["prototypes"] = prototypes(embedded_TSD, support.targets)
        yield Adapted(state, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        if self.config.statistics == "running":
            return -squared_distances(self._embed(learned, inputs_TQ), adapted.state["prototypes"])
        shots = adapted.support.inputs.shape[1]
        inputs_TN = torch.cat([adapted.support.inputs, inputs_TQ], 1)
        # Mapped over tasks, so that each has batch statistics of its own.
        features_TND, _ = vmap(self.net.forward, in_dims=(None, 0))(learned.meta, inputs_TN)
        means_TKD = prototypes(features_TND[:, :shots], adapted.support.targets)
        return -squared_distances(features_TND[:, shots:], means_TKD)

    def _embed(self, learned: Learned, inputs_TN: Tensor) -> Tensor:
        """Features (T, N, D) under running statistics: tasks are just more images, since all share the weights."""
        running: BatchStatistics = {
            name.removeprefix(_RUNNING): tensor for name, tensor in learned.buffers.items() if name.startswith(_RUNNING)
        }
        features_ND, _ = self.net.forward(learned.meta, inputs_TN.flatten(0, 1), running)
        return features_ND.unflatten(0, inputs_TN.shape[:2])

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support, query = episodes
        shots = support.inputs.shape[1]
        inputs_TN = torch.cat([support.inputs, query.inputs], 1)
        features_ND, used = self.net.forward(learned.meta, inputs_TN.flatten(0, 1))
        features_TND = features_ND.unflatten(0, inputs_TN.shape[:2])
        means_TKD = prototypes(features_TND[:, :shots], support.targets)
        logits_TQK = -squared_distances(features_TND[:, shots:], means_TKD)
        buffers = {
            _RUNNING + name: learned.buffers[_RUNNING + name].lerp(value.detach(), _MOMENTUM)
            for name, value in used.items()
        }
        return self.by_autograd(learned, self.loss(logits_TQK, query.targets), logits_TQK, query.targets, buffers)


def prototypes(features_TSD: Tensor, classes_TS: Tensor) -> Tensor:
    """The mean of each class's features: (T, K, D). Every class has as many examples."""
    members_TSK = F.one_hot(classes_TS).to(features_TSD.dtype)
    return members_TSK.transpose(1, 2) @ features_TSD / members_TSK.sum(1)[..., None]


def squared_distances(features_TQD: Tensor, means_TKD: Tensor) -> Tensor:
    """||f - m||^2 of each pair: (T, Q, K)."""
    products_TQK = features_TQD @ means_TKD.transpose(1, 2)
    return features_TQD.square().sum(-1)[..., None] - 2 * products_TQK + means_TKD.square().sum(-1)[:, None]
