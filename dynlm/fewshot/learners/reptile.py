"""Reptile (Nichol, Achiam & Schulman 2018, arXiv 1803.02999), and the same inner steps from random weights.

    theta <- theta + epsilon * mean over tasks of (theta_i - theta)

The meta-gradient is theta - mean theta_i, and the outer step is SGD with learning rate epsilon. Inner steps are plain,
or Adam's with beta1 = 0, whose second moment continues from task to task as in the authors' code.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from dynlm.fewshot.inner_loop import Order, SecondMoment, expand_tasks
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Generators, Learned, MetaStep, add_prefix, strip_prefix
from dynlm.fewshot.learners.maml import GradientLearner
from dynlm.fewshot.tasks.source import LARGEST_COUNT, Episodes, Labelled
from dynlm.runtime.validation import bounded
from dynlm.types import Params

_SQUARES, _COUNT = "squares.", "count"


@LEARNERS.register_kind("random")
class RandomStart(GradientLearner):
    """No meta-training: each task starts from its own random weights, drawn from its generator."""

    label = "random initialisation"
    is_trained = False

    @dataclass
    class Options(GradientLearner.Options):
        inner_optimizer: Literal["sgd", "adam"] = "sgd"
        """Inner steps: plain, or Adam's with beta1 = 0 (Nichol et al. 2018)."""

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        starts = [self.net.init_params(generator) for generator in generators]
        weights = {name: torch.stack([start[name] for start in starts]) for name in self.loop.adapted}
        moment = None
        if self.options.inner_optimizer == "adam":
            moment = SecondMoment({name: torch.zeros_like(tensor) for name, tensor in weights.items()}, 0)
        return self._steps(weights, [support] * steps, support, moment)

    def _steps(
        self, weights: Params, batches: list[Labelled], support: Labelled, moment: SecondMoment | None
    ) -> Iterator[Adapted]:
        states = self.loop.steps(weights, batches, functools.partial(self.lr, {}), Order.NONE, moment)
        return (Adapted(state, support, step) for step, state in enumerate(states))


@LEARNERS.register_kind("reptile")
class Reptile(RandomStart):
    """Reptile. With Adam's inner steps the buffers are ``squares.NAME`` and their ``count``."""

    label = "Reptile"
    is_trained = True

    @dataclass
    class Options(RandomStart.Options):
        inner_batch: int = bounded(0, 0, LARGEST_COUNT)
        """Support examples of an inner step in training, a new sample for each; 0: all."""

    def initial(self, generator: torch.Generator) -> Learned:
        meta = self.net.init_params(generator)
        if self.options.inner_optimizer == "sgd":
            return Learned(meta, {})
        squares = {name: torch.zeros_like(tensor) for name, tensor in meta.items()}
        return Learned(meta, {**add_prefix(_SQUARES, squares), _COUNT: torch.zeros(())})

    def _moment(self, learned: Learned) -> SecondMoment | None:
        if self.options.inner_optimizer == "sgd":
            return None
        return SecondMoment(strip_prefix(_SQUARES, learned.buffers), int(learned.buffers[_COUNT]))

    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        weights = expand_tasks(learned.meta, len(support.inputs))
        return self._steps(weights, [support] * steps, support, self._moment(learned))

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        (support, query), moment = episodes, self._moment(learned)
        batches = minibatches(support, self.options.inner_batch, self.options.inner_steps, generator)
        *_, adapted = self._steps(expand_tasks(learned.meta, episodes.tasks), batches, support, moment)
        with torch.no_grad():
            gradients = {name: learned.meta[name] - adapted.state[name].mean(0) for name in self.loop.adapted}
            outputs_TQO = self.predict(learned, adapted, query.inputs)
            loss = float(self.problem.loss(outputs_TQO, query.targets))
            score = float(self.problem.scores(outputs_TQO, query.targets).mean())
        if moment is None:
            return MetaStep(loss, score, gradients, learned.buffers)
        buffers = add_prefix(_SQUARES, {name: square.mean(0) for name, square in moment.squares.items()})
        return MetaStep(loss, score, gradients, {**buffers, _COUNT: torch.tensor(float(moment.count))})


def minibatches(support: Labelled, size: int, steps: int, generator: torch.Generator) -> list[Labelled]:
    """Return ``steps`` batches of ``size`` examples from shuffled passes over the support set; size 0: all of it."""
    count = support.inputs.shape[1]
    if not 0 < size < count:
        return [support] * steps
    passes = math.ceil(steps * size / count)
    order_N = torch.cat([torch.randperm(count, generator=generator) for _ in range(passes)])
    batches_N = order_N[: steps * size].split(size)
    return [Labelled(support.inputs[:, batch_N], support.targets[:, batch_N]) for batch_N in batches_N]
