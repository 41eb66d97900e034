"""The cache: it equals its reference, is causal, and does not depend on how a text is cut, nor on other lanes."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.partners.cache import Cache, CacheInput
from dynlm.adapt.partners.cache_gate import Gate, gate_feature_names, initial_gate, log_shares
from dynlm.models.softmax import NextTokenDistribution
from dynlm.runtime.tree import clone, map_tensors, select_lanes
from tests.adapt.partners.cache_reference import naive_read

VOCABULARY, WIDTH = 11, 4


def gate(inverse_temperatures, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(50, len(gate_feature_names(inverse_temperatures)), generator=generator).to(dtype)
    components = 1 + len(inverse_temperatures)
    params = initial_gate([1 / components] * components, features, 5, generator)
    params["output.weight"] = torch.randn(params["output.weight"].shape, generator=generator).to(dtype)
    return Gate(params)


def cache_of(kind, window=9):
    return Cache(window, (0.7,), 0.3) if kind == "fixed" else Cache(window, (0.4, 1.3), gate((0.4, 1.3)))


def text(lanes=2, length=30, seed=0):
    """Return random features, targets and distributions, with a mask that ends each lane earlier than the last."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(lanes, length, WIDTH, generator=generator, dtype=torch.float64)
    logits = torch.randn(lanes, length, VOCABULARY, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (lanes, length), generator=generator)
    mask = (torch.arange(length) < length - 3 * torch.arange(lanes)[:, None]).double()
    nats = -logits.log_softmax(-1).gather(2, targets[..., None])[..., 0]
    scaled = (logits - logits.amax(2, keepdim=True)).exp()
    return CacheInput(features, targets, mask, nats, NextTokenDistribution(scaled, scaled.sum(2, keepdim=True)))


def tokens(segment, some):
    """Return some tokens of a segment."""
    return map_tensors(lambda tensor: tensor[:, some], segment)


def read_by(read, cache, whole, length):
    """Return (all nats, the last state) of reading ``length`` tokens at a time."""
    state, nats = cache.fresh(len(whole.targets_BT), WIDTH, whole.features_BTH), []
    for begin in range(0, whole.targets_BT.shape[1], length):
        nats_BT, state = read(cache, state, tokens(whole, slice(begin, begin + length)))
        nats.append(nats_BT)
    return torch.cat(nats, 1), state


