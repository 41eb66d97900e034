"""A learned rule's gates, coordinate by coordinate: the LSTM meta-learner (Ravi & Larochelle 2017, section 3).

    theta_t = f_t * theta_{t-1} - i_t * u_t
    i_t = sigmoid(W_i [h_t, theta_{t-1}, i_{t-1}] + b_i),    f_t = sigmoid(W_f [h_t, theta_{t-1}, f_{t-1}] + b_f)

h_t is the state of an LSTM that reads each coordinate's gradient and the loss, all coordinates with the same weights.
In ``gradient_step`` that is alpha = i_t and beta = 1 - f_t with a pull toward zero: one mechanism. Gradients are
constants to the gates (their simplification), so that one backward pass through the steps trains them.

Legend: N coordinates, H width of the LSTM's state.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.models.lstm.model import fused_layer
from dynlm.types import Params

FEATURES = 4
"""Of the gradient and of the loss two each (``log_and_sign``)."""
_SHARPNESS = 10.0


class GateState(NamedTuple):
    """What the gates remember of each coordinate: the LSTM's h and c (N, H), the last i and f (N,)."""

    h: Tensor
    c: Tensor
    i: Tensor
    f: Tensor


def log_and_sign(values: Tensor, p: float = _SHARPNESS) -> Tensor:
    """Return numbers of any size as two of moderate size (Andrychowicz et al. 2016, appendix A): (..., 2).

    (log|v| / p, sign v) where |v| >= e^-p, else (-1, e^p v).
    """
    size = values.abs()
    large = size >= math.exp(-p)
    logs = torch.where(large, size.clamp(min=math.exp(-p)).log() / p, -1.0)
    signs = torch.where(large, values.sign(), math.exp(p) * values)
    return torch.stack([logs, signs], -1)


def initial_gates(hidden: int, rate: float, generator: torch.Generator) -> Params:
    """Return initial parameters: i starts about ``rate`` and f close to 1, close to gradient descent."""

    def uniform(*shape: int) -> Tensor:
        return (2 * torch.rand(shape, generator=generator) - 1) * 0.01

    bias = torch.zeros(4 * hidden)
    bias[hidden : 2 * hidden] = 1.0
    return {
        "gates.input": uniform(4 * hidden, FEATURES),
        "gates.recurrent": uniform(4 * hidden, hidden),
        "gates.bias": bias,
        "gates.i.weight": uniform(hidden + 2),
        "gates.i.bias": torch.tensor(math.log(rate / (1 - rate))),
        "gates.f.weight": uniform(hidden + 2),
        "gates.f.bias": torch.tensor(6.0),
    }


def fresh_state(gates: Params, coordinates: int) -> GateState:
    """Return the state before the first step: nothing seen, i of 0 and f of 1."""
    like = gates["gates.bias"]
    zeros_NH = like.new_zeros(coordinates, len(like) // 4)
    return GateState(zeros_NH, zeros_NH, like.new_zeros(coordinates), like.new_ones(coordinates))


def gates_read(
    gates: Params, state: GateState, features_N4: Tensor, theta_N: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what the gates i and f read before their sigmoid (N,), and the LSTM's next h and c."""
    weights = (gates["gates.input"], gates["gates.recurrent"], gates["gates.bias"])
    _, (h_NH, c_NH) = fused_layer(features_N4[None], (state.h, state.c), *weights)

    def gate(name: str, last_N: Tensor) -> Tensor:
        read = torch.cat([h_NH, theta_N[:, None], last_N[:, None]], 1)
        return read @ gates[f"gates.{name}.weight"] + gates[f"gates.{name}.bias"]

    return gate("i", state.i), gate("f", state.f), h_NH, c_NH


def gated_step(
    gates: Params, state: GateState, theta_N: Tensor, gradient_N: Tensor, loss_N: Tensor
) -> tuple[Tensor, GateState]:
    """Return (the next weights, the next state). ``gradient_N`` and ``loss_N`` are constants to the gates."""
    features_N4 = torch.cat([log_and_sign(gradient_N.detach()), log_and_sign(loss_N.detach())], -1)
    read_i_N, read_f_N, h_NH, c_NH = gates_read(gates, state, features_N4, theta_N)
    i_N, f_N = torch.sigmoid(read_i_N), torch.sigmoid(read_f_N)
    moved_N = gradient_step(theta_N, gradient_N.detach(), i_N, anchor=torch.zeros_like(theta_N), beta=1 - f_N)
    return moved_N, GateState(h_NH, c_NH, i_N, f_N)
