"""The language model read by many lanes at once, each with weights of its own, and its backward pass by hand.

Legend: B lanes, T tokens of a segment, E width of the embedding, H width of a layer, V vocabulary, R rows of a part, I
and O the widths that a product takes and makes.

Autograd would make the gradient of the embedding as a dense matrix of zeros with a few rows set, add it to that of the
tied output layer, and allocate everything anew for each segment. Here the products are the same and the rest is not
done. Gradients come a tensor at a time (a large one a few rows at a time), each after its tensor was used for the last
time, so that whoever learns writes over the weights while their gradient is in the processor's cache.

``LSTMLanguageModel.naive_loss`` under autograd, one lane at a time, is the reference.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.models.lstm.layers import LayerTape, affine, product, read_layer, through_time
from dynlm.models.lstm.model import Hidden, LSTMLanguageModel, Params
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.scratch import Scratch

_EVERYTHING = slice(None)
# For each core at work: so large a part of a gradient stays in cache until it was learned from. Fewer, larger parts
# start fewer kernels.
_PART_BYTES = 1 << 23


class Gradient(NamedTuple):
    """dL_b / d tensor of each lane b, for one tensor or some of its rows.

    ``tensor``: (B, rows of ``part``, ...); it is scratch, good until the next gradient is asked for.
    ``rows_BT``: where it is set, only these of the tensor's rows can differ from zero.
    ``products``: no lane's norm is larger than the sum of these products of a number and of tensors' norms; empty where
    the tensor itself is small.
    """

    name: str
    tensor: Tensor
    part: slice = _EVERYTHING
    rows_BT: Tensor | None = None
    products: tuple[tuple[Any, ...], ...] = ()

    def of_lane(self, lane: int) -> Gradient:
        """One lane's, as a gradient of one lane."""
        one = slice(lane, lane + 1)
        return Gradient(self.name, self.tensor[one], self.part, None if self.rows_BT is None else self.rows_BT[one])


class Scored(NamedTuple):
    """A segment that was read: its losses, the state after it, and what ``gradients`` needs (scratch)."""

    nats_BT: Tensor
    hidden: Hidden
    weights: Params
    inputs_BT: Tensor
    layers: list[LayerTape]
    scaled_BTV: Tensor
    total_BT1: Tensor
    places_N: Tensor
    """Where the targets' scores stand among all of ``scaled_BTV``."""


@torch.no_grad()
def forward(
    model: LSTMLanguageModel,
    static: Params,
    own: Params,
    inputs_BT: Tensor,
    targets_BT: Tensor,
    hidden: Hidden,
    scratch: Scratch,
    precision: torch.dtype | None = None,
    native: NativeKernels | None = None,
) -> Scored:
    """Read a segment. ``own`` tensors have a first dimension of B and stand in for the ``static`` ones.

    ``precision``: type of the matrix products' operands, the weights' own where None. ``native``: kernels to use where
    they serve.
    """
    lanes, length = inputs_BT.shape
    weights = {
        # One lane's own weights are the same to it as shared ones: the same products are asked for, to the bit.
        name: own[name][0] if lanes == 1 and name in own else own.get(name, tensor)
        for name, tensor in static.items()
    }
    like = static["embedding"]
    if precision is not None:
        weights = {n: tensor if n.endswith("bias") else tensor.to(precision) for n, tensor in weights.items()}
    embedding = weights["embedding"]
    width = embedding.shape[-1]
    x_BTE = scratch.take("embedded", (lanes, length, width), embedding)
    rows_N = inputs_BT.reshape(-1) if embedding.dim() == 2 else _below_one_another(inputs_BT, model.vocabulary)
    torch.index_select(embedding.view(-1, width), 0, rows_N, out=x_BTE.view(-1, width))
    layers, after = [], []
    for index in range(model.config.layers):
        tape = read_layer(x_BTE, hidden[index], weights, index, like, scratch, native)
        layers.append(tape)
        after.append((tape.outputs_BSH[:, -1].clone(), tape.cells_BSH[:, -1].clone()))
        x_BTE = tape.outputs_BTH
    logits_BTV = scratch.take("logits", (lanes, length, model.vocabulary), like)
    affine(x_BTE, model.output_weight(weights), weights["output.bias"], logits_BTV)
    places_N = _below_one_another(targets_BT.reshape(-1, 1), model.vocabulary)
    of_target_BT = logits_BTV.view(-1)[places_N].view(lanes, length)
    top_BT1 = logits_BTV.amax(2, keepdim=True)
    total_BT1 = logits_BTV.sub_(top_BT1).exp_().sum(2, keepdim=True)
    nats_BT = (total_BT1.log() + top_BT1).squeeze(2) - of_target_BT
    return Scored(nats_BT, tuple(after), weights, inputs_BT, layers, logits_BTV, total_BT1, places_N)


