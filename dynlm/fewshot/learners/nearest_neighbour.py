"""The floor of every accuracy table: the class of the nearest support example, pixel by pixel (Lake et al. 2015).

Nearest by the cosine of the angle between images: on Omniglot five points better than by Euclidean distance, for which
a bold drawing is far from everything.

Legend: T tasks, S support and Q query examples, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, MetaStep
from dynlm.fewshot.tasks.episodes import Episodes, Labelled


class NearestPixels(Learner):
    """Nearest neighbour by cosine; nothing is learned."""

    def __init__(self) -> None:
        super().__init__(classifies=True)

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield Adapted({}, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        support, classes_TS = adapted.support
        cosines_TQS = _unit(inputs_TQ) @ _unit(support).transpose(1, 2)
        nearest_TQK = []
        for label in range(int(classes_TS.max()) + 1):
            others_T1S = (classes_TS != label)[:, None]
            nearest_TQK.append(cosines_TQS.masked_fill(others_T1S, -math.inf).amax(-1))
        return torch.stack(nearest_TQK, -1)

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        raise NotImplementedError("there is nothing to train")


def _unit(images_TN: Tensor) -> Tensor:
    """Each image as a vector of length 1 (an empty one stays zero): (T, N, D)."""
    return F.normalize(images_TN.flatten(2), dim=-1)
