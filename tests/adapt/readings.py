"""Small dynamic models in float64 for the tests of ``dynlm.adapt``."""

import dataclasses

import numpy as np
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import FEATURES, LearnedRuleOptions
from dynlm.adapt.partners.replay import Replay
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1, ElementwiseRule, Rates
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.moments import Moments
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit, Tokens
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from dynlm.models.protocol import TensorKind

VOCABULARY = 17
MODEL = LSTMLanguageModel(LSTMOptions(embedding=6, hidden=6, layers=1), VOCABULARY)
NAMES = tuple(MODEL.shapes())
TENSOR_KINDS = {
    name: TensorKind("bias" if name.endswith("bias") else "matrix", number / 2 - 1) for number, name in enumerate(NAMES)
}


def static_params(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) * 0.3 for name, shape in MODEL.shapes().items()}


def statistics(dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    return Statistics(
        {name: torch.rand(shape, generator=generator, dtype=dtype) * 0.1 for name, shape in MODEL.shapes().items()}
    )


def text(lengths=(23, 31, 8), seed=0):
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, sum(lengths)).astype(np.int32)
    ones, titles = np.ones(len(ids), dtype=np.int32), [f"article {n}" for n in range(len(lengths))]
    tokens = Tokens(ids, ones, ones.astype(np.int16), np.array([1, 12, 40]), ids.astype(np.uint8), np.array(lengths))
    return TokenisedSplit.from_tokens(tokens, titles, 0)


def stream(split=None, segment=5):
    split = text() if split is None else split
    return read_in_order(split, segment, range(split.articles))


def rule(name, rate=0.02, pull=0.05, dtype=torch.float64):
    """Return a rule with other rates for each tensor."""
    rates = {tensor: Rates(rate * (1 + index), pull * (1 + index)) for index, tensor in enumerate(NAMES)}
    if name == "none":
        return LEVEL_1
    if name == "sgd":
        return ElementwiseRule(name, {tensor: Rates(r.lr, 0.0) for tensor, r in rates.items()})
    if name == "sgd+decay":
        return ElementwiseRule(name, rates)
    held = statistics(dtype)
    if name == "lstm":
        own = {tensor: static_params(dtype)[tensor] for tensor in NAMES}
        lstm = LearnedLSTMRule(held, own, rate, pull, 1e-2, LearnedRuleOptions("lstm", hidden=3))
        return lstm.rule({key: tensor + 0.2 for key, tensor in lstm.initial().items()})
    if name == "g":
        g = meta(pull, dtype, importance=True, features=FEATURES, boundary_reset=True, slow_rate=0.2, momentum=0.3)
        return g.rule(moved_phi(g))
    return ElementwiseRule(name, rates, held.precondition(1e-2), held.decay_shape())


def nats_of(chosen, split=None, segment=5):
    return torch.cat([read.nats_T for read in iter_segments(chosen, stream(split, segment))])


def assert_no_loss_depends_on_a_later_token(chosen, every):
    """Change each of the tokens ``every`` apart: the losses before it stay, bit for bit, and its own does not."""
    split = text()
    before = nats_of(chosen, split)
    for position in range(0, len(split.ids_N), every):
        ids = split.ids_N.copy()
        ids[position] = (ids[position] + 1) % MODEL.vocab_size
        after = nats_of(chosen, dataclasses.replace(split, ids_N=ids))
        assert torch.equal(after[:position], before[:position])
        assert after[position] != before[position]


RECORDED = ("none", "sgd", "sgd+decay", "rms", "meta")
"""Rules whose segments are captured: they keep no state beside the weights."""
RULES = (*RECORDED, "g", "lstm")


def engine(reference=False, **settings):
    """Return the LSTM's engine, or autograd by plain operations, which is its reference."""
    return AutogradEngine(MODEL.twice_differentiable(), **settings) if reference else LSTMEngine(MODEL, **settings)


def dynamic_model(name="rms", reset="stream", reference=False, dtype=torch.float64, replay_rate=0.0, **rates):
    made = rule(name, dtype=dtype, **rates)
    if replay_rate:
        made = dataclasses.replace(made, replay_rate=replay_rate)
    replay = Replay.of(made, MODEL, 5)
    names = NAMES if made.learns else ()
    return DynamicModel(engine(reference), static_params(dtype), made, names, reset, replay=replay)


def captured(chosen):
    """Return the model with segments captured; on a CPU they run over the capture's buffers."""
    return dataclasses.replace(chosen, engine=dataclasses.replace(chosen.engine, captures=True))


def set_lanes_at_once(monkeypatch, lanes):
    """Have both engines score ``lanes`` lanes together."""
    for kind in (LSTMEngine, AutogradEngine):
        monkeypatch.setattr(kind, "lanes_at_once", lambda *_: lanes)


def meta(pull=0.05, dtype=torch.float64, **options):
    """g that starts at an rms rule, or at Adam."""
    held = statistics(dtype)
    own = {name: static_params(dtype)[name] for name in NAMES}
    g = LearnedRuleOptions(features=[*options.pop("features", ())], **options)
    moments = Moments(0.8, 0.9) if g.base == "adam" else None
    return LearnedRule(held, own, 0.02, pull, 1e-2, g, MODEL.output_tensor(NAMES), TENSOR_KINDS, moments)


def moved_phi(chosen, seed=3):
    """A phi that is nowhere zero, its boundary resets within 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * 0.4 + 0.1
        for key, tensor in chosen.initial().items()
    }
