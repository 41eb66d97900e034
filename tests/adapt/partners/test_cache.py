"""The cache by itself: it is its reference, causal, the same however a text is cut, and a lane's own."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.partners.cache import Cache, NextTokenDistribution
from dynlm.adapt.partners.cache_gate import Gate, evidence_names, initial_gate
from dynlm.adapt.partners.cache_reference import naive_read

VOCABULARY, WIDTH = 11, 4


def gate(flatness, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    evidence = torch.randn(50, len(evidence_names(flatness)), generator=generator).to(dtype)
    params = initial_gate([1 / (1 + len(flatness))] * (1 + len(flatness)), evidence, 5, generator)
    params["output.weight"] = torch.randn(params["output.weight"].shape, generator=generator).to(dtype)
    return Gate(params)


def cache_of(kind, window=9):
    return Cache(window, (0.7,), 0.3) if kind == "fixed" else Cache(window, (0.4, 1.3), gate((0.4, 1.3)))


def text(lanes=2, length=30, seed=0, dtype=torch.float64):
    """Made-up features, targets, a mask that ends each lane at another place, the model's nats and what it told."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(lanes, length, WIDTH, generator=generator, dtype=dtype)
    logits = torch.randn(lanes, length, VOCABULARY, generator=generator, dtype=dtype)
    targets = torch.randint(VOCABULARY, (lanes, length), generator=generator)
    mask = (torch.arange(length) < length - 3 * torch.arange(lanes)[:, None]).to(dtype)
    nats = -logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    scaled = (logits - logits.amax(2, keepdim=True)).exp()
    return features, targets, mask, nats, NextTokenDistribution(scaled, scaled.sum(2, keepdim=True))


def cut(arguments, begin, end):
    *tensors, told = arguments
    return *(tensor[:, begin:end] for tensor in tensors), NextTokenDistribution(
        *(tensor[:, begin:end] for tensor in told)
    )


def read_by(read, cache, arguments, segment):
    state, nats = cache.fresh(len(arguments[0]), WIDTH, arguments[0]), []
    for begin in range(0, arguments[1].shape[1], segment):
        nats_BT, state = read(cache, state, *cut(arguments, begin, begin + segment))
        nats.append(nats_BT)
    return torch.cat(nats, 1), state


