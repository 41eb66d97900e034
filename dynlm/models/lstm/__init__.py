"""The LSTM language model and its engine, registered as the kind ``lstm``."""

from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from dynlm.models.registry import EngineSettings, native_kernels, register_model


def lstm_engine(model: LSTMLanguageModel, settings: EngineSettings) -> LSTMEngine:
    """Return the LSTM's own engine."""
    native = native_kernels() if settings.native else None
    return LSTMEngine(model, native, settings.captures, precision=settings.precision)


register_model("lstm", LSTMOptions, lstm_engine)(LSTMLanguageModel)
