"""A two-layer causal transformer with a key-value cache: one file, registered from outside the package.

Legend: B lanes, T tokens, C cached ones (as keys: C + T), L layers, H width.
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
    """Width of all layers, and how many earlier tokens are attended to."""

    width: int = bounded(16, 1, 4096)
    context: int = bounded(24, 1, 4096)


class KVCache(NamedTuple):
    """Each layer's keys and values of the last C tokens, and how many tokens were read."""

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
        width = self.feature_size
        layers = {f"{layer}.{name}": (width, width) for layer in range(2) for name in ("q", "k", "v", "out", "mlp")}
        return {"tokens": (self.vocab_size, width), **layers, "slope": (2,)}

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        scale = self.feature_size**-0.5
        return {n: torch.randn(s, generator=generator, dtype=dtype) * scale for n, s in self.shapes().items()}

    def init_state(self, lanes: int, like: Tensor) -> KVCache:
        empty = like.new_zeros(lanes, 2, self.options.context, self.feature_size)
        return KVCache(empty, empty, like.new_zeros(lanes))

    def forward(self, params: Params, state: KVCache, inputs_BT: Tensor) -> Output:
        context, keys, values, x_BTH = self.options.context, [], [], F.embedding(inputs_BT, params["tokens"])
        position_C = torch.arange(-context, x_BTH.shape[1], device=x_BTH.device)
        distance_TC = position_C[context:, None] - position_C
        empty_B1C = position_C < -state.read_B[:, None, None]  # before the article's first token
        hidden_BTC = empty_B1C | (distance_TC < 0) | (distance_TC > context)
        for layer in range(2):
            q, k, v = (x_BTH @ params[f"{layer}.{name}"].T for name in "qkv")
            keys.append(torch.cat([state.keys_BLCH[:, layer], k], 1))
            values.append(torch.cat([state.values_BLCH[:, layer], v], 1))
            scores_BTC = q @ keys[-1].mT / q.shape[-1] ** 0.5 - params["slope"][layer].abs() * distance_TC
            weights_BTC = scores_BTC.masked_fill(hidden_BTC, -torch.inf).softmax(-1)
            x_BTH = x_BTH + weights_BTC @ values[-1] @ params[f"{layer}.out"].T
            x_BTH = x_BTH + F.relu(x_BTH) @ params[f"{layer}.mlp"].T
        keys_BLCH, values_BLCH = (torch.stack(tensors, 1)[:, :, -context:] for tensors in (keys, values))
        features_BTH = F.normalize(x_BTH, dim=-1) * 4
        cache = KVCache(keys_BLCH, values_BLCH, state.read_B + x_BTH.shape[1])
        return Output(features_BTH @ params["tokens"].T, features_BTH, cache)
