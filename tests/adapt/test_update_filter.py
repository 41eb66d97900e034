"""The guard: it changes nothing where nothing goes wrong, and where something does, nothing is lost."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from dynlm.adapt import loop
from dynlm.adapt.capture import recorded
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.elementwise import Statistics
from dynlm.adapt.rules.learned import Meta
from dynlm.adapt.update_filter import MEMORY, StepSizes, counts_of, first_of, ratios_of, restore_, update_filter_for
from dynlm.data.stream import read_side_by_side
from tests.adapt.readings import MODEL, NAMES, RECORDED, RULES, reader, statistics, stream, text

EMBEDDING = NAMES.index("embedding")


def guarded(chosen, **options):
    return dataclasses.replace(chosen, guard=update_filter_for(chosen.static, chosen.dynamic, **options))


def wild(reference=False, rate=1e6, name="sgd", reset="stream"):
    return guarded(reader(name, reset, reference, rate=rate))


def read_all(chosen, split=None):
    reads = list(iter_segments(chosen, stream(split)))
    return torch.cat([read.nats_T for read in reads]), reads[-1].memory


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_where_nothing_goes_wrong_nothing_changes_bit_for_bit(name, reset):
    plain, _ = read_all(reader(name, reset))
    for chosen in (guarded(reader(name, reset)), guarded(reader(name, reset), track=True)):
        nats, memory = read_all(chosen)
        assert torch.equal(nats, plain)
        if memory.guarded is not None:
            assert not memory.guarded.counts_BC.any() and not memory.guarded.rescored_B.any()


@pytest.mark.parametrize("name", ["sgd", "rms", "g"])
@pytest.mark.parametrize("rate", [3.0, 1e6, 1e300])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_a_wild_rate_is_survived_and_the_reference_survives_it_alike(name, rate, reset):
    found, memory = read_all(wild(False, rate, name, reset))
    wanted, by_reference = read_all(wild(True, rate, name, reset))
    assert found.isfinite().all() and len(found) == len(text().ids_N)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert torch.equal(memory.guarded.counts_BC, by_reference.guarded.counts_BC)
    assert torch.equal(memory.guarded.first_BC2, by_reference.guarded.first_BC2)
    assert rate < 1e6 or name == "g" or memory.guarded.counts_BC.any()  # g has rates of its own


def test_without_a_guard_the_same_rate_diverges():
    assert not read_all(reader("sgd", rate=1e300))[0].isfinite().all()


@pytest.mark.parametrize("name", RECORDED[1:])
def test_by_masks_as_by_branches(name):
    """A recording decides without waiting for a value."""
    branching, by_masks = (read_all(each) for each in (wild(name=name), recorded(wild(name=name))))
    torch.testing.assert_close(by_masks[0], branching[0], rtol=1e-9, atol=1e-9)
    assert torch.equal(by_masks[1].guarded.counts_BC, branching[1].guarded.counts_BC)


def test_a_lane_that_breaks_leaves_the_others_alone(monkeypatch):
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: 3)
    split = text((40, 40, 40))
    side_by_side = read_side_by_side(split, 5, range(3), 3)
    chosen = guarded(reader("rms", "article"))
    plain = [read.nats_BT for read in iter_segments(chosen, side_by_side)]
    memory, place, found = chosen.fresh_memory(3), side_by_side.begin(), []
    for number in range(len(plain)):
        segment, place = side_by_side.next(place)
        nats_BT, memory = read_segment(chosen, memory, segment)
        found.append(nats_BT)
        if number == 2:
            memory.weights["lstm.0.input"][1, 0, 0] = math.nan
    for lane in (0, 2):
        assert all(torch.equal(a[lane], b[lane]) for a, b in zip(found, plain, strict=True))
    assert memory.guarded.restored_B.tolist() == [0, 1, 0] and memory.guarded.rescored_B.tolist() == [0, 5, 0]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("tensor", NAMES)
def test_a_broken_memory_is_scored_by_the_static_parameters_once(tensor, reference):
    chosen, source = guarded(reader("rms", reference=reference)), stream(text((40,)))
    memory, place = chosen.fresh_memory(), source.begin()
    level_1 = torch.cat([read.nats_T for read in iter_segments(reader("none"), stream(text((40,))))])
    for number in range(4):
        segment, place = source.next(place)
        if number == 2:
            memory.weights[tensor][0].view(-1)[::2] = math.nan
            hidden = memory.hidden
        nats_BT, memory = read_segment(chosen, memory, segment)
        assert nats_BT.isfinite().all()
        if number == 2:
            alone, _ = read_segment(reader("none"), reader("none").fresh_memory()._replace(hidden=hidden), segment)
            torch.testing.assert_close(nats_BT, alone, rtol=1e-12, atol=1e-12)
            assert all(torch.equal(memory.weights[name][0], chosen.static[name]) for name in NAMES)
    assert counts_of(memory.guarded, NAMES) == {"refused": {}, "restored": 1, "rescored_tokens": 5}
    assert first_of(memory.guarded, NAMES) == {MEMORY: (0, 10)}
    assert len(level_1) == 40


def test_slow_weights_go_back_with_the_fast_ones_in_the_broken_lane_only():
    static = {"a": torch.tensor([1.0, 2.0])}
    weights, home, velocity = ({"a": torch.full((2, 2), value)} for value in (7.0, 8.0, 9.0))
    restore_(weights, home, velocity, {}, static, torch.tensor([True, False]))
    assert weights["a"].tolist() == [[1.0, 2.0], [7.0, 7.0]]
    assert home["a"].tolist() == [[1.0, 2.0], [8.0, 8.0]]
    assert velocity["a"].tolist() == [[0.0, 0.0], [9.0, 9.0]]


def test_losses_far_above_chance_stand_and_the_memory_goes_back():
    chosen, source = guarded(reader("rms")), stream(text((40,)))
    memory, place = chosen.fresh_memory(), source.begin()
    memory.weights["output.bias"][0, :] = 1000 * torch.arange(MODEL.vocabulary)
    segment, _ = source.next(place)
    nats_BT, memory = read_segment(chosen, memory, segment)
    assert nats_BT.mean() > 1000
    assert counts_of(memory.guarded, NAMES) == {"refused": {}, "restored": 1, "rescored_tokens": 0}
    assert all(torch.equal(memory.weights[name][0], chosen.static[name]) for name in NAMES)


@pytest.mark.parametrize("reference", [False, True])
def test_statistics_with_a_nan_stop_their_own_tensor_only(reference):
    broken = {name: tensor.clone() for name, tensor in statistics().scale(1e-2).items()}
    broken["embedding"][3, 2] = math.nan
    made = reader("rms", reference=reference)
    chosen = guarded(dataclasses.replace(made, rule=dataclasses.replace(made.rule, scale=broken)))
    nats, memory = read_all(chosen)
    assert nats.isfinite().all()
    refused = counts_of(memory.guarded, NAMES)["refused"]
    assert set(refused) == {"embedding"} and first_of(memory.guarded, NAMES) == {"embedding": (0, 0)}
    assert torch.equal(memory.weights["embedding"][0], chosen.static["embedding"])
    assert not torch.equal(memory.weights["output.bias"][0], chosen.static["output.bias"])


def test_a_pull_that_is_no_number_moves_nothing():
    broken = {name: tensor.clone() for name, tensor in statistics().shape().items()}
    broken["output.bias"][0] = math.nan
    made = reader("rms")
    nats, memory = read_all(guarded(dataclasses.replace(made, rule=dataclasses.replace(made.rule, shape=broken))))
    assert nats.isfinite().all() and set(counts_of(memory.guarded, NAMES)["refused"]) == {"output.bias"}


def test_a_gradient_that_an_observer_breaks_costs_no_token():
    """NaN that comes between the look at a gradient and its step is found before anything of it counts."""
    seen = []

    def observe(shown):
        seen.append(shown.gradient.name)
        if len(seen) == 7:
            shown.gradient.tensor.view(-1)[0] = math.nan

    reads = list(iter_segments(guarded(reader("sgd")), stream(), observe=observe))
    assert all(read.nats_T.isfinite().all() for read in reads)
    assert sum(len(read.nats_T) for read in reads) == len(text().ids_N)
    assert counts_of(reads[-1].memory.guarded, NAMES)["restored"] == 1


def test_a_refused_step_leaves_no_velocity_behind(monkeypatch):
    """Of the lane that it is refused in; the others go on moving."""
    g = Meta(Statistics(statistics().rms), reader("rms").static, 0.02, 0.05, 1e-2, momentum=0.5)
    chosen = guarded(dataclasses.replace(reader("rms"), rule=g.rule(g.initial())))
    source = read_side_by_side(text((20, 20)), 5, range(2), 2)
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: 2)
    monkeypatch.setattr("dynlm.adapt.update_filter.UpdateFilter.allowed", lambda *_: torch.tensor([False, True]))
    (first, *_) = iter_segments(chosen, source)
    assert sorted(first.memory.velocity) == sorted(NAMES)
    for velocity in first.memory.velocity.values():
        assert not velocity[0].any() and velocity[1].any()


def test_an_observer_is_shown_the_steps_that_are_taken_under_their_lanes_numbers(monkeypatch):
    """What a lane is shown while another's step is refused is what it is shown where it reads alone."""
    refused = 1

    def allowed(self, rule, gradient, factors, scratch):
        sizes = torch.ones(len(gradient.tensor), dtype=torch.bool)
        sizes[refused] = False
        return sizes if gradient.name == "lstm.0.bias" and len(sizes) == 3 else None

    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: 3)
    split, chosen = text((20, 20, 20)), guarded(reader("rms"))
    seen, alone = {}, {}

    def kept_in(found):
        def observe(shown):
            if shown.gradient.name == "lstm.0.bias":
                for index, lane in enumerate(range(shown.lanes.start, shown.lanes.stop)):
                    found.setdefault(lane, []).append(shown.gradient.tensor[index].clone())

        return observe

    first, _ = read_side_by_side(split, 5, range(3), 3).next(read_side_by_side(split, 5, range(3), 3).begin())
    read_segment(chosen, chosen.fresh_memory(3), first, observe=kept_in(alone))
    with monkeypatch.context() as patch:
        patch.setattr("dynlm.adapt.update_filter.UpdateFilter.allowed", allowed)
        read_segment(chosen, chosen.fresh_memory(3), first, observe=kept_in(seen))
    assert sorted(alone) == [0, 1, 2] and sorted(seen) == [0, 2]
    for lane in seen:
        torch.testing.assert_close(seen[lane], alone[lane])


