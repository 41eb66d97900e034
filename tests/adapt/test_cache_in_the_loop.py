"""THE loop with a cache beside every rule; what the weights learn does not depend on it."""

import dataclasses

import pytest
import torch

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.segment import score_and_learn
from dynlm.data.stream import Batch, read_in_order
from dynlm.runtime.tree import leaves
from tests.adapt.partners.test_cache import gate
from tests.adapt.readings import (
    RULES,
    assert_no_loss_depends_on_a_later_token,
    captured,
    dynamic_model,
    nats_of,
    set_lanes_at_once,
    stream,
    text,
)
from tests.adapt.test_loop import nats_side_by_side

KINDS = ("fixed", "learned")


def cached(name, kind="learned", reset="stream", **options):
    dtype = options.get("dtype", torch.float64)
    cache = Cache(12, (2.0,), 0.3) if kind == "fixed" else Cache(12, (1.0, 4.0), gate((1.0, 4.0), dtype))
    return dataclasses.replace(dynamic_model(name, reset, **options), cache=cache)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "rms"])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_losses_equal_those_by_autograd(name, reset, kind):
    by_hand, by_autograd = (nats_of(cached(name, kind, reset, reference=reference)) for reference in (False, True))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-11, atol=1e-11)
    assert (by_hand - nats_of(dynamic_model(name, reset))).abs().max() > 0.05  # The cache did something.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reference", [False, True])
def test_weights_and_state_do_not_depend_on_the_cache(name, reference):
    """Bit for bit."""
    *_, alone = iter_segments(dynamic_model(name, reference=reference), stream())
    *_, beside = iter_segments(cached(name, reference=reference), stream())
    pairs = zip(leaves(alone.memory), leaves(beside.memory._replace(cache=None)), strict=True)
    assert all(path == other_path and torch.equal(one, other) for (path, one), (other_path, other) in pairs)


@pytest.mark.parametrize("at_once", [1, 2, 16])
@pytest.mark.parametrize("name, reference", [("none", False), ("rms", False), ("rms", True)])
def test_lanes_equal_one_lane_after_another(name, reference, at_once, monkeypatch):
    """Lanes that end early are skipped, and their content is not changed."""
    set_lanes_at_once(monkeypatch, at_once)
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    chosen = cached(name, "learned", "article", reference=reference)
    found = nats_side_by_side(chosen, split, 3)
    torch.testing.assert_close(found, nats_of(chosen, split), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_rates_of_zero_are_level_1_with_the_same_cache_bit_for_bit(kind):
    chosen = cached("rms", kind)
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    assert torch.equal(nats_of(still), nats_of(cached("none", kind)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "rms"])
def test_no_loss_depends_on_a_later_token(name, kind):
    assert_no_loss_depends_on_a_later_token(cached(name, kind), every=5)


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_reading_on_from_a_copied_memory_equals_reading_at_once(reset):
    chosen = cached("rms", "learned", reset)
    whole = nats_of(chosen)
    sitting = iter_segments(chosen, stream())
    reads = [next(sitting) for _ in range(6)]
    memory = reads[-1].memory.copy()
    list(sitting)  # Reading on from the memory itself does not change its copy.
    rest = [read.nats_T for read in iter_segments(chosen, stream(), memory, reads[-1].position)]
    assert torch.equal(torch.cat([*(read.nats_T for read in reads), *rest]), whole)


def test_the_cache_follows_the_reset_policy():
    split = text()
    whole = nats_of(cached("rms", "learned", "article"), split)
    for article in range(split.articles):
        own = read_in_order(split, 5, [article])
        alone = torch.cat([read.nats_T for read in iter_segments(cached("rms", "learned", "article"), own)])
        assert torch.equal(alone, whole[split.starts[article] : split.starts[article + 1]])
        # At an article's first token the cache is empty.
        (first, *_) = iter_segments(dynamic_model("rms", "article"), own)
        assert alone[0] == first.nats_T[0]
    ran_on, level_1 = nats_of(cached("none"), split), nats_of(dynamic_model("none"), split)
    assert ran_on[split.starts[1]] != level_1[split.starts[1]]


def test_a_reading_with_a_cache_is_not_captured():
    chosen = cached("rms")
    assert torch.equal(nats_of(captured(chosen)), nats_of(chosen))


def test_nothing_waits_for_the_value_of_a_tensor():
    """On the meta device no tensor has one."""
    chosen = cached("sgd", dtype=torch.float32)
    static = {tensor: value.to("meta") for tensor, value in chosen.static.items()}
    on_meta = dataclasses.replace(chosen, static=static, cache=chosen.cache.to("meta"))
    batch = Batch(
        *(torch.zeros(3, 5, dtype=kind, device="meta") for kind in (torch.int64, torch.int64, torch.float32)),
        *(torch.zeros(3, dtype=torch.bool, device="meta") for _ in range(2)),
    )
    nats_BT, memory = score_and_learn(on_meta, on_meta.fresh_memory(3), batch)
    assert nats_BT.is_meta and memory.cache.written_B.is_meta
