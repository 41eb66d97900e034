"""A GRU language model (Cho et al. 2014): one file, registered from outside the package.

Legend: see models.protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.models.options import ModelOptions
from dynlm.models.protocol import Output, SequenceModel
from dynlm.models.registry import register_model
from dynlm.runtime.validation import bounded
from dynlm.types import Params


@dataclass
class GRUOptions(ModelOptions):
    """The shape of the GRU."""

    width: int = bounded(16, 1, 4096)
    """Width of the embedding and of the state."""


@register_model("gru", GRUOptions)
@dataclass(frozen=True)
class GRULanguageModel(SequenceModel):
    """One GRU layer with an embedding that it shares with the output layer."""

    options: GRUOptions
    vocab_size: int
    supports_vmap = True
    has_small_state = True

    @property
    def feature_size(self) -> int:
        return self.options.width

    def shapes(self) -> dict[str, tuple[int, ...]]:
        width = self.options.width
        return {
            "tokens": (self.vocab_size, width),
            "gru.input": (3 * width, width),
            "gru.state": (3 * width, width),
            "gru.bias": (3 * width,),
            "scores.bias": (self.vocab_size,),
        }

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        def draw(shape: tuple[int, ...]) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype) * 0.1

        return {name: draw(shape) for name, shape in self.shapes().items()}

    def init_state(self, lanes: int, like: Tensor) -> tuple[Tensor]:
        return (like.new_zeros(lanes, self.options.width),)

    def forward(self, params: Params, state: tuple[Tensor], inputs_BT: Tensor) -> Output:
        (h_BH,), outputs = state, []
        for x_BE in F.embedding(inputs_BT, params["tokens"]).unbind(1):
            of_x = (x_BE @ params["gru.input"].T + params["gru.bias"]).chunk(3, -1)
            of_h = (h_BH @ params["gru.state"].T).chunk(3, -1)
            reset_BH, update_BH = (torch.sigmoid(of_x[k] + of_h[k]) for k in range(2))
            h_BH = torch.lerp(torch.tanh(of_x[2] + reset_BH * of_h[2]), h_BH, update_BH)
            outputs.append(h_BH)
        features_BTH = torch.stack(outputs, 1)
        return Output(features_BTH @ params["tokens"].T + params["scores.bias"], features_BTH, (h_BH,))
