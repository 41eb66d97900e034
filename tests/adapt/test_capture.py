"""Reading by a recording is reading; on a GPU the recording is a CUDA graph, here the same code without one."""

import dataclasses

import pytest
import torch

from dynlm.adapt.capture import Recording, recorded
from dynlm.adapt.loop import iter_segments, mean_nats, read_segment
from dynlm.adapt.segment import score_and_learn
from dynlm.data.batch import Batch
from dynlm.data.stream import Stream, read_side_by_side
from tests.adapt.readings import NAMES, RECORDED, reader, stream, text


@pytest.mark.parametrize("name", RECORDED)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_by_recording_in_one_lane(name, reset):
    """Also an article's last segment, which is shorter than the recording."""
    split = text((23, 31, 8))
    plain, by_recording = (
        torch.cat([read.nats_T for read in iter_segments(each, stream(split))])
        for each in (reader(name, reset), recorded(reader(name, reset)))
    )
    torch.testing.assert_close(by_recording, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RECORDED)
def test_by_recording_in_lanes(name):
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    side_by_side = read_side_by_side(split, 5, range(split.articles), 6)
    chosen = reader(name, "article")
    assert mean_nats(recorded(chosen), side_by_side) == pytest.approx(mean_nats(chosen, side_by_side), rel=1e-12)


def test_by_recording_the_weights_end_alike():
    split = text((40, 40, 40))
    ends = []
    for each in (reader("rms"), recorded(reader("rms"))):
        *_, last = iter_segments(each, Stream(split, 3, 5, range(3)))
        ends.append(last.memory)
    for name in NAMES:
        torch.testing.assert_close(ends[1].weights[name], ends[0].weights[name], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ends[1].hidden, ends[0].hidden)


def test_what_was_read_before_is_not_written_over():
    reads = list(iter_segments(recorded(reader("sgd")), stream()))
    again = [read.nats_T for read in iter_segments(reader("sgd"), stream())]
    for read, nats_T in zip(reads, again, strict=True):
        torch.testing.assert_close(read.nats_T, nats_T)


@pytest.mark.parametrize("name", ["rms", "g", "lstm"])
def test_what_is_not_recorded_is_read_without_a_recording(name):
    """An observer sees every step, and what a recording has no place for goes on from segment to segment."""
    seen, expected = [], []
    plain = list(iter_segments(reader(name), stream(), observe=lambda shown: expected.append(shown.gradient.name)))
    read = list(iter_segments(recorded(reader(name)), stream(), observe=lambda shown: seen.append(shown.gradient.name)))
    assert seen == expected != []
    if name != "rms":
        read = list(iter_segments(recorded(reader(name)), stream()))
    assert all(torch.equal(one.nats_T, other.nats_T) for one, other in zip(plain, read, strict=True))


def test_a_recording_is_for_its_own_weights():
    chosen = reader("rms")
    memory, source = chosen.fresh_memory(), stream()
    segment, _ = source.next(source.begin())
    recording = Recording(chosen, memory, 5)
    with pytest.raises(AssertionError, match="the weights that it was made for"):
        recording.read(memory.copy(), segment)


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
@pytest.mark.parametrize("name", RECORDED)
def test_nothing_in_the_loop_waits_for_a_tensors_value(name, precision):
    """On the meta device no tensor has one: whatever would make a GPU's host wait raises here."""
    chosen = reader(name, dtype=torch.float32)
    static = {tensor: value.to("meta") for tensor, value in chosen.static.items()}
    constants = {
        field: values and {tensor: value.to("meta") for tensor, value in values.items()}
        for field, values in (("scale", chosen.rule.scale), ("shape", None))
    }
    rule = dataclasses.replace(chosen.rule, **constants)
    on_meta = dataclasses.replace(chosen, static=static, rule=rule, precision=precision)
    memory = on_meta.fresh_memory(3)
    batch = Batch(
        *(torch.zeros(3, 5, dtype=kind, device="meta") for kind in (torch.int64, torch.int64, torch.float32)),
        *(torch.zeros(3, dtype=torch.bool, device="meta") for _ in range(2)),
    )
    nats_BT, memory = score_and_learn(on_meta, memory, batch, whole=True)
    assert nats_BT.is_meta and nats_BT.shape == (3, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU to record a CUDA graph on")
@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_a_cuda_graph_reads_as_its_kernels_do(precision):
    def on_gpu(name):
        chosen = reader(name, "article", dtype=torch.float32)
        static = {tensor: value.cuda() for tensor, value in chosen.static.items()}
        moved = {
            field: {tensor: value.cuda() for tensor, value in getattr(chosen.rule, field).items()}
            for field in ("scale", "shape")
        }
        rule = dataclasses.replace(chosen.rule, **moved)
        return dataclasses.replace(chosen, static=static, rule=rule, precision=precision)

    side_by_side = read_side_by_side(text((40, 33, 21)), 5, range(3), 3)
    chosen = on_gpu("rms")
    place, memory = side_by_side.begin(), chosen.fresh_memory(3)
    for read in iter_segments(recorded(chosen), side_by_side):
        segment, place = side_by_side.next(place)
        nats_BT, memory = read_segment(chosen, memory, segment)
        mask_BT = torch.from_numpy(segment.mask_BT)
        torch.testing.assert_close(read.nats_BT.cpu()[mask_BT], nats_BT.cpu()[mask_BT], rtol=1e-4, atol=1e-4)