@torch.no_grad()
def gradients(
    model: LSTMLanguageModel,
    scored: Scored,
    share_BT: Tensor,
    wanted: Collection[str],
    scratch: Scratch,
    whole: bool = False,
    native: NativeKernels | None = None,
) -> Iterator[Gradient]:
    """The gradient of each lane's sum of share * nats by each of its ``wanted`` tensors.

    Whatever was given may be learned from at once: no tensor is used after its gradient was given. With ``whole``
    every tensor's gradient comes in one piece. ``scored`` is used up.
    """
    weights, layers = scored.weights, scored.layers
    d_logits_BTV = scored.scaled_BTV.mul_(share_BT[..., None] / scored.total_BT1)
    d_logits_BTV.view(-1).index_add_(0, scored.places_N, share_BT.reshape(-1), alpha=-1)
    features_BTH = layers[-1].outputs_BTH
    # A token's probabilities and its target's 1 are no further apart than the root of 2.
    of_output = (math.sqrt(2), share_BT, features_BTH)
    if "output.bias" in wanted:
        yield Gradient("output.bias", d_logits_BTV.sum(1))
    output = model.output_weight(weights)
    d_x = scratch.take("d_features", tuple(features_BTH.shape), features_BTH)
    product(d_logits_BTV, output, d_x)
    rows = model.vocabulary if whole or d_x.is_cuda else _rows_of_a_part(len(d_x), features_BTH)
    if not model.config.tied and "output.weight" in wanted:
        for part in _parts(model.vocabulary, rows):
            d_part_BRH = _outer(d_logits_BTV[..., part], features_BTH, output.dtype, scratch)
            yield Gradient("output.weight", d_part_BRH, part, products=(of_output,))
    for index in reversed(range(model.config.layers)):
        tape, recurrent, inward = (
            layers[index],
            weights[f"lstm.{index}.recurrent"],
            weights[f"lstm.{index}.input"],
        )
        d_gates_BT4H = through_time(tape, d_x, recurrent, scratch, native)
        if (name := f"lstm.{index}.recurrent") in wanted:
            before_BTH = tape.outputs_BSH[:, :-1]
            u = _outer(d_gates_BT4H, before_BTH, recurrent.dtype, scratch)
            yield Gradient(name, u, products=((1.0, d_gates_BT4H, before_BTH),))
        if (name := f"lstm.{index}.bias") in wanted:
            yield Gradient(name, d_gates_BT4H.sum(1))
        d_x = scratch.take("d_input", tuple(tape.x_BTE.shape), d_gates_BT4H)
        product(d_gates_BT4H, inward, d_x)
        if (name := f"lstm.{index}.input") in wanted:
            u = _outer(d_gates_BT4H, tape.x_BTE, inward.dtype, scratch)
            yield Gradient(name, u, products=((1.0, d_gates_BT4H, tape.x_BTE),))
    of_input = (math.sqrt(d_x.shape[1]), d_x)
    if "embedding" not in wanted:
        return
    if model.config.tied:
        embedded = _ByRow(scored.inputs_BT, d_x, rows, model.vocabulary)
        for number, part in enumerate(_parts(model.vocabulary, rows)):
            d_part_BRE = _outer(d_logits_BTV[..., part], features_BTH, output.dtype, scratch)
            embedded.add_to(d_part_BRE, number)
            yield Gradient("embedding", d_part_BRE, part, products=(of_output, of_input))
        return
    shape = (len(d_x), model.vocabulary, d_x.shape[-1])
    d_embedding_BVE = scratch.take("d_embedding", shape, d_x, zeroed=True)
    rows_N = _below_one_another(scored.inputs_BT, model.vocabulary)
    d_embedding_BVE.view(-1, shape[-1]).index_add_(0, rows_N, d_x.view(-1, shape[-1]))
    yield Gradient("embedding", d_embedding_BVE, rows_BT=scored.inputs_BT, products=(of_input,))
    d_embedding_BVE.view(-1, shape[-1]).index_fill_(0, rows_N, 0)


