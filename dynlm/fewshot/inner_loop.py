"""The inner loop of all learners that adapt by gradient steps, which are the language model's ``gradient_step``.

Legend: T tasks, N examples, O outputs, F filters. Adapted weights have the tasks as their first axis; tasks share the
others.

A task's loss depends on its own weights alone, so the gradient of the sum of losses is each task's gradient: one
backward pass without a loop, to any order. (``vmap`` over ``torch.func.grad`` gives the same, slower.) All tasks have
equally many examples, so the sum is T times the mean over all examples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.func import vmap

from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.fewshot.nets import BatchStatistics, Net, Outputs, Perceptron
from dynlm.fewshot.tasks.source import Labelled, Problem
from dynlm.types import Params

LearningRate = Callable[[int, str], Tensor | float]
"""The learning rate of a tensor, from the number of the step and the tensor's name."""


class Order(Enum):
    """What a gradient with respect to the initial weights passes through."""

    SECOND = "the adapted weights and the inner gradients"
    FIRST = "the adapted weights; inner gradients are constants"
    NONE = "nothing is differentiated, no graph is kept"


def expand_tasks(params: Params, tasks: int) -> Params:
    """Return shared parameters as every task's own (T, ...), without copying."""
    return {name: tensor.expand(tasks, *tensor.shape) for name, tensor in params.items()}


@dataclass
class SecondMoment:
    """Adam's second moment during one adaptation, with beta2 = 0.999 and epsilon = 1e-8."""

    squares: Params
    count: int

    def preconditioner(self, gradients: Params) -> Params:
        """Update the moment and return 1 / (sqrt(v / (1 - beta2^t)) + epsilon) of each tensor."""
        beta, epsilon = 0.999, 1e-8
        self.count += 1
        self.squares = {name: beta * self.squares[name] + (1 - beta) * g.square() for name, g in gradients.items()}
        correction = 1 - beta**self.count
        return {name: 1 / ((square / correction).sqrt() + epsilon) for name, square in self.squares.items()}


def inner_step(
    weights: Params,
    adapted: tuple[str, ...],
    loss: Callable[[Params], Tensor],
    lr: Callable[[str], Tensor | float],
    order: Order,
    moment: SecondMoment | None = None,
) -> Params:
    """Return the weights after a gradient step of the tensors ``adapted`` on ``loss``, the sum of the tasks' losses."""
    with torch.enable_grad():
        if not all(weights[name].requires_grad for name in adapted):
            weights = {n: t.detach().requires_grad_() if n in adapted else t for n, t in weights.items()}
        leaves = [weights[name] for name in adapted]
        grads = torch.autograd.grad(loss(weights), leaves, create_graph=order is Order.SECOND)
    gradients = dict(zip(adapted, grads, strict=True))
    scales: Mapping[str, Tensor | float] = moment.preconditioner(gradients) if moment else {}
    moved = {n: gradient_step(weights[n], g, lr(n), scales.get(n, 1.0)) for n, g in gradients.items()}
    return {**weights, **moved}


@dataclass(frozen=True)
class InnerLoop:
    """Gradient steps of the tensors ``adapted`` of a network, on all tasks at once."""

    net: Net
    problem: Problem
    adapted: tuple[str, ...]

    def forward(self, weights: Params, inputs_TN: Tensor, statistics: BatchStatistics | None = None) -> Outputs:
        """Return (outputs (T, N, O), statistics used (T, F)); given ``statistics`` are (F,) or (T, F)."""
        if isinstance(self.net, Perceptron) and len(self.adapted) == len(weights):
            return self.net.forward_tasks(weights, inputs_TN), {}  # Small enough for vmap's overhead to matter.
        dims = {name: 0 if name in self.adapted else None for name in weights}
        if statistics is None:
            return vmap(self.net.forward, in_dims=(dims, 0))(weights, inputs_TN)
        shared = next(iter(statistics.values())).dim() == 1
        return vmap(self.net.forward, in_dims=(dims, 0, None if shared else 0))(weights, inputs_TN, statistics)

    def steps(
        self,
        weights: Params,
        batches: list[Labelled],
        lr: LearningRate,
        order: Order,
        moment: SecondMoment | None = None,
        per_step: Callable[[int], Params] | None = None,
    ) -> Iterator[Params]:
        """Yield the weights before the first and after each step, one step on each of ``batches``.

        ``moment`` preconditions the gradients; ``per_step`` returns the tensors that each step replaces.
        """
        for step in range(len(batches) + 1):
            if per_step is not None:
                weights = {**weights, **per_step(step)}
            if order is Order.NONE:
                weights = {name: tensor.detach() for name, tensor in weights.items()}
            yield weights
            if step == len(batches):
                return
            inputs_TN, targets_TN = batches[step]

            def loss(weights: Params, inputs_TN: Tensor = inputs_TN, targets_TN: Tensor = targets_TN) -> Tensor:
                return len(inputs_TN) * self.problem.loss(self.forward(weights, inputs_TN)[0], targets_TN)

            weights = inner_step(weights, self.adapted, loss, functools.partial(lr, step), order, moment)
