"""The kinds of models: how each is built from its options, and which engine runs it.

A kind is registered by ``register_model``, in this package or, through the entry-point group ``dynlm.models``, in any
other: adding one edits no file of dynlm. ``model.kind`` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch

from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.native import native_kernels
from dynlm.models.options import ModelOptions
from dynlm.models.protocol import Engine, SequenceModel
from dynlm.runtime.registry import Registry

_Builder = TypeVar("_Builder", bound=Callable[..., SequenceModel])


@dataclass(frozen=True)
class EngineSettings:
    """How to run a model: dtype of the products' operands (None: the weights'), compiled kernels, CUDA graphs."""

    precision: torch.dtype | None = None
    native: bool = False
    captures: bool = False


class ModelKind(NamedTuple):
    """A kind of model: its options, and how it is built and run."""

    options: type[ModelOptions]
    build: Callable[[Any, int], SequenceModel]
    engine: Callable[[Any, EngineSettings], Engine]


MODELS: Registry[ModelKind] = Registry("model.kind", "dynlm.models", "dynlm.models")


def autograd_engine(model: SequenceModel, settings: EngineSettings) -> Engine:
    """Return the engine of models without one of their own; ``precision`` is left to the model."""
    return AutogradEngine(model, native_kernels() if settings.native else None, settings.captures)


def register_model(
    kind: str, options: type[ModelOptions], engine: Callable[[Any, EngineSettings], Engine] = autograd_engine
) -> Callable[[_Builder], _Builder]:
    """Register a kind of model; decorates a class or function that is called with (options, vocab_size).

    A model keeps its options as the attribute ``options``.
    """

    def register(build: _Builder) -> _Builder:
        MODELS.register(kind)(ModelKind(options, build, engine))
        return build

    return register


def build_model(options: ModelOptions, vocab_size: int) -> SequenceModel:
    """Return the model of these options. Raises UserError for a kind that is not registered."""
    return MODELS[options.kind].build(options, vocab_size)


def engine_for(model: SequenceModel, settings: EngineSettings) -> Engine:
    """Return an engine for ``model``."""
    return MODELS[model.options.kind].engine(model, settings)
