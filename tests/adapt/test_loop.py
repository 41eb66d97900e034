"""THE loop: no loss depends on what comes later, lanes are independent, and segments in turn equal the whole text."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.loop import iter_segments, mean_nats, read_segment, start_articles
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.data.stream import Stream, read_in_order, read_side_by_side
from dynlm.errors import UserError
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from dynlm.runtime.tree import leaves
from tests.adapt.readings import (
    MODEL,
    NAMES,
    RULES,
    assert_no_loss_depends_on_a_later_token,
    dynamic_model,
    engine,
    nats_of,
    set_lanes_at_once,
    static_params,
    statistics,
    stream,
    text,
)


def nats_side_by_side(chosen, split, lanes):
    """Return the losses of reading in lanes, in the order of the text."""
    found = torch.full((len(split.ids_N),), math.nan, dtype=torch.float64)
    for read in iter_segments(chosen, read_side_by_side(split, 5, range(split.articles), lanes)):
        segment = read.segment
        for nats_T, mask_T, article, position in zip(
            read.nats_BT, segment.mask_BT, *segment.position_B2.T, strict=True
        ):
            at = int(split.starts[article] + position)
            found[at : at + mask_T.sum()] = nats_T[torch.from_numpy(mask_T)]
    return found


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def numpy_rms(split, segment, eta, lam, epsilon, scale_of_tensor):
    """Dynamic evaluation in NumPy, token by token; the gradient is written out for one tied LSTM layer."""
    theta_0 = {name: tensor.numpy().copy() for name, tensor in static_params().items()}
    theta = {name: array.copy() for name, array in theta_0.items()}
    R = {name: tensor.numpy() for name, tensor in statistics().rms.items()}
    mean = sum(array.mean() for array in R.values()) / len(R)
    losses = []
    width = 6
    for article in range(split.articles):
        ids, inputs = split.article(article), split.inputs(article)
        h, c = np.zeros(width), np.zeros(width)
        for begin in range(0, len(ids), segment):
            E, W, U = theta["embedding"], theta["lstm.0.input"], theta["lstm.0.recurrent"]
            b, bias = theta["lstm.0.bias"], theta["output.bias"]
            steps = []
            for fed, target in zip(inputs[begin : begin + segment], ids[begin : begin + segment], strict=True):
                z = W @ E[fed] + U @ h + b
                i, f, o = (np.array([sigmoid(v) for v in z[k * width : (k + 1) * width]]) for k in (0, 1, 3))
                g = np.tanh(z[2 * width : 3 * width])
                new_c = f * c + i * g
                new_h = o * np.tanh(new_c)
                logits = E @ new_h + bias
                p = np.exp(logits - logits.max())
                p /= p.sum()
                losses.append(-math.log(p[target]))
                steps.append((fed, target, h, c, i, f, g, o, new_c, new_h, p))
                h, c = new_h, new_c
            u = {name: np.zeros_like(array) for name, array in theta.items()}
            d_h, d_c = np.zeros(width), np.zeros(width)
            for fed, target, h_0, c_0, i, f, g, o, c_1, h_1, p in reversed(steps):
                d_logits = p.copy()
                d_logits[target] -= 1
                d_logits /= len(steps)
                u["embedding"] += np.outer(d_logits, h_1)
                u["output.bias"] += d_logits
                d_h = d_h + E.T @ d_logits
                d_c = d_c + d_h * o * (1 - np.tanh(c_1) ** 2)
                d_z = np.concatenate(
                    [
                        d_c * g * i * (1 - i),
                        d_c * c_0 * f * (1 - f),
                        d_c * i * (1 - g**2),
                        d_h * np.tanh(c_1) * o * (1 - o),
                    ]
                )
                u["lstm.0.input"] += np.outer(d_z, E[fed])
                u["lstm.0.recurrent"] += np.outer(d_z, h_0)
                u["lstm.0.bias"] += d_z
                u["embedding"][fed] += W.T @ d_z
                d_h, d_c = U.T @ d_z, d_c * f
            for name in theta:
                rate, pull = eta * scale_of_tensor[name], lam * scale_of_tensor[name]
                r = np.minimum(R[name] / mean, 1 / pull)
                theta[name] = (
                    theta[name] + pull * r * (theta_0[name] - theta[name]) - rate * u[name] / (R[name] + epsilon)
                )
    return np.array(losses)


def test_rms_equals_an_independent_implementation_in_numpy():
    split = text()
    factors = {name: 1 + index for index, name in enumerate(NAMES)}
    expected = numpy_rms(split, 5, eta=0.02, lam=0.05, epsilon=1e-2, scale_of_tensor=factors)
    found = nats_of(dynamic_model("rms"), split).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6, rtol=0)
    assert np.abs(found - nats_of(dynamic_model("none"), split).numpy()).max() > 0.1  # The memory did something.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_losses_equal_those_by_autograd(name, reset):
    by_hand, by_autograd = (nats_of(dynamic_model(name, reset, reference)) for reference in (False, True))
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 3, 16])
@pytest.mark.parametrize("lanes", [2, 3, 7])
@pytest.mark.parametrize("name", RULES)
def test_lanes_equal_one_lane_after_another(name, lanes, at_once, monkeypatch):
    """Articles of all lengths, more of them than lanes, and more lanes than are scored at once."""
    set_lanes_at_once(monkeypatch, at_once)
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    chosen = dynamic_model(name, "article")
    found = nats_side_by_side(chosen, split, lanes)
    torch.testing.assert_close(found, nats_of(chosen, split), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RULES[1:])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_weights_of_lanes_equal_those_by_autograd(name, reset, monkeypatch):
    set_lanes_at_once(monkeypatch, 2)
    split = text((23, 31, 8, 2, 17, 40, 5))
    last = {}
    for reference in (False, True):
        endless = Stream(split, 5, 5, range(split.articles), seed=1, repeat=True)
        *_, last[reference] = itertools.islice(iter_segments(dynamic_model(name, reset, reference), endless), 12)
    by_hand, by_autograd = last[False].memory.params, last[True].memory.params
    for tensor in NAMES:
        assert by_hand[tensor].shape == (5, *MODEL.shapes()[tensor])
        torch.testing.assert_close(by_hand[tensor], by_autograd[tensor], rtol=1e-10, atol=1e-12)


def test_bfloat16_rounds_products_only():
    exact = dynamic_model("rms", dtype=torch.float32)
    rough = dataclasses.replace(exact, engine=engine(precision=torch.bfloat16))
    *_, last = iter_segments(rough, stream())
    assert all(tensor.dtype == torch.float32 for tensor in last.memory.params.values())
    expected, found = nats_of(exact), nats_of(rough)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1


@pytest.mark.parametrize("name", RULES[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_zero_are_level_1_bit_for_bit(name, dtype):
    chosen = dynamic_model(name, dtype=dtype)
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    assert torch.equal(nats_of(still), nats_of(dynamic_model("none", dtype=dtype)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_no_loss_depends_on_a_later_token(name, reset):
    assert_no_loss_depends_on_a_later_token(dynamic_model(name, reset), every=3)


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(RULES), stop=st.integers(1, 12), reset=st.sampled_from(["stream", "article"]))
def test_reading_on_from_a_memory_equals_reading_at_once(name, stop, reset):
    chosen = dynamic_model(name, reset)
    whole = nats_of(chosen)
    sitting = iter_segments(chosen, stream())
    reads = [next(sitting) for _ in range(stop)]
    rest = [read.nats_T for read in iter_segments(chosen, stream(), reads[-1].memory, reads[-1].position)]
    assert torch.equal(torch.cat([*(read.nats_T for read in reads), *rest]), whole)


def test_fresh_memory_with_each_article_makes_articles_independent():
    split, chosen = text(), dynamic_model("rms", "article")
    whole = nats_of(chosen, split)
    for article in range(split.articles):
        alone = torch.cat([read.nats_T for read in iter_segments(chosen, read_in_order(split, 5, [article]))])
        assert torch.equal(alone, whole[split.starts[article] : split.starts[article + 1]])
    ran_through = nats_of(dynamic_model("rms", "stream"), split)
    assert torch.equal(ran_through[: split.starts[1]], whole[: split.starts[1]])
    assert not torch.equal(ran_through[split.starts[1] :], whole[split.starts[1] :])


def test_static_parameters_never_change():
    chosen = dynamic_model("rms")
    before = {name: tensor.clone() for name, tensor in chosen.static.items()}
    nats_of(chosen)
    assert all(torch.equal(before[name], chosen.static[name]) for name in NAMES)


def test_only_dynamic_tensors_move():
    chosen = dynamic_model("sgd")
    names = MODEL.dynamic_tensors(["lstm.*"])
    assert names == ("lstm.0.input", "lstm.0.recurrent", "lstm.0.bias")
    *_, last = iter_segments(dataclasses.replace(chosen, rule=chosen.rule.of(names), dynamic=names), stream())
    assert set(last.memory.params) == set(names)
    assert all(not torch.equal(last.memory.params[name], chosen.static[name]) for name in names)


def test_a_pattern_that_fits_no_tensor_is_refused():
    with pytest.raises(UserError, match=r"'gru\.\*'.*embedding, lstm\.0\.input"):
        LSTMLanguageModel(LSTMOptions(), 10).dynamic_tensors(["gru.*"])


def test_learning_helps_on_a_text_that_repeats_itself():
    split = text((120,))
    split.ids_N[:] = np.tile(split.ids_N[:6], 20)
    level_1, sgd = (mean_nats(dynamic_model(name, rate=0.2, pull=0.0), stream(split)) for name in ("none", "sgd"))
    assert sgd < level_1 - 0.3


def test_reading_on_does_not_change_a_copied_memory():
    chosen = dynamic_model("sgd")
    sitting = iter_segments(chosen, stream())
    kept = next(sitting).memory.copy()
    before = {name: tensor.clone() for name, tensor in kept.params.items()}
    list(sitting)
    assert all(torch.equal(before[name], kept.params[name]) for name in NAMES)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("part", ["params", "state", "rule/lanes", "rule/slots", "cache", "mixture"])
def test_values_that_are_not_finite_do_not_outlive_the_article(name, part):
    """Under reset "article" the next article is read with a fresh memory, whatever the last one left."""
    chosen = dataclasses.replace(
        dynamic_model(name, "article"), cache=Cache(40, (0.5,), 0.3), mixture=FixedShareMixture(0.01)
    )
    split = text()
    *_, read = iter_segments(chosen, read_in_order(split, 5, [0]))
    for path, tensor in leaves(read.memory):
        if path.startswith(part) and tensor.is_floating_point():
            tensor.fill_(torch.nan)
    after = list(iter_segments(chosen, read_in_order(split, 5, [1]), read.memory))
    fresh = list(iter_segments(chosen, read_in_order(split, 5, [1])))
    assert torch.equal(torch.cat([r.nats_T for r in after]), torch.cat([r.nats_T for r in fresh]))


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_slow_weights_move_toward_the_weights_when_an_article_starts(reset):
    """anchor <- anchor + share * (theta - anchor); under reset "article" it goes back to theta_0."""
    chosen = dynamic_model("g", reset)
    *_, read = iter_segments(chosen, read_in_order(text(), 5, [0]))
    starts = np.array([True])
    started = start_articles(chosen, read.memory.copy(), starts, torch.from_numpy(starts))
    for name in NAMES:
        anchor, theta = read.memory.rule.slots["anchor"][name][0], read.memory.params[name][0]
        share = chosen.rule.boundary.slow_share(name, chosen.rule.boundary.slow_rate[name])
        expected = anchor + share * (theta - anchor) if reset == "stream" else chosen.static[name]
        assert torch.equal(started.rule.slots["anchor"][name][0], expected)
        assert reset == "article" or not torch.equal(expected, anchor)


def test_a_rule_without_slow_weights_keeps_none():
    chosen = dynamic_model("rms")
    starts = np.array([True])
    assert not start_articles(chosen, chosen.fresh_memory(), starts, torch.from_numpy(starts)).rule.slots


def test_lanes_without_text_are_skipped(monkeypatch):
    set_lanes_at_once(monkeypatch, 1)
    chosen, source = dynamic_model("g", "article"), read_side_by_side(text((10, 20)), 5, range(2), 2)
    memory, place = chosen.fresh_memory(2), source.begin()
    for _ in range(2):
        segment, place = source.next(place)
        _, memory = read_segment(chosen, memory, segment)
    before = memory.copy()
    segment, place = source.next(place)
    (busy,), (idle,) = (found.nonzero()[0] for found in (segment.mask_BT.any(1), ~segment.mask_BT.any(1)))
    _, memory = read_segment(chosen, memory, segment)
    for (path, one), (_, other) in zip(leaves(before), leaves(memory), strict=True):
        if not path.startswith("rule/lanes"):
            assert torch.equal(one[idle], other[idle]), path
            assert path.startswith("rule/slots/anchor") or not torch.equal(one[busy], other[busy]), path
