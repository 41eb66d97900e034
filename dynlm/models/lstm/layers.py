"""One LSTM layer read by lanes with weights of their own, step by step, and its backward pass by hand.

Legend: B lanes, T tokens of a segment, S = 1 + T states, E width in, H width out of a layer, I and O the widths that a
product takes and makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.models.native import NativeKernels
from dynlm.models.scratch import Scratch
from dynlm.types import Params


class LayerTape(NamedTuple):
    """What a layer's backward pass needs of its forward pass; gates are after their non-linearities.

    In the tensors of 1 + T steps the state before the segment comes first.
    """

    x_BTE: Tensor
    gates_BT4H: Tensor
    cells_BSH: Tensor
    tanh_cells_BTH: Tensor
    outputs_BSH: Tensor


def read_layer(
    x_BTE: Tensor,
    state: tuple[Tensor, Tensor],
    weights: Params,
    index: int,
    scratch: Scratch,
    native: NativeKernels | None,
) -> LayerTape:
    """Run LSTM layer ``index``, step by step; the gates are in torch's order: input, forget, cell, output."""
    w_input, recurrent, bias = (weights[f"lstm.{index}.{kind}"] for kind in ("input", "recurrent", "bias"))
    (lanes, length, _), width = x_BTE.shape, recurrent.shape[-1]

    def take(name: str, steps: int, width: int) -> Tensor:
        # Like the bias: that is not rounded, and other weights may be.
        return scratch.take(name, (lanes, steps, width), bias)

    before_BT4H, gates_BT4H = take("gates before", length, 4 * width), take(f"gates.{index}", length, 4 * width)
    cells_BSH, outputs_BSH = (take(f"{name}.{index}", 1 + length, width) for name in ("cells", "outputs"))
    tanh_cells_BTH = take(f"tanh_cells.{index}", length, width)
    outputs_BSH[:, 0], cells_BSH[:, 0] = state
    affine(x_BTE, w_input, bias, before_BT4H)
    steps_product = _StepProduct(recurrent.transpose(-1, -2), lanes)
    if native is not None and steps_product.one_by_one:
        native.lstm_forward(before_BT4H, recurrent, (gates_BT4H, cells_BSH, tanh_cells_BTH, outputs_BSH))
        return LayerTape(x_BTE, gates_BT4H, cells_BSH, tanh_cells_BTH, outputs_BSH)

    def steps() -> list[tuple[Tensor, ...]]:
        cell = slice(2 * width, 3 * width)
        parts = (before_BT4H, before_BT4H[..., cell], gates_BT4H, *gates_BT4H.split(width, 2))
        cells = (cells_BSH[:, :-1], cells_BSH[:, 1:], tanh_cells_BTH, outputs_BSH[:, 1:])
        operands = (steps_product.sums(before_BT4H), steps_product.factors(outputs_BSH[:, :-1]))
        return list(zip(*operands, *(tensor.unbind(1) for tensor in (*parts, *cells)), strict=True))

    key = ("steps", index, lanes, length, steps_product.key)
    for summed, factor, before, before_g, gates, i, f, g, o, c, next_c, tanh_c, h in scratch.once(key, steps):
        steps_product.add(summed, factor)
        # The cell's part is done twice, which takes less time than one more call.
        torch.sigmoid(before, out=gates)
        torch.tanh(before_g, out=g)
        torch.mul(f, c, out=next_c)
        next_c.addcmul_(i, g)
        torch.tanh(next_c, out=tanh_c)
        torch.mul(o, tanh_c, out=h)
    return LayerTape(x_BTE, gates_BT4H, cells_BSH, tanh_cells_BTH, outputs_BSH)


def through_time(
    tape: LayerTape, d_outputs_BTH: Tensor, recurrent: Tensor, scratch: Scratch, native: NativeKernels | None
) -> Tensor:
    """The gradient of the gates before their non-linearities; ``d_outputs_BTH`` is written over.

    What does not wait for the step after it is worked out for all steps at once.
    """
    lanes, length, width = d_outputs_BTH.shape
    gates = tape.gates_BT4H.view(lanes, length, 4, width)
    i, f, g, o = gates.unbind(2)
    d_gates = scratch.take("d_gates", (lanes, length, 4, width), gates)
    d_gates_BT4H = d_gates.view(lanes, length, 4 * width)
    d_c_B1H = scratch.take("d_cell", (lanes, 1, width), gates)
    steps_product = _StepProduct(recurrent, lanes)
    if native is not None and steps_product.one_by_one:
        saved = (tape.gates_BT4H, tape.cells_BSH, tape.tanh_cells_BTH)
        native.lstm_backward(d_outputs_BTH, recurrent, saved, d_gates_BT4H, d_c_B1H[:, 0])
        return d_gates_BT4H
    torch.sub(1, gates, out=d_gates).mul_(gates)
    d_gates[:, :, 0].mul_(g)
    d_gates[:, :, 1].mul_(tape.cells_BSH[:, :-1])
    torch.mul(g, g, out=d_gates[:, :, 2]).neg_().add_(1).mul_(i)
    d_gates[:, :, 3].mul_(tape.tanh_cells_BTH)
    to_cell_BTH = scratch.take("to_cell", (lanes, length, width), gates)
    torch.mul(tape.tanh_cells_BTH, tape.tanh_cells_BTH, out=to_cell_BTH).neg_().add_(1).mul_(o)
    forget_BTH = scratch.take("forget", (lanes, length, width), gates).copy_(f)
    d_c_BH = d_c_B1H.zero_()[:, 0]

    def steps() -> list[tuple[Tensor, ...]]:
        of_each = (d_outputs_BTH, d_gates[:, :, :3], d_gates[:, :, 3], to_cell_BTH, forget_BTH)
        operands = (steps_product.sums(d_outputs_BTH), steps_product.factors(d_gates_BT4H))
        return list(zip(*operands, *(tensor.unbind(1) for tensor in of_each), strict=True))[::-1]

    later: Tensor | None = None
    key = ("steps back", d_outputs_BTH.data_ptr(), lanes, length, width, steps_product.key)
    for summed, factor, d_h_BH, ifg_B3H, o_BH, to_cell_BH, f_BH in scratch.once(key, steps):  # from the last step on
        if later is not None:
            steps_product.add(summed, later)
        d_c_BH.addcmul_(d_h_BH, to_cell_BH)
        ifg_B3H.mul_(d_c_B1H)
        o_BH.mul_(d_h_BH)
        d_c_BH.mul_(f_BH)
        later = factor
    return d_gates_BT4H


