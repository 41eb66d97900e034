"""THE loop with a cache beside every rule: the same promises, and what the weights learn stays their own."""

import dataclasses
import math

import pytest
import torch

from dynlm.adapt.capture import recorded
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.rules.elementwise import Rates
from dynlm.adapt.segment import score_and_learn
from dynlm.data.batch import Batch
from dynlm.data.stream import read_in_order, read_side_by_side
from tests.adapt.partners.test_cache import gate
from tests.adapt.readings import MODEL, NAMES, RULES, reader, stream, text

KINDS = ("fixed", "learned")


def cached(name, kind="learned", reset="stream", **options):
    dtype = options.get("dtype", torch.float64)
    cache = Cache(12, (2.0,), 0.3) if kind == "fixed" else Cache(12, (1.0, 4.0), gate((1.0, 4.0), dtype))
    return dataclasses.replace(reader(name, reset, **options), cache=cache)


def nats_of(chosen, split=None, segment=5):
    return torch.cat([read.nats_T for read in iter_segments(chosen, stream(split, segment))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "rms"])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_the_fast_way_is_the_reference(name, reset, kind):
    fast, slow = (nats_of(cached(name, kind, reset, reference=reference)) for reference in (False, True))
    torch.testing.assert_close(fast, slow, rtol=1e-11, atol=1e-11)
    assert (fast - nats_of(reader(name, reset))).abs().max() > 0.05  # The cache did something.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reference", [False, True])
def test_what_the_weights_learn_is_their_own(name, reference):
    """Bit for bit: neither the gradient nor the state knows of the cache."""
    *_, alone = iter_segments(reader(name, reference=reference), stream())
    *_, beside = iter_segments(cached(name, reference=reference), stream())
    assert alone.memory.weights.keys() == beside.memory.weights.keys()
    for tensor in alone.memory.weights:
        assert torch.equal(alone.memory.weights[tensor], beside.memory.weights[tensor])
    assert all(
        torch.equal(one, other)
        for layer, its in zip(alone.memory.hidden, beside.memory.hidden, strict=True)
        for one, other in zip(layer, its, strict=True)
    )


@pytest.mark.parametrize("at_a_time", [1, 2, 16])
@pytest.mark.parametrize("name, reference", [("none", False), ("rms", False), ("rms", True)])
def test_lanes_are_one_lane_at_a_time(name, reference, at_a_time, monkeypatch):
    """Lanes that end early are passed over, and what they hold is not disturbed."""
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: at_a_time)
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    chosen = cached(name, "learned", "article", reference=reference)
    wanted = nats_of(chosen, split)
    found = torch.full_like(wanted, math.nan)
    for read in iter_segments(chosen, read_side_by_side(split, 5, range(split.articles), 3)):
        for nats_T, mask_T, article, position in zip(
            read.nats_BT, read.segment.mask_BT, read.segment.article_B, read.segment.position_B, strict=True
        ):
            at = int(split.starts[article] + position)
            found[at : at + mask_T.sum()] = nats_T[torch.from_numpy(mask_T)]
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_zero_are_level_1_with_the_same_cache_bit_for_bit(kind):
    chosen = cached("rms", kind)
    still = dataclasses.replace(chosen.rule, rates=dict.fromkeys(NAMES, Rates(0.0, 0.0)))
    assert torch.equal(nats_of(dataclasses.replace(chosen, rule=still)), nats_of(cached("none", kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "rms"])
def test_no_loss_depends_on_a_later_token(name, kind):
    split, chosen = text(), cached(name, kind)
    before = nats_of(chosen, split)
    for place in range(0, len(split.ids_N), 5):
        ids = split.ids_N.copy()
        ids[place] = (ids[place] + 1) % MODEL.vocabulary
        after = nats_of(chosen, dataclasses.replace(split, ids_N=ids))
        assert torch.equal(after[:place], before[:place])
        assert after[place] != before[place]


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_reading_in_two_sittings_is_reading_in_one(reset):
    chosen = cached("rms", "learned", reset)
    whole = nats_of(chosen)
    sitting = iter_segments(chosen, stream())
    reads = [next(sitting) for _ in range(6)]
    memory = reads[-1].memory.copy()
    list(sitting)  # What goes on from the memory itself leaves its copy alone.
    rest = [read.nats_T for read in iter_segments(chosen, stream(), memory, reads[-1].place)]
    assert torch.equal(torch.cat([*(read.nats_T for read in reads), *rest]), whole)


def test_the_cache_follows_the_reset_policy():
    split = text()
    whole = nats_of(cached("rms", "learned", "article"), split)
    for article in range(split.articles):
        own = read_in_order(split, 5, [article])
        alone = torch.cat([read.nats_T for read in iter_segments(cached("rms", "learned", "article"), own)])
        assert torch.equal(alone, whole[split.starts[article] : split.starts[article + 1]])
        # At an article's first token an empty cache says nothing.
        (first, *_) = iter_segments(reader("rms", "article"), own)
        assert alone[0] == first.nats_T[0]
    ran_on, level_1 = nats_of(cached("none"), split), nats_of(reader("none"), split)
    assert ran_on[split.starts[1]] != level_1[split.starts[1]]


def test_by_recording_it_is_read_as_without():
    chosen = cached("rms")
    assert torch.equal(nats_of(recorded(chosen)), nats_of(chosen))


def test_nothing_waits_for_a_tensors_value():
    """On the meta device no tensor has one."""
    chosen = cached("sgd", dtype=torch.float32)
    static = {tensor: value.to("meta") for tensor, value in chosen.static.items()}
    on_meta = dataclasses.replace(chosen, static=static, cache=chosen.cache.to("meta"))
    batch = Batch(
        *(torch.zeros(3, 5, dtype=kind, device="meta") for kind in (torch.int64, torch.int64, torch.float32)),
        *(torch.zeros(3, dtype=torch.bool, device="meta") for _ in range(2)),
    )
    nats_BT, memory = score_and_learn(on_meta, on_meta.fresh_memory(3), batch, whole=True)
    assert nats_BT.is_meta and memory.cache.written_B.is_meta
