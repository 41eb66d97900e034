"""The outer loop's optimiser and its average, and how the best candidate is picked."""

from __future__ import annotations

import math

import pytest
import torch

from dynlm.runtime.checkpoints import State
from dynlm.train.outer_loop import AveragedAdam, best_of
from dynlm.types import Params


def groups() -> list[tuple[Params, float]]:
    return [({"a": torch.zeros(3, 2), "b": torch.ones(2)}, 0.1), ({"a": torch.zeros(4, dtype=torch.float64)}, 0.02)]


def gradients(step: int, optimizer: AveragedAdam) -> list[Params]:
    generator = torch.Generator().manual_seed(step)
    return [
        {name: torch.randn(t.shape, generator=generator, dtype=t.dtype) for name, t in params.items()}
        for params in optimizer.groups
    ]


def take_steps(optimizer: AveragedAdam, steps: range) -> None:
    for step in steps:
        optimizer.step(gradients(step, optimizer))
        optimizer.update_average()


def test_each_group_moves_by_its_own_learning_rate() -> None:
    """The first step of Adam is the learning rate in every weight."""
    optimizer = AveragedAdam(groups(), 0.9)
    take_steps(optimizer, range(1))
    for params, start, lr in zip(optimizer.groups, groups(), (0.1, 0.02), strict=True):
        for name, tensor in params.items():
            moved = (tensor - start[0][name]).abs()
            torch.testing.assert_close(moved, torch.full_like(moved, lr), rtol=1e-5, atol=1e-7)


def test_the_average_is_the_plain_mean_until_its_decay_is_longer() -> None:
    optimizer = AveragedAdam(groups(), 0.9)
    seen = [optimizer.groups[0]["a"].clone()]
    for step in range(9):
        take_steps(optimizer, range(step, step + 1))
        seen.append(optimizer.groups[0]["a"].clone())
    mean = torch.stack(seen).mean(0)
    torch.testing.assert_close(optimizer.average[0]["a"], mean)
    take_steps(optimizer, range(9, 10))
    torch.testing.assert_close(optimizer.average[0]["a"], 0.9 * mean + 0.1 * optimizer.groups[0]["a"])


def test_a_saved_optimizer_resumes_bit_for_bit() -> None:
    whole, resumed = AveragedAdam(groups(), 0.8), AveragedAdam(groups(), 0.8)
    take_steps(whole, range(4))
    state = whole.state_dict()
    with torch.no_grad():
        resumed.load_state_dict(State({name: t.clone() for name, t in state.tensors.items()}, state.values))
    for optimizer in (whole, resumed):
        take_steps(optimizer, range(4, 8))
    for one, other in ((whole.groups, resumed.groups), (whole.average, resumed.average)):
        for params, others in zip(one, other, strict=True):
            assert all(torch.equal(params[name], others[name]) for name in params)
    assert whole.steps == resumed.steps == 8


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_non_finite_loss_is_never_the_best(loss: float) -> None:
    assert best_of({"learned": loss, "start": 3.0, "halfway": 2.5}) == "halfway"
    assert best_of({"start": 3.0, "learned": loss}) == "start"