def test_a_mixture_and_its_experts_are_numbers():
    chosen = dataclasses.replace(wild(rate=1e300), hedge=FixedShareMixture())
    for read in iter_segments(chosen, stream()):
        assert read.nats_T.isfinite().all() and read.experts_BT2.isfinite().all()


def test_a_step_that_is_not_taken_is_in_no_sensitivity():
    g = Meta(Statistics(statistics().rms), reader("rms").static, 1e300, 0.05, 1e-2)
    phi = g.initial()
    chosen = guarded(dataclasses.replace(reader("rms"), rule=g.rule(phi)))
    memory = chosen.fresh_memory()
    sensitivities = Sensitivities(g, phi, chosen, memory)
    list(iter_segments(chosen, stream(text((20,))), memory, observe=sensitivities))
    assert all(not tensor.any() for tensors in sensitivities.fast.values() for tensor in tensors.values())
    assert all(not tensor.any() for tensor in sensitivities.summed.values())


def test_parts_of_a_tensor_are_summed_to_one_ratio():
    sizes, theta = StepSizes(), torch.tensor([[3.0, 4.0, 12.0]])
    sizes.add("a", torch.tensor([3.0]), theta[:, :2])
    sizes.add("a", torch.tensor([4.0]), theta[:, 2:])
    assert sizes.ratio("a").item() == pytest.approx(5 / 13)


