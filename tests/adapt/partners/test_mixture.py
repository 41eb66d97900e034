"""The mixture with the static model: its bound, also on adversarial texts, and its place in THE loop."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.partners.mixture import FixedShareMixture, MixtureState, fixed_share
from dynlm.data.stream import read_in_order
from dynlm.runtime.tree import leaves
from tests.adapt.partners.mixture_reference import naive_fixed_share
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

EVEN = math.log(0.5)
SHARES = st.sampled_from([1e-6, 1e-3, 0.05, 0.5, 1.0])
NATS = st.one_of(st.floats(0, 10), st.floats(0, 1e3), st.sampled_from([0.0, 1e3]))
LOSSES = st.lists(st.tuples(NATS, NATS), min_size=1, max_size=60)


def mixed(share, losses, mixture=fixed_share):
    """Return (nats of the mixture, the weights after it) of one lane's losses."""
    experts_BT2 = torch.tensor([losses], dtype=torch.float64)
    mask_BT = torch.ones(experts_BT2.shape[:2])
    nats_BT, log_w_B2 = mixture(share, torch.full((1, 2), EVEN, dtype=torch.float64), experts_BT2, mask_BT)
    return nats_BT[0], log_w_B2[0]


def best_sequences(losses):
    """Return the least nats of a sequence of experts with m changes, for each m, by dynamic programming."""
    best = {(0, expert): losses[0][expert] for expert in (0, 1)}
    for pair in losses[1:]:
        best = {
            (m, expert): pair[expert] + min(best.get((m, expert), math.inf), best.get((m - 1, 1 - expert), math.inf))
            for m in range(len(losses))
            for expert in (0, 1)
            if min(best.get((m, expert), math.inf), best.get((m - 1, 1 - expert), math.inf)) < math.inf
        }
    return {m: min(best.get((m, 0), math.inf), best.get((m, 1), math.inf)) for m, _ in best}


def assert_bounded(share, losses):
    total = float(mixed(share, losses)[0].sum())
    for changes, nats in best_sequences(losses).items():
        assert total <= nats + FixedShareMixture(share).allowance(len(losses), changes) + 1e-9 * (1 + nats)


@settings(max_examples=60, deadline=None)
@given(share=SHARES, losses=LOSSES)
def test_the_bound_holds_for_every_number_of_switches(share, losses):
    assert_bounded(share, losses)


@settings(max_examples=40, deadline=None)
@given(share=SHARES, tokens=st.integers(1, 60), gap=st.floats(0, 1e3))
def test_the_bound_holds_against_an_adversary(share, tokens, gap):
    """At each token the expert that the mixture trusts more loses ``gap`` nats, the other none."""
    losses = []
    for _ in range(tokens):
        log_w_2 = mixed(share, losses)[1] if losses else [0.0, -1.0]
        losses.append((gap, 0.0) if log_w_2[0] >= log_w_2[1] else (0.0, gap))
    assert_bounded(share, losses)


def test_the_bound_is_reached():
    """An expert that gives no probability at all costs log 2 and each later token's share: the bound has no slack."""
    total = float(mixed(1e-3, [(1.0, math.inf)] * 500)[0].sum())
    assert total - 500 == pytest.approx(FixedShareMixture(1e-3).allowance(500), rel=1e-9)
    assert FixedShareMixture(1e-3).allowance(500) == pytest.approx(math.log(2) + 499 * 5e-4, rel=1e-3)
    # One token is too few for any change of experts, whatever the share: it costs log 2.
    assert float(mixed(0.5, [(1.0, math.inf)])[0].sum()) - 1 == pytest.approx(
        FixedShareMixture(0.5).allowance(1), rel=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(
    share=SHARES,
    losses=st.lists(st.lists(st.tuples(NATS, NATS), min_size=7, max_size=7), min_size=1, max_size=4),
    masked=st.integers(0, 2**28 - 1),
)
def test_nats_and_weights_equal_the_reference(share, losses, masked):
    experts_BT2 = torch.tensor(losses, dtype=torch.float64)
    experts_BT2[0, 2, 1], experts_BT2[0, 4, 0], experts_BT2[0, 5] = math.nan, math.inf, math.inf
    mask_BT = torch.tensor([[masked >> (7 * b + t) & 1 for t in range(7)] for b in range(len(losses))])
    weights_B2 = torch.tensor([[0.9, 0.1], [1e-9, 1 - 1e-9], [0.5, 0.5], [0.2, 0.8]], dtype=torch.float64)
    log_w_B2 = weights_B2[: len(losses)].log()
    found, expected = (mixture(share, log_w_B2, experts_BT2, mask_BT) for mixture in (fixed_share, naive_fixed_share))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-9)
    assert not any(tensor.isnan().any() for tensor in found)
    torch.testing.assert_close(found[1].logsumexp(1), torch.zeros(len(losses)).double(), rtol=0, atol=1e-12)


