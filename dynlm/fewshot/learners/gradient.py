"""What learners share that adapt a network by steps: their options, the network, and where query statistics come from.

Legend: T tasks, Q query examples, O outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from dynlm.fewshot.inner_loop import InnerLoop
from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, LearnerOptions
from dynlm.fewshot.nets import BatchStatistics, ConvNet, ConvNetOptions, Net, PerceptronOptions
from dynlm.fewshot.tasks.episodes import LARGEST_COUNT, Problem
from dynlm.models.lstm.model import Params
from dynlm.runtime.validation import bounded


@dataclass
class GradientOptions(ConvNetOptions, PerceptronOptions, LearnerOptions):
    """Options of learners that adapt a network by steps."""

    takes_steps: ClassVar[bool] = True

    inner_rate: float = 0.01
    """Learning rate alpha of the inner steps; where rates are learned, their initial value."""
    inner_steps: int = bounded(5, 1, LARGEST_COUNT)
    """Inner steps in training."""
    statistics: Literal["transductive", "inductive"] = "transductive"
    """Batch statistics of query examples: transductive (of the query set), inductive (of the support set) or running
    (of training)."""

    def evaluation_steps(self, is_regression: bool) -> int:
        return 10 if is_regression else self.inner_steps

    def protocol(self) -> dict[str, Any]:
        return {"inner_rate": self.inner_rate}


class GradientLearner(Learner):
    """A network whose tensors ``loop.adapted`` are adapted to each task."""

    options: Any

    def __init__(self, options: Any, problem: Problem):
        super().__init__(options, problem)
        if problem.classifies:
            self.net: Net = options.conv_net(problem.input_shape, problem.num_outputs)
        else:
            self.net = options.perceptron()
        self.loop = InnerLoop(self.net, problem, self.adapted_names(tuple(self.net.shapes())))

    def adapted_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return which of the network's tensors are adapted."""
        return names

    @property
    def query_statistics(self) -> str:
        return str(self.options.statistics)

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned(self.net.init_params(generator), {})

    def lr(self, meta: Params, step: int, name: str) -> Tensor | float:
        """Return the learning rate of a tensor in a step."""
        return float(self.options.inner_rate)

    def outputs(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> tuple[Tensor, BatchStatistics]:
        """Return outputs (T, Q, O) and the batch statistics that they were normalised by."""
        statistics = None
        if self.options.statistics == "inductive" and isinstance(self.net, ConvNet):
            _, statistics = self.loop.forward(adapted.state, adapted.support.inputs)
        return self.loop.forward(adapted.state, inputs_TQ, statistics)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return self.outputs(learned, adapted, inputs_TQ)[0]