@pytest.mark.parametrize("segment", [1, 5, 30])
@pytest.mark.parametrize("window", [1, 9, 100])
@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_the_fast_way_is_the_reference(kind, window, segment):
    cache, arguments = cache_of(kind, window), text()
    fast, state = read_by(Cache.read, cache, arguments, segment)
    slow, wanted = read_by(naive_read, cache, arguments, segment)
    mask = arguments[2] > 0
    torch.testing.assert_close(fast[mask], slow[mask], rtol=1e-12, atol=1e-12)
    assert (fast[mask] - arguments[3][mask]).abs().max() > 0.1  # The cache did something.
    assert state.written_B.tolist() == wanted.written_B.tolist() == [30, 27]
    torch.testing.assert_close(state.gain_BF, wanted.gain_BF, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_a_long_text_goes_round_the_ring(kind):
    """More tokens than slots, in one segment and in many: cut differently they are the same."""
    cache, arguments = cache_of(kind, 30), text(1, 300)
    whole, _ = read_by(Cache.read, cache, arguments, 300)
    wanted, _ = read_by(naive_read, cache, arguments, 300)
    torch.testing.assert_close(whole, wanted, rtol=1e-12, atol=1e-12)
    for segment in (7, 20, 64, 65):
        torch.testing.assert_close(read_by(Cache.read, cache, arguments, segment)[0], whole, rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(place=st.integers(0, 29), kind=st.sampled_from(["fixed", "learned"]), segment=st.sampled_from([4, 30]))
def test_no_nats_depend_on_what_follows(place, kind, segment):
    cache, (features, targets, mask, nats, told) = cache_of(kind), text(1)
    before, _ = read_by(Cache.read, cache, (features, targets, mask, nats, told), segment)
    other = [
        features.clone(),
        targets.clone(),
        mask,
        nats.clone(),
        NextTokenDistribution(told.scaled_BTV.clone(), told.total_BT1),
    ]
    other[1][:, place] = (targets[:, place] + 1) % VOCABULARY
    other[3][:, place] += 1
    other[0][:, place + 1 :] *= -1
    other[4].scaled_BTV[:, place + 1 :] *= 0.9
    after, _ = read_by(Cache.read, cache, other, segment)
    assert torch.equal(after[:, :place], before[:, :place])
    assert not torch.equal(after[:, place], before[:, place])


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_an_empty_cache_leaves_the_models_nats(kind):
    cache, arguments = cache_of(kind), text()
    nats, _ = read_by(Cache.read, cache, arguments, 1)
    assert torch.equal(nats[:, 0], arguments[3][:, 0])
    assert not torch.equal(nats[:, 1], arguments[3][:, 1])


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_lanes_are_one_lane_at_a_time(kind):
    cache, arguments = cache_of(kind), text(3)
    together, _ = read_by(Cache.read, cache, arguments, 5)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = (
            *(tensor[one] for tensor in arguments[:4]),
            NextTokenDistribution(*(tensor[one] for tensor in arguments[4])),
        )
        found, _ = read_by(Cache.read, cache, alone, 5)
        mask = alone[2] > 0
        torch.testing.assert_close(found[mask], together[one][mask], rtol=1e-12, atol=1e-12)


def test_the_mixture_is_a_distribution():
    """Over all targets at a place, the probabilities sum to one."""
    for kind in ("fixed", "learned"):
        cache, arguments = cache_of(kind), text(1, 25)
        _, state = read_by(Cache.read, cache, arguments, 25)
        features, _, mask, _, told = cut(arguments, 12, 13)
        total = 0.0
        for target in range(VOCABULARY):
            nats = -(told.scaled_BTV / told.total_BT1)[..., target].log()
            mixed, _ = cache.read(state.copy(), features, torch.full((1, 1), target), mask, nats, told)
            total += math.exp(-float(mixed))
        assert total == pytest.approx(1, abs=1e-12)


def test_a_mask_with_holes_stores_only_what_counts():
    cache, (features, targets, mask, nats, told) = cache_of("learned"), text(1)
    mask[:, [0, 4, 5, 11, 29]] = 0
    keep = mask[0] > 0
    kept = (
        features[:, keep],
        targets[:, keep],
        mask[:, keep],
        nats[:, keep],
        NextTokenDistribution(*(t[:, keep] for t in told)),
    )
    wanted, _ = read_by(Cache.read, cache, kept, 30)
    for segment in (6, 30):
        found, state = read_by(Cache.read, cache, (features, targets, mask, nats, told), segment)
        torch.testing.assert_close(found[:, keep], wanted, rtol=1e-12, atol=1e-12)
        assert state.written_B.tolist() == [25]


def test_an_article_begins_with_an_empty_cache_or_a_full_one():
    cache, arguments = cache_of("learned"), text(2)
    fresh = cache.fresh(2, WIDTH, arguments[0])
    wanted, _ = cache.read(fresh, *arguments)
    starts = torch.tensor([True, False])
    for empty in (True, False):
        _, state = read_by(Cache.read, cache, arguments, 5)
        state = cache.begin_articles(state, starts, empty)
        assert state.position_B.tolist() == [0, 27]
        assert state.written_B.tolist() == [0 if empty else 30, 27]
        nats, _ = cache.read(state, *arguments)
        assert torch.allclose(nats[0], wanted[0], rtol=1e-12, atol=1e-12) == empty
        assert not torch.allclose(nats[1, :5], wanted[1, :5])


def test_a_share_of_nothing_is_the_model_and_a_repeated_text_gains():
    features, targets, mask, nats, told = text(1, 12)
    again = tuple(torch.cat([tensor, tensor], 1) for tensor in (features, targets, mask, nats))
    twice = (*again, NextTokenDistribution(*(torch.cat([tensor, tensor], 1) for tensor in told)))
    nothing, _ = read_by(Cache.read, Cache(50, (3.0,), 0.0), twice, 6)
    assert torch.equal(nothing, twice[3])
    some, _ = read_by(Cache.read, Cache(50, (3.0,), 0.5), twice, 6)
    assert some[0, 12:].mean() < nothing[0, 12:].mean() - 0.5


def test_a_copied_state_is_left_as_it_is():
    cache, arguments = cache_of("learned"), text()
    _, state = cache.read(cache.fresh(2, WIDTH, arguments[0]), *arguments)
    kept = state.copy()
    before = [tensor.clone() for tensor in kept]
    cache.read(state, *arguments)
    assert all(torch.equal(one, other) for one, other in zip(before, kept, strict=True))
    assert not torch.equal(state.keys_BCH, kept.keys_BCH)


def test_a_fresh_gate_has_the_shares_it_was_given():
    evidence = torch.randn(40, 5 + 4 * 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = Gate(initial_gate([0.7, 0.1, 0.2], evidence, 8, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(
        made.log_shares(evidence).exp(), torch.tensor([0.7, 0.1, 0.2]).double().expand(40, 3), rtol=1e-6, atol=1e-6
    )
    assert dataclasses.replace(cache_of("learned"), gate=made).to("meta").gate.params["center"].is_meta


@pytest.mark.parametrize("name, value", [("tokens_BC", -1), ("tokens_BC", 5), ("written_B", -1), ("position_B", -1)])
def test_a_state_from_outside_is_sound_only_as_a_whole(name, value):
    state = Cache(8, (0.5,), 0.2).fresh(2, 3, torch.zeros(1))
    assert state.is_sound(5)
    changed = getattr(state, name).clone()
    changed.view(-1)[1] = value
    assert not state._replace(**{name: changed}).is_sound(5)
