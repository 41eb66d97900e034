"""A memory as tensors: nothing of it is lost, not even where differences round, and reading on is reading through."""

import dataclasses
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.state import Memory
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from tests.adapt.partners.test_cache import gate
from tests.adapt.readings import RULES, reader, stream

# Any float32 of a weight: zeros of both signs, subnormal ones, and sums that do not overflow.
BITS = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("f", struct.pack("I", bits))[0])
WEIGHTS = BITS.filter(lambda value: abs(value) < 1e38)
PAIRS = st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=1, max_size=40)
NEAR = st.lists(st.tuples(WEIGHTS, st.floats(-0.5, 2)).map(lambda p: (p[0], p[0] * p[1])), min_size=1, max_size=40)


def partnered(name: str, dtype=torch.float32):
    """A reader whose memory has all that a rule may ask for."""
    chosen = reader(name, dtype=dtype)
    cache = Cache(12, (1.0, 4.0), gate((1.0, 4.0), dtype))
    return dataclasses.replace(chosen, cache=cache, hedge=FixedShareMixture(0.01))


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)


def assert_equal(one, other):
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert torch.equal(bits(one), bits(other))
    elif isinstance(one, dict):
        assert list(one) == list(other)
        assert_equal(tuple(one.values()), tuple(other.values()))
    elif isinstance(one, tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_equal(mine, its)
    else:
        assert one is other is None


@given(st.one_of(PAIRS, NEAR))
def test_weights_come_back_bit_for_bit(pairs):
    theta_0, theta = (torch.tensor(values, dtype=torch.float32) for values in zip(*pairs, strict=True))
    static = {"w": theta_0}
    memory, fresh = (Memory({"w": tensor[None].clone()}, ()) for tensor in (theta, theta_0))
    tensors = as_tensors(memory, fresh, static)
    assert torch.equal(bits(from_tensors(tensors, fresh, static).weights["w"]), bits(theta))
    # What is kept beside the difference is only what the difference does not give.
    given_exactly = torch.equal(bits(theta_0 + tensors["weights/w"][0]), bits(theta))
    assert given_exactly == (len(tensors["weights/w/at"]) == 0)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("segments", [0, 1, 9])
def test_a_memory_comes_back_and_reads_on_alike(name, segments):
    chosen, whole = partnered(name), stream()
    memory, place = chosen.fresh_memory(), whole.begin()
    for _, read in zip(range(segments), iter_segments(chosen, whole, memory, place), strict=False):
        memory, place = read.memory, read.place
    fresh = chosen.fresh_memory()
    tensors = as_tensors(memory, fresh, chosen.static)
    assert flaw_of_shapes({n: tuple(t.shape) for n, t in tensors.items()}, fresh, chosen.static) is None
    assert flaw(tensors, fresh, chosen.static) is None
    back = from_tensors(tensors, fresh, chosen.static)
    told = memory.hedge._replace(experts_BT2=None)  # of the last segment, and not needed
    assert_equal(back, memory._replace(hedge=told))
    assert back.velocity.keys() == (memory.weights.keys() if name == "g" else set())
    on, again = (list(iter_segments(chosen, whole, each, place)) for each in (memory, back))
    assert all(torch.equal(one.nats_BT, other.nats_BT) for one, other in zip(on, again, strict=True))
    assert len(on) == 14 - segments


def test_what_is_kept_is_not_what_is_read_with():
    """A memory is used up by reading; what was kept of it stays."""
    chosen = partnered("g")
    memory = chosen.fresh_memory()
    tensors = as_tensors(memory, chosen.fresh_memory(), chosen.static)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    back = from_tensors(tensors, chosen.fresh_memory(), chosen.static)
    for start in (memory, back):
        *_, _ = iter_segments(chosen, stream(), start)
    assert_equal(tensors, before)


def test_what_does_not_fit_is_named():
    chosen = partnered("g")
    fresh, static = chosen.fresh_memory(), chosen.static
    tensors = as_tensors(chosen.fresh_memory(), fresh, static)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    lacking = {name: shape for name, shape in shapes.items() if name != "hidden/0/1"}
    assert "no tensor hidden/0/1" in flaw_of_shapes(lacking, fresh, static)
    vast = {**shapes, "cache/keys_BCH": (1, 10**12, 6)}
    assert "cache/keys_BCH is (1, 1000000000000, 6)" in flaw_of_shapes(vast, fresh, static)
    assert "extra" in flaw_of_shapes({**shapes, "extra": (1,)}, fresh, static)
    assert "no list" in flaw_of_shapes({**shapes, "home/embedding/is": (7,)}, fresh, static)
    for name, value, said in (
        ("weights/embedding", torch.full_like(tensors["weights/embedding"], torch.inf), "no finite number"),
        ("hidden/0/0", tensors["hidden/0/0"].double(), "float64"),
        ("home/embedding/at", torch.zeros(0), "whole numbers"),
    ):
        assert said in flaw({**tensors, name: value}, fresh, static)
    for place in (-1, fresh.weights["embedding"].numel()):
        wrong = {"weights/embedding/at": torch.tensor([place]), "weights/embedding/is": torch.zeros(1)}
        assert "a place that is none" in flaw({**tensors, **wrong}, fresh, static)
    # Of a memory that has read nothing the running mean is nan, and that is as it should be.
    assert tensors["pace/running_B"].isnan().all()