def test_masked_tokens_change_nothing():
    experts_BT2 = torch.rand(2, 6, 2, dtype=torch.float64) * 5
    log_w_B2 = torch.full((2, 2), EVEN, dtype=torch.float64)
    mask_BT = torch.ones(2, 6)
    mask_BT[0, 4:] = 0
    _, after = fixed_share(0.01, log_w_B2, experts_BT2, mask_BT)
    _, short = fixed_share(0.01, log_w_B2, experts_BT2[:, :4], mask_BT[:, :4])
    assert torch.equal(after[0], short[0]) and not torch.equal(after[1], short[1])
    _, still = fixed_share(0.01, log_w_B2, experts_BT2, torch.zeros(2, 6))
    assert torch.equal(still, log_w_B2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=60, deadline=None)
@given(share=SHARES, nats=st.lists(st.floats(0, 1e3, width=32), min_size=1, max_size=30))
def test_the_mixture_of_equal_experts_equals_them_bit_for_bit(dtype, share, nats):
    experts_BT2 = torch.tensor([[[n, n] for n in nats]], dtype=dtype)
    log_w_B2 = torch.log(torch.tensor([[0.3, 0.7]], dtype=torch.float64))
    nats_BT, after_B2 = fixed_share(share, log_w_B2, experts_BT2, torch.ones(1, len(nats)))
    assert torch.equal(nats_BT, experts_BT2[..., 0])
    assert after_B2[0, 0] > log_w_B2[0, 0]  # Sharing moves the weights toward each other.


