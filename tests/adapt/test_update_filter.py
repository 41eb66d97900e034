"""The update filter: it changes nothing where nothing diverges, and otherwise no token is lost."""

import dataclasses
import math

import pytest
import torch

from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.base import Rule, RuleState, Slot, reset_lanes_
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.update_filter import MEMORY, UpdateFilter, counts_of, first_of
from dynlm.data.stream import read_side_by_side
from tests.adapt.readings import (
    MODEL,
    NAMES,
    RECORDED,
    RULES,
    captured,
    dynamic_model,
    meta,
    set_lanes_at_once,
    statistics,
    stream,
    text,
)


def filtered(chosen, **options):
    return dataclasses.replace(
        chosen, filter=UpdateFilter.for_model(chosen.static, chosen.dynamic, MODEL.vocab_size, **options)
    )


def wild(reference=False, rate=1e6, name="sgd", reset="stream"):
    return filtered(dynamic_model(name, reset, reference, rate=rate))


def masked(chosen):
    """Return the model with a filter that decides by masks."""
    return dataclasses.replace(chosen, filter=dataclasses.replace(chosen.filter, synchronises=False))


def read_all(chosen, split=None):
    reads = list(iter_segments(chosen, stream(split)))
    return torch.cat([read.nats_T for read in reads]), reads[-1].memory


def with_constants(chosen, **constants):
    return dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, **constants))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_without_divergence_nothing_changes_bit_for_bit(name, reset):
    plain, _ = read_all(dynamic_model(name, reset))
    for chosen in (filtered(dynamic_model(name, reset)), filtered(dynamic_model(name, reset), track=True)):
        nats, memory = read_all(chosen)
        assert torch.equal(nats, plain)
        if memory.filter is not None:
            assert not memory.filter.counts_BC.any() and not memory.filter.rescored_B.any()


@pytest.mark.parametrize("name", ["sgd", "rms", "g"])
@pytest.mark.parametrize("rate", [3.0, 1e6, 1e300])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_a_rate_far_too_large_is_survived_and_autograd_agrees(name, rate, reset):
    found, memory = read_all(wild(False, rate, name, reset))
    expected, by_autograd = read_all(wild(True, rate, name, reset))
    assert found.isfinite().all() and len(found) == len(text().ids_N)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(memory.filter.counts_BC, by_autograd.filter.counts_BC)
    assert torch.equal(memory.filter.first_BC2, by_autograd.filter.first_BC2)
    assert rate < 1e6 or name == "g" or memory.filter.counts_BC.any()  # g has rates of its own.


def test_without_a_filter_the_same_rate_diverges():
    assert not read_all(dynamic_model("sgd", rate=1e300))[0].isfinite().all()


@pytest.mark.parametrize("rate", [0.02, 1e6])
@pytest.mark.parametrize("name", RULES[1:])
def test_masks_decide_as_branches_do(name, rate):
    """Also where a captured segment cannot branch."""
    branching, memory = read_all(wild(name=name, rate=rate))
    dynamic_models = [masked(wild(name=name, rate=rate))]
    dynamic_models += [captured(wild(name=name, rate=rate))] if name in RECORDED else []
    for chosen in dynamic_models:
        found, by_masks = read_all(chosen)
        torch.testing.assert_close(found, branching, rtol=1e-9, atol=1e-9)
        assert torch.equal(by_masks.filter.counts_BC, memory.filter.counts_BC)
        assert torch.equal(by_masks.filter.first_BC2, memory.filter.first_BC2)


def test_diverged_weights_in_one_lane_leave_the_others_alone(monkeypatch):
    set_lanes_at_once(monkeypatch, 3)
    side_by_side = read_side_by_side(text((40, 40, 40)), 5, range(3), 3)
    chosen = filtered(dynamic_model("rms", "article"))
    plain = [read.nats_BT for read in iter_segments(chosen, side_by_side)]
    memory, place, found = chosen.fresh_memory(3), side_by_side.begin(), []
    for number in range(len(plain)):
        segment, place = side_by_side.next(place)
        nats_BT, memory = read_segment(chosen, memory, segment)
        found.append(nats_BT)
        if number == 2:
            memory.params["lstm.0.input"][1, 0, 0] = math.nan
    for lane in (0, 2):
        assert all(torch.equal(a[lane], b[lane]) for a, b in zip(found, plain, strict=True))
    assert memory.filter.restored_B.tolist() == [0, 1, 0] and memory.filter.rescored_B.tolist() == [0, 5, 0]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("tensor", NAMES)