class _StepProduct:
    """sum += x weight for one step after another; weight is (I, O), shared by the lanes, or (B, I, O).

    ``sums`` and ``factors`` give each step's operands as the product takes them, to be made once and used again.
    """

    def __init__(self, weight: Tensor, lanes: int):
        self.weight = weight
        # A product of one row keeps one core busy; cut by columns into a batch of products, it keeps all of them.
        self.cuts = 1 if weight.is_cuda else torch.get_num_threads()
        if weight.dtype.itemsize < 4:
            self.form = "rounded"
        elif weight.dim() == 3:
            self.form = "own"
        elif lanes > 1 or weight.is_cuda or weight.shape[1] % self.cuts:
            self.form = "shared"
        else:
            self.form = "cut"
            self.weight = weight.unflatten(1, (self.cuts, -1)).permute(1, 0, 2)

    @property
    def key(self) -> tuple[str, int]:
        """Operands may be used again by a product of the same key."""
        return self.form, self.cuts

    @property
    def one_by_one(self) -> bool:
        """Whether each product is of one row and a matrix of its own."""
        return self.form in ("own", "cut")

    def sums(self, sums_BTO: Tensor) -> list[Tensor]:
        return [self._operand(sum_BO, lambda x: x.view(self.cuts, 1, -1)) for sum_BO in sums_BTO.unbind(1)]

    def factors(self, x_BTI: Tensor) -> list[Tensor]:
        return [self._operand(x_BI, lambda x: x.expand(self.cuts, 1, -1)) for x_BI in x_BTI.unbind(1)]

    def _operand(self, step: Tensor, cut: Callable[[Tensor], Tensor]) -> Tensor:
        return cut(step) if self.form == "cut" else step[:, None] if self.form == "own" else step

    def add(self, summed: Tensor, factor: Tensor) -> None:
        if self.form == "rounded":
            summed.add_((factor.to(self.weight.dtype)[:, None] @ self.weight).squeeze(1))
        elif self.form == "shared":
            summed.addmm_(factor, self.weight)
        else:
            summed.baddbmm_(factor, self.weight)


def affine(x_BTI: Tensor, weight: Tensor, bias: Tensor, out_BTO: Tensor) -> None:
    """out = x weight^T + bias, with weight (O, I) shared by the lanes or (B, O, I)."""
    if weight.dtype != out_BTO.dtype:
        product(x_BTI, weight.transpose(-1, -2), out_BTO)
        out_BTO.add_(bias if bias.dim() == 1 else bias[:, None])
    elif weight.dim() == 2 and bias.dim() == 1:
        torch.addmm(bias, x_BTI.flatten(0, 1), weight.T, out=out_BTO.flatten(0, 1))
    elif weight.dim() == 2:  # One large product, whose rows start as their lane's bias.
        out_BTO.copy_(bias[:, None].expand_as(out_BTO))
        out_BTO.flatten(0, 1).addmm_(x_BTI.flatten(0, 1), weight.T)
    else:
        weight, bias = weight.expand(len(x_BTI), -1, -1), bias.expand(len(x_BTI), -1)
        torch.baddbmm(bias[:, None], x_BTI, weight.transpose(1, 2), out=out_BTO)


def product(x_BTI: Tensor, weight: Tensor, out_BTO: Tensor) -> None:
    """out = x weight, with weight (I, O) shared by the lanes or (B, I, O)."""
    if weight.dtype != out_BTO.dtype:
        out_BTO.copy_(x_BTI.to(weight.dtype) @ weight)
    elif weight.dim() == 2:
        torch.mm(x_BTI.flatten(0, 1), weight, out=out_BTO.flatten(0, 1))
    else:
        torch.bmm(x_BTI, weight, out=out_BTO)
