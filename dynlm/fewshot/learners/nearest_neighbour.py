"""The baseline of every accuracy table: the class of the nearest support example (Lake et al. 2015).

Nearest by cosine similarity of pixels: on Omniglot five points better than Euclidean distance, by which a bold drawing
is far from all others. Legend: T tasks, S support and Q query examples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, LearnerOptions, register_learner
from dynlm.fewshot.tasks.episodes import Labelled


@dataclass
class NearestNeighbourOptions(LearnerOptions):
    """Nearest neighbour has no options."""

    is_trained: ClassVar[bool] = False
    any_ways: ClassVar[bool] = True

    kind: str = "nearest-neighbour"


@register_learner
class NearestNeighbour(Learner):
    """Nearest neighbour by cosine similarity; nothing is learned."""

    options_type = NearestNeighbourOptions
    label = "nearest neighbour"

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield Adapted({}, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        query_TQD, support_TSD = (F.normalize(x.flatten(2), dim=-1) for x in (inputs_TQ, adapted.support.inputs))
        cosines_TQS, classes_TS = query_TQD @ support_TSD.transpose(1, 2), adapted.support.targets
        nearest_TQK = [
            cosines_TQS.masked_fill((classes_TS != label)[:, None], -math.inf).amax(-1)
            for label in range(int(classes_TS.max()) + 1)
        ]
        return torch.stack(nearest_TQK, -1)
