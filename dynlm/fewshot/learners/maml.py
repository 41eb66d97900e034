"""MAML and its variants: initial weights from which a few gradient steps suffice (Finn et al. 2017, arXiv 1703.03400).

    theta_i = theta - alpha * grad L_support(theta),    meta-loss = mean over tasks of L_query(theta_i)

Legend: T tasks, F filters, Q query examples, O outputs, K inner steps.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.inner_loop import InnerLoop, Order, expand_tasks
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
from dynlm.fewshot.nets import ConvNet, ConvNetOptions, Net, Perceptron, PerceptronOptions
from dynlm.fewshot.tasks.regression import Curves
from dynlm.fewshot.tasks.source import LARGEST_COUNT, Episodes, Labelled, Problem, TaskSource
from dynlm.runtime.validation import bounded
from dynlm.types import Params

_LR = "rate."


class GradientLearner(SupervisedLearner):
    """A network whose tensors ``loop.adapted`` are adapted to each task by steps; the base of MAML and Reptile."""

    takes_steps = True

    @dataclass
    class Options(ConvNetOptions, PerceptronOptions, Learner.Options):
        COMMON = "kind hidden filters inner_rate inner_steps inner_optimizer reader_hidden statistics"

        inner_rate: float = 0.01
        """Learning rate alpha of the inner steps; where rates are learned, their initial value."""
        inner_steps: int = bounded(5, 1, LARGEST_COUNT)
        """Inner steps in training."""
        statistics: Literal["transductive", "inductive"] = "transductive"
        """Batch statistics of query examples: transductive (of the query set), inductive (of the support set) or
        running (of training)."""

    def __init__(self, options: Any, problem: Problem):
        super().__init__(options, problem)
        self.query_statistics, shape = options.statistics, problem.input_shape
        self.net: Net = ConvNet(options, shape, problem.num_outputs) if problem.classifies else Perceptron(options)
        self.loop = InnerLoop(self.net, problem, self.adapted_names(tuple(self.net.shapes())))

    def adapted_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return which of the network's tensors are adapted."""
        return names

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned(self.net.init_params(generator), {})

    def lr(self, meta: Params, step: int, name: str) -> Tensor | float:
        """Return the learning rate of a tensor in a step."""
        return float(self.options.inner_rate)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        statistics = None
        if self.options.statistics == "inductive" and isinstance(self.net, ConvNet):
            _, statistics = self.loop.forward(adapted.state, adapted.support.inputs)
        return self.loop.forward(adapted.state, inputs_TQ, statistics)[0]


class InitLearner(GradientLearner):
    """Learned initial weights; the base of MAML's variants.

    Buffers are ``running.NAME`` (K + 1, F): statistics of query sets after each step, for ``learner.statistics``
    running.
    """

    per_step: tuple[str, ...] = ()
    """Tensors with a row for each step."""

    @dataclass
    class Options(GradientLearner.Options):
        statistics: Literal["transductive", "inductive", "running"] = "transductive"  # type: ignore[assignment]

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        super().check_task(options, task)
        if isinstance(task, Curves.Options) and options.statistics == "running":
            raise UserError("learner.statistics is 'running', but a regression network has no batch norm")

    def initial(self, generator: torch.Generator) -> Learned:
        buffers: Params = {}
        if self.options.statistics == "running" and isinstance(self.net, ConvNet):
            buffers = add_prefix(RUNNING, self.net.init_statistics(self.options.inner_steps + 1))
        return Learned(self.net.init_params(generator), buffers)

    def order(self, progress: float) -> Order:
        """Return the order of the meta-gradient at ``progress`` of the training."""
        return Order.SECOND

    def loss_weights(self, progress: float) -> list[float]:
        """Return the weights of the query losses after 0, 1, ..., K steps."""
        return [0.0] * self.options.inner_steps + [1.0]

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Generators, order: Order = Order.NONE
    ) -> Iterator[Adapted]:
        meta = learned.meta
        weights = {name: meta[name] for name in self.net.shapes()}
        weights |= expand_tasks({name: meta[name] for name in self.loop.adapted}, len(support.inputs))

        def per_step(step: int) -> Params:
            return {name: meta[name][self._row(step)] for name in self.per_step}

        lr = functools.partial(self.lr, meta)
        states = self.loop.steps(weights, [support] * steps, lr, order, per_step=per_step)
        yield from (Adapted(state, support, step) for step, state in enumerate(states))

    def _row(self, step: int) -> int:
        return min(step, int(self.options.inner_steps))

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        if self.options.statistics != "running":
            return super().predict(learned, adapted, inputs_TQ)
        rows = {name: rows[self._row(adapted.step)] for name, rows in learned.buffers.items()}
        return self.loop.forward(adapted.state, inputs_TQ, strip_prefix(RUNNING, rows))[0]

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        (support, query), options = episodes, self.options
        weights, buffers, losses = self.loss_weights(progress), dict(learned.buffers), []
        for adapted in self.adapt(learned, support, options.inner_steps, [], self.order(progress)):
            if not weights[adapted.step]:
                continue
            if options.statistics == "running":
                # In training each batch is normalised by its own statistics, which are averaged for evaluation.
                outputs_TQO, used = self.loop.forward(adapted.state, query.inputs)
                for name, value_TF in add_prefix(RUNNING, used).items():
                    buffers[name] = buffers[name].clone()
                    buffers[name][adapted.step].lerp_(value_TF.detach().mean(0), MOMENTUM)
            else:
                outputs_TQO = self.predict(learned, adapted, query.inputs)
            losses.append(weights[adapted.step] * self.problem.loss(outputs_TQO, query.targets))
        total = sum(losses[1:], losses[0])
        return self.differentiate(learned, outputs_TQO, query.targets, total)._replace(buffers=buffers)


