"""Forward meta-gradients equal those by reverse mode through an unroll that keeps everything."""

import itertools

import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES, LearnedRuleOptions
from dynlm.adapt.partners.replay import Replay
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.learned import SHARES, LearnedRule
from dynlm.adapt.rules.registry import RULES
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.data.stream import Stream, read_in_order
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from tests.adapt.meta_gradient.reverse import unrolled_meta_gradient
from tests.adapt.readings import (
    NAMES,
    VOCABULARY,
    engine,
    moved_phi,
    set_lanes_at_once,
    static_params,
    statistics,
    stream,
    text,
)
from tests.adapt.readings import meta as g

ORDER = ["output.bias", "output.weight", "lstm.0.recurrent", "lstm.0.bias", "lstm.0.input", "embedding"]
EVERYTHING = {"importance": True, "features": FEATURES, "boundary_reset": True, "sharing": "row", "slow": True}
KINDS = {
    "rates": {},
    "level 2": {"level": 2, "features": FEATURES, "importance": True},
    "importance": {"importance": True},
    "gates": {"features": FEATURES},
    "boundary_reset": {"boundary_reset": True},
    "given slow weights": {"boundary_reset": True, "features": FEATURES, "importance": True, "slow_rate": 0.3},
    "slow": {"slow": True},
    "slow, level 2": {
        "level": 2,
        "slow": True,
        "boundary_reset": True,
        "slow_rate": 0.1,
        "features": ("weight_distance",),
    },
    "slow, step": {"slow": True, "slow_step": 0.3, "slow_rate": 0.2, "boundary_reset": True, "importance": True},
    "step of the decay": {"decay_step": 0.3, "boundary_reset": True},
    "step of the decay, gates, slow weights": {
        "decay_step": 0.3,
        "slow_step": 0.2,
        "slow_rate": 0.3,
        "boundary_reset": True,
        "features": ["doc_age_20", "loss_delta"],
    },
    "given slow weights, step": {"slow_step": 0.3, "slow_rate": 0.2, "boundary_reset": True},
    "slow, momentum": {"slow": True, "boundary_reset": True, "momentum": 0.4},
    "kinds": {"sharing": "kind"},
    "kinds, gates": {**EVERYTHING, "sharing": "kind"},
    "rows": {"sharing": "row"},
    "weights": {"sharing": "weight"},
    "momentum": {"momentum": 0.5, "features": ("doc_age_20",)},
    "adam": {"base": "adam"},
    "adam, gates": {**EVERYTHING, "base": "adam"},
    "replay": {"replay_rate": 0.4},
    "replay, gates, slow weights": {
        "replay_rate": 0.4,
        "decay_step": 0.3,
        "slow_step": 0.2,
        "slow_rate": 0.3,
        "boundary_reset": True,
        "importance": True,
        "features": ["doc_age_20", "loss_delta", "grad_rms"],
    },
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("pull", [0.05, 0.0])
@pytest.mark.parametrize(
    "options", [{}, EVERYTHING, {**EVERYTHING, "sharing": "kind"}], ids=["rates", "everything", "kinds"]
)
def test_phi_of_zero_is_the_tuned_rms_rule_bit_for_bit(pull, options):
    meta = g(pull, **options)
    made, tuned = meta.rule(meta.initial()), uniform_rule("rms", NAMES, 0.02, pull, (statistics(), 1e-2))
    read = [
        torch.cat([r.nats_T for r in iter_segments(DynamicModel(engine(), static_params(), rule, NAMES), stream())])
        for rule in (made, tuned)
    ]
    assert torch.equal(*read)


@pytest.mark.parametrize("pull", [0.05, 0.0])
@pytest.mark.parametrize("options", [{}, EVERYTHING, {"sharing": "weight"}], ids=["rates", "everything", "weights"])
def test_phi_of_zero_is_the_tuned_adam_bit_for_bit(pull, options):
    meta = g(pull, torch.float32, base="adam", **options)
    made = meta.rule(meta.initial())
    tuned = RULES["adam"].build(NAMES, {"lr": 0.02, "decay": pull, "beta1": 0.8, "beta2": 0.9}, None)
    static = static_params(torch.float32)
    read = [
        torch.cat([r.nats_T for r in iter_segments(DynamicModel(engine(), static, rule, NAMES), stream())])
        for rule in (made, tuned)
    ]
    assert torch.equal(*read)
    assert ("decay" in meta.initial()) == (pull > 0)


def build_dynamic_model(meta, phi, reset="stream", reference=False):
    replay = Replay(meta.g.replay_rate, tokens=5, segments=3) if meta.g.replay_rate else None
    return DynamicModel(engine(reference), static_params(), meta.rule(phi), NAMES, reset, replay=replay)


def forward_mode(meta, phi, segments, reset="stream", source=None, reference=False):
    """Return (sum of mean nats, sum over segments of dL / d phi)."""
    return forward_by(build_dynamic_model(meta, phi, reset, reference), meta, phi, segments, source)


def forward_by(chosen, meta, phi, segments, source=None):
    source = stream() if source is None else source
    memory, place, total = chosen.fresh_memory(source.local_lanes), source.begin(), 0.0
    sensitivities = Sensitivities(meta, phi, chosen, memory)
    for _ in range(segments):
        segment, place = source.next(place)
        sensitivities.begin_segment(chosen, memory, segment)
        nats_BT, memory = read_segment(chosen, memory, segment, sensitivities)
        total += float(nats_BT.mean())
    return total, sensitivities.gradients()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_forward_equals_reverse_within_rounding(kind, reset):
    meta = g(**KINDS[kind])
    phi = moved_phi(meta)
    nats, expected = unrolled_meta_gradient(build_dynamic_model(meta, phi, reset), meta, phi, stream(), segments=14)
    total, found = forward_mode(meta, phi, 14, reset)
    assert total == pytest.approx(nats, rel=1e-12)
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)
        # Under "article" weights and anchors start afresh.
        assert found[key].abs().max() > 0 or (key in SHARES and reset == "article")


