"""Captured segments give what plain ones give: on a GPU by a CUDA graph, on a CPU over the capture's buffers."""

import dataclasses

import pytest
import torch

from dynlm.adapt import loop
from dynlm.adapt.loop import iter_segments, mean_nats, read_segment
from dynlm.adapt.segment import score_and_learn
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.data.stream import Batch, Stream, read_side_by_side
from dynlm.models.autograd_engine import capture
from dynlm.runtime.tree import leaves, to_device
from tests.adapt.readings import MODEL, RECORDED, captured, dynamic_model, engine, nats_of, stream, text


@pytest.fixture
def steps(monkeypatch):
    """Count the segments that are read by a capture."""
    counted = []

    def counting(step, inputs, modified):
        replay = capture(step, inputs, modified)
        return lambda now: counted.append(1) or replay(now)

    monkeypatch.setattr("dynlm.models.autograd_engine.capture", counting)
    return counted


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_losses_in_one_lane(name, reset, reference, steps):
    """Also of an article's last segment, which is shorter than the captured one."""
    split = text((23, 31, 8))
    plain = nats_of(dynamic_model(name, reset, reference), split)
    assert not steps
    torch.testing.assert_close(
        nats_of(captured(dynamic_model(name, reset, reference)), split), plain, rtol=1e-12, atol=1e-12
    )
    assert len(steps) == 5 + 7 + 2


@pytest.mark.parametrize("name", RECORDED)
def test_losses_in_lanes(name):
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    side_by_side = read_side_by_side(split, 5, range(split.articles), 6)
    chosen = dynamic_model(name, "article")
    assert mean_nats(captured(chosen), side_by_side) == pytest.approx(mean_nats(chosen, side_by_side), rel=1e-12)


def test_the_last_memory_is_the_same():
    split = text((40, 40, 40))
    plain, by_capture = (
        list(iter_segments(each, Stream(split, 3, 5, range(3))))[-1].memory
        for each in (dynamic_model("rms"), captured(dynamic_model("rms")))
    )
    for (path, one), (other_path, other) in zip(leaves(plain), leaves(by_capture), strict=True):
        assert path == other_path
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-14)


def test_earlier_losses_are_not_overwritten():
    reads = list(iter_segments(captured(dynamic_model("sgd")), stream()))
    torch.testing.assert_close(torch.cat([read.nats_T for read in reads]), nats_of(dynamic_model("sgd")))


@pytest.mark.parametrize("name", ["rms", "g", "lstm"])
def test_observers_and_rules_with_a_state_are_not_captured(name, steps):
    seen, expected = [], []
    plain = list(iter_segments(dynamic_model(name), stream(), observe=lambda event: expected.append(event.name)))
    chosen = captured(dynamic_model(name))
    read = list(iter_segments(chosen, stream(), observe=lambda event: seen.append(event.name)))
    assert seen == expected != []
    if name != "rms":
        read = list(iter_segments(chosen, stream()))
    assert not steps
    assert all(torch.equal(one.nats_T, other.nats_T) for one, other in zip(plain, read, strict=True))


def test_a_capture_is_of_one_memorys_weights():
    chosen = captured(dynamic_model("rms"))
    memory, source = chosen.fresh_memory(), stream()
    segment, _ = source.next(source.begin())
    read = loop._captured(chosen, memory, source)
    with pytest.raises(AssertionError, match="the weights that it was made for"):
        read(memory.copy(), segment)


def test_inputs_are_copied_and_of_any_structure():
    replay = capture(
        lambda tree: {"sum": tree["a"] + tree["b"][0]}, {"a": torch.ones(2), "b": (torch.ones(2), None)}, ()
    )
    for value in (3.0, 4.0):
        now = {"a": torch.full((2,), value), "b": (torch.ones(2), None)}
        assert replay(now)["sum"].tolist() == [value + 1] * 2


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", RECORDED)
def test_nothing_waits_for_the_value_of_a_tensor(name, precision, filtered):
    """On the meta device no tensor has one: an operation that synchronises with a GPU raises here."""
    chosen = dynamic_model(name, dtype=torch.float32)
    rule, filter_ = chosen.rule, None
    if rule.learns:
        rule = dataclasses.replace(rule, precondition=to_device(rule.precondition, "meta"), decay_shape=None)
    if filtered and rule.learns:
        filter_ = UpdateFilter.for_model(chosen.static, chosen.dynamic, MODEL.vocab_size, track=True)
        filter_ = dataclasses.replace(filter_, synchronises=False)
    static = to_device(chosen.static, "meta")
    on_meta = dataclasses.replace(chosen, engine=engine(precision=precision), static=static, rule=rule, filter=filter_)
    batch = Batch(
        *(torch.zeros(3, 5, dtype=kind, device="meta") for kind in (torch.int64, torch.int64, torch.float32)),
        *(torch.zeros(3, dtype=torch.bool, device="meta") for _ in range(2)),
        torch.zeros(3, 2, dtype=torch.int64, device="meta"),
    )
    nats_BT, memory = score_and_learn(on_meta, on_meta.fresh_memory(3), batch)
    assert nats_BT.is_meta and nats_BT.shape == (3, 5)
    assert all(tensor.is_meta for _, tensor in leaves(memory))


GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


class TestOnGPU:
    """CUDA graphs."""

    pytestmark = GPU

    @staticmethod
    def on_gpu(name, **settings):
        chosen = dynamic_model(name, "article", dtype=torch.float32)
        rule = chosen.rule
        rule = dataclasses.replace(
            rule, precondition=to_device(rule.precondition, "cuda"), decay_shape=to_device(rule.decay_shape, "cuda")
        )
        static = to_device(chosen.static, "cuda")
        filter_ = UpdateFilter.for_model(static, chosen.dynamic, MODEL.vocab_size)
        return dataclasses.replace(chosen, engine=engine(**settings), static=static, rule=rule, filter=filter_)

    @pytest.mark.parametrize("reference", [False, True])
    def test_a_graph_gives_what_its_kernels_give(self, reference):
        side_by_side = read_side_by_side(text((40, 33, 21)), 5, range(3), 3)
        chosen = self.on_gpu("rms", reference=reference)
        self.compare(chosen, side_by_side)

    def test_a_graph_in_bfloat16(self):
        side_by_side = read_side_by_side(text((40, 33, 21)), 5, range(3), 3)
        self.compare(self.on_gpu("rms", precision=torch.bfloat16), side_by_side)

    @staticmethod
    def compare(chosen, side_by_side):
        place, memory = side_by_side.begin(), chosen.fresh_memory(3)
        for read in iter_segments(captured(chosen), side_by_side):
            segment, place = side_by_side.next(place)
            nats_BT, memory = read_segment(chosen, memory, segment)
            mask_BT = torch.from_numpy(segment.mask_BT)
            torch.testing.assert_close(read.nats_BT.cpu()[mask_BT], nats_BT.cpu()[mask_BT], rtol=1e-4, atol=1e-4)

    def test_recording_leaves_the_modified_tensors_as_they_were(self):
        weights = torch.ones(3, device="cuda")
        replay = capture(lambda x: weights.add_(x).clone(), torch.ones(3, device="cuda"), (weights,))
        assert weights.tolist() == [1, 1, 1]
        assert replay(torch.full((3,), 2.0, device="cuda")).tolist() == [3, 3, 3]
        first = replay(torch.ones(3, device="cuda"))
        replay(torch.ones(3, device="cuda"))
        assert first.tolist() == [4, 4, 4] and weights.tolist() == [5, 5, 5]
