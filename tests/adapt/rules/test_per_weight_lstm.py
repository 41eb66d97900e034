"""The per-weight LSTM rule: its start, its step in place, and its meta-gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.meta_gradient.per_weight_lstm import Windows
from dynlm.adapt.options import LearnedRuleOptions
from dynlm.adapt.rules import per_weight_lstm as module
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule, lane_state, per_weight_step
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.data.stream import Stream
from dynlm.models.protocol import Gradient, token_nats
from dynlm.models.scratch import Scratch
from dynlm.runtime.tree import clone, detach
from dynlm.types import Params
from tests.adapt.readings import MODEL, NAMES, engine, static_params, statistics, stream, text


def meta(pull: float = 0.05) -> LearnedLSTMRule:
    return LearnedLSTMRule(statistics(), static_params(), 0.02, pull, 1e-2, LearnedRuleOptions("lstm", hidden=3))


def moved_gates(chosen: LearnedLSTMRule) -> Params:
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in chosen.initial().items()
    }


def dynamic_model(gates: Params, reset: str = "stream", reference: bool = False, pull: float = 0.05) -> DynamicModel:
    return DynamicModel(engine(reference), static_params(), meta(pull).rule(gates), NAMES, reset)


def nats_of(chosen: DynamicModel, source: Stream) -> torch.Tensor:
    return torch.cat([read.nats_BT[torch.from_numpy(read.segment.mask_BT)] for read in iter_segments(chosen, source)])


@pytest.mark.parametrize("pull", [0.05, 1.0])
def test_it_starts_as_the_tuned_rms_rule(pull: float) -> None:
    rms = uniform_rule("rms", NAMES, 0.02, pull, (statistics(), 1e-2))
    plain = DynamicModel(engine(), static_params(), rms, NAMES)
    found = nats_of(dynamic_model(meta().initial(), pull=pull), stream())
    torch.testing.assert_close(found, nats_of(plain, stream()), rtol=1e-11, atol=1e-12)
    moved = nats_of(dynamic_model(moved_gates(meta()), pull=pull), stream())
    assert (moved - found).abs().max() > 1e-3


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_losses_equal_those_by_autograd(lanes: int, reset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gates, split = moved_gates(meta()), text((12, 9, 14, 6))
    by_autograd = nats_of(dynamic_model(gates, reset, True), Stream(split, lanes, 5, range(4)))
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    by_hand = nats_of(dynamic_model(gates, reset), Stream(split, lanes, 5, range(4)))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("has_own_anchor", [False, True])
def test_steps_in_place_equal_the_step_of_whole_tensors(has_own_anchor: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    rule, lanes = meta().rule(moved_gates(meta())), 2
    theta, u, anchor = ({n: torch.stack([t, -t]) for n, t in static_params(seed=seed).items()} for seed in (1, 2, 3))
    anchor = anchor if has_own_anchor else static_params(seed=3)
    nats_B, state = torch.tensor([2.0, 5.0]).double(), rule.init_state(theta)
    for tensors in state.slots.values():
        for tensor in tensors.values():
            tensor.uniform_(-1, 1)
    for name in NAMES:
        before = {slot: tensors[name].clone() for slot, tensors in state.slots.items()}
        expected = []
        for lane in range(lanes):
            own_anchor = anchor[name][lane] if has_own_anchor else anchor[name]
            weights = tuple(each.reshape(-1) for each in (theta[name][lane], u[name][lane], own_anchor))
            constants = rule.weight_constants(name)
            expected.append(per_weight_step(rule.lstm, lane_state(before, lane), weights, constants, nats_B[lane]))
        rows = theta[name].shape[1]
        for part in (slice(0, rows // 2), slice(rows // 2, rows)):
            slots = {slot: tensors[name][:, part] for slot, tensors in state.slots.items()}
            part_of_u = u[name][:, part].clone()
            own_anchor = anchor[name][:, part] if has_own_anchor else anchor[name][part]
            event = StepEvent(
                Gradient(name, part_of_u, part),
                part_of_u,
                theta[name][:, part],
                own_anchor,
                slots,
                slice(0, lanes),
                nats_B,
                Scratch(),
            )
            rule.step_(event)
        for lane, (moved_N, after) in enumerate(expected):
            torch.testing.assert_close(theta[name][lane].view(-1), moved_N, rtol=1e-12, atol=1e-14)
            found = lane_state({slot: tensors[name] for slot, tensors in state.slots.items()}, lane)
            torch.testing.assert_close(found, after, rtol=1e-12, atol=1e-14)


def test_rates_of_zero_are_level_1_bit_for_bit() -> None:
    chosen = dynamic_model(moved_gates(meta()))
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    assert torch.equal(nats_of(still, stream()), nats_of(chosen.level_1(), stream()))


def test_reading_on_from_a_copied_memory_equals_reading_at_once() -> None:
    chosen, source = dynamic_model(moved_gates(meta())), stream()
    first = list(iter_segments(chosen, source))
    memory, place = chosen.fresh_memory(), source.begin()
    for _ in range(5):
        segment, place = source.next(place)
        assert segment is not None
        _, memory = read_segment(chosen, memory, segment)
    for _ in range(2):  # The first of these readings changes nothing that the second starts from.
        rest = list(iter_segments(chosen, source, memory.copy(), place))
        for read, expected in zip(rest, first[5:], strict=True):
            assert torch.equal(read.nats_BT, expected.nats_BT)


def window_of(
    gates: Params, reset: str, segments: int, sample: int = 10**6, articles: tuple[int, ...] = (0, 1, 2, 3), **more: int
) -> Params:
    """Return the gradients of a window of ``segments``, in ``more["lanes"]`` lanes."""
    lanes = more.get("lanes", 1)
    chosen, source = dynamic_model(gates, reset), Stream(text((12, 9, 14, 6)), lanes, 5, articles)
    memory, place = chosen.fresh_memory(lanes), source.begin()
    window = Windows(meta(), gates, sample, torch.Generator().manual_seed(more.get("seed", 0)))
    for _ in range(segments):
        segment, place = source.next(place)
        if segment is None:
            break
        window.begin_segment(chosen, memory, segment)
        nats_BT, memory = read_segment(chosen, memory, segment, window)
        window.end_segment(nats_BT, segment, np.zeros(lanes, dtype=bool))
    return window.gradients()


def unrolled(gates: Params, reset: str, segments: int) -> Params:
    """Return the first-order gradient of one lane's losses by an unroll that keeps everything."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in gates.items()}
    static, source, rule = static_params(), Stream(text((12, 9, 14, 6)), 1, 5, range(4)), meta().rule(leaves)
    fresh = rule.init_state({name: tensor[None] for name, tensor in static.items()})
    theta, states = {}, {}
    place, state, total = source.begin(), MODEL.init_state(1, static["embedding"]), torch.zeros(())
    for number in range(segments):
        segment, place = source.next(place)
        assert segment is not None
        if number == 0 or (segment.starts_B[0] and reset == "article"):
            theta = dict(static)
            states = {n: clone(lane_state({k: each[n] for k, each in fresh.slots.items()}, 0)) for n in NAMES}
        state = MODEL.reset_state(state, torch.from_numpy(segment.starts_B), static["embedding"])
        at = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        output = MODEL.twice_differentiable().forward(at, state, torch.from_numpy(segment.inputs_BT))
        nats_1T = token_nats(output.logits_BTV, torch.from_numpy(segment.targets_BT))
        loss, state = nats_1T[torch.from_numpy(segment.mask_BT)].mean(), detach(output.state)
        for name, u in zip(at, torch.autograd.grad(loss, list(at.values())), strict=True):
            total = total + (u * theta[name]).sum()
            weights = theta[name].reshape(-1), u.reshape(-1), static[name].reshape(-1)
            moved_N, states[name] = per_weight_step(leaves, states[name], weights, rule.weight_constants(name), loss)
            theta[name] = moved_N.view_as(u)
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_a_window_of_all_weights_equals_the_unroll(reset: str) -> None:
    gates = moved_gates(meta())
    found, expected = window_of(gates, reset, 7), unrolled(gates, reset, 7)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)
        assert tensor.abs().max() > 0


def test_gradients_are_summed_over_lanes() -> None:
    gates = moved_gates(meta())
    both = window_of(gates, "article", 3, articles=(0, 1), lanes=2)
    alone = [window_of(gates, "article", 3, articles=(article,)) for article in (0, 1)]
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, alone[0][name] + alone[1][name], rtol=1e-9, atol=1e-12)


def test_a_sample_of_weights_estimates_the_gradients_without_bias() -> None:
    gates = moved_gates(meta())
    whole = window_of(gates, "stream", 3)
    drawn = [window_of(gates, "stream", 3, sample=20, seed=seed) for seed in range(60)]
    for name in ("gates.i.bias", "gates.f.bias"):
        estimates = torch.stack([each[name] for each in drawn])
        error = estimates.std() / len(drawn) ** 0.5
        assert error < whole[name].abs()  # Otherwise the test shows nothing.
        assert abs(float(estimates.mean() - whole[name])) < 3.5 * float(error)
