"""The LSTM read by many lanes at once, each with weights of its own, and its backward pass by hand.

Legend: B lanes, T tokens of a segment, E width of the embedding, H width of a layer, V vocabulary, R rows of a part, I
and O the input and output widths of a product.

Autograd would compute the embedding's gradient as a dense matrix of zeros with a few rows set, add it to that of the
tied output layer, and allocate everything anew for each segment. The products here are the same without the rest.
Gradients come tensor by tensor (a large one a few rows at a time), each after its tensor was used for the last time, so
that an update rule writes over the weights while their gradient is in the processor's cache.

``AutogradEngine`` with the same model is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.displacement import Displacement, LowRank, displacement_of
from dynlm.models.lstm.layers import LayerTape, affine, product, read_layer, through_time
from dynlm.models.lstm.model import LSTMLanguageModel, LSTMState
from dynlm.models.protocol import Factors, Gradient, Scored
from dynlm.models.scratch import Scratch
from dynlm.models.softmax import NextTokenDistribution
from dynlm.runtime.tree import leaves
from dynlm.types import Params

# For each core in use: a part of a gradient of this size stays in cache until the update. Fewer, larger parts start
# fewer kernels.
_PART_BYTES = 1 << 23
# Segments that level 1 scores at once. Products of more rows read the weights less often, but find less of the logits
# in cache.
_SEGMENTS_AT_ONCE, _LOGITS_BYTES = 16, 1 << 23


class _Tape(NamedTuple):
    """What the backward pass needs of the forward pass; all scratch."""

    weights: Params
    inputs_BT: Tensor
    targets_BT: Tensor
    layers: list[LayerTape]
    target_indices_N: Tensor
    """Indices of the targets' logits among all of ``scaled_BTV``."""
    displacement: Displacement | None
    """Of the softmax layer's matrix."""


