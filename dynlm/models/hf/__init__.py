"""Pretrained causal language models of ``transformers`` behind ``SequenceModel`` (the extra ``dynlm[hf]``)."""

from __future__ import annotations

import dataclasses

from dynlm.errors import UserError
from dynlm.models.hf.options import HFOptions
from dynlm.models.protocol import Engine, SequenceModel
from dynlm.models.registry import EngineSettings, autograd_engine, register_model
from dynlm.runtime.allocator import keep_freed_memory


def engine(model: SequenceModel, settings: EngineSettings) -> Engine:
    """Return the engine of a transformer, whose activations are allocated anew in each segment.

    It records no CUDA graphs: what a segment computes depends on how full the context is.
    """
    keep_freed_memory()
    return autograd_engine(model, dataclasses.replace(settings, captures=False))


@register_model("hf", HFOptions, engine)
def build(options: HFOptions, vocab_size: int) -> SequenceModel:
    """Return the model of ``options.architecture``. Raises UserError without the extra ``dynlm[hf]``."""
    try:
        from dynlm.models.hf.model import build
    except ImportError as error:
        raise UserError(f"pretrained models need more packages ({error})", do="pip install dynlm[hf]") from error
    return build(options, vocab_size)
