"""Learners that compare examples: prototypical networks, and nearest neighbour by pixels.

Legend: T tasks, S support and Q query examples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from dynlm.fewshot.learners.learner import (
    LEARNERS,
    MOMENTUM,
    RUNNING,
    Adapted,
    Generators,
    Learned,
    Learner,
    MetaStep,
    SupervisedLearner,
    add_prefix,
    strip_prefix,
)
from dynlm.fewshot.nets import ConvNet, ConvNetOptions
from dynlm.fewshot.tasks.source import Episodes, Labelled, Problem
from dynlm.types import Params


class EmbeddingLearner(SupervisedLearner):
    """A network that all tasks share: without a head for images, none for curves.

    Meta-parameters are the network's; buffers are ``running.NAME`` (F,), the averaged statistics of training batches.
    """

    @dataclass
    class Options(ConvNetOptions, Learner.Options):
        COMMON = "kind filters layers pooling readout reader_hidden statistics"

    def __init__(self, options: Any, problem: Problem):
        super().__init__(options, problem)
        self.query_statistics = getattr(options, "statistics", "running")
        self.net: ConvNet | None = ConvNet(options, problem.input_shape, None) if problem.classifies else None

    def initial(self, generator: torch.Generator) -> Learned:
        if self.net is None:
            return Learned({}, {})
        return Learned(self.net.init_params(generator), add_prefix(RUNNING, self.net.init_statistics()))

    def features(self, learned: Learned, inputs_TN: Tensor) -> Tensor:
        """Return features (T, N, D) under running statistics: all tasks are one batch, since they share the weights."""
        if self.net is None:
            return inputs_TN
        running = strip_prefix(RUNNING, learned.buffers)
        features_ND, _ = self.net.forward(learned.meta, inputs_TN.flatten(0, 1), running)
        return features_ND.unflatten(0, inputs_TN.shape[:2])

    def training_features(self, learned: Learned, episodes: Episodes) -> tuple[Tensor, Tensor, Params]:
        """Return support (T, S, D) and query (T, Q, D) features under the batch's statistics, and the next buffers."""
        inputs_TN, buffers = torch.cat([part.inputs for part in episodes], 1), learned.buffers
        features_TND = inputs_TN
        if self.net is not None:
            features_ND, used = self.net.forward(learned.meta, inputs_TN.flatten(0, 1))
            features_TND = features_ND.unflatten(0, inputs_TN.shape[:2])
            new = add_prefix(RUNNING, used).items()
            buffers = {name: buffers[name].lerp(value.detach(), MOMENTUM) for name, value in new}
        shots = episodes.support.inputs.shape[1]
        return features_TND[:, :shots], features_TND[:, shots:], buffers


@LEARNERS.register_kind("prototypes")
class Prototypes(EmbeddingLearner):
    """Prototypical network (Snell, Swersky & Zemel 2017, arXiv 1703.05175): the nearest class mean in a learned space.

        p(class k | x) = softmax over k of -||f(x) - mean of f over class k's support examples||^2

    ``learner.statistics`` running embeds each example independently; transductive normalises an episode's support and
    query sets together.
    """

    label = "prototypical network"
    any_ways = True

    @dataclass
    class Options(EmbeddingLearner.Options):
        statistics: Literal["transductive", "running"] = "transductive"

    def initial(self, generator: torch.Generator) -> Learned:
        learned = super().initial(generator)
        assert self.net is not None
        # Squared distances grow with the number of features: without the factor the softmax starts out saturated.
        last = f"{self.net.norms[-1]}.scale"
        learned.meta[last] = learned.meta[last] * 2 / math.sqrt(self.net.features)
        return learned

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        state = {}
        if self.options.statistics == "running":
            state["prototypes"] = class_means(self.features(learned, support.inputs), support.targets)
        yield Adapted(state, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        if self.options.statistics == "running":
            return -squared_distances(self.features(learned, inputs_TQ), adapted.state["prototypes"])
        assert self.net is not None
        shots = adapted.support.inputs.shape[1]
        inputs_TN = torch.cat([adapted.support.inputs, inputs_TQ], 1)
        # Mapped over tasks, so that each has its own batch statistics.
        features_TND, _ = vmap(self.net.forward, in_dims=(None, 0))(learned.meta, inputs_TN)
        means_TKD = class_means(features_TND[:, :shots], adapted.support.targets)
        return -squared_distances(features_TND[:, shots:], means_TKD)

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support_TSD, query_TQD, buffers = self.training_features(learned, episodes)
        logits_TQK = -squared_distances(query_TQD, class_means(support_TSD, episodes.support.targets))
        return self.differentiate(learned, logits_TQK, episodes.query.targets)._replace(buffers=buffers)


def class_means(features_TSD: Tensor, classes_TS: Tensor) -> Tensor:
    """Return the mean of each class's features (T, K, D); all classes have equally many examples."""
    members_TSK = F.one_hot(classes_TS).to(features_TSD.dtype)
    return members_TSK.transpose(1, 2) @ features_TSD / members_TSK.sum(1)[..., None]


def squared_distances(features_TQD: Tensor, means_TKD: Tensor) -> Tensor:
    """Return ||f - m||^2 of each pair (T, Q, K)."""
    products_TQK = features_TQD @ means_TKD.transpose(1, 2)
    return features_TQD.square().sum(-1)[..., None] - 2 * products_TQK + means_TKD.square().sum(-1)[:, None]


@LEARNERS.register_kind("nearest-neighbour")
class NearestNeighbour(SupervisedLearner):
    """The baseline of every accuracy table: the class of the nearest support example (Lake et al. 2015).

    Nearest by cosine similarity of pixels: on Omniglot five points better than Euclidean distance, by which a bold
    drawing is far from all others. Nothing is learned.
    """

    label = "nearest neighbour"
    is_trained = False
    any_ways = True

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        yield Adapted({}, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        query_TQD, support_TSD = (F.normalize(x.flatten(2), dim=-1) for x in (inputs_TQ, adapted.support.inputs))
        cosines_TQS, classes_TS = query_TQD @ support_TSD.transpose(1, 2), adapted.support.targets
        nearest_TQK = [
            cosines_TQS.masked_fill((classes_TS != label)[:, None], -math.inf).amax(-1)
            for label in range(int(classes_TS.max()) + 1)
        ]
        return torch.stack(nearest_TQK, -1)
