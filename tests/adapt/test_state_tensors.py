"""A memory as tensors comes back bit for bit, also where differences round."""

import dataclasses
import itertools
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.data.stream import Stream
from dynlm.runtime.tree import leaves
from tests.adapt.partners.test_cache import gate
from tests.adapt.readings import MODEL, RULES, dynamic_model, engine, stream, text

# Any float32: zeros of both signs, subnormal numbers, and differences that do not overflow.
BITS = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("f", struct.pack("I", bits))[0])
WEIGHTS = BITS.filter(lambda value: abs(value) < 1e38)
PAIRS = st.lists(st.tuples(WEIGHTS, WEIGHTS), min_size=1, max_size=40)
NEAR = st.lists(st.tuples(WEIGHTS, st.floats(-0.5, 2)).map(lambda p: (p[0], p[0] * p[1])), min_size=1, max_size=40)


def with_partners(name: str, dtype=torch.float32):
    """Return a model with a cache, a mixture and an update filter."""
    chosen = dynamic_model(name, dtype=dtype)
    cache = Cache(12, (1.0, 4.0), gate((1.0, 4.0), dtype))
    filter_ = UpdateFilter.for_model(chosen.static, chosen.dynamic, MODEL.vocab_size, track=True)
    return dataclasses.replace(chosen, cache=cache, mixture=FixedShareMixture(0.01), filter=filter_)


def bits(tensor):
    return tensor.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)


def assert_equal(one, other):
    """Compare two pytrees bit for bit."""
    assert type(one) is type(other)
    for (name, mine), (other_name, its) in zip(leaves(one), leaves(other), strict=True):
        assert (name, mine.dtype, mine.shape) == (other_name, its.dtype, its.shape)
        assert torch.equal(bits(mine), bits(its)), name


def shapes_of(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


@given(st.one_of(PAIRS, NEAR))
def test_weights_come_back_bit_for_bit(pairs):
    theta_0, theta = (torch.tensor(values, dtype=torch.float32) for values in zip(*pairs, strict=True))
    chosen = DynamicModel(engine(), {"w": theta_0}, uniform_rule("sgd", ("w",), 0.1), ("w",))
    memory = chosen.fresh_memory()
    memory.params["w"][0] = theta
    tensors = as_tensors(memory, chosen)
    assert torch.equal(bits(from_tensors(tensors, chosen).params["w"]), bits(theta))
    # Only weights that the difference does not give are kept beside it.
    is_exact = torch.equal(bits(theta_0 + tensors["params/w"][0]), bits(theta))
    assert is_exact == (len(tensors["params/w/at"]) == 0)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("segments", [0, 1, 9])
def test_a_memory_comes_back_and_reads_on_alike(name, segments):
    chosen, whole = with_partners(name), stream()
    memory, place = chosen.fresh_memory(), whole.begin()
    for read in itertools.islice(iter_segments(chosen, whole, memory, place), segments):
        memory, place = read.memory, read.position
    tensors = as_tensors(memory, chosen)
    assert flaw_of_shapes(shapes_of(tensors), chosen) is None
    assert flaw(tensors, chosen) is None
    back = from_tensors(tensors, chosen)
    # The last segment's losses are for reports alone.
    assert_equal(back, memory._replace(mixture=memory.mixture._replace(experts_BT2=None)))
    assert ("rule/slots/velocity/embedding" in tensors) == (name == "g")
    on, again = (list(iter_segments(chosen, whole, each, place)) for each in (memory, back))
    assert all(torch.equal(one.nats_BT, other.nats_BT) for one, other in zip(on, again, strict=True))
    assert len(on) == 14 - segments


def test_several_lanes_come_back():
    chosen = with_partners("g")
    *_, read = iter_segments(chosen, Stream(text((20, 9, 14)), 3, 5, range(3)))
    tensors = as_tensors(read.memory, chosen, 3)
    assert flaw_of_shapes(shapes_of(tensors), chosen, 3) is None and flaw(tensors, chosen, 3) is None
    assert "(1, 17, 6)" in flaw_of_shapes(shapes_of(tensors), chosen)
    mixture = read.memory.mixture._replace(experts_BT2=None)
    assert_equal(from_tensors(tensors, chosen, 3), read.memory._replace(mixture=mixture))


def test_the_tensors_share_nothing_with_a_memory():
    """Reading on from either changes neither."""
    chosen = with_partners("g")
    memory = chosen.fresh_memory()
    tensors = as_tensors(memory, chosen)
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    back = from_tensors(tensors, chosen)
    for start in (memory, back):
        *_, _ = iter_segments(chosen, stream(), start)
    assert_equal(tensors, before)


def test_flaws_are_named():
    chosen = with_partners("g")
    tensors = as_tensors(chosen.fresh_memory(), chosen)
    shapes = shapes_of(tensors)
    lacking = {name: shape for name, shape in shapes.items() if name != "state/0/1"}
    assert "no tensor state/0/1" in flaw_of_shapes(lacking, chosen)
    vast = {**shapes, "cache/keys_BCH": (1, 10**12, 6)}
    assert "cache/keys_BCH is (1, 1000000000000, 6)" in flaw_of_shapes(vast, chosen)
    assert "extra" in flaw_of_shapes({**shapes, "extra": (1,)}, chosen)
    assert "no list" in flaw_of_shapes({**shapes, "rule/slots/anchor/embedding/is": (7,)}, chosen)
    for name, value, message in (
        ("params/embedding", torch.full_like(tensors["params/embedding"], torch.inf), "not finite"),
        ("state/0/0", tensors["state/0/0"].double(), "float64"),
        ("rule/slots/anchor/embedding/at", torch.zeros(0), "whole numbers"),
    ):
        assert message in flaw({**tensors, name: value}, chosen)
    for index in (-1, chosen.static["embedding"].numel()):
        wrong = {"params/embedding/at": torch.tensor([index]), "params/embedding/is": torch.zeros(1)}
        assert "out of range" in flaw({**tensors, **wrong}, chosen)
    # A memory that has read nothing has a running mean of NaN, which is no flaw.
    assert tensors["rule/lanes/running_nats_B"].isnan().all()