def test_a_segment_without_finite_losses_is_scored_by_the_static_parameters(tensor, reference):
    chosen, source = filtered(dynamic_model("rms", reference=reference)), stream(text((40,)))
    memory, place = chosen.fresh_memory(), source.begin()
    for number in range(4):
        segment, place = source.next(place)
        if number == 2:
            memory.params[tensor][0].view(-1)[::2] = math.nan
            state = memory.state
        nats_BT, memory = read_segment(chosen, memory, segment)
        assert nats_BT.isfinite().all()
        if number == 2:
            static = chosen.level_1()
            expected, _ = read_segment(static, static.fresh_memory()._replace(state=state), segment)
            torch.testing.assert_close(nats_BT, expected, rtol=1e-12, atol=1e-12)
            assert all(torch.equal(memory.params[name][0], chosen.static[name]) for name in NAMES)
    assert counts_of(memory.filter, NAMES) == {"refused": {}, "restored": 1, "rescored_tokens": 5}
    assert first_of(memory.filter, NAMES) == {MEMORY: (0, 10)}


def test_weights_and_slots_are_reset_in_the_given_lanes_only():
    class Slots(Rule):
        slots = {"anchor": Slot(fill=None), "velocity": Slot(), "f": Slot(fill=1.0, width=3)}

    static = {"a": torch.tensor([1.0, 2.0])}
    weights, anchor, velocity = ({"a": torch.full((2, 2), value)} for value in (7.0, 8.0, 9.0))
    state = RuleState(None, {"anchor": anchor, "velocity": velocity, "f": {"a": torch.zeros(2, 2, 3)}})
    reset_lanes_(Slots(), weights, state, static, torch.tensor([True, False]))
    assert weights["a"].tolist() == [[1.0, 2.0], [7.0, 7.0]]
    assert anchor["a"].tolist() == [[1.0, 2.0], [8.0, 8.0]]
    assert velocity["a"].tolist() == [[0.0, 0.0], [9.0, 9.0]]
    assert state.slots["f"]["a"].flatten(1).tolist() == [[1.0] * 6, [0.0] * 6]


@pytest.mark.parametrize("decide", [lambda chosen: chosen, masked])
def test_losses_far_above_chance_are_kept_and_the_memory_is_restored(decide):
    chosen, source = decide(filtered(dynamic_model("rms"))), stream(text((40,)))
    memory, place = chosen.fresh_memory(), source.begin()
    memory.params["output.bias"][0, :] = 1000 * torch.arange(MODEL.vocab_size)
    segment, _ = source.next(place)
    nats_BT, memory = read_segment(chosen, memory, segment)
    assert nats_BT.mean() > 1000
    assert counts_of(memory.filter, NAMES) == {"refused": {}, "restored": 1, "rescored_tokens": 0}
    assert all(torch.equal(memory.params[name][0], chosen.static[name]) for name in NAMES)


@pytest.mark.parametrize("reference", [False, True])
def test_a_preconditioner_of_nan_stops_its_own_tensor_only(reference):
    broken = {name: tensor.clone() for name, tensor in statistics().precondition(1e-2).items()}
    broken["embedding"][3, 2] = math.nan
    chosen = filtered(with_constants(dynamic_model("rms", reference=reference), precondition=broken))
    nats, memory = read_all(chosen)
    assert nats.isfinite().all()
    assert set(counts_of(memory.filter, NAMES)["refused"]) == {"embedding"}
    assert first_of(memory.filter, NAMES) == {"embedding": (0, 0)}
    assert torch.equal(memory.params["embedding"][0], chosen.static["embedding"])
    assert not torch.equal(memory.params["output.bias"][0], chosen.static["output.bias"])


