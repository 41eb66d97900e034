"""Prototypical networks (Snell, Swersky & Zemel 2017, arXiv 1703.05175): the nearest class mean in a learned space.

    p(class k | x) = softmax over k of -||f(x) - mean of f over class k's support examples||^2

Legend: T tasks, S support and Q query examples, K classes, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from dynlm.fewshot.learners.embedding import EmbeddingLearner
from dynlm.fewshot.learners.learner import Adapted, Learned, LearnerOptions, MetaStep, register_learner
from dynlm.fewshot.nets import ConvNetOptions
from dynlm.fewshot.tasks.episodes import Episodes, Labelled


@dataclass
class PrototypesOptions(ConvNetOptions, LearnerOptions):
    """Options of prototypical networks."""

    any_ways: ClassVar[bool] = True

    kind: str = "prototypes"
    statistics: Literal["transductive", "running"] = "transductive"
    """Batch statistics of query examples: transductive (of the query set), inductive (of the support set) or running
    (of training)."""


@register_learner
class Prototypes(EmbeddingLearner):
    """Prototypical network.

    ``learner.statistics`` running embeds each example independently; transductive normalises an episode's support and
    query sets together.
    """

    options_type = PrototypesOptions
    label = "prototypical network"

    @property
    def query_statistics(self) -> str:
        return str(self.options.statistics)

    def initial(self, generator: torch.Generator) -> Learned:
        learned = super().initial(generator)
        assert self.net is not None
        # Squared distances grow with the number of features: without the factor the softmax starts out saturated.
        last = f"{self.net.norms[-1]}.scale"
        learned.meta[last] = learned.meta[last] * 2 / math.sqrt(self.net.features)
        return learned

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
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
        loss = self.problem.loss(logits_TQK, episodes.query.targets)
        return self.differentiate(learned, loss, logits_TQK, episodes.query.targets, buffers)


def class_means(features_TSD: Tensor, classes_TS: Tensor) -> Tensor:
    """Return the mean of each class's features (T, K, D); all classes have equally many examples."""
    members_TSK = F.one_hot(classes_TS).to(features_TSD.dtype)
    return members_TSK.transpose(1, 2) @ features_TSD / members_TSK.sum(1)[..., None]


def squared_distances(features_TQD: Tensor, means_TKD: Tensor) -> Tensor:
    """Return ||f - m||^2 of each pair (T, Q, K)."""
    products_TQK = features_TQD @ means_TKD.transpose(1, 2)
    return features_TQD.square().sum(-1)[..., None] - 2 * products_TQK + means_TKD.square().sum(-1)[:, None]