def test_every_next_token_has_the_weighted_probability():
    level_1_BTV, rule_BTV = torch.randn(2, 3, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rule_BTV[2] = math.nan
    weights_B2 = torch.tensor([[0.3, 0.7], [1.0, 0.0], [0.9, 0.1]], dtype=torch.float64)
    found = MixtureState(weights_B2.log(), ()).log_mixture(level_1_BTV, rule_BTV).exp()
    expected = weights_B2[:, :1, None] * level_1_BTV.softmax(2)
    expected[:2] += weights_B2[:2, 1:, None] * rule_BTV[:2].softmax(2)
    torch.testing.assert_close(found, expected)


# --- In THE loop -----------------------------------------------------------------------------------------------------


def with_mixture(name="rms", reset="stream", reference=False, share=0.02, **options):
    return dataclasses.replace(dynamic_model(name, reset, reference, **options), mixture=FixedShareMixture(share))


def experts_of(chosen, split=None):
    return torch.cat([read.experts_BT2[0] for read in iter_segments(chosen, stream(split))])


@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES[1:])
def test_the_experts_are_level_1_and_the_rule_bit_for_bit(name, dtype, reset):
    experts_N2 = experts_of(with_mixture(name, reset, dtype=dtype))
    assert torch.equal(experts_N2[:, 0], nats_of(dynamic_model("none", dtype=dtype)))
    assert torch.equal(experts_N2[:, 1], nats_of(dynamic_model(name, reset, dtype=dtype)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_segments_in_turn_equal_the_whole_text(name, reset):
    """Weights run on from segment to segment; under "article" they start afresh with each article."""
    split, chosen = text(), with_mixture(name, reset)
    experts_N2 = experts_of(chosen, split)
    ends = [*split.starts[1:-1]] if reset == "article" else []
    expected = [mixed(0.02, part.tolist(), naive_fixed_share)[0] for part in experts_N2.tensor_split(ends)]
    torch.testing.assert_close(nats_of(chosen, split), torch.cat(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "rms"])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_losses_equal_those_by_autograd(name, reset):
    by_hand, by_autograd = (nats_of(with_mixture(name, reset, reference)) for reference in (False, True))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("at_once", [1, 3, 16])
def test_lanes_equal_one_lane_after_another(at_once, monkeypatch):
    set_lanes_at_once(monkeypatch, at_once)
    split, chosen = text((23, 31, 8, 2, 17, 40, 5, 12, 9)), with_mixture("rms", "article")
    found = nats_side_by_side(chosen, split, 4)
    torch.testing.assert_close(found, nats_of(chosen, split), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_no_loss_depends_on_a_later_token(reset):
    assert_no_loss_depends_on_a_later_token(with_mixture("rms", reset), every=4)


@settings(max_examples=10, deadline=None)
@given(stop=st.integers(1, 12), reset=st.sampled_from(["stream", "article"]))
def test_reading_on_from_a_copied_memory_equals_reading_at_once(stop, reset):
    chosen = with_mixture("rms", reset)
    sitting = iter_segments(chosen, stream())
    reads = list(itertools.islice(sitting, stop))
    kept = reads[-1].memory.copy()
    list(sitting)  # Reading on does not change a copy.
    rest = [read.nats_T for read in iter_segments(chosen, stream(), kept, reads[-1].position)]
    assert torch.equal(torch.cat([*(read.nats_T for read in reads), *rest]), nats_of(chosen))


def test_weights_and_state_do_not_depend_on_the_mixture():
    *_, beside = iter_segments(with_mixture("rms"), stream())
    *_, alone = iter_segments(dynamic_model("rms"), stream())
    pairs = zip(leaves(alone.memory), leaves(beside.memory._replace(mixture=None)), strict=True)
    assert all(path == other_path and torch.equal(one, other) for (path, one), (other_path, other) in pairs)


def test_fresh_memory_with_each_article_makes_articles_independent():
    split, chosen = text(), with_mixture("rms", "article")
    whole = nats_of(chosen, split)
    for article in range(split.articles):
        alone = torch.cat([read.nats_T for read in iter_segments(chosen, read_in_order(split, 5, [article]))])
        assert torch.equal(alone, whole[split.starts[article] : split.starts[article + 1]])


def test_a_rule_that_diverges_costs_at_most_the_bound():
    split, wild = text((200,)), with_mixture("sgd", rate=1e308)
    assert not nats_of(dataclasses.replace(wild, mixture=None), split).isfinite().all()
    level_1, found = nats_of(dynamic_model("none"), split), nats_of(wild, split)
    assert float(found.sum() - level_1.sum()) <= wild.mixture.allowance(200)


def test_a_reading_with_a_mixture_is_not_captured():
    assert torch.equal(nats_of(captured(with_mixture("rms"))), nats_of(with_mixture("rms")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_zero_are_level_1_bit_for_bit(dtype):
    chosen = with_mixture("rms", dtype=dtype)
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    assert torch.equal(nats_of(still), nats_of(dynamic_model("none", dtype=dtype)))


def test_the_weights_start_equal_in_each_lane():
    mixture = with_mixture("rms").fresh_memory(3).mixture
    assert isinstance(mixture, MixtureState)
    np.testing.assert_allclose(mixture.log_weights_B2.exp().numpy(), np.full((3, 2), 0.5))


@settings(max_examples=40, deadline=None)
@given(share=SHARES, articles=st.lists(LOSSES, min_size=1, max_size=6))
def test_each_restart_costs_at_most_as_much_as_the_start(share, articles):
    total = sum(float(mixed(share, losses)[0].sum()) for losses in articles)
    level_1 = sum(nats for losses in articles for nats, _ in losses)
    tokens = sum(map(len, articles))
    allowed = FixedShareMixture(share).allowance(tokens, restarts=len(articles) - 1)
    assert total <= level_1 + allowed + 1e-9 * (1 + level_1)


def test_the_bound_of_thirty_articles_is_reached():
    articles = [[(1.0, math.inf)] * 200] * 30
    cost = sum(float(mixed(1e-3, losses)[0].sum()) - 200 for losses in articles)
    assert cost == pytest.approx(FixedShareMixture(1e-3).allowance(6000, restarts=29), rel=1e-9)
    assert cost == pytest.approx(23.8, abs=0.05) and FixedShareMixture(1e-3).allowance(6000) < 3.8
