"""THE inner loop: every learner that adapts by gradients takes its steps here, and each is the memory's own step.

Legend: T tasks. Weights that move have the tasks as their first axis; the others are shared by all tasks.

A network is written for one task, and ``torch.func.vmap`` maps it over tasks. A task's loss depends on its own weights
alone, so the gradient of the losses' sum is each task's own gradient: one backward pass, no loop over tasks, and to any
order. (``vmap`` over ``torch.func.grad`` gives the same, at the price of its bookkeeping in every operation of the
backward pass.) Tasks have as many examples each, so the sum is T times the mean over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor
from torch.func import vmap

from dynlm.adapt.rules.elementwise import gradient_step
from dynlm.fewshot.nets import BatchStatistics, Net, Perceptron
from dynlm.fewshot.tasks.episodes import Labelled
from dynlm.models.lstm.model import Params

TaskLoss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss of examples, from their outputs and targets."""


class Through(Enum):
    """What a gradient of the adapted weights goes through, besides the weights themselves."""

    EVERYTHING = "second order: the inner gradients too"
    WEIGHTS = "first order: inner gradients are constants"
    NOTHING = "not differentiated: nothing is kept"


def for_each_task(params: Params, tasks: int) -> Params:
    """Shared parameters as every task's own start, (T, ...), without copying them."""
    return {name: tensor.expand(tasks, *tensor.shape) for name, tensor in params.items()}


def forward(
    net: Net,
    weights: Params,
    moving: Sequence[str],
    inputs_TN: Tensor,
    statistics: BatchStatistics | None = None,
    shared_statistics: bool = False,
) -> tuple[Tensor, BatchStatistics]:
    """(outputs (T, N, O), statistics used (T, F)) of all tasks; tensors not in ``moving`` are shared by them."""
    if isinstance(net, Perceptron) and len(moving) == len(weights):  # small enough for vmap's bookkeeping to matter
        return net.forward_tasks(weights, inputs_TN), {}
    dims = {name: 0 if name in moving else None for name in weights}
    if statistics is None:
        return vmap(net.forward, in_dims=(dims, 0))(weights, inputs_TN)
    return vmap(net.forward, in_dims=(dims, 0, None if shared_statistics else 0))(weights, inputs_TN, statistics)


Scales = Callable[[int, Params], Mapping[str, Tensor | float]]
"""What preconditions the gradients of a step, by tensor; from the step's number and its gradients."""


_BETA = 0.999
_SMALL = 1e-8


class Squares:
    """Adam's second moment along one adaptation: gives each step's preconditioner, and keeps where it got to."""

    def __init__(self, squares: Params, count: int):
        self.squares, self.count = squares, count

    def __call__(self, step: int, gradients: Params) -> Mapping[str, Tensor | float]:
        """1 / (sqrt(v / (1 - beta^t)) + 1e-8) of each tensor."""
        self.count += 1
        self.squares = {
            name: _BETA * self.squares[name] + (1 - _BETA) * gradient.square() for name, gradient in gradients.items()
        }
        correction = 1 - _BETA**self.count
        return {name: 1 / ((square / correction).sqrt() + _SMALL) for name, square in self.squares.items()}


def inner_steps(
    net: Net,
    loss: TaskLoss,
    weights: Params,
    moving: Sequence[str],
    batches: Callable[[int], Labelled],
    rate: Callable[[int, str], Tensor | float],
    steps: int,
    through: Through,
    scales: Scales | None = None,
    fixed: Callable[[int], Params] | None = None,
) -> Iterator[Params]:
    """The weights after 0, 1, ..., ``steps`` steps, each a ``gradient_step`` on the loss of ``batches(step)``.

    ``rate(step, name)`` is the learning rate of a tensor; ``fixed(step)`` gives tensors that do not move but are others
    at each step.
    """
    for step in range(steps + 1):
        if fixed is not None:
            weights = {**weights, **fixed(step)}
        if through is Through.NOTHING:
            weights = {name: tensor.detach() for name, tensor in weights.items()}
        yield weights
        if step == steps:
            return
        with torch.enable_grad():
            if not all(weights[name].requires_grad for name in moving):
                weights = {n: t.detach().requires_grad_() if n in moving else t for n, t in weights.items()}
            inputs_TN, targets_TN = batches(step)
            total = len(inputs_TN) * loss(forward(net, weights, moving, inputs_TN)[0], targets_TN)
            found = torch.autograd.grad(
                total, [weights[name] for name in moving], create_graph=through is Through.EVERYTHING
            )
        gradients = dict(zip(moving, found, strict=True))
        scale = scales(step, gradients) if scales is not None else {}
        weights = {
            **weights,
            **{n: gradient_step(weights[n], gradients[n], rate(step, n), scale.get(n, 1.0)) for n in moving},
        }


def looped_inner_steps(
    net: Net,
    loss: TaskLoss,
    weights: Params,
    moving: Sequence[str],
    examples: Labelled,
    rate: Callable[[int, str], Tensor | float],
    steps: int,
    through: Through,
) -> Params:
    """The reference of ``inner_steps``: one task after another, no ``vmap``; the weights after the last step.

    ``weights`` of ``moving`` have the tasks as their first axis here too.
    """
    adapted: dict[str, list[Tensor]] = {name: [] for name in moving}
    for task in range(len(examples.inputs)):
        own = {name: tensor[task] if name in moving else tensor for name, tensor in weights.items()}
        for step in range(steps):
            value = loss(net.forward(own, examples.inputs[task])[0], examples.targets[task])
            found = torch.autograd.grad(
                value, [own[name] for name in moving], create_graph=through is Through.EVERYTHING
            )
            for name, gradient in zip(moving, found, strict=True):
                own[name] = gradient_step(own[name], gradient, rate(step, name))
        for name in moving:
            adapted[name].append(own[name])
    return {**weights, **{name: torch.stack(tensors) for name, tensors in adapted.items()}}