@pytest.mark.parametrize("length", [1, 5, 30])
@pytest.mark.parametrize("window", [1, 9, 100])
@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_nats_and_state_equal_the_reference(kind, window, length):
    cache, whole = cache_of(kind, window), text()
    found, state = read_by(Cache.read, cache, whole, length)
    expected, expected_state = read_by(naive_read, cache, whole, length)
    mask = whole.mask_BT > 0
    torch.testing.assert_close(found[mask], expected[mask], rtol=1e-12, atol=1e-12)
    assert (found[mask] - whole.nats_BT[mask]).abs().max() > 0.1  # The cache did something.
    assert state.written_B.tolist() == expected_state.written_B.tolist() == [30, 27]
    torch.testing.assert_close(state.gain_BF, expected_state.gain_BF, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_a_text_longer_than_the_ring_is_the_same_however_it_is_cut(kind):
    cache, whole = cache_of(kind, 30), text(1, 300)
    found, _ = read_by(Cache.read, cache, whole, 300)
    expected, _ = read_by(naive_read, cache, whole, 300)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for length in (7, 20, 64, 65):
        torch.testing.assert_close(read_by(Cache.read, cache, whole, length)[0], found, rtol=1e-12, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(position=st.integers(0, 29), kind=st.sampled_from(["fixed", "learned"]), length=st.sampled_from([4, 30]))
def test_no_nats_depend_on_a_later_token(position, kind, length):
    cache, whole = cache_of(kind), text(1)
    before, _ = read_by(Cache.read, cache, whole, length)
    other = clone(whole)
    other.targets_BT[:, position] = (whole.targets_BT[:, position] + 1) % VOCABULARY
    other.nats_BT[:, position] += 1
    other.features_BTH[:, position + 1 :] *= -1
    other.next_tokens.scaled_BTV[:, position + 1 :] *= 0.9
    after, _ = read_by(Cache.read, cache, other, length)
    assert torch.equal(after[:, :position], before[:, :position])
    assert not torch.equal(after[:, position], before[:, position])


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_an_empty_cache_leaves_the_nats_of_the_model(kind):
    cache, whole = cache_of(kind), text()
    nats, _ = read_by(Cache.read, cache, whole, 1)
    assert torch.equal(nats[:, 0], whole.nats_BT[:, 0])
    assert not torch.equal(nats[:, 1], whole.nats_BT[:, 1])


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_lanes_equal_one_lane_after_another(kind):
    cache, whole = cache_of(kind), text(3)
    together, _ = read_by(Cache.read, cache, whole, 5)
    for lane in range(3):
        one = slice(lane, lane + 1)
        alone = select_lanes(whole, one)
        found, _ = read_by(Cache.read, cache, alone, 5)
        mask = alone.mask_BT > 0
        torch.testing.assert_close(found[mask], together[one][mask], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["fixed", "learned"])
def test_the_probabilities_of_all_targets_sum_to_one(kind):
    cache, whole = cache_of(kind), text(1, 25)
    _, state = read_by(Cache.read, cache, whole, 25)
    one, total = tokens(whole, slice(12, 13)), 0.0
    for target in range(VOCABULARY):
        nats = -(one.next_tokens.scaled_BTV / one.next_tokens.total_BT1)[..., target].log()
        mixed, _ = cache.read(clone(state), one._replace(targets_BT=torch.full((1, 1), target), nats_BT=nats))
        total += math.exp(-float(mixed))
    assert total == pytest.approx(1, abs=1e-12)


def test_masked_tokens_are_not_stored():
    cache, whole = cache_of("learned"), text(1)
    whole.mask_BT[:, [0, 4, 5, 11, 29]] = 0
    keep = whole.mask_BT[0] > 0
    expected, _ = read_by(Cache.read, cache, tokens(whole, keep), 30)
    for length in (6, 30):
        found, state = read_by(Cache.read, cache, whole, length)
        torch.testing.assert_close(found[:, keep], expected, rtol=1e-12, atol=1e-12)
        assert state.written_B.tolist() == [25]


def test_an_article_begins_with_an_empty_cache_or_with_its_content():
    cache, whole = cache_of("learned"), text(2)
    expected, _ = cache.read(cache.fresh(2, WIDTH, whole.features_BTH), whole)
    starts = torch.tensor([True, False])
    for empty in (True, False):
        _, state = read_by(Cache.read, cache, whole, 5)
        state = cache.begin_articles(state, starts, empty)
        assert state.position_B.tolist() == [0, 27]
        assert state.written_B.tolist() == [0 if empty else 30, 27]
        nats, _ = cache.read(state, whole)
        assert torch.allclose(nats[0], expected[0], rtol=1e-12, atol=1e-12) == empty
        assert not torch.allclose(nats[1, :5], expected[1, :5])


def test_a_share_of_zero_is_the_model_and_a_repeated_text_gains():
    once = text(1, 12)
    twice = map_tensors(lambda tensor: torch.cat([tensor, tensor], 1), once)
    none, _ = read_by(Cache.read, Cache(50, (3.0,), 0.0), twice, 6)
    assert torch.equal(none, twice.nats_BT)
    some, _ = read_by(Cache.read, Cache(50, (3.0,), 0.5), twice, 6)
    assert some[0, 12:].mean() < none[0, 12:].mean() - 0.5


def test_a_fresh_gate_has_the_given_shares():
    features = torch.randn(40, 5 + 4 * 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    made = Gate(initial_gate([0.7, 0.1, 0.2], features, 8, torch.Generator().manual_seed(0)))
    expected = torch.tensor([0.7, 0.1, 0.2]).double().expand(40, 3)
    torch.testing.assert_close(log_shares(made.params, features).exp(), expected, rtol=1e-6, atol=1e-6)
    assert dataclasses.replace(cache_of("learned"), gate=made).to("meta").gate.params["center"].is_meta


@pytest.mark.parametrize("name, value", [("tokens_BC", -1), ("tokens_BC", 5), ("written_B", -1), ("position_B", -1)])
def test_an_impossible_state_is_not_sound(name, value):
    state = Cache(8, (0.5,), 0.2).fresh(2, 3, torch.zeros(1))
    assert state.is_sound(5)
    changed = getattr(state, name).clone()
    changed.view(-1)[1] = value
    assert not state._replace(**{name: changed}).is_sound(5)