@dataclass(frozen=True)
class LSTMEngine(AutogradEngine):
    """Score and differentiate an LSTM by hand-written passes over reused buffers, in place of autograd.

    ``precision``: dtype of the matrix products' operands, the weights' own where None.
    """

    model: LSTMLanguageModel
    precision: torch.dtype | None = None

    @torch.no_grad()
    def score(
        self,
        params: Params,
        lane_params: Params,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: LSTMState,
        names: Collection[str] | None = None,
    ) -> Scored:
        model, scratch = self.model, self.scratch
        lanes, length = inputs_BT.shape
        weights = {
            # In one lane its own weights are used like shared ones: the same products, bit for bit.
            name: lane_params[name][0] if lanes == 1 and name in lane_params else lane_params.get(name, tensor)
            for name, tensor in params.items()
        }
        like = params["embedding"]
        if self.precision is not None:
            weights = {n: t if n.endswith("bias") else t.to(self.precision) for n, t in weights.items()}
        embedding = weights["embedding"]
        width = embedding.shape[-1]
        x_BTE = scratch.take("embedded", (lanes, length, width), embedding)
        rows_N = inputs_BT.reshape(-1) if embedding.dim() == 2 else _stacked_rows(inputs_BT, model.vocab_size)
        torch.index_select(embedding.view(-1, width), 0, rows_N, out=x_BTE.view(-1, width))
        displacement = displacement_of(lane_params, model.factored_tensor)
        if displacement is not None and model.options.tied:
            displacement.add_rows_(inputs_BT, x_BTE)
        layers, after = [], []
        for index in range(model.options.layers):
            tape = read_layer(x_BTE, state[index], weights, index, scratch, self.native)
            layers.append(tape)
            after.append((tape.outputs_BSH[:, -1].clone(), tape.cells_BSH[:, -1].clone()))
            x_BTE = tape.outputs_BSH[:, 1:]
        logits_BTV = scratch.take("logits", (lanes, length, model.vocab_size), like)
        affine(x_BTE, model.output_weight(weights), weights["output.bias"], logits_BTV)
        if displacement is not None:
            displacement.add_product_(x_BTE, logits_BTV)
        indices_N = _stacked_rows(targets_BT.reshape(-1, 1), model.vocab_size)
        nats_BT, total_BT1 = token_nats_(logits_BTV, indices_N)
        tape_of_all = _Tape(weights, inputs_BT, targets_BT, layers, indices_N, displacement)
        return Scored(nats_BT, tuple(after), x_BTE, NextTokenDistribution(logits_BTV, total_BT1), tape_of_all)

    @torch.no_grad()
    def gradients(
        self, scored: Scored, share_BT: Tensor, names: Collection[str], whole_first: bool = False
    ) -> Iterator[Gradient]:
        model, scratch, native = self.model, self.scratch, self.native
        tape: _Tape = scored.tape
        weights, layers, features_BTH = tape.weights, tape.layers, scored.features_BTH
        d_logits_BTV = logit_gradients_(scored.next_tokens, tape.target_indices_N, share_BT)
        # A token's probabilities and its target's 1 are no further apart than the square root of 2.
        of_output = (math.sqrt(2), share_BT, features_BTH)
        if "output.bias" in names:
            yield Gradient("output.bias", d_logits_BTV.sum(1))
        output = model.output_weight(weights)
        d_x = scratch.take("d_features", tuple(features_BTH.shape), features_BTH)
        product(d_logits_BTV, output, d_x)
        # With a low-rank displacement of one matrix the updates of all are products.
        factored = isinstance(tape.displacement, LowRank)
        if tape.displacement is not None:
            tape.displacement.add_transposed_product_(d_logits_BTV, d_x)
        # Of the tensors, these come in parts.
        whole = whole_first and model.output_tensor(names) in ("output.weight", "embedding")
        rows = model.vocab_size if whole or d_x.is_cuda else _rows_of_a_part(len(d_x), features_BTH)
        if not model.options.tied and "output.weight" in names and tape.displacement is not None:
            yield _as_factors("output.weight", Factors(d_logits_BTV, features_BTH, tape.targets_BT), (of_output,))
        elif not model.options.tied and "output.weight" in names:
            for part in _parts(model.vocab_size, rows):
                d_part_BRH = _outer(d_logits_BTV[..., part], features_BTH, output.dtype, scratch)
                yield Gradient("output.weight", d_part_BRH, part, norm_factors=(of_output,))
        for index in reversed(range(model.options.layers)):
            layer = layers[index]
            recurrent, inward = (weights[f"lstm.{index}.{kind}"] for kind in ("recurrent", "input"))
            d_gates_BT4H = through_time(layer, d_x, recurrent, scratch, native)
            if (name := f"lstm.{index}.recurrent") in names:
                before_BTH = layer.outputs_BSH[:, :-1]
                bounds = ((1.0, d_gates_BT4H, before_BTH),)
                if factored:
                    yield _as_factors(name, Factors(d_gates_BT4H, before_BTH), bounds)
                else:
                    u = _outer(d_gates_BT4H, before_BTH, recurrent.dtype, scratch)
                    yield Gradient(name, u, norm_factors=bounds)
            if (name := f"lstm.{index}.bias") in names:
                yield Gradient(name, d_gates_BT4H.sum(1))
            d_x = scratch.take("d_input", tuple(layer.x_BTE.shape), d_gates_BT4H)
            product(d_gates_BT4H, inward, d_x)
            if (name := f"lstm.{index}.input") in names:
                bounds = ((1.0, d_gates_BT4H, layer.x_BTE),)
                if factored:
                    yield _as_factors(name, Factors(d_gates_BT4H, layer.x_BTE), bounds)
                else:
                    u = _outer(d_gates_BT4H, layer.x_BTE, inward.dtype, scratch)
                    yield Gradient(name, u, norm_factors=bounds)
        of_input = (math.sqrt(d_x.shape[1]), d_x)
        if "embedding" not in names:
            return
        if model.options.tied and tape.displacement is not None:
            factors = Factors(d_logits_BTV, features_BTH, tape.targets_BT, tape.inputs_BT, d_x)
            yield _as_factors("embedding", factors, (of_output, of_input))
            return
        if model.options.tied:
            embedded = _ByRow(tape.inputs_BT, d_x, rows, model.vocab_size)
            for number, part in enumerate(_parts(model.vocab_size, rows)):
                d_part_BRE = _outer(d_logits_BTV[..., part], features_BTH, output.dtype, scratch)
                embedded.add_to(d_part_BRE, number)
                yield Gradient("embedding", d_part_BRE, part, norm_factors=(of_output, of_input))
            return
        shape = (len(d_x), model.vocab_size, d_x.shape[-1])
        d_embedding_BVE = scratch.take("d_embedding", shape, d_x, zeroed=True)
        rows_N = _stacked_rows(tape.inputs_BT, model.vocab_size)
        d_embedding_BVE.view(-1, shape[-1]).index_add_(0, rows_N, d_x.view(-1, shape[-1]))
        yield Gradient("embedding", d_embedding_BVE, rows_BT=tape.inputs_BT, norm_factors=(of_input,))
        d_embedding_BVE.view(-1, shape[-1]).index_fill_(0, rows_N, 0)

    def lanes_at_once(self, length: int, own: Collection[str], like: Tensor) -> int:
        """See ``Engine.lanes_at_once``: as many as there are cores where lanes have matrices of their own, on a CPU.

        Where they share them and learn, as many as have their logits in cache.
        """
        by_logits = super().lanes_at_once(length, own, like)
        if like.device.type != "cpu" or not own:
            return by_logits
        if not all(name.endswith("bias") for name in own):
            return min(by_logits, torch.get_num_threads())
        return max(1, _LOGITS_BYTES // (length * self.model.vocab_size * like.element_size()))

    def tokens_at_once(self, params: Params, segment: int) -> int:
        """See ``Engine.tokens_at_once``: several segments on a CPU, unless a product's rows decide on its rounding.

        How a library sums does not depend on the values, so that random tokens tell.
        """
        model, like = self.model, params["embedding"]
        by_logits = _LOGITS_BYTES // (segment * model.vocab_size * like.element_size())
        length = segment * min(_SEGMENTS_AT_ONCE, by_logits)
        if like.is_cuda or length <= segment:
            return segment
        generator = torch.Generator().manual_seed(0)
        inputs_BT, targets_BT = torch.randint(model.vocab_size, (2, 1, length), generator=generator)

        def read(at_once: int) -> list[Tensor]:
            state, nats = model.init_state(1, like), list[Tensor]()
            for part in _parts(length, at_once):
                scored = self.score(params, {}, inputs_BT[:, part], targets_BT[:, part], state, ())
                state = scored.state
                nats.append(scored.nats_BT)
            return [torch.cat(nats, 1), *(tensor for _, tensor in leaves(state))]

        return length if all(map(torch.equal, read(length), read(segment))) else segment


def token_nats_(logits_BTV: Tensor, target_indices_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return (nats_BT, total_BT1), with p = scaled / total; the logits become ``scaled``, their exponentials.

    The most probable token's is 1. ``target_indices_N``: where the targets' logits are among all.
    """
    of_target_BT = logits_BTV.view(-1)[target_indices_N].view(logits_BTV.shape[:2])
    top_BT1 = logits_BTV.amax(2, keepdim=True)
    total_BT1 = logits_BTV.sub_(top_BT1).exp_().sum(2, keepdim=True)
    return (total_BT1.log() + top_BT1).squeeze(2) - of_target_BT, total_BT1


def logit_gradients_(next_tokens: NextTokenDistribution, target_indices_N: Tensor, share_BT: Tensor) -> Tensor:
    """Return the gradient of sum(share * nats) by the logits, written over ``next_tokens.scaled_BTV``."""
    d_logits_BTV = next_tokens.scaled_BTV.mul_(share_BT[..., None] / next_tokens.total_BT1)
    d_logits_BTV.view(-1).index_add_(0, target_indices_N, share_BT.reshape(-1), alpha=-1)
    return d_logits_BTV


class _ByRow:
    """The gradients of the embedded tokens, to add to the parts of the matrix that they belong to."""

    def __init__(self, rows_BT: Tensor, d_x_BTE: Tensor, rows_of_a_part: int, vocabulary: int):
        self.rows_BT, self.d_x_BTE, self.rows_of_a_part = rows_BT, d_x_BTE, rows_of_a_part
        self.ends: list[list[int]] | None = None
        """Of each lane and part, where its tokens begin; None where there is one part."""
        if rows_of_a_part < vocabulary:
            self.rows_BT, order_BT = rows_BT.sort(1)
            self.d_x_BTE = d_x_BTE.gather(1, order_BT[..., None].expand_as(d_x_BTE))
            edges = torch.arange(0, vocabulary + rows_of_a_part, rows_of_a_part, device=rows_BT.device)
            self.ends = torch.searchsorted(self.rows_BT, edges.expand(len(rows_BT), -1).contiguous()).tolist()

    def add_to(self, part_BRE: Tensor, index: int) -> None:
        if self.ends is None:
            rows_N = _stacked_rows(self.rows_BT, part_BRE.shape[1])
            part_BRE.view(-1, part_BRE.shape[-1]).index_add_(0, rows_N, self.d_x_BTE.view(-1, part_BRE.shape[-1]))
            return
        for lane, ends in enumerate(self.ends):
            tokens = slice(ends[index], ends[index + 1])
            if tokens.start < tokens.stop:
                rows = self.rows_BT[lane, tokens] - index * self.rows_of_a_part
                part_BRE[lane].index_add_(0, rows, self.d_x_BTE[lane, tokens])


def _as_factors(name: str, factors: Factors, norm_factors: tuple[tuple[Any, ...], ...]) -> Gradient:
    """Return the gradient of a matrix as factors alone."""
    return Gradient(name, factors.left_BTV[:, 0, :0], norm_factors=norm_factors, factors=factors)


def _outer(d_BTO: Tensor, x_BTI: Tensor, precision: torch.dtype, scratch: Scratch) -> Tensor:
    """Return each lane's gradient of a matrix, the sum over tokens of d x^T: (B, O, I)."""
    out_BOI = scratch.take("d_weight", (len(d_BTO), d_BTO.shape[-1], x_BTI.shape[-1]), d_BTO)
    if precision != out_BOI.dtype:
        out_BOI.copy_(d_BTO.to(precision).transpose(1, 2) @ x_BTI.to(precision))
    elif len(d_BTO) == 1:
        torch.mm(d_BTO[0].T, x_BTI[0], out=out_BOI[0])
    else:
        torch.bmm(d_BTO.transpose(1, 2), x_BTI, out=out_BOI)
    return out_BOI


def _rows_of_a_part(lanes: int, features_BTH: Tensor) -> int:
    cores = min(lanes, torch.get_num_threads())
    return max(1, cores * _PART_BYTES // (lanes * features_BTH.shape[-1] * features_BTH.element_size()))


def _parts(rows: int, of_a_part: int) -> list[slice]:
    return [slice(begin, min(begin + of_a_part, rows)) for begin in range(0, rows, of_a_part)]


def _stacked_rows(rows_BT: Tensor, height: int) -> Tensor:
    """Return the rows (B * T) of each lane in B matrices of ``height`` rows stacked into one."""
    lane_B1 = torch.arange(len(rows_BT), device=rows_BT.device)[:, None]
    return (rows_BT + lane_B1 * height).view(-1)
