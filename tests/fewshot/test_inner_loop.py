"""The inner loop: a batch of tasks gives what a loop over tasks gives, gradients included, to second order."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from dynlm.fewshot.inner_loop import InnerLoop, Order, expand_tasks
from dynlm.fewshot.nets import VARIANCE_EPSILON, ConvNet, ConvNetOptions, Perceptron, PerceptronOptions, batch_norm
from dynlm.fewshot.tasks.source import Labelled, Problem, seeded
from dynlm.types import Params
from tests.fewshot.inner_loop_oracle import looped_steps

T = 3
ACTIVATIONS = get_args(get_type_hints(PerceptronOptions)["activation"])
Task = tuple[InnerLoop, Labelled, Labelled]


def init_double(loop: InnerLoop, seed: int = 0) -> Params:
    params = loop.net.init_params(seeded(seed))
    return {name: tensor.double().requires_grad_() for name, tensor in params.items()}


def curves(head_only: bool = False) -> Task:
    generator = seeded(1)
    x, y = (torch.randn(T, 12, 1, generator=generator).double() for _ in range(2))
    net = Perceptron(PerceptronOptions([8, 8]))
    loop = InnerLoop(net, Problem((1,), 1, classifies=False), net.head if head_only else tuple(net.shapes()))
    return loop, Labelled(x[:, :5], y[:, :5]), Labelled(x[:, 5:], y[:, 5:])


def images(head_only: bool = False, pooling: bool = False) -> Task:
    x = torch.rand(T, 9, 10, 10, 1, generator=seeded(2)).double()
    y = torch.arange(3).repeat(T, 3)
    net = ConvNet(ConvNetOptions(6, 2, pooling), (10, 10, 1), 3)
    loop = InnerLoop(net, Problem((10, 10, 1), 3, classifies=True), net.head if head_only else tuple(net.shapes()))
    return loop, Labelled(x[:, :3], y[:, :3]), Labelled(x[:, 3:], y[:, 3:])


def pooled_images(head_only: bool = False) -> Task:
    return images(head_only, pooling=True)


def last_weights(loop: InnerLoop, start: Params, support: Labelled, order: Order, steps: int = 2) -> Params:
    weights = {**start, **expand_tasks({name: start[name] for name in loop.adapted}, T)}
    *_, last = loop.steps(weights, [support] * steps, lambda step, name: 0.1, order)
    return last


@pytest.mark.parametrize("order", [Order.SECOND, Order.FIRST])
@pytest.mark.parametrize("task", [curves, images, pooled_images])
@pytest.mark.parametrize("head_only", [False, True])
def test_a_batch_of_tasks_equals_a_loop(task: Callable[[bool], Task], order: Order, head_only: bool) -> None:
    loop, support, query = task(head_only)
    start = init_double(loop)
    weights = {**start, **expand_tasks({name: start[name] for name in loop.adapted}, T)}

    def lr(step: int, name: str) -> float:
        return 0.1 * (step + 1)

    *_, batched = loop.steps(weights, [support] * 3, lr, order)
    looped = looped_steps(loop, weights, support, 3, lr, order)
    gradients = []
    for adapted in (batched, looped):
        total = torch.zeros(())
        for index in range(T):
            of_task = {name: tensor[index] if name in loop.adapted else tensor for name, tensor in adapted.items()}
            outputs, _ = loop.net.forward(of_task, query.inputs[index])
            total = total + loop.problem.loss(outputs, query.targets[index])
        gradients.append(torch.autograd.grad(total, list(start.values())))
    for name in loop.adapted:
        torch.testing.assert_close(batched[name], looped[name])
        assert not torch.equal(batched[name][0], start[name])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_second_order_agrees_with_finite_differences() -> None:
    loop, support, query = curves()
    start = init_double(loop)

    def meta_loss(params: Params, order: Order) -> Tensor:
        outputs, _ = loop.forward(last_weights(loop, params, support, order, steps=3), query.inputs)
        return loop.problem.loss(outputs, query.targets)

    exact, first = (
        torch.autograd.grad(meta_loss(start, order), list(start.values())) for order in (Order.SECOND, Order.FIRST)
    )
    direction = {name: torch.randn(tensor.shape, generator=seeded(3)).double() for name, tensor in start.items()}
    small = 1e-6
    ends = [
        meta_loss(
            {n: (t.detach() + sign * small * direction[n]).requires_grad_() for n, t in start.items()}, Order.FIRST
        )
        for sign in (1, -1)
    ]
    difference = (ends[0] - ends[1]).item() / (2 * small)

    def along(gradients: tuple[Tensor, ...]) -> float:
        return sum(float((g * direction[n]).sum()) for n, g in zip(start, gradients, strict=True))

    assert along(exact) == pytest.approx(difference, rel=1e-6)
    assert along(first) != pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_tasks_equals_vmap_of_forward(activation: str) -> None:
    _, support, _ = curves()
    net = Perceptron(PerceptronOptions([8, 8], activation))
    every = [net.init_params(seeded(task)) for task in range(T)]
    weights = {name: torch.stack([one[name] for one in every]).double().requires_grad_() for name in net.shapes()}
    fast = net.forward_tasks(weights, support.inputs)
    mapped, _ = vmap(net.forward)(weights, support.inputs)
    torch.testing.assert_close(fast, mapped)
    gradients = [torch.autograd.grad(out.square().sum(), list(weights.values())) for out in (fast, mapped)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_gains_scale_initial_layers() -> None:
    plain, scaled = (
        Perceptron(PerceptronOptions([8], gains=gains)).init_params(seeded(0)) for gains in (None, [3.0, 0.5])
    )
    for name, tensor in plain.items():
        torch.testing.assert_close(scaled[name], tensor * (3.0 if name.startswith("linear.0") else 0.5))


def test_batch_norm_agrees_with_torch() -> None:
    shapes = ((6, 5, 5, 3), (3,), (3,))
    maps, scale, shift = (torch.randn(*shape, generator=seeded(seed)).double() for seed, shape in enumerate(shapes))
    normalised, moments = batch_norm(maps, scale, shift)
    reference = torch.nn.functional.batch_norm(
        maps.permute(0, 3, 1, 2), None, None, scale, shift, training=True, eps=VARIANCE_EPSILON
    )
    torch.testing.assert_close(normalised, reference.permute(0, 2, 3, 1))
    torch.testing.assert_close(batch_norm(maps, scale, shift, moments)[0], normalised)


def test_first_order_is_the_gradient_at_the_adapted_weights() -> None:
    loop, support, query = curves()
    start = init_double(loop)
    adapted = last_weights(loop, start, support, Order.FIRST)

    def gradient(weights: Params, leaves: Params) -> tuple[Tensor, ...]:
        loss = loop.problem.loss(loop.forward(weights, query.inputs)[0], query.targets)
        return torch.autograd.grad(loss, list(leaves.values()))

    meta = gradient(adapted, start)
    detached = {name: tensor.detach().requires_grad_() for name, tensor in adapted.items()}
    for one, of_tasks in zip(meta, gradient(detached, detached), strict=True):
        torch.testing.assert_close(one, of_tasks.sum(0))


def test_without_an_order_no_graph_is_kept() -> None:
    loop, support, _ = curves()
    weights = expand_tasks(init_double(loop), T)
    for state in loop.steps(weights, [support] * 2, lambda step, name: 0.1, Order.NONE):
        assert not any(tensor.requires_grad for tensor in state.values())
