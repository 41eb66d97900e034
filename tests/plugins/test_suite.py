"""What every update rule and every model promises, those of other packages too."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.loop import iter_segments, read_segment
from dynlm.adapt.memory_file import SavedMemory, load_memory, save_memory
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES, LearnedRuleOptions, StepOptions
from dynlm.adapt.partners.replay import Replay
from dynlm.adapt.rules.base import Rule, Statistics
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.moments import Moments
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.adapt.rules.registry import RULES
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from dynlm.data.stream import Stream, read_side_by_side
from dynlm.models.options import LSTMOptions
from dynlm.models.protocol import SequenceModel
from dynlm.models.registry import EngineSettings, build_model, engine_for
from dynlm.runtime.tree import leaves
from dynlm.types import Params
from tests.adapt.meta_gradient.reverse import unrolled_meta_gradient
from tests.adapt.readings import VOCABULARY, moved_phi, stream, text
from tests.plugins import adamax, gru, transformer

MODELS = {
    "lstm": LSTMOptions(embedding=6, hidden=8, layers=2),
    "gru": gru.GRUOptions(kind="gru", width=7),
    "transformer": transformer.TransformerOptions(kind="transformer", width=8, context=9),
}
LEARNED = ("g", "g from adam", "per-weight LSTM")
_OF_RMS = ("rms", "rms+reset", "rms+slow", "rms+online", "rms+replay", "rms-batch")
RULE_NAMES = ["none", "sgd", "sgd+decay", *_OF_RMS, "adam", adamax.Adamax.name, *LEARNED]
_OWN = {"beta1": 0.8, "beta2": 0.9, "boundary_reset": 0.4, "slow_rate": 0.3, "slow_step": 0.05, "decay_step": 0.05}
_OWN |= {"replay_rate": 0.4}
CONSTANTS = {"lr": 0.005, "decay": 0.03, "epsilon": 1e-2, **_OWN}


class Setting(NamedTuple):
    """A model with its static parameters and the statistics of its gradients."""

    model: SequenceModel
    static: Params
    statistics: Statistics

    def learned(self, name: str) -> LearnedRule | LearnedLSTMRule:
        start = self.static, CONSTANTS["lr"], CONSTANTS["decay"], CONSTANTS["epsilon"]
        if name == "per-weight LSTM":
            return LearnedLSTMRule(self.statistics, *start, LearnedRuleOptions("lstm", hidden=3))
        adam = name == "g from adam"
        own = {"base": "adam", "sharing": "kind"} if adam else {"momentum": 0.3}
        g = LearnedRuleOptions(importance=True, features=[*FEATURES], boundary_reset=True, slow=True, **own)
        moments = Moments(CONSTANTS["beta1"], CONSTANTS["beta2"]) if adam else None
        output, kinds = self.model.output_tensor(self.static), self.model.tensor_kinds(self.static)
        return LearnedRule(self.statistics, *start, g, output, kinds, moments)

    def rule(self, name: str) -> Rule:
        if name in LEARNED:
            learned = self.learned(name)
            return learned.rule(moved_phi(learned))
        kind = RULES[name]
        options = kind.options(rule=name)
        constants = {constant: CONSTANTS.get(constant, value) for constant, value in kind.constants(options).items()}
        return kind.build(tuple(self.static), constants, self.statistics)

    def dynamic_model(self, rule: Rule, reset: str = "stream") -> DynamicModel:
        engine = engine_for(self.model, EngineSettings())
        if rule.replay_rate and not self.model.has_small_state:
            pytest.skip("replay is for models of small states")
        replay = Replay(rule.replay_rate, tokens=5, segments=3) if rule.replay_rate else None
        return DynamicModel(engine, self.static, rule, tuple(self.static) if rule.learns else (), reset, replay=replay)


@pytest.fixture(params=MODELS)
def setting(request: pytest.FixtureRequest) -> Setting:
    model = build_model(MODELS[request.param], VOCABULARY)
    static = model.init_params(torch.Generator().manual_seed(1), torch.float64)
    generator = torch.Generator().manual_seed(5)
    rms = {n: torch.rand(t.shape, generator=generator, dtype=torch.float64) * 0.1 for n, t in static.items()}
    return Setting(model, {name: tensor * 2 for name, tensor in static.items()}, Statistics(rms))


@pytest.fixture(params=RULE_NAMES)
def rule(request: pytest.FixtureRequest, setting: Setting) -> Rule:
    return setting.rule(request.param)


@pytest.fixture(params=["stream", "article"])
def dynamic_model(request: pytest.FixtureRequest, setting: Setting, rule: Rule) -> DynamicModel:
    return setting.dynamic_model(rule, request.param)


def nats_of(dynamic_model: DynamicModel, source: Stream) -> Tensor:
    return torch.cat([read.nats_T for read in iter_segments(dynamic_model, source)])


def assert_same_memory(found: Memory, expected: Memory) -> None:
    for (name, one), (other_name, other) in zip(leaves(found), leaves(expected), strict=True):
        assert name == other_name
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


def test_every_rule_that_is_registered_is_tested() -> None:
    assert {*RULE_NAMES, "meta"} - {*LEARNED} == set(RULES.names())


def test_a_rule_changes_what_is_predicted(setting: Setting, rule: Rule) -> None:
    found, static = (
        nats_of(setting.dynamic_model(rule), stream()),
        nats_of(setting.dynamic_model(setting.rule("none")), stream()),
    )
    assert torch.equal(found, static) != rule.learns
    torch.testing.assert_close(found[:5], static[:5])  # Nothing is learned before the first segment is scored.
    assert (found[-5:] - static[-5:]).abs().max() > 1e-3 or not rule.learns


def test_rates_of_zero_are_level_1(dynamic_model: DynamicModel) -> None:
    still = dataclasses.replace(dynamic_model, rule=dynamic_model.rule.standing_still())
    torch.testing.assert_close(
        nats_of(still, stream()), nats_of(dynamic_model.level_1(), stream()), rtol=1e-12, atol=1e-12
    )


def test_no_later_token_changes_an_earlier_loss(dynamic_model: DynamicModel) -> None:
    split = text()
    changed = dataclasses.replace(split, ids_N=(split.ids_N + (np.arange(len(split.ids_N)) >= 29)) % VOCABULARY)
    found, expected = (nats_of(dynamic_model, stream(each)) for each in (changed, split))
    assert torch.equal(found[:29], expected[:29])
    assert (found[29:] != expected[29:]).all()


def test_pieces_equal_the_whole(dynamic_model: DynamicModel) -> None:
    whole = list(iter_segments(dynamic_model, stream()))
    memory, place, found = dynamic_model.fresh_memory(), stream().begin(), []
    for piece in itertools.cycle((1, 4, 2)):
        # A process that was killed knows only what it saved; everything else is built anew.
        memory = from_tensors(as_tensors(memory, dynamic_model), dynamic_model)
        for read in itertools.islice(iter_segments(dynamic_model, stream(), memory, place), piece):
            memory, place = read.memory, read.position
            found.append(read)
        if len(found) == len(whole):
            break
    assert torch.equal(torch.cat([r.nats_T for r in found]), torch.cat([r.nats_T for r in whole]))
    assert_same_memory(memory, whole[-1].memory)


def test_lanes_equal_one_lane(setting: Setting, rule: Rule) -> None:
    split = text((23, 31, 8, 2, 17, 12, 9))
    dynamic_model = setting.dynamic_model(rule, "article")
    expected, found = (
        nats_of(dynamic_model, stream(split)),
        torch.full((len(split.ids_N),), torch.nan, dtype=torch.float64),
    )
    for read in iter_segments(dynamic_model, read_side_by_side(split, 5, range(split.articles), 3)):
        segment = read.segment
        for nats_T, mask_T, article, position in zip(
            read.nats_BT, segment.mask_BT, *segment.position_B2.T, strict=True
        ):
            at = int(split.starts[article] + position)
            found[at : at + mask_T.sum()] = nats_T[torch.from_numpy(mask_T)]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def test_a_memory_file_brings_back_the_memory_bit_for_bit(dynamic_model: DynamicModel, tmp_path: Path) -> None:
    *_, read = iter_segments(dynamic_model, stream())
    options = StepOptions(rule="rms", reset=dynamic_model.reset)  # only compared with the file's
    save_memory(tmp_path / "memory.safetensors", SavedMemory(read.memory, 62, 3), dynamic_model, options, "model")
    loaded = load_memory(tmp_path / "memory.safetensors", dynamic_model, options, "model")
    assert (loaded.tokens, loaded.articles) == (62, 3)
    assert_same_memory(loaded.memory, read.memory)


def test_lanes_are_kept_and_resumed_bit_for_bit(setting: Setting, rule: Rule) -> None:
    source = read_side_by_side(text((23, 31, 8, 17)), 5, range(4), 3)
    dynamic_model = setting.dynamic_model(rule, "article")
    whole = [read.nats_BT.clone() for read in iter_segments(dynamic_model, source)]
    *_, read = itertools.islice(iter_segments(dynamic_model, source), 4)
    tensors = as_tensors(read.memory, dynamic_model, lanes=3)
    assert flaw_of_shapes({name: tuple(t.shape) for name, t in tensors.items()}, dynamic_model, 3) is None
    assert flaw(tensors, dynamic_model, 3) is None
    resumed = iter_segments(dynamic_model, source, from_tensors(tensors, dynamic_model, 3), read.position)
    for later, expected in zip(resumed, whole[4:], strict=True):
        mask_BT = torch.from_numpy(later.segment.mask_BT)
        assert torch.equal(later.nats_BT[mask_BT], expected[mask_BT])


def test_segments_of_another_length_change_no_static_loss(setting: Setting) -> None:
    dynamic_model = setting.dynamic_model(setting.rule("none"))
    found, expected = (nats_of(dynamic_model, stream(segment=length)) for length in (3, 11))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["g", "g from adam"])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_forward_meta_gradients_equal_reverse_ones(setting: Setting, reset: str, name: str) -> None:
    meta = setting.learned(name)
    assert isinstance(meta, LearnedRule)
    phi = moved_phi(meta)
    dynamic_model = setting.dynamic_model(meta.rule(phi), reset)
    _, expected = unrolled_meta_gradient(dynamic_model, meta, phi, stream(), segments=12)
    memory, place = dynamic_model.fresh_memory(), stream().begin()
    forward = Sensitivities(meta, phi, dynamic_model, memory)
    for _ in range(12):
        segment, place = stream().next(place)
        assert segment is not None
        forward.begin_segment(dynamic_model, memory, segment)
        _, memory = read_segment(dynamic_model, memory, segment, forward)
    found = forward.gradients()
    for key, tensor in expected.items():
        # Small entries are sums of large ones.
        torch.testing.assert_close(found[key], tensor, rtol=1e-8, atol=1e-11 * max(1.0, float(tensor.abs().max())))
    assert max(float(tensor.abs().max()) for tensor in expected.values()) > 1e-3
