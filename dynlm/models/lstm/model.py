"""The LSTM language model: (params, inputs, hidden) -> (logits, hidden), and the same up to the loss.

Legend: B lanes, T steps, E width of the embedding, H width of a layer, V vocabulary, N = T * B positions.

Nothing here holds weights. ``Params`` is a plain dict from name to tensor, so that the static parameters, the dynamic
weights and a meta-trained start are the same kind of value and go through the same code.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.lstm.softmax_loss import naive_nats, weighted_nats
from dynlm.models.options import ModelOptions

Params = dict[str, Tensor]
Hidden = tuple[tuple[Tensor, Tensor], ...]
"""Each layer's state (h_BH, c_BH): the short-term memory."""

Layer = Callable[[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor], tuple[Tensor, tuple[Tensor, Tensor]]]


def fused_layer(
    x_TBE: Tensor, state: tuple[Tensor, Tensor], w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One LSTM layer by torch's own kernel (oneDNN, cuDNN); differentiable once."""
    h_BH, c_BH = state
    weights = [w_input, w_recurrent, bias, torch.zeros_like(bias)]
    # oneDNN rounds otherwise where no gradient is asked for. A level that stands still must give a learning one's
    # losses bit for bit, so the training kernel is asked for always.
    wants_gradient = torch.is_grad_enabled()
    with torch.enable_grad():
        if not any(tensor.requires_grad for tensor in (x_TBE, h_BH, c_BH, *weights)):
            x_TBE, wants_gradient = x_TBE.detach().requires_grad_(), False
        out_TBH, h_1BH, c_1BH = torch.lstm(x_TBE, [h_BH[None], c_BH[None]], weights, True, 1, 0.0, True, False, False)
    if not wants_gradient:
        out_TBH, h_1BH, c_1BH = out_TBH.detach(), h_1BH.detach(), c_1BH.detach()
    return out_TBH, (h_1BH[0], c_1BH[0])


def naive_layer(
    x_TBE: Tensor, state: tuple[Tensor, Tensor], w_input: Tensor, w_recurrent: Tensor, bias: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The same layer step by step (Hochreiter & Schmidhuber 1997, with forget gates); differentiable twice."""
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
class LSTMLanguageModel:
    """The shape of a language model and its forward pass; ``layer`` is the LSTM kernel used."""

    config: ModelOptions
    vocabulary: int
    layer: Layer = fused_layer

    def widths(self) -> list[tuple[int, int]]:
        """(input width, output width) of each layer."""
        widths = [self.config.embedding] + [self.config.hidden] * self.config.layers
        if self.config.tied:
            widths[-1] = self.config.embedding
        return list(itertools.pairwise(widths))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in a fixed order."""
        shapes: dict[str, tuple[int, ...]] = {"embedding": (self.vocabulary, self.config.embedding)}
        for index, (wide_in, wide_out) in enumerate(self.widths()):
            shapes[f"lstm.{index}.input"] = (4 * wide_out, wide_in)
            shapes[f"lstm.{index}.recurrent"] = (4 * wide_out, wide_out)
            shapes[f"lstm.{index}.bias"] = (4 * wide_out,)
        if not self.config.tied:
            shapes["output.weight"] = (self.vocabulary, self.widths()[-1][1])
        shapes["output.bias"] = (self.vocabulary,)
        return shapes

    def initial_params(self, generator: torch.Generator, dtype: torch.dtype | None = None) -> Params:
        """Fresh parameters: uniform as in torch's LSTM, a small normal embedding, forget gates opened by a bias.

        ``dtype`` None is torch's default, float32 unless that was changed.
        """
        params: Params = {}
        for name, shape in self.shapes().items():
            if name == "embedding":
                tensor = torch.randn(shape, generator=generator, dtype=dtype) * 0.05
            elif name == "output.bias":
                tensor = torch.zeros(shape, dtype=dtype)
            elif name.endswith(".bias"):
                width = shape[0] // 4
                tensor = torch.zeros(shape, dtype=dtype)
                tensor[width : 2 * width] = 1.0
            else:
                width = shape[1] if name == "output.weight" else shape[0] // 4
                bound = 1 / math.sqrt(width)
                tensor = (torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound
            params[name] = tensor
        return params

    def initial_hidden(self, lanes: int, like: Tensor) -> Hidden:
        """The short-term memory before an article's first token: zeros."""
        return tuple((like.new_zeros(lanes, wide), like.new_zeros(lanes, wide)) for _, wide in self.widths())

    def features(
        self, params: Params, inputs_BT: Tensor, hidden: Hidden, regularisers: Regularisers | None = None
    ) -> tuple[Tensor, Hidden, Tensor]:
        """The last layer's outputs.

        Returns (features_TBH after dropout, hidden after the last step, penalty in nats per token).
        """
        tokens_TB = inputs_BT.T
        x = F.embedding(tokens_TB, params["embedding"])
        if regularisers:
            x = regularisers.embedding(x, tokens_TB, self.vocabulary)
            x = regularisers.variational(x, regularisers.config.input)
        after: list[tuple[Tensor, Tensor]] = []
        for index in range(self.config.layers):
            recurrent = params[f"lstm.{index}.recurrent"]
            if regularisers:
                recurrent = regularisers.weight_drop(recurrent)
                if index:
                    x = regularisers.variational(x, regularisers.config.between)
            x, state = self.layer(
                x, hidden[index], params[f"lstm.{index}.input"], recurrent, params[f"lstm.{index}.bias"]
            )
            after.append(state)
        if regularisers is None:
            return x, tuple(after), x.new_zeros(())
        dropped = regularisers.variational(x, regularisers.config.output)
        return dropped, tuple(after), regularisers.penalty(dropped, x)

    def output_weight(self, params: Params) -> Tensor:
        """The softmax layer's matrix (V, H)."""
        return params["embedding" if self.config.tied else "output.weight"]

    def logits(self, params: Params, inputs_BT: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """(logits_BTV, hidden): the scores of each next token."""
        features_TBH, hidden, _ = self.features(params, inputs_BT, hidden)
        logits_TBV = F.linear(features_TBH, self.output_weight(params), params["output.bias"])
        return logits_TBV.transpose(0, 1), hidden

    def loss(
        self,
        params: Params,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        share_BT: Tensor,
        hidden: Hidden,
        regularisers: Regularisers | None = None,
        penalised: float | None = None,
    ) -> tuple[Tensor, Tensor, Hidden]:
        """(sum of share * nats plus penalties, nats_BT as a constant, hidden), with the logits never stored.

        ``penalised``: the tokens that penalties count for, the sum of the shares where None.
        """
        features_TBH, hidden, penalty = self.features(params, inputs_BT, hidden, regularisers)
        total, nats_N = weighted_nats(
            features_TBH.flatten(0, 1),
            self.output_weight(params),
            params["output.bias"],
            targets_BT.T.reshape(-1),
            share_BT.T.reshape(-1),
        )
        if regularisers is not None:
            total = total + penalty * (share_BT.sum() if penalised is None else penalised)
        return total, nats_N.view(targets_BT.shape[1], -1).T, hidden

    def naive_loss(
        self, params: Params, inputs_BT: Tensor, targets_BT: Tensor, share_BT: Tensor, hidden: Hidden
    ) -> tuple[Tensor, Tensor, Hidden]:
        """``loss`` by plain operations: the reference, and the way to second derivatives (with ``naive_layer``)."""
        features_TBH, hidden, _ = self.features(params, inputs_BT, hidden)
        nats_N = naive_nats(
            features_TBH.flatten(0, 1),
            self.output_weight(params),
            params["output.bias"],
            targets_BT.T.reshape(-1),
        )
        nats_BT = nats_N.view(targets_BT.shape[1], -1).T
        return (nats_BT * share_BT).sum(), nats_BT, hidden


def detached(hidden: Hidden) -> Hidden:
    """The same state, cut from the graph that made it."""
    return tuple((h.detach(), c.detach()) for h, c in hidden)


def restarted(hidden: Hidden, starts_B: Tensor) -> Hidden:
    """The short-term memory with the lanes of ``starts_B`` (bool) at zero, whatever they held."""
    starts_B1 = starts_B[:, None]
    return tuple((h.masked_fill(starts_B1, 0), c.masked_fill(starts_B1, 0)) for h, c in hidden)
