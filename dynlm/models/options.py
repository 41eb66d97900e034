"""Options of the language model and of its regularisers, and what of it moves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.validation import LARGEST_WIDTH, Section, bounded


class Targets(NamedTuple):
    """What of a model moves: tensors whose names fit a pattern or, with a rank, low-rank factors B A of matrices.

    The factors are scaled by ``alpha / rank``, or by ``alpha / sqrt(rank)``; ``factors`` says which of them move. A is
    drawn with ``seed``.
    """

    patterns: tuple[str, ...] = ("*",)
    rank: int = 0
    alpha: float = 32.0
    scaling: Literal["rank", "sqrt"] = "rank"
    factors: Literal["B", "AB"] = "B"
    seed: int = 0

    @property
    def label(self) -> str:
        """``loraRANK-`` and a fingerprint of all of it; empty where tensors of the model itself move."""
        return f"lora{self.rank}-{fingerprint(json.dumps(self))[:6]}" if self.rank else ""

    @property
    def scale(self) -> float:
        """What the factors' product is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "sqrt" else self.rank)


@dataclass
class ModelOptions(Section):
    """The kind of language model; each kind's options are a subclass."""

    SECTION = "model"
    COMMON = "embedding hidden layers"
    READING = ""
    MAKER = "dynlm pretrain"
    """The command that makes runs of this kind of model."""

    kind: str = field(default="lstm", kw_only=True)
    """lstm, or a kind that another package registers (entry points dynlm.models)."""

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> type[ModelOptions]:
        """Return the options of the kind that ``values`` name. Raises UserError for one that is not registered."""
        if values.get("kind", "lstm") == "lstm":  # without torch
            return LSTMOptions
        from dynlm.models.registry import MODELS

        return MODELS[str(values["kind"])].options

    def reading(self) -> dict[str, Any]:
        """Return the options by which a trained model reads, by name: any reading of a run may choose others."""
        return {name: getattr(self, name) for name in self.READING.split()}

    def statement(self) -> str:
        """Say in words what the options of ``reading`` are; empty where there are none."""
        return ""


@dataclass
class LSTMOptions(ModelOptions):
    """The shape of the LSTM."""

    embedding: int = bounded(192, 1, LARGEST_WIDTH)
    """Width of the token embedding (and of the last layer if the embeddings are tied)."""
    hidden: int = bounded(192, 1, LARGEST_WIDTH)
    """Width of the layers before the last."""
    layers: int = bounded(1, 1, 100)
    """Number of LSTM layers."""
    tied: bool = True
    """Whether the output layer shares the embedding's weights."""


@dataclass
class RegularisationOptions(Section):
    """The AWD-LSTM's regularisers (Merity et al. 2018); 0 switches one off."""

    SECTION = "regularisation"

    embedding: float = bounded(0.0, 0, 0.99)
    """Embedding dropout: probability that a type's whole row is zero in a batch."""
    input: float = bounded(0.0, 0, 0.99)
    """Variational dropout on the embedded tokens."""
    between: float = bounded(0.0, 0, 0.99)
    """Variational dropout between layers."""
    output: float = bounded(0.0, 0, 0.99)
    """Variational dropout before the softmax."""
    weight: float = bounded(0.0, 0, 0.99)
    """Weight drop on the hidden-to-hidden matrices."""
    activation: float = bounded(0.0)
    """Coefficient of the L2 penalty on the (dropped) outputs."""
    temporal_activation: float = bounded(0.0)
    """Coefficient of the L2 penalty on the change of the outputs from step to step."""
