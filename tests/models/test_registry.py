"""Kinds of models: each is built from its options and run by its engine."""

import pytest
import torch

from dynlm.errors import UserError
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions, ModelOptions
from dynlm.models.registry import MODELS, EngineSettings, build_model, engine_for, register_model
from tests.models.test_protocol import Bigrams


@pytest.fixture
def bigrams(monkeypatch):
    """Register a model as another package does."""
    monkeypatch.setattr(MODELS, "_items", dict(MODELS._items))
    register_model("bigrams", ModelOptions)(Bigrams)
    return ModelOptions(kind="bigrams")


def test_an_lstm_has_its_own_engine():
    model = build_model(LSTMOptions(embedding=4, hidden=4), 9)
    assert isinstance(model, LSTMLanguageModel) and model.vocab_size == 9
    engine = engine_for(model, EngineSettings(torch.bfloat16, captures=True))
    assert isinstance(engine, LSTMEngine)
    assert (engine.model, engine.precision, engine.native, engine.captures) == (model, torch.bfloat16, None, True)


def test_a_registered_model_is_run_by_autograd(bigrams):
    model = build_model(bigrams, 9)
    engine = engine_for(model, EngineSettings(captures=True))
    assert isinstance(engine, AutogradEngine)
    assert engine.model is model and engine.captures and ModelOptions.select({"kind": "bigrams"}) is ModelOptions


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"model\.kind is 'lstn'; did you mean 'lstm'\? choose one of .*lstm"):
        build_model(ModelOptions(kind="lstn"), 9)
