"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999): move the start toward where tasks' training ended.

    theta <- theta + epsilon * mean over tasks of (theta_i - theta)

so that its "gradient" is theta - mean theta_i, and the outer step is sgd with rate epsilon. The inner steps are plain,
or Adam's with beta1 = 0: then the step is preconditioned by 1 / (sqrt(v) + 1e-8), v the running mean of squared
gradients, which goes on from task to task as in the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from dynlm.fewshot.inner_loop import Scales, Squares, Through, for_each_task, inner_steps
from dynlm.fewshot.learners.learner import Adapted, Learned, MetaStep
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.nets import initial_params
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.models.lstm.model import Params

_SQUARES = "squares."


class Reptile(Maml):
    """Meta-parameters are the network's; with Adam's inner steps buffers are ``squares.NAME`` and their ``count``."""

    def initial(self, generator: torch.Generator) -> Learned:
        meta = initial_params(self.net, generator)
        buffers: Params = {}
        if self.config.inner_optimizer == "adam":
            buffers = {_SQUARES + name: torch.zeros_like(tensor) for name, tensor in meta.items()}
            buffers["count"] = torch.zeros(())
        return Learned(meta, buffers)

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield from self._steps(learned, support, steps, lambda step: support, self._squares(learned))

    def _steps(
        self,
        learned: Learned,
        support: Labelled,
        steps: int,
        batches: Callable[[int], Labelled],
        scales: Scales | None,
    ) -> Iterator[Adapted]:
        every = inner_steps(
            self.net,
            self.loss,
            for_each_task(learned.meta, len(support.inputs)),
            self.moving,
            batches,
            lambda step, name: self.config.inner_rate,
            steps,
            Through.NOTHING,
            scales,
        )
        for step, weights in enumerate(every):
            yield Adapted(weights, support, step)

    def _squares(self, learned: Learned) -> Squares | None:
        if self.config.inner_optimizer != "adam":
            return None
        return Squares({name: learned.buffers[_SQUARES + name] for name in self.moving}, int(learned.buffers["count"]))

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support, squares = episodes.support, self._squares(learned)
        batches = minibatches(support, self.config.inner_batch, self.config.inner_steps, generator)
        *_, adapted = self._steps(learned, support, self.config.inner_steps, batches.__getitem__, squares)
        with torch.no_grad():
            gradients = {name: learned.meta[name] - adapted.state[name].mean(0) for name in self.moving}
            outputs_TQO = self.predict(learned, adapted, episodes.query.inputs)
            loss = float(self.loss(outputs_TQO, episodes.query.targets))
            score = float(self.scores(outputs_TQO, episodes.query.targets).mean())
        buffers = learned.buffers
        if squares is not None:
            buffers = {_SQUARES + name: square.mean(0) for name, square in squares.squares.items()}
            buffers["count"] = torch.tensor(float(squares.count))
        return MetaStep(loss, score, gradients, buffers)


def minibatches(support: Labelled, size: int, steps: int, generator: torch.Generator) -> list[Labelled]:
    """``steps`` batches of ``size`` examples, going through shuffled passes over the support set; size 0: all of it."""
    count = support.inputs.shape[1]
    if not 0 < size < count:
        return [support] * steps
    passes = math.ceil(steps * size / count)
    order_N = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    return [support.part(order_N[step * size : (step + 1) * size]) for step in range(steps)]
