"""Adam's moments: the updates of torch's Adam, lane by lane, and no trace of an update that is rejected."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.rules.base import Rule, StepEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.registry import RULES
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.data.stream import read_side_by_side
from dynlm.models.protocol import Gradient
from dynlm.models.scratch import Scratch
from tests.adapt.readings import MODEL, NAMES, engine, set_lanes_at_once, static_params, stream, text

CONSTANTS = {"lr": 0.02, "decay": 0.0, "beta1": 0.8, "beta2": 0.95}


def adam() -> Rule:
    build = RULES["adam"].build
    assert build is not None
    return build(("a",), CONSTANTS, None)


def filtered(reset: str) -> DynamicModel:
    """A model that Adam adapts, with an update filter."""
    build, static = RULES["adam"].build, static_params()
    assert build is not None
    filter_ = UpdateFilter.for_model(static, NAMES, MODEL.vocab_size)
    return DynamicModel(engine(), static, build(NAMES, CONSTANTS, None), NAMES, reset, filter=filter_)


def step_(rule: Rule, theta: Tensor, u: Tensor, state: tuple[object, dict[str, dict[str, Tensor]]]) -> object:
    """Take a step in place; returns the lanes' next state."""
    lanes, slots = state
    own = {slot: tensors["a"] for slot, tensors in slots.items()}
    nats_B = theta.new_zeros(len(theta))
    gradient = Gradient("a", u)
    event = StepEvent(gradient, u, theta, theta[0], own, slice(0, len(theta)), nats_B, Scratch(), lanes)
    rule.step_(rule.prepare_(event))
    return rule.end_segment(lanes, nats_B)


def test_updates_are_those_of_torch_adam() -> None:
    """The second lane starts an article of its own after four steps."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    gradients = torch.randn(9, 2, 3, 4, generator=generator, dtype=torch.float64) * 0.01
    rule, theta = adam(), start.expand(2, 3, 4).clone()
    lanes, slots = rule.init_state({"a": theta})
    for number, u in enumerate(gradients):
        if number == 4:
            lanes = rule.start_articles(lanes, torch.tensor([False, True]), True, theta)
            for tensor in (slots["mean"]["a"], slots["square"]["a"]):
                tensor[1] = 0
            theta[1] = start
        lanes = step_(rule, theta, u.clone(), (lanes, slots))
    for lane, begin in ((0, 0), (1, 4)):
        own = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([own], lr=0.02, betas=(0.8, 0.95), eps=1e-8)
        for u in gradients[begin:, lane]:
            own.grad = u.clone()
            optimizer.step()
        torch.testing.assert_close(theta[lane], own.detach(), rtol=1e-12, atol=1e-14)


def test_moments_run_on_through_a_stream_and_not_into_a_fresh_article() -> None:
    rule = adam()
    lanes, _ = rule.init_state({"a": torch.zeros(2, 3)})
    for _ in range(3):
        lanes = rule.end_segment(lanes, torch.zeros(2))
    starts_B = torch.tensor([True, False])
    for fresh, steps in ((True, [0, 3]), (False, [3, 3])):
        assert rule.start_articles(lanes, starts_B, fresh, torch.zeros(2)).steps_B.tolist() == steps


def test_a_rejected_update_leaves_the_moments_as_they_were(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    chosen = filtered("stream")
    reading = iter_segments(chosen, stream())
    memory, position = next((read.memory, read.position) for number, read in enumerate(reading) if number == 2)
    before = {slot: {n: t.clone() for n, t in tensors.items()} for slot, tensors in memory.rule.slots.items()}
    norms = ElementwiseRule.update_norms
    infinite = {"lstm.0.bias": math.inf}
    monkeypatch.setattr(
        ElementwiseRule, "update_norms", lambda rule, event: norms(rule, event) + infinite.get(event.name, 0.0)
    )
    monkeypatch.setattr(ElementwiseRule, "update_norm_bound", lambda *_: math.inf)
    segment, _ = stream().next(position)
    _, memory = read_segment(chosen, memory, segment)
    for slot, tensors in memory.rule.slots.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, before[slot][name]) == (name in infinite), (slot, name)
            assert tensor.isfinite().all()


@pytest.mark.parametrize("synchronises", [True, False])
def test_a_restored_lane_starts_anew(synchronises: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moments and steps; the other lanes go on."""
    set_lanes_at_once(monkeypatch, 2)
    chosen, side_by_side = filtered("article"), read_side_by_side(text((40, 40, 40)), 5, range(3), 3)
    assert chosen.filter is not None
    chosen = dataclasses.replace(chosen, filter=dataclasses.replace(chosen.filter, synchronises=synchronises))
    memory, position, steps = chosen.fresh_memory(3), side_by_side.begin(), []
    for number in range(5):
        segment, position = side_by_side.next(position)
        if number == 3:
            memory.params["output.bias"][1, :] = 1000 * torch.arange(MODEL.vocab_size)
        state = memory.copy().state
        _, memory = read_segment(chosen, memory, segment)
        steps.append(memory.rule.lanes.steps_B.tolist())
    assert steps[2:] == [[3, 3, 3], [4, 0, 4], [5, 1, 5]]
    assert memory.filter is not None and memory.filter.restored_B.tolist() == [0, 1, 0]
    _, fresh = read_segment(chosen, chosen.fresh_memory(3)._replace(state=state), segment)
    assert all(torch.equal(memory.params[name][1], fresh.params[name][1]) for name in NAMES)