@pytest.mark.parametrize("reference", [False, True])
def test_ratios_are_of_each_step_to_its_weights(reference):
    """sgd's step of the output bias, worked out from what the weights were before and after it."""
    chosen = guarded(reader("sgd", reference=reference), track=True)
    before, ratios = chosen.static["output.bias"].clone(), []
    for read in iter_segments(chosen, stream()):
        after = read.memory.weights["output.bias"][0].clone()
        ratios.append(float((after - before).norm() / before.norm()))
        before = after
    told = ratios_of(read.memory.guarded, NAMES)["output.bias"]
    assert told["mean"] == pytest.approx(np.mean(ratios), rel=1e-9) and told["max"] == pytest.approx(max(ratios))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
def test_the_cheap_bound_is_one(tied, lanes, monkeypatch):
    """Of every gradient of every model: its norm is no larger than what its factors' norms say, in each lane."""
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: lanes)
    from dynlm.adapt.rules.elementwise import uniform_rule
    from dynlm.adapt.update_filter import _step_at_most, step_norms
    from dynlm.models.lstm.model import LSTMLanguageModel
    from dynlm.models.options import ModelOptions

    model = LSTMLanguageModel(ModelOptions(embedding=6, hidden=6, layers=2, tied=tied), MODEL.vocabulary)
    static = model.initial_params(torch.Generator().manual_seed(0))
    rule = uniform_rule("sgd", tuple(static), 0.1)
    looked = []

    def observe(shown):
        norms_B = step_norms(rule, shown.gradient, None)
        looked.append(shown.gradient.name)
        assert float(norms_B.max()) <= _step_at_most(rule, shown.gradient, None)

    chosen = loop.Reader(model, static, rule, tuple(static))
    list(iter_segments(chosen, read_side_by_side(text((40,) * lanes), 5, range(lanes), lanes), observe=observe))
    assert set(looked) == set(static)