@LEARNERS.register_kind("maml")
class Maml(InitLearner):
    """MAML, with each fix of MAML++ as an option. Meta-parameters ``rate.NAME`` (K,) are learned rates of each step."""

    label = "MAML"

    @dataclass
    class Options(InitLearner.Options):
        multi_step_loss: bool = False
        """Weigh the query losses after every inner step alike at first; later only that after the last step."""
        per_step_rates: bool = False
        """Learn a learning rate for each tensor and inner step."""
        per_step_norm: bool = False
        """Meta-learn batch-norm scales, shifts and running statistics for each inner step, and do not adapt them."""
        annealed_share: float = bounded(0.1, 0, 1)
        """Fraction of the training over which the multi-step loss becomes that of the last step; 0: never."""
        first_order_share: float = bounded(0.0, 0, 1)
        """Fraction of the training, from its beginning, that treats inner gradients as constants."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.annealed_share != 0.1 and not self.multi_step_loss:
                what = "learner.annealed_share is set, but there is no multi-step loss to anneal"
                raise UserError(what, do="leave it out")
            if self.kind == "fomaml" and self.first_order_share:
                what = "learner.first_order_share is set, but fomaml is first-order throughout"
                raise UserError(what, do="choose maml")

    def __init__(self, options: Any, problem: Problem):
        super().__init__(options, problem)
        self.per_step = tuple(name for name in self.net.shapes() if name not in self.loop.adapted)

    def adapted_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if not (self.options.per_step_norm and name.startswith("norm.")))

    def initial(self, generator: torch.Generator) -> Learned:
        meta, buffers = super().initial(generator)
        for name in self.per_step:
            meta[name] = meta[name].expand(self.options.inner_steps + 1, -1).clone()
        for name in self.loop.adapted if self.options.per_step_rates else ():
            meta[_LR + name] = torch.full((self.options.inner_steps,), self.options.inner_rate)
        return Learned(meta, buffers)

    def lr(self, meta: Params, step: int, name: str) -> Tensor | float:
        if not self.options.per_step_rates:
            return super().lr(meta, step, name)
        return meta[_LR + name][min(step, self.options.inner_steps - 1)]

    def order(self, progress: float) -> Order:
        return Order.FIRST if progress < self.options.first_order_share else Order.SECOND

    def loss_weights(self, progress: float) -> list[float]:
        """Return weights that sum to 1, the last one alone from ``progress`` = ``annealed_share`` unless that is 0."""
        options, last = self.options, 1.0
        if options.multi_step_loss:
            last = min(1.0, progress / options.annealed_share) if options.annealed_share else 0.0
        each = (1 - last) / options.inner_steps
        return [0.0] + [each] * (options.inner_steps - 1) + [last + each]


@LEARNERS.register_kind("fomaml")
class Fomaml(Maml):
    """First-order MAML: inner gradients are constants."""

    label = "FOMAML"

    def order(self, progress: float) -> Order:
        return Order.FIRST


@LEARNERS.register_kind("maml++", multi_step_loss=True, per_step_rates=True, per_step_norm=True, first_order_share=0.3)
class MamlPlusPlus(Maml):
    """MAML++ (Antoniou et al. 2019, arXiv 1810.09502): MAML with all of its fixes."""

    label = "MAML++"


@LEARNERS.register_kind("anil")
class Anil(InitLearner):
    """ANIL (Raghu et al. 2020, arXiv 1909.09157): only the head adapts."""

    label = "ANIL"

    def adapted_names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return self.net.head


@LEARNERS.register_kind("meta-sgd")
class MetaSgd(InitLearner):
    """Meta-SGD (Li et al. 2017, arXiv 1707.09835): meta-parameters ``rate.NAME`` are a rate of each weight."""

    label = "Meta-SGD"

    def initial(self, generator: torch.Generator) -> Learned:
        meta, buffers = super().initial(generator)
        rates = {_LR + name: torch.full_like(meta[name], self.options.inner_rate) for name in self.loop.adapted}
        return Learned(meta | rates, buffers)

    def lr(self, meta: Params, step: int, name: str) -> Tensor | float:
        return meta[_LR + name]
