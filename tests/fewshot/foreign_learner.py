"""A learner as another package would write it: ridge regression on pixels, with a meta-learned scale of the logits.

Legend: T tasks, S support and Q query examples, K classes, D pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.learners.learner import Adapted, Generators, Learned, Learner, MetaStep, SupervisedLearner
from dynlm.fewshot.tasks.source import Episodes, Labelled
from dynlm.runtime.validation import bounded


class Ridge(SupervisedLearner):
    """Weights of each task in closed form. As ``@LEARNERS.register_kind("ridge")`` does, but for one test only."""

    label = "ridge regression"

    @dataclass
    class Options(Learner.Options):
        kind: str = "ridge"
        penalty: float = bounded(1.0, 1e-6, 1e6)
        """Penalty on the squared norm of the weights."""

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({"scale": torch.ones(())}, {})

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        x_TSD, y_TSK = support.inputs.flatten(2), F.one_hot(support.targets).to(support.inputs)
        kernel_TSS = x_TSD @ x_TSD.transpose(1, 2) + self.options.penalty * torch.eye(x_TSD.shape[1])
        yield Adapted({"weights": x_TSD.transpose(1, 2) @ torch.linalg.solve(kernel_TSS, y_TSK)}, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return learned.meta["scale"] * (inputs_TQ.flatten(2) @ adapted.state["weights"])

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        (adapted,) = self.adapt(learned, episodes.support, 0, [])
        logits_TQK = self.predict(learned, adapted, episodes.query.inputs)
        return self.differentiate(learned, logits_TQK, episodes.query.targets)