@pytest.mark.parametrize("left_out, tied", [(n, tied) for tied in (True, False) for n in range(5 if tied else 6)])
def test_steepness_is_of_the_output_tensor_whichever_tensors_move(left_out, tied, monkeypatch):
    """By both engines and in reverse, with gradients in parts of two rows where they come in parts."""
    monkeypatch.setattr("dynlm.models.lstm.engine._rows_of_a_part", lambda *_: 2)
    model = LSTMLanguageModel(LSTMOptions(embedding=6, hidden=6, layers=1, tied=tied), VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    static = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64) * 0.3
        for name, shape in model.shapes().items()
    }
    order = sorted(static, key=ORDER.index)[left_out:]
    names = tuple(name for name in static if name in order)
    held, own = Statistics({name: static[name].abs() * 0.1 for name in names}), {name: static[name] for name in names}
    g = LearnedRuleOptions(features=["grad_rms", "weight_distance"])
    meta = LearnedRule(held, own, 0.02, 0.05, 1e-2, g, order[0])
    phi = moved_phi(meta)
    engines = LSTMEngine(model), AutogradEngine(model.twice_differentiable())
    by_hand, by_autograd = (DynamicModel(each, static, meta.rule(phi), names) for each in engines)
    found, expected = (torch.cat([r.nats_T for r in iter_segments(each, stream())]) for each in (by_hand, by_autograd))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    _, forward = forward_by(by_hand, meta, phi, 9)
    _, reverse = unrolled_meta_gradient(by_hand, meta, phi, stream(), segments=9)
    for key, tensor in reverse.items():
        torch.testing.assert_close(forward[key], tensor, rtol=1e-9, atol=1e-12)
    assert reverse["lr.gates"].abs().max() > 0


@pytest.mark.parametrize("pull", [0.18, 3.0])
def test_decays_are_clamped_weight_by_weight(pull):
    meta = g(pull=pull, importance=True, features=("doc_age_20",))
    phi = moved_phi(meta)
    _, expected = unrolled_meta_gradient(build_dynamic_model(meta, phi), meta, phi, stream(), segments=9)
    _, found = forward_mode(meta, phi, 9)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("at_once", [1, 3])
def test_gradients_are_summed_over_lanes(at_once, monkeypatch):
    set_lanes_at_once(monkeypatch, at_once)
    meta = g(**EVERYTHING)
    phi, split = moved_phi(meta), text((20, 20, 20, 20, 20))
    _, together = forward_mode(meta, phi, 4, "article", Stream(split, 5, 5, range(5)))
    alone = [forward_mode(meta, phi, 4, "article", read_in_order(split, 5, [a]))[1] for a in range(5)]
    for key, found in together.items():
        torch.testing.assert_close(found, sum(one[key] for one in alone), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", ["gates", "everything", "momentum", "adam", "slow, level 2"])
def test_readings_by_autograd_give_the_same(kind):
    meta = g(**KINDS[kind])
    phi = moved_phi(meta)
    (by_hand, found), (by_autograd, expected) = (
        forward_mode(meta, phi, 14, reference=reference) for reference in (False, True)
    )
    assert by_hand == pytest.approx(by_autograd, rel=1e-12)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "kind",
    ["rates", "importance", "gates", "boundary_reset", "slow", "kinds", "rows", "momentum", "adam", "everything"],
)
def test_second_order_equals_finite_differences(kind):
    meta, step = g(**KINDS[kind]), 1e-6
    phi = moved_phi(meta)
    chosen = build_dynamic_model(meta, phi)
    _, expected = unrolled_meta_gradient(chosen, meta, phi, stream(), segments=13, second_order=True)
    _, first = unrolled_meta_gradient(chosen, meta, phi, stream(), segments=13)
    assert any((expected[key] - first[key]).abs().max() > 1e-6 for key in expected)  # The orders do differ.
    for key, tensor in phi.items():
        for index in itertools.islice(range(tensor.numel()), 2):
            losses = []
            for sign in (1, -1):
                moved = {**phi, key: tensor.clone()}
                moved[key].view(-1)[index] += sign * step
                read = itertools.islice(iter_segments(build_dynamic_model(meta, moved), stream()), 13)
                losses.append(sum(float(each.nats_T.mean()) for each in read))
            difference = (losses[0] - losses[1]) / (2 * step)
            assert float(expected[key].view(-1)[index]) == pytest.approx(difference, rel=2e-5, abs=5e-8)


def test_phi_of_zero_is_the_rms_rule():
    meta = g(**EVERYTHING)
    plain = g()
    zero, rms = (forward_mode(each, each.initial(), 11)[0] for each in (meta, plain))
    assert zero == pytest.approx(rms, rel=1e-13)


def test_slow_weights_of_rate_zero_change_no_bit():
    slow, plain = g(slow=True, boundary_reset=True), g()
    assert forward_mode(slow, slow.initial(), 11)[0] == forward_mode(plain, plain.initial(), 11)[0]
    given = g(slow=True, slow_rate=0.2)
    fixed = g(slow_rate=0.2)
    assert forward_mode(given, given.initial(), 11)[0] == forward_mode(fixed, fixed.initial(), 11)[0]
