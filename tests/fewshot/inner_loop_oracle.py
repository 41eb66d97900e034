"""The inner loop without ``vmap``: one task after another, by the network's forward pass for one task."""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.fewshot.inner_loop import InnerLoop, LearningRate, Order
from dynlm.fewshot.tasks.source import Labelled
from dynlm.types import Params


def looped_steps(
    loop: InnerLoop, weights: Params, examples: Labelled, steps: int, lr: LearningRate, order: Order
) -> Params:
    """The weights after the last step; those of ``loop.adapted`` have the tasks as their first axis."""
    adapted: dict[str, list[Tensor]] = {name: [] for name in loop.adapted}
    for task in range(len(examples.inputs)):
        own = {name: tensor[task] if name in adapted else tensor for name, tensor in weights.items()}
        for step in range(steps):
            loss = loop.problem.loss(loop.net.forward(own, examples.inputs[task])[0], examples.targets[task])
            leaves = [own[name] for name in adapted]
            for name, gradient in zip(
                adapted, torch.autograd.grad(loss, leaves, create_graph=order is Order.SECOND), strict=True
            ):
                own[name] = gradient_step(own[name], gradient, lr(step, name))
        for name in adapted:
            adapted[name].append(own[name])
    return {**weights, **{name: torch.stack(tensors) for name, tensors in adapted.items()}}