def test_a_decay_of_nan_moves_nothing():
    broken = {name: tensor.clone() for name, tensor in statistics().decay_shape().items()}
    broken["output.bias"][0] = math.nan
    nats, memory = read_all(filtered(with_constants(dynamic_model("rms"), decay_shape=broken)))
    assert nats.isfinite().all() and set(counts_of(memory.filter, NAMES)["refused"]) == {"output.bias"}


def test_a_gradient_that_an_observer_overwrites_costs_no_token():
    """A NaN written between the check of an update and its step is found when the next segment is scored."""
    seen = []

    def observe(event):
        seen.append(event.name)
        if len(seen) == 7:
            event.gradient.tensor.view(-1)[0] = math.nan

    reads = list(iter_segments(filtered(dynamic_model("sgd")), stream(), observe=observe))
    assert all(read.nats_T.isfinite().all() for read in reads)
    assert sum(len(read.nats_T) for read in reads) == len(text().ids_N)
    assert counts_of(reads[-1].memory.filter, NAMES)["restored"] == 1


def reject(monkeypatch, rejected, name=None):
    """Have the updates of one lane exceed every limit (of the tensor ``name``, or of all)."""
    norms = ElementwiseRule.update_norms
    monkeypatch.setattr(ElementwiseRule, "update_norm_bound", lambda *_: math.inf)

    def update_norms(self, event, *rest):
        norm_B = norms(self, event, *rest).clone()
        if name in (None, event.name):
            norm_B[rejected] = math.inf
        return norm_B

    monkeypatch.setattr(ElementwiseRule, "update_norms", update_norms)


def test_a_rejected_update_leaves_no_velocity(monkeypatch):
    """In its lane; the others go on moving."""
    g = meta(momentum=0.5)
    chosen = filtered(dataclasses.replace(dynamic_model("rms"), rule=g.rule(g.initial())))
    source = read_side_by_side(text((20, 20)), 5, range(2), 2)
    set_lanes_at_once(monkeypatch, 2)
    reject(monkeypatch, 0)
    (first, *_) = iter_segments(chosen, source)
    velocities = first.memory.rule.slots["velocity"]
    assert sorted(velocities) == sorted(NAMES)
    for name, velocity in velocities.items():
        assert not velocity[0].any() and velocity[1].any()
        assert torch.equal(first.memory.params[name][0], chosen.static[name])
        assert not torch.equal(first.memory.params[name][1], chosen.static[name])


def test_an_observer_sees_only_updates_that_are_applied(monkeypatch):
    """While a lane's update is rejected the others are shown under their own numbers, with their own values."""
    set_lanes_at_once(monkeypatch, 3)
    chosen, source = filtered(dynamic_model("rms")), read_side_by_side(text((20, 20, 20)), 5, range(3), 3)

    def gradients_seen():
        found = {}

        def observe(event):
            for index, lane in enumerate(range(event.lanes.start, event.lanes.stop)):
                if event.name == "lstm.0.bias":
                    found[lane] = event.gradient.tensor[index].clone()

        segment, _ = source.next(source.begin())
        read_segment(chosen, chosen.fresh_memory(3), segment, observe=observe)
        return found

    expected = gradients_seen()
    reject(monkeypatch, 1, "lstm.0.bias")
    found = gradients_seen()
    assert sorted(expected) == [0, 1, 2] and sorted(found) == [0, 2]
    torch.testing.assert_close(found, {lane: expected[lane] for lane in found})


def test_a_mixture_and_its_experts_are_finite():
    chosen = dataclasses.replace(wild(rate=1e300), mixture=FixedShareMixture())
    for read in iter_segments(chosen, stream()):
        assert read.nats_T.isfinite().all() and read.experts_BT2.isfinite().all()


def test_a_rejected_update_is_in_no_sensitivity():
    g = dataclasses.replace(meta(), lr=1e300)
    phi = g.initial()
    chosen = filtered(dataclasses.replace(dynamic_model("rms"), rule=g.rule(phi)))
    memory = chosen.fresh_memory()
    sensitivities = Sensitivities(g, phi, chosen, memory)
    list(iter_segments(chosen, stream(text((20,))), memory, observe=sensitivities))
    assert all(not tensor.any() for tensors in sensitivities.fast.values() for tensor in tensors.values())
    assert all(not tensor.any() for tensor in sensitivities.summed.values())
