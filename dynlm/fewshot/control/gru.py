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
    of_inputs, of_state = (uniform((3 * width, size), bound, generator) for size in (inputs, width))
    return GruWeights(of_inputs, of_state, torch.zeros(3 * width), torch.zeros(3 * width))


def gru_step(projected_3HB: Tensor, hidden_HB: Tensor, weights: GruWeights) -> tuple[Tensor, ...]:
    """Return the next (hidden state, reset gate, update gate, candidate, recurrent part of the candidate), each (H, B).

    ``projected_3HB`` is ``project`` of the inputs. With reset gate r and update gate z (Cho et al. 2014, arXiv
    1406.1078, in the variant of ``torch.nn.GRU``, whose reset gate multiplies the product and not the state):

        n = tanh(W_n x + r * (U_n h)),    h' = n + z * (h - n)
    """
    width = len(hidden_HB)
    recurrent_3HB = torch.addmm(weights.recurrent_bias[:, None], weights.recurrent, hidden_HB)
    product_HB = recurrent_3HB[2 * width :]
    gates_2HB = (projected_3HB[: 2 * width] + recurrent_3HB[: 2 * width]).sigmoid_()
    reset_HB, update_HB = gates_2HB[:width], gates_2HB[width:]
    candidate_HB = torch.addcmul(projected_3HB[2 * width :], reset_HB, product_HB).tanh_()
    return torch.lerp(candidate_HB, hidden_HB, update_HB), reset_HB, update_HB, candidate_HB, product_HB


def project(x_BF: Tensor, weights: GruWeights) -> Tensor:
    """Return the inputs' part of the gates and the candidate (3H, B)."""
    return torch.addmm(weights.input_bias[:, None], weights.input, x_BF.T)


def gru_sequence(x_NBF: Tensor, weights: GruWeights) -> Tensor:
    """Return the states after each input (N, H, B), from a state of zeros; differentiable in the weights, once.

    Forward and backward pass are written out: torch's own, step by step with autograd, takes several times as long.
    """
    states_NHB: Tensor = _Sequence.apply(x_NBF, *weights)
    return states_NHB


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_NBF: Tensor, *tensors: Tensor) -> Tensor:
        weights = GruWeights(*tensors)
        (steps, batch, _), width = x_NBF.shape, weights.recurrent.shape[1]
        # States from before the first step to after the last.
        states = x_NBF.new_zeros(steps + 1, width, batch)
        kept = []
        for step, x_BF in enumerate(x_NBF):
            hidden_HB, *others = gru_step(project(x_BF, weights), states[step], weights)
            states[step + 1] = hidden_HB
            kept.append(others)
        ctx.save_for_backward(x_NBF, weights.recurrent, states)
        ctx.kept = kept
        return states[1:]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (upper_NHB,), (x_NBF, recurrent, states) = gradients, ctx.saved_tensors
        (steps, batch, inputs), width = x_NBF.shape, recurrent.shape[1]
        transposed = torch.cat([recurrent[2 * width :], recurrent[: 2 * width]]).T.contiguous()
        # The gradients of the candidate's recurrent part, reset gate, update gate and candidate, in this order, so that
        # those of the recurrent product (the first three) and those of the inputs' (the last three) are one block each.
        block = x_NBF.new_empty(4 * width, batch)
        of_recurrent, of_inputs = block[: 3 * width], block[width:]
        product, reset, update, candidate = block.split(width)
        carried_HB = x_NBF.new_zeros(width, batch)
        recurrent_sum, input_sum = x_NBF.new_zeros(3 * width, width), x_NBF.new_zeros(3 * width, inputs)
        bias_sum = x_NBF.new_zeros(4 * width)
        for step in reversed(range(steps)):
            reset_HB, update_HB, candidate_HB, product_HB = ctx.kept[step]
            gradient_HB = carried_HB.add_(upper_NHB[step])
            kept_HB = gradient_HB * update_HB
            _tanh_backward(gradient_HB - kept_HB, candidate_HB, grad_input=candidate)
            torch.mul(candidate, reset_HB, out=product)
            _sigmoid_backward(candidate * product_HB, reset_HB, grad_input=reset)
            change_HB = (states[step] - candidate_HB).mul_(gradient_HB)
            _sigmoid_backward(change_HB, update_HB, grad_input=update)
            carried_HB = torch.addmm(kept_HB, transposed, of_recurrent)
            recurrent_sum.addmm_(of_recurrent, states[step].T)
            input_sum.addmm_(of_inputs, x_NBF[step])
            bias_sum += block.sum(1)
        # From the order product, reset gate, update gate to that of the weights.
        recurrent_sum, recurrent_bias = (each.roll(-width, 0) for each in (recurrent_sum, bias_sum[: 3 * width]))
        return None, input_sum, recurrent_sum, bias_sum[width:], recurrent_bias
