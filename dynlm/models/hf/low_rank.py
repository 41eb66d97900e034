"""A linear layer with low-rank factors beside its matrix, in few passes over its activations.

Legend: N tokens of all lanes, I inputs, O outputs, R rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


class LowRankLinear(nn.Module):
    """x -> x W + bias + scale (x A) B, with the weights of ``layer``, a ``Linear`` or GPT-2's ``Conv1D``.

    Its parameters have the layer's names and, as PEFT names them, ``lora_A.weight`` (R, I) and ``lora_B.weight``
    (O, R).
    """

    def __init__(self, layer: nn.Linear | Conv1D, rank: int, scale: float):
        super().__init__()
        self.weight, self.bias, self.scale = layer.weight, layer.bias, scale
        self.inputs_first = isinstance(layer, Conv1D)
        outputs, inputs = reversed(layer.weight.shape) if self.inputs_first else layer.weight.shape
        kind = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.lora_A = nn.Linear(inputs, rank, bias=False, **kind)
        self.lora_B = nn.Linear(rank, outputs, bias=False, **kind)

    def forward(self, x: Tensor) -> Tensor:
        weight_IO = self.weight if self.inputs_first else self.weight.t()
        y: Tensor = _LowRank.apply(x, weight_IO, self.bias, self.lora_A.weight, self.lora_B.weight, self.scale)
        return y


class _LowRank(torch.autograd.Function):
    """The layer as one operation: sums and scales are part of the products."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_IO: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        x_NI = x.flatten(0, -2)
        hidden_NR = x_NI @ a_RI.t()
        y_NO = x_NI @ weight_IO if bias_O is None else torch.addmm(bias_O, x_NI, weight_IO)
        y_NO.addmm_(hidden_NR, b_OR.t(), alpha=scale)
        ctx.save_for_backward(x_NI if ctx.needs_input_grad[1] or ctx.needs_input_grad[3] else None, hidden_NR)
        ctx.weights, ctx.scale = (weight_IO, a_RI, b_OR), scale
        return y_NO.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x_NI, hidden_NR), (weight_IO, a_RI, b_OR), scale = ctx.saved_tensors, ctx.weights, ctx.scale
        of_x, of_weight, of_bias, of_a, of_b, _ = ctx.needs_input_grad
        d_y_NO = gradients[0].flatten(0, -2)
        d_hidden_NR = d_y_NO @ b_OR
        d_x = d_weight = d_a = None
        if of_x:
            d_x_NI = (d_y_NO @ weight_IO.t()).addmm_(d_hidden_NR, a_RI, alpha=scale)
            d_x = d_x_NI.unflatten(0, gradients[0].shape[:-1])
        if of_weight:
            d_weight = x_NI.t() @ d_y_NO
        if of_a:
            d_a = (d_hidden_NR.t() @ x_NI).mul_(scale)
        d_b = (d_y_NO.t() @ hidden_NR).mul_(scale) if of_b else None
        return d_x, d_weight, d_y_NO.sum(0) if of_bias else None, d_a, d_b, None