def first_gradient(names: Collection[str]) -> str:
    """Of the tensors ``names``, the one whose gradient ``gradients`` gives first: those nearest the loss come first.

    Raises ValueError where there is none.
    """
    return min(names, key=_distance_from_loss)


def _distance_from_loss(name: str) -> tuple[int, int, int]:
    if name.startswith("lstm."):
        _, index, kind = name.split(".")
        return 2, -int(index), ("recurrent", "bias", "input").index(kind)
    return {"output.bias": 0, "output.weight": 1, "embedding": 3}[name], 0, 0


class _ByRow:
    """The embedded tokens' gradients, to be added to the parts of a matrix that they belong to."""

    def __init__(self, rows_BT: Tensor, d_x_BTE: Tensor, rows_of_a_part: int, vocabulary: int):
        self.rows_BT, self.d_x_BTE, self.rows_of_a_part = rows_BT, d_x_BTE, rows_of_a_part
        self.in_one_part = rows_of_a_part >= vocabulary
        if not self.in_one_part:
            self.rows_BT, order_BT = rows_BT.sort(1)
            self.d_x_BTE = d_x_BTE.gather(1, order_BT[..., None].expand_as(d_x_BTE))
            edges = torch.arange(0, vocabulary + rows_of_a_part, rows_of_a_part, device=rows_BT.device)
            ends = torch.searchsorted(self.rows_BT, edges.expand(len(rows_BT), -1).contiguous())
            # The meta device knows shapes alone.
            self.ends = [] if ends.is_meta else ends.tolist()

    def add_to(self, part_BRE: Tensor, number: int) -> None:
        if self.in_one_part:
            rows_N = _below_one_another(self.rows_BT, part_BRE.shape[1])
            part_BRE.view(-1, part_BRE.shape[-1]).index_add_(0, rows_N, self.d_x_BTE.view(-1, part_BRE.shape[-1]))
            return
        for lane, ends in enumerate(self.ends):
            tokens = slice(ends[number], ends[number + 1])
            if tokens.start < tokens.stop:
                rows = self.rows_BT[lane, tokens] - number * self.rows_of_a_part
                part_BRE[lane].index_add_(0, rows, self.d_x_BTE[lane, tokens])


def _outer(d_BTO: Tensor, x_BTI: Tensor, precision: torch.dtype, scratch: Scratch) -> Tensor:
    """Each lane's gradient of a matrix: the sum over tokens of d x^T, (B, O, I)."""
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


def _parts(rows: int, of_a_part: int) -> Iterator[slice]:
    for begin in range(0, rows, of_a_part):
        yield slice(begin, min(begin + of_a_part, rows))


def _below_one_another(rows_BT: Tensor, height: int) -> Tensor:
    """Places of each lane's rows (B * T) where B matrices of ``height`` rows stand below one another."""
    lane_B1 = torch.arange(len(rows_BT), device=rows_BT.device)[:, None]
    return (rows_BT + lane_B1 * height).view(-1)
