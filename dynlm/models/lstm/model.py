"""The LSTM language model as a function of its parameters.

Legend: B lanes, T tokens, E width of the embedding, H width of a layer, V vocabulary, N = T * B positions.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.lstm.softmax_loss import weighted_nats
from dynlm.models.options import LSTMOptions
from dynlm.models.protocol import Output, SequenceModel
from dynlm.types import Params

LSTMState = tuple[tuple[Tensor, Tensor], ...]
"""Each layer's (h_BH, c_BH)."""

Layer = Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]


def fused_layer(
    x_TBE: Tensor, state: tuple[Tensor, Tensor], w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run one LSTM layer by torch's own kernel (oneDNN, cuDNN); differentiable once."""
    h_BH, c_BH = state
    weights = [w_input, w_recurrent, bias, torch.zeros_like(bias)]
    # oneDNN rounds differently where no gradient is needed. Rates of zero must give the static model's losses bit for
    # bit, so the training kernel is used always.
    wants_gradient = torch.is_grad_enabled()
    with torch.enable_grad(), _kernel_precision(x_TBE.device.type):
        if not any(tensor.requires_grad for tensor in (x_TBE, h_BH, c_BH, *weights)):
            x_TBE, wants_gradient = x_TBE.detach().requires_grad_(), False
        out_TBH, h_1BH, c_1BH = torch.lstm(x_TBE, [h_BH[None], c_BH[None]], weights, True, 1, 0.0, True, False, False)
    if not wants_gradient:
        out_TBH, h_1BH, c_1BH = out_TBH.detach(), h_1BH.detach(), c_1BH.detach()
    return out_TBH, (h_1BH[0], c_1BH[0])


def _kernel_precision(device: str) -> AbstractContextManager[Any]:
    """Switch rounding to bfloat16 off on a CPU without AVX-512, for which oneDNN has no LSTM in bfloat16."""
    if device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return nullcontext()
    return torch.autocast("cpu", enabled=False)


def naive_layer(
    x_TBE: Tensor, state: tuple[Tensor, Tensor], w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Run the same layer step by step (Hochreiter & Schmidhuber 1997, with forget gates); differentiable twice."""
    h_BH, c_BH = state
    gates_TB4H = x_TBE @ w_input.T + bias
    outputs = []
    for gates_B4H in gates_TB4H:
        i, f, g, o = (gates_B4H + h_BH @ w_recurrent.T).chunk(4, dim=-1)
        c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
        h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
        outputs.append(h_BH)
    return torch.stack(outputs), (h_BH, c_BH)


@dataclass(frozen=True)
class LSTMLanguageModel(SequenceModel):
    """An LSTM language model's shape and its forward pass; ``layer`` is the LSTM kernel that it runs."""

    options: LSTMOptions
    vocab_size: int
    layer: Layer = fused_layer
    regularisers: Regularisers | None = None
    has_small_state = True

    @property
    def feature_size(self) -> int:
        return self.widths()[-1][1]

    @property
    def supports_vmap(self) -> bool:  # type: ignore[override]
        """Only the step-by-step layer can be batched by vmap."""
        return self.layer is naive_layer

    def twice_differentiable(self) -> LSTMLanguageModel:
        return dataclasses.replace(self, layer=naive_layer)

    def regularised(self, regularisers: Regularisers) -> LSTMLanguageModel:
        """Return the model whose ``loss`` drops activations and weights and adds penalties."""
        return dataclasses.replace(self, regularisers=regularisers)

    def widths(self) -> list[tuple[int, int]]:
        """Return (input width, output width) of each layer."""
        widths = [self.options.embedding] + [self.options.hidden] * self.options.layers
        if self.options.tied:
            widths[-1] = self.options.embedding
        return list(itertools.pairwise(widths))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocab_size, self.options.embedding)}
        for index, (wide_in, wide_out) in enumerate(self.widths()):
            shapes[f"lstm.{index}.input"] = (4 * wide_out, wide_in)
            shapes[f"lstm.{index}.recurrent"] = (4 * wide_out, wide_out)
            shapes[f"lstm.{index}.bias"] = (4 * wide_out,)
        if not self.options.tied:
            shapes["output.weight"] = (self.vocab_size, self.feature_size)
        shapes["output.bias"] = (self.vocab_size,)
        return shapes

    def init_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        """Return initial parameters: uniform as in torch's LSTM, a small normal embedding, forget biases of 1."""
        params: Params = {}
        for name, shape in self.shapes().items():
            width = shape[0] // 4
            if name == "embedding":
                params[name] = torch.randn(shape, generator=generator, dtype=dtype) * 0.05
            elif name.endswith(".bias"):
                params[name] = torch.zeros(shape, dtype=dtype)
                if name != "output.bias":
                    params[name][width : 2 * width] = 1.0
            else:
                bound = 1 / math.sqrt(shape[1] if name == "output.weight" else width)
                params[name] = (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound
        return params

    def init_state(self, lanes: int, like: Tensor) -> LSTMState:
        return tuple((like.new_zeros(lanes, wide), like.new_zeros(lanes, wide)) for _, wide in self.widths())

    def output_tensor(self, names: Collection[str]) -> str:
        return min(names, key=_distance_from_loss)

    @property
    def factored_tensor(self) -> str:
        """The softmax layer's matrix."""
        return "embedding" if self.options.tied else "output.weight"

    def output_weight(self, params: Params) -> Tensor:
        """Return the softmax layer's matrix (V, H)."""
        return params[self.factored_tensor]

    def features(self, params: Params, state: LSTMState, inputs_BT: Tensor) -> tuple[Tensor, LSTMState, Tensor]:
        """Return (features_TBH after dropout, state after the last token, penalty in nats per token)."""
        tokens_TB, regularisers = inputs_BT.T, self.regularisers
        x = F.embedding(tokens_TB, params["embedding"])
        if regularisers:
            x = regularisers.embedding(x, tokens_TB, self.vocab_size)
            x = regularisers.variational(x, regularisers.config.input)
        after: list[tuple[Tensor, Tensor]] = []
        for index in range(self.options.layers):
            recurrent = params[f"lstm.{index}.recurrent"]
            if regularisers:
                recurrent = regularisers.weight_drop(recurrent)
                if index:
                    x = regularisers.variational(x, regularisers.config.between)
            w_input, bias = params[f"lstm.{index}.input"], params[f"lstm.{index}.bias"]
            x, layer_state = self.layer(x, state[index], w_input, recurrent, bias)
            after.append(layer_state)
        if regularisers is None:
            return x, tuple(after), x.new_zeros(())
        dropped = regularisers.variational(x, regularisers.config.output)
        return dropped, tuple(after), regularisers.penalty(dropped, x)

    def forward(self, params: Params, state: LSTMState, inputs_BT: Tensor) -> Output:
        features_TBH, state, _ = self.features(params, state, inputs_BT)
        logits_TBV = F.linear(features_TBH, self.output_weight(params), params["output.bias"])
        return Output(logits_TBV.transpose(0, 1), features_TBH.transpose(0, 1), state)

    def loss(
        self,
        params: Params,
        state: LSTMState,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        weights_BT: Tensor,
        penalty_tokens: float | None = None,
    ) -> tuple[Tensor, Tensor, LSTMState]:
        """Return (sum of weight * nats plus penalties, nats_BT as a constant, state), without storing the logits.

        ``penalty_tokens``: the tokens that penalties, in nats per token, are multiplied by; the sum of the weights
        where None.
        """
        features_TBH, state, penalty = self.features(params, state, inputs_BT)
        weight, targets_N, weights_N = self.output_weight(params), targets_BT.T.reshape(-1), weights_BT.T.reshape(-1)
        total, nats_N = weighted_nats(features_TBH.flatten(0, 1), weight, params["output.bias"], targets_N, weights_N)
        if self.regularisers is not None:
            total = total + penalty * (weights_BT.sum() if penalty_tokens is None else penalty_tokens)
        return total, nats_N.view(targets_BT.shape[1], -1).T, state


def _distance_from_loss(name: str) -> tuple[int, int, int]:
    """Order the tensors as the backward pass of ``LSTMEngine`` reaches them."""
    if name.startswith("lstm."):
        _, index, kind = name.split(".")
        return 2, -int(index), ("recurrent", "bias", "input").index(kind)
    return {"output.bias": 0, "output.weight": 1, "embedding": 3}[name], 0, 0
