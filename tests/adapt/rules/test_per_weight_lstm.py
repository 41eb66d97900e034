"""The LSTM meta-learner as a memory's rule: its start, its two forms, and its gradients."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.meta_gradient.per_weight_lstm import Windows
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules import per_weight_lstm as module
from dynlm.adapt.rules.elementwise import Rates, uniform_rule
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta, coordinate_step, fresh_coordinates, state_of
from dynlm.data.stream import Stream
from dynlm.models.lstm.model import Params
from tests.adapt.readings import MODEL, NAMES, static_params, statistics, stream, text


def meta(pull: float = 0.05) -> CoordinateMeta:
    return CoordinateMeta(statistics(), static_params(), 0.02, pull, 1e-2, hidden=3)


def moved_gates(chosen: CoordinateMeta) -> Params:
    generator = torch.Generator().manual_seed(2)
    return {
        name: tensor + 0.3 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        for name, tensor in chosen.initial().items()
    }


def reader(gates: Params, reset: str = "stream", reference: bool = False, pull: float = 0.05) -> Reader:
    return Reader(MODEL, static_params(), meta(pull).rule(gates), NAMES, reset, reference=reference)


def nats_of(reading: Reader, source: Stream) -> torch.Tensor:
    return torch.cat([read.nats_BT[torch.from_numpy(read.segment.mask_BT)] for read in iter_segments(reading, source)])


@pytest.mark.parametrize("pull", [0.05, 1.0])
def test_it_starts_at_the_tuned_rms(pull: float) -> None:
    rms = uniform_rule("rms", NAMES, 0.02, pull, statistics(), 1e-2)
    plain = Reader(MODEL, static_params(), rms, NAMES)
    found = nats_of(reader(meta().initial(), pull=pull), stream())
    torch.testing.assert_close(found, nats_of(plain, stream()), rtol=1e-11, atol=1e-12)
    moved = nats_of(reader(moved_gates(meta()), pull=pull), stream())
    assert (moved - found).abs().max() > 1e-3


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("lanes", [1, 2])
def test_the_fast_reading_is_the_reference(lanes: int, reset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AT_A_TIME", 7)
    gates, split = moved_gates(meta()), text((12, 9, 14, 6))
    fast, slow = (
        nats_of(reader(gates, reset, reference), Stream(split, lanes, 5, range(4))) for reference in (False, True)
    )
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-12)


def test_rates_of_zero_are_level_1_bit_for_bit() -> None:
    reading = reader(moved_gates(meta()))
    still = dataclasses.replace(reading.rule, rates=dict.fromkeys(NAMES, Rates(0.0, 0.0)))
    level_1 = dataclasses.replace(still, rates={}, coordinates=None)
    found, wanted = (nats_of(dataclasses.replace(reading, rule=rule), stream()) for rule in (still, level_1))
    assert torch.equal(found, wanted)


def test_a_copied_memory_reads_on_as_if_nothing_had_been_read_besides() -> None:
    reading, source = reader(moved_gates(meta())), stream()
    first = list(iter_segments(reading, source))
    memory, place = reading.fresh_memory(), source.begin()
    for _ in range(5):
        segment, place = source.next(place)
        assert segment is not None
        _, memory = read_segment(reading, memory, segment)
    for _ in range(2):  # The second reading finds the memory as the first found it.
        rest = list(iter_segments(reading, source, memory.copy(), place))
        for read, wanted in zip(rest, first[5:], strict=True):
            assert torch.equal(read.nats_BT, wanted.nats_BT)


def window_of(
    gates: Params, reset: str, segments: int, sample: int = 10**6, articles: tuple[int, ...] = (0, 1, 2, 3), **more: int
) -> Params:
    """The gradients of a window of ``segments``, in ``more["lanes"]`` lanes."""
    lanes = more.get("lanes", 1)
    reading, source = reader(gates, reset), Stream(text((12, 9, 14, 6)), lanes, 5, articles)
    memory, place = reading.fresh_memory(lanes), source.begin()
    window = Windows(meta(), gates, sample, torch.Generator().manual_seed(more.get("seed", 0)))
    for _ in range(segments):
        segment, place = source.next(place)
        if segment is None:
            break
        window.begin_segment(reading, memory, segment)
        nats_BT, memory = read_segment(reading, memory, segment, window)
        window.end_segment(nats_BT, segment, np.zeros(lanes, dtype=bool))
    return window.gradients()


def unrolled(gates: Params, reset: str, segments: int) -> Params:
    """The first-order gradient of one lane's losses by an unroll that keeps everything."""
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in gates.items()}
    static, source = static_params(), Stream(text((12, 9, 14, 6)), 1, 5, range(4))
    rule = meta().rule(gates)
    fresh = fresh_coordinates(gates, {name: tensor[None] for name, tensor in static.items()})
    theta, states = {}, {}
    place, hidden, total = source.begin(), MODEL.initial_hidden(1, static["embedding"]), torch.zeros(())
    for number in range(segments):
        segment, place = source.next(place)
        assert segment is not None
        if number == 0 or (segment.starts_B[0] and reset == "article"):
            theta, states = dict(static), {name: state_of(fresh, name, 0) for name in NAMES}
        if segment.starts_B[0]:
            hidden = MODEL.initial_hidden(1, static["embedding"])
        share_1T = torch.from_numpy(segment.mask_BT).double()
        share_1T = share_1T / share_1T.sum()
        at = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        inputs_1T, targets_1T = torch.from_numpy(segment.inputs_BT), torch.from_numpy(segment.targets_BT)
        loss, _, hidden = MODEL.naive_loss(at, inputs_1T, targets_1T, share_1T, hidden)
        hidden = tuple((h.detach(), c.detach()) for h, c in hidden)
        found = dict(zip(at, torch.autograd.grad(loss, list(at.values())), strict=True))
        for name, u in found.items():
            total = total + (u * theta[name]).sum()
            assert rule.scale is not None
            beta = rule.beta[name]
            assert isinstance(beta, torch.Tensor)
            moved, states[name] = coordinate_step(
                leaves,
                states[name],
                theta[name].reshape(-1),
                u.reshape(-1),
                static[name].reshape(-1),
                0.02,
                beta.reshape(-1),
                rule.scale[name].reshape(-1),
                loss,
            )
            theta[name] = moved.view_as(u)
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_a_window_of_all_coordinates_is_the_unroll(reset: str) -> None:
    gates = moved_gates(meta())
    found, wanted = window_of(gates, reset, 7), unrolled(gates, reset, 7)
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-12)
        assert tensor.abs().max() > 0


def test_lanes_add_up() -> None:
    gates = moved_gates(meta())
    both = window_of(gates, "article", 3, articles=(0, 1), lanes=2)
    alone = [window_of(gates, "article", 3, articles=(article,)) for article in (0, 1)]
    for name, tensor in both.items():
        torch.testing.assert_close(tensor, alone[0][name] + alone[1][name], rtol=1e-9, atol=1e-12)


def test_a_sample_estimates_the_whole_without_bias() -> None:
    gates = moved_gates(meta())
    whole = window_of(gates, "stream", 3)
    drawn = [window_of(gates, "stream", 3, sample=20, seed=seed) for seed in range(60)]
    for name in ("gates.i.bias", "gates.f.bias"):
        estimates = torch.stack([each[name] for each in drawn])
        error = estimates.std() / len(drawn) ** 0.5
        assert error < whole[name].abs()  # Else nothing would be tried.
        assert abs(float(estimates.mean() - whole[name])) < 3.5 * float(error)
