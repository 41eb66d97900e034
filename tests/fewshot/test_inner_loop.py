"""The inner loop: tasks side by side give what a loop over tasks gives, gradients included, to second order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from dynlm.fewshot.inner_loop import Through, for_each_task, forward, inner_steps, looped_inner_steps
from dynlm.fewshot.nets import EPSILON, ConvNet, Net, Perceptron, batch_norm, initial_params
from dynlm.fewshot.options import ACTIVATIONS
from dynlm.fewshot.tasks.episodes import Labelled, seeded
from dynlm.models.lstm.model import Params

T = 3

SHAPES = ((6, 5, 5, 3), (3,), (3,))


def double(params: Params) -> Params:
    return {name: tensor.double().requires_grad_() for name, tensor in params.items()}


def curves() -> tuple[Net, Labelled, Labelled]:
    generator = seeded(1)
    x, y = (torch.randn(T, 12, 1, generator=generator).double() for _ in range(2))
    return Perceptron((1, 8, 8, 1)), Labelled(x[:, :5], y[:, :5]), Labelled(x[:, 5:], y[:, 5:])


def images(fast: bool = True, pooling: bool = False) -> tuple[Net, Labelled, Labelled]:
    generator = seeded(2)
    x = torch.rand(T, 9, 10, 10, 1, generator=generator).double()
    y = torch.arange(3).repeat(T, 3)
    net = ConvNet(10, 1, 6, 2, pooling=pooling, outputs=3, fast=fast)
    return net, Labelled(x[:, :3], y[:, :3]), Labelled(x[:, 3:], y[:, 3:])


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())


@pytest.mark.parametrize("through", [Through.EVERYTHING, Through.WEIGHTS])
@pytest.mark.parametrize("task", [curves, images, lambda: images(pooling=True)], ids=["curves", "strides", "pooling"])
@pytest.mark.parametrize("head_only", [False, True])
def test_tasks_side_by_side_equal_a_loop(task, through: Through, head_only: bool) -> None:  # type: ignore[no-untyped-def]
    net, support, query = task()
    start = double(initial_params(net, seeded(0)))
    moving = net.head if head_only else tuple(start)
    own = for_each_task({name: start[name] for name in moving}, T)
    weights = {**start, **own}

    def rate(step: int, name: str) -> float:
        return 0.1 * (step + 1)

    *_, together = inner_steps(net, loss, weights, moving, lambda step: support, rate, 3, through)
    one_by_one = looped_inner_steps(net, loss, weights, moving, support, rate, 3, through)
    gradients = []
    for adapted in (together, one_by_one):
        total = 0.0
        for index in range(T):
            of_task = {name: tensor[index] if name in moving else tensor for name, tensor in adapted.items()}
            total = total + loss(net.forward(of_task, query.inputs[index])[0], query.targets[index])
        gradients.append(torch.autograd.grad(total, list(start.values())))
    for name in moving:
        torch.testing.assert_close(together[name], one_by_one[name])
        assert not torch.equal(together[name][0], start[name])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_second_order_agrees_with_finite_differences() -> None:
    net, support, query = curves()
    start = double(initial_params(net, seeded(0)))

    def meta_loss(params: Params, through: Through) -> Tensor:
        moving = tuple(params)
        steps = inner_steps(net, loss, for_each_task(params, T), moving, lambda _: support, lambda *_: 0.1, 3, through)
        *_, adapted = steps
        return loss(forward(net, adapted, moving, query.inputs)[0], query.targets)

    exact, first = (
        torch.autograd.grad(meta_loss(start, through), list(start.values()))
        for through in (Through.EVERYTHING, Through.WEIGHTS)
    )
    direction = {name: torch.randn(tensor.shape, generator=seeded(3)).double() for name, tensor in start.items()}
    small = 1e-6
    ends = [
        meta_loss(
            {n: (t.detach() + sign * small * direction[n]).requires_grad_() for n, t in start.items()}, Through.WEIGHTS
        )
        for sign in (1, -1)
    ]
    difference = (ends[0] - ends[1]).item() / (2 * small)

    def along(gradients: tuple[Tensor, ...]) -> float:
        return sum(float((g * direction[n]).sum()) for n, g in zip(start, gradients, strict=True))

    assert along(exact) == pytest.approx(difference, rel=1e-6)
    assert along(first) != pytest.approx(difference, rel=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_curves_by_vmap_equal_all_tasks_at_once(activation: str) -> None:
    """``Perceptron.forward_tasks`` is the fast path of ``vmap(forward)``: outputs and gradients."""
    _, support, _ = curves()
    net = Perceptron((1, 8, 8, 1), activation)
    weights = {name: tensor.double().requires_grad_() for name, tensor in initial_params(net, seeded(0), T).items()}
    fast = net.forward_tasks(weights, support.inputs)
    naive, _ = vmap(net.forward)(weights, support.inputs)
    torch.testing.assert_close(fast, naive)
    found = [torch.autograd.grad(out.square().sum(), list(weights.values())) for out in (fast, naive)]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_gains_are_factors_of_fresh_layers() -> None:
    plain, larger = (initial_params(Perceptron((1, 8, 1), "relu", gains), seeded(0)) for gains in ((), (3.0, 0.5)))
    for name, tensor in plain.items():
        torch.testing.assert_close(larger[name], tensor * (3.0 if name.startswith("linear.0") else 0.5))


def test_batch_norm_agrees_with_torch() -> None:
    maps, scale, shift = (torch.randn(*shape, generator=seeded(place)).double() for place, shape in enumerate(SHAPES))
    mine, (mean, variance) = batch_norm(maps, scale, shift)
    reference = torch.nn.functional.batch_norm(
        maps.permute(0, 3, 1, 2), None, None, scale, shift, training=True, eps=EPSILON
    )
    torch.testing.assert_close(mine, reference.permute(0, 2, 3, 1))
    # What a batch had normalises it alike when it is given.
    torch.testing.assert_close(batch_norm(maps, scale, shift, (mean, variance))[0], mine)


def test_first_order_is_the_gradient_at_the_adapted_weights() -> None:
    net, support, query = curves()
    start = double(initial_params(net, seeded(0)))
    moving = tuple(start)
    steps = inner_steps(
        net, loss, for_each_task(start, T), moving, lambda _: support, lambda *_: 0.1, 2, Through.WEIGHTS
    )
    *_, adapted = steps
    meta = torch.autograd.grad(
        loss(forward(net, adapted, moving, query.inputs)[0], query.targets), list(start.values())
    )
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in adapted.items()}
    at_adapted = torch.autograd.grad(
        loss(forward(net, leaves, moving, query.inputs)[0], query.targets), list(leaves.values())
    )
    for one, of_tasks in zip(meta, at_adapted, strict=True):
        torch.testing.assert_close(one, of_tasks.sum(0))


def test_nothing_is_kept_where_nothing_is_differentiated() -> None:
    net, support, _ = curves()
    start = double(initial_params(net, seeded(0)))
    for weights in inner_steps(
        net, loss, for_each_task(start, T), tuple(start), lambda _: support, lambda *_: 0.1, 2, Through.NOTHING
    ):
        assert not any(tensor.requires_grad for tensor in weights.values())
