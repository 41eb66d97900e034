"""THE loop: the protocol that makes a figure honest, promise by promise."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.loop import begin_articles, gradient_statistics, iter_segments, mean_nats
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.elementwise import Rates
from dynlm.adapt.state import dynamic_tensors, leaves
from dynlm.data.stream import Stream, read_in_order, read_side_by_side
from dynlm.errors import UserError
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import ModelOptions
from tests.adapt.readings import MODEL, NAMES, RULES, reader, static_params, statistics, stream, text


def nats_of(chosen, split=None, segment=5):
    return torch.cat([read.nats_T for read in iter_segments(chosen, stream(split, segment))])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def plain_python_rms(split, segment, eta, lam, epsilon, scale_of_tensor):
    """Dynamic evaluation with no torch but for the gradient's finite precision: loops over lists of floats.

    The gradient is by the chain rule, written out by hand for one tied LSTM layer.
    """
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


def test_rms_is_an_independent_plain_implementation():
    split = text()
    factors = {name: 1 + index for index, name in enumerate(NAMES)}
    wanted = plain_python_rms(split, 5, eta=0.02, lam=0.05, epsilon=1e-2, scale_of_tensor=factors)
    found = nats_of(reader("rms"), split).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0)
    assert np.abs(found - nats_of(reader("none"), split).numpy()).max() > 0.1  # The memory did something.


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_the_fast_way_is_the_reference(name, reset):
    fast, slow = (nats_of(reader(name, reset, reference)) for reference in (False, True))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("at_a_time", [1, 3, 16])
@pytest.mark.parametrize("lanes", [2, 3, 7])
@pytest.mark.parametrize("name", RULES)
def test_lanes_are_one_lane_at_a_time(name, lanes, at_a_time, monkeypatch):
    """Articles of all lengths, also more of them than lanes and more lanes than are read at a time."""
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: at_a_time)
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    chosen = reader(name, "article")
    wanted = nats_of(chosen, split)
    found = torch.full_like(wanted, math.nan)
    for read in iter_segments(chosen, read_side_by_side(split, 5, range(split.articles), lanes)):
        for nats_T, mask_T, article, position in zip(
            read.nats_BT, read.segment.mask_BT, read.segment.article_B, read.segment.position_B, strict=True
        ):
            at = int(split.starts[article] + position)
            found[at : at + mask_T.sum()] = nats_T[torch.from_numpy(mask_T)]
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RULES[1:])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_lanes_by_the_reference_leave_the_same_weights(name, reset, monkeypatch):
    monkeypatch.setattr("dynlm.adapt.segment.lanes_at_a_time", lambda *_: 2)
    split = text((23, 31, 8, 2, 17, 40, 5))
    last = {}
    for reference in (False, True):
        endless = Stream(split, 5, 5, range(split.articles), seed=1, repeat=True)
        *_, last[reference] = itertools.islice(iter_segments(reader(name, reset, reference), endless), 12)
    fast, slow = last[False].memory.weights, last[True].memory.weights
    for tensor in NAMES:
        assert fast[tensor].shape == (5, *MODEL.shapes()[tensor])
        torch.testing.assert_close(fast[tensor], slow[tensor], rtol=1e-10, atol=1e-12)


def test_in_bfloat16_only_products_are_rounded():
    exact = reader("rms", dtype=torch.float32)
    rough = dataclasses.replace(exact, precision=torch.bfloat16)
    *_, last = iter_segments(rough, stream())
    assert all(tensor.dtype == torch.float32 for tensor in last.memory.weights.values())
    wanted, found = nats_of(exact), nats_of(rough)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.1


@pytest.mark.parametrize("name", RULES[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rates_of_zero_are_level_1_bit_for_bit(name, dtype):
    chosen = reader(name, dtype=dtype)
    still = dataclasses.replace(chosen.rule, rates=dict.fromkeys(NAMES, Rates(0.0, 0.0)))
    assert torch.equal(nats_of(dataclasses.replace(chosen, rule=still)), nats_of(reader("none", dtype=dtype)))


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_no_loss_depends_on_a_later_token(name, reset):
    split, chosen = text(), reader(name, reset)
    before = nats_of(chosen, split)
    for place in range(0, len(split.ids_N), 3):
        ids = split.ids_N.copy()
        ids[place] = (ids[place] + 1) % MODEL.vocabulary
        after = nats_of(chosen, dataclasses.replace(split, ids_N=ids))
        assert torch.equal(after[:place], before[:place])
        assert after[place] != before[place]


@settings(max_examples=25, deadline=None)
@given(name=st.sampled_from(RULES), stop=st.integers(1, 12), reset=st.sampled_from(["stream", "article"]))
def test_reading_in_two_sittings_is_reading_in_one(name, stop, reset):
    chosen = reader(name, reset)
    whole = nats_of(chosen)
    sitting = iter_segments(chosen, stream())
    reads = [next(sitting) for _ in range(stop)]
    rest = [read.nats_T for read in iter_segments(chosen, stream(), reads[-1].memory, reads[-1].place)]
    assert torch.equal(torch.cat([*(read.nats_T for read in reads), *rest]), whole)


def test_fresh_memory_with_each_article_makes_articles_independent():
    split, chosen = text(), reader("rms", "article")
    whole = nats_of(chosen, split)
    for article in range(split.articles):
        alone = torch.cat([read.nats_T for read in iter_segments(chosen, read_in_order(split, 5, [article]))])
        assert torch.equal(alone, whole[split.starts[article] : split.starts[article + 1]])
    ran_through = nats_of(reader("rms", "stream"), split)
    assert torch.equal(ran_through[: split.starts[1]], whole[: split.starts[1]])
    assert not torch.equal(ran_through[split.starts[1] :], whole[split.starts[1] :])


def test_static_parameters_never_change():
    chosen = reader("rms")
    before = {name: tensor.clone() for name, tensor in chosen.static.items()}
    nats_of(chosen)
    assert all(torch.equal(before[name], chosen.static[name]) for name in NAMES)


def test_only_dynamic_tensors_move():
    made = reader("sgd")
    names = dynamic_tensors(MODEL, ["lstm.*"])
    assert names == ("lstm.0.input", "lstm.0.recurrent", "lstm.0.bias")
    only = dataclasses.replace(made.rule, rates={name: made.rule.rates[name] for name in names})
    *_, last = iter_segments(dataclasses.replace(made, rule=only, dynamic=names), stream())
    assert set(last.memory.weights) == set(names)
    assert all(not torch.equal(last.memory.weights[name], made.static[name]) for name in names)


def test_an_unknown_tensor_is_named_with_those_there_are():
    with pytest.raises(UserError, match=r"'gru\.\*'.*embedding, lstm\.0\.input"):
        dynamic_tensors(LSTMLanguageModel(ModelOptions(), 10), ["gru.*"])


def test_learning_helps_on_a_text_that_repeats_itself():
    split = text((120,))
    split.ids_N[:] = np.tile(split.ids_N[:6], 20)
    level_1, sgd = (mean_nats(reader(name, rate=0.2, pull=0.0), stream(split)) for name in ("none", "sgd"))
    assert sgd < level_1 - 0.3


def test_a_copied_memory_is_left_as_it_is():
    chosen = reader("sgd")
    sitting = iter_segments(chosen, stream())
    kept = next(sitting).memory.copy()
    before = {name: tensor.clone() for name, tensor in kept.weights.items()}
    list(sitting)
    assert all(torch.equal(before[name], kept.weights[name]) for name in NAMES)


def test_statistics_are_the_root_mean_square_of_segment_gradients():
    static, split = static_params(), text((20,))
    found = gradient_statistics(MODEL, static, ("output.bias",), stream(split), tokens=20).rms["output.bias"]
    squares, hidden = [], MODEL.initial_hidden(1, static["embedding"])
    for begin in range(0, 20, 5):
        bias = static["output.bias"].clone().requires_grad_()
        inputs = torch.from_numpy(split.inputs(0)[begin : begin + 5]).long()[None]
        targets = torch.from_numpy(split.ids_N[begin : begin + 5]).long()[None]
        params = {**static, "output.bias": bias}
        total, _, hidden = MODEL.naive_loss(params, inputs, targets, torch.full((1, 5), 0.2).double(), hidden)
        squares.append(torch.autograd.grad(total, bias)[0] ** 2)
        hidden = tuple((h.detach(), c.detach()) for h, c in hidden)
    torch.testing.assert_close(found, torch.stack(squares).mean(0).sqrt())


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("part", ["weights", "hidden", "pace", "home", "velocity", "coordinates", "cache", "hedge"])
def test_what_is_no_number_does_not_outlive_the_article(name, part):
    """Under reset "article" the next article is read as if nothing had been, whatever the last one left."""
    own = dataclasses.replace(reader(name, "article"), cache=Cache(40, (0.5,), 0.3), hedge=FixedShareMixture(0.01))
    split = text()
    memory = own.fresh_memory()
    read = list(iter_segments(own, read_in_order(split, 5, [0]), memory.copy()))[-1]
    for at, tensor in leaves(read.memory):
        if at.startswith(part) and tensor.is_floating_point():
            tensor.fill_(torch.nan)
    after = list(iter_segments(own, read_in_order(split, 5, [1]), read.memory))
    fresh = list(iter_segments(own, read_in_order(split, 5, [1])))
    assert torch.equal(torch.cat([r.nats_T for r in after]), torch.cat([r.nats_T for r in fresh]))


def test_slow_weights_take_in_what_an_article_taught_when_the_next_begins():
    """home <- home + taken * (theta - home), by hand; under reset "article" it goes back to theta_0."""
    split = text()
    for reset in ("stream", "article"):
        own = reader("g", reset)
        memory = list(iter_segments(own, read_in_order(split, 5, [0])))[-1].memory
        before, theta = memory.copy().home, memory.copy().weights
        starts = np.array([True])
        begun = begin_articles(own, memory.copy(), starts, torch.from_numpy(starts))
        for name in NAMES:
            home, moved = before[name][0], theta[name][0]
            wanted = home + own.rule.taken_in(name) * (moved - home) if reset == "stream" else own.static[name]
            assert torch.equal(begun.home[name][0], wanted)
            assert reset == "article" or not torch.equal(wanted, home)


def test_a_memory_without_slow_weights_begins_articles_with_none():
    own = reader("rms")
    starts = np.array([True])
    assert not begin_articles(own, own.fresh_memory(), starts, torch.from_numpy(starts)).home


def test_experts_are_told_of_a_mixture_alone():
    (read, *_) = iter_segments(reader("rms"), stream())
    with pytest.raises(AssertionError, match="no mixture was read"):
        _ = read.experts_BT2
