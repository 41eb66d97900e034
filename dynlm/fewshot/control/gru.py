"""A gated recurrent unit, one step at a time for acting and a whole sequence for learning.

Legend: N steps, B sequences, F inputs, H width.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.nets import uniform

_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class GruWeights(NamedTuple):
    """Rows of all are those of the reset gate, the update gate and the candidate, as in ``torch.nn.GRU``."""

    input: Tensor
    """(3H, F)."""
    recurrent: Tensor
    """(3H, H)."""
    input_bias: Tensor
    """(3H,)."""
    recurrent_bias: Tensor
    """(3H,)."""


def initial_gru(inputs: int, width: int, generator: torch.Generator) -> GruWeights:
    """Return weights uniform in +-1 / sqrt(H), as ``torch.nn.GRU`` has them, and biases of zero."""
    bound = 1 / math.sqrt(width)
    drawn = (uniform((3 * width, size), bound, generator) for size in (inputs, width))
    return GruWeights(*drawn, torch.zeros(3 * width), torch.zeros(3 * width))


def gru_step(projected_B3H: Tensor, hidden_BH: Tensor, weights: GruWeights) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the next (hidden state, gates (B, 2H), candidate, recurrent part of the candidate), all but gates (B, H).

    ``projected_B3H`` is ``project`` of the inputs. With reset gate r and update gate z (Cho et al. 2014, arXiv
    1406.1078, in the variant of ``torch.nn.GRU``, whose reset gate multiplies the product and not the state):

        n = tanh(W_n x + r * (U_n h)),    h' = n + z * (h - n)
    """
    width = hidden_BH.shape[1]
    recurrent_B3H = torch.addmm(weights.recurrent_bias, hidden_BH, weights.recurrent.T)
    product_BH = recurrent_B3H[:, 2 * width :]
    gates_B2H = (projected_B3H[:, : 2 * width] + recurrent_B3H[:, : 2 * width]).sigmoid_()
    candidate_BH = torch.addcmul(projected_B3H[:, 2 * width :], gates_B2H[:, :width], product_BH).tanh_()
    return torch.lerp(candidate_BH, hidden_BH, gates_B2H[:, width:]), gates_B2H, candidate_BH, product_BH


def project(x_BF: Tensor, weights: GruWeights) -> Tensor:
    """Return the inputs' part of the gates and the candidate (B, 3H)."""
    return torch.addmm(weights.input_bias, x_BF, weights.input.T)


def gru_sequence(x_NBF: Tensor, weights: GruWeights) -> Tensor:
    """Return the states after each input (N, B, H), from a state of zeros; differentiable in the weights, once.

    Forward and backward pass are written out: torch's own, step by step with autograd, takes several times as long.
    """
    hidden_NBH: Tensor = _Sequence.apply(x_NBF, *weights)
    return hidden_NBH


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NBF: Tensor, *tensors: Tensor) -> Tensor:
        weights = GruWeights(*tensors)
        (steps, batch, _), width = x_NBF.shape, weights.recurrent.shape[1]
        hidden_BH = x_NBF.new_zeros(batch, width)
        # States from before the first step to after the last.
        states = x_NBF.new_zeros(steps + 1, batch, width)
        kept = []
        for step in range(steps):
            hidden_BH, *others = gru_step(project(x_NBF[step], weights), hidden_BH, weights)
            states[step + 1] = hidden_BH
            kept.append(others)
        ctx.save_for_backward(x_NBF, weights.recurrent, states)
        ctx.kept = kept
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (upper_NBH,), (x_NBF, recurrent, states) = gradients, ctx.saved_tensors
        (steps, batch, inputs), width = x_NBF.shape, recurrent.shape[1]
        reordered = torch.cat([recurrent[2 * width :], recurrent[: 2 * width]])
        # Gradients of the candidate's recurrent part, reset gate, update gate and candidate, so that both those of the
        # recurrent product (first three) and those of the inputs' (last three) are one block.
        blocks_NB4H = x_NBF.new_empty(steps, batch, 4 * width)
        carried_BH = x_NBF.new_zeros(batch, width)
        for step in reversed(range(steps)):
            gates_B2H, candidate_BH, product_BH = ctx.kept[step]
            reset_BH, update_BH = gates_B2H[:, :width], gates_B2H[:, width:]
            product, reset, update, candidate = blocks_NB4H[step].split(width, 1)
            gradient_BH = carried_BH.add_(upper_NBH[step])
            kept_BH = gradient_BH * update_BH
            _tanh_backward(gradient_BH - kept_BH, candidate_BH, grad_input=candidate)
            torch.mul(candidate, reset_BH, out=product)
            _sigmoid_backward(candidate * product_BH, reset_BH, grad_input=reset)
            change_BH = (states[step] - candidate_BH).mul_(gradient_BH)
            _sigmoid_backward(change_BH, update_BH, grad_input=update)
            carried_BH = torch.addmm(kept_BH, blocks_NB4H[step, :, : 3 * width], reordered)
        blocks = blocks_NB4H.flatten(0, 1)
        of_recurrent = blocks[:, : 3 * width].T @ states[:-1].flatten(0, 1)
        of_input = blocks[:, width:].T @ x_NBF.reshape(-1, inputs)
        bias = blocks.sum(0)
        order = (width, 2 * width)  # Product, then both gates: back to both gates, then the product.
        return (
            None,
            of_input,
            torch.cat(of_recurrent.split(order)[::-1]),
            bias[width:],
            torch.cat(bias[: 3 * width].split(order)[::-1]),
        )
