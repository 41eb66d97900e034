"""A two-layer causal transformer with a key-value cache: one file, registered from outside the package.

Legend: B lanes, T tokens, C cached positions, L layers, H width; see models.protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.models.options import ModelOptions
from dynlm.models.protocol import Output, SequenceModel
from dynlm.models.registry import register_model
from dynlm.runtime.validation import bounded
from dynlm.types import Params


@dataclass
class TransformerOptions(ModelOptions):
    """The shape of the transformer."""

    width: int = bounded(16, 1, 4096)
    """Width of all layers."""
    context: int = bounded(24, 1, 4096)
    """Earlier tokens whose keys and values are kept."""


class KVCache(NamedTuple):
    """Keys and values of the last C tokens of each layer, and how many tokens were read."""

    keys_BLCH: Tensor
    values_BLCH: Tensor
    read_B: Tensor


@register_model("transformer", TransformerOptions)
@dataclass(frozen=True)
class Transformer(SequenceModel):
    """Two layers of one attention head each, with ReLU between; distances enter as a learned decay of the scores."""

    options: TransformerOptions
    vocab_size: int

    @property
    def feature_size(self) -> int:
        return self.options.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.options.width
        layers = {f"{layer}.{name}": (width, width) for layer in range(2) for name in ("q", "k", "v", "out", "mlp")}
        return {"tokens": (self.vocab_size, width), **layers, "slope": (2,), "scores.bias": (self.vocab_size,)}

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        scale = self.options.width**-0.5
        return {n: torch.randn(s, generator=generator, dtype=dtype) * scale for n, s in self.shapes().items()}

    def init_state(self, lanes: int, like: Tensor) -> KVCache:
        empty = like.new_zeros(lanes, 2, self.options.context, self.options.width)
        return KVCache(empty, empty.clone(), like.new_zeros(lanes))

    def forward(self, params: Params, state: KVCache, inputs_BT: Tensor) -> Output:
        (_, length), context = inputs_BT.shape, self.options.context
        x_BTH, keys, values = F.embedding(inputs_BT, params["tokens"]), [], []
        distance_TC = torch.arange(length)[:, None] + context - torch.arange(context + length)
        # Slots before the article's first token are empty.
        empty_B1C = torch.arange(context + length) < (context - state.read_B)[:, None, None]
        hidden_BTC = empty_B1C | (distance_TC < 0) | (distance_TC > context)
        for layer in range(2):
            q, k, v = (x_BTH @ params[f"{layer}.{name}"].T for name in "qkv")
            keys.append(torch.cat([state.keys_BLCH[:, layer], k], 1))
            values.append(torch.cat([state.values_BLCH[:, layer], v], 1))
            scores_BTC = q @ keys[-1].mT / q.shape[-1] ** 0.5 - params["slope"][layer].abs() * distance_TC
            mixed_BTH = scores_BTC.masked_fill(hidden_BTC, -torch.inf).softmax(-1) @ values[-1]
            x_BTH = x_BTH + mixed_BTH @ params[f"{layer}.out"].T
            x_BTH = x_BTH + F.relu(x_BTH) @ params[f"{layer}.mlp"].T
        kept = (torch.stack([layer[:, -context:] for layer in layers], 1) for layers in (keys, values))
        features_BTH = F.normalize(x_BTH, dim=-1) * 4
        logits_BTV = features_BTH @ params["tokens"].T + params["scores.bias"]
        return Output(logits_BTV, features_BTH, KVCache(*kept, state.read_B + length))
