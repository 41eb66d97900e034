"""The LSTM meta-learner as a memory's rule: a gate state for every weight (Ravi & Larochelle 2017), for comparison.

Legend: B lanes, N coordinates, H width of the LSTM's state.

    theta_{t+1} = theta_t + (1 - f_t) (home - theta_t) - i_t * scale * u_t
    i_t = sigmoid(logit alpha + W_i [h_t, d_t, i_{t-1}] + b_i)
    f_t = sigmoid(logit (1 - beta) + W_f [h_t, d_t, f_{t-1}] + b_f)

h_t is the state of an LSTM that reads the gradient (as the step takes it: scale * u) and the segment's mean nats, both
preprocessed as in the paper; d_t is theta - home in units of ten steps, and f pulls toward home where the paper's
pulls toward zero. With W and b of zero this is the rule that alpha, beta and scale are of, the tuned rms. What W and b
add to a logit is kept within 3 nats. One set of weights serves all coordinates of any model.

It is slow: some thirty times what rms takes, and 2 H + 2 numbers of state for each weight of each lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dynlm.adapt.rules.elementwise import Rule, Statistics, gradient_step, uniform_rule
from dynlm.adapt.rules.lstm_gates import GateState, gates_read, initial_gates, log_and_sign
from dynlm.models.lstm.engine import Gradient
from dynlm.models.lstm.model import Params

_STEPS = 10.0
_LARGEST = 3.0
_AT_A_TIME = 1 << 15


def initial_coordinates(hidden: int, generator: torch.Generator) -> Params:
    """Parameters of the gates that leave the rule as it is."""
    gates = initial_gates(hidden, 0.5, generator)
    for name in ("gates.i.weight", "gates.i.bias", "gates.f.weight", "gates.f.bias"):
        gates[name] = torch.zeros_like(gates[name])
    return gates


def fresh_coordinates(gates: Params, weights: Params) -> Params:
    """Every weight's state before the first step: NAME/h and /c (B, ..., H), /i of 0 and /f of 1 (B, ...)."""
    hidden, states = len(gates["gates.bias"]) // 4, {}
    for name, tensor in weights.items():
        states[f"{name}/h"] = tensor.new_zeros(*tensor.shape, hidden)
        states[f"{name}/c"] = tensor.new_zeros(*tensor.shape, hidden)
        states[f"{name}/i"], states[f"{name}/f"] = torch.zeros_like(tensor), torch.ones_like(tensor)
    return states


def begin_coordinates_(coordinates: Params, lane: int) -> None:
    """A lane's states start afresh, in place."""
    for key, tensor in coordinates.items():
        tensor[lane].fill_(fresh_value(key))


def fresh_value(key: str) -> float:
    """What a state called ``key`` is before the first step."""
    return 1.0 if key.endswith("/f") else 0.0


def state_of(coordinates: Params, name: str, lane: int, part: slice = slice(None)) -> GateState:
    """A lane's gate state of some rows of a tensor, its weights in one row; views."""
    h, c, i, f = (coordinates[f"{name}/{kind}"][lane, part] for kind in "hcif")
    hidden = h.shape[-1]
    return GateState(h.view(-1, hidden), c.view(-1, hidden), i.view(-1), f.view(-1))


def coordinate_step(
    gates: Params,
    state: GateState,
    theta_N: Tensor,
    u_N: Tensor,
    home_N: Tensor,
    alpha: float,
    beta: Tensor | float,
    scale: Tensor | float,
    nats: Tensor,
) -> tuple[Tensor, GateState]:
    """(the next weights, the next state) as new tensors, differentiable by the gates; u and nats are constants."""
    u_N, nats_N = u_N.detach(), nats.detach().to(theta_N).expand(len(theta_N))
    away_N = ((theta_N - home_N) / max(_STEPS * alpha, 1e-12)).clamp(-_LARGEST, _LARGEST)
    read_i_N, read_f_N, h_NH, c_NH = gates_read(
        gates, state, torch.cat([log_and_sign(scale * u_N), log_and_sign(nats_N)], -1), away_N
    )
    i_N = torch.sigmoid(_logit(alpha, theta_N) + read_i_N.clamp(-_LARGEST, _LARGEST))
    # As 1 - f, which is small.
    pull_N = torch.sigmoid(_logit(beta, theta_N) - read_f_N.clamp(-_LARGEST, _LARGEST))
    moved_N = gradient_step(theta_N, u_N, i_N, scale, home_N, pull_N)
    return moved_N, GateState(h_NH, c_NH, i_N, 1 - pull_N)


@torch.no_grad()
def coordinate_step_(
    rule: Rule, coordinates: Params, theta: Tensor, gradient: Gradient, home: Tensor, nats_B: Tensor
) -> None:
    """``coordinate_step`` written over a block of lanes' weights (B, ...) and states, some thousands at a time."""
    assert rule.coordinates is not None
    name, part = gradient.name, gradient.part
    rates, beta = rule.rates[name], rule.beta[name]
    scale = 1.0 if rule.scale is None else rule.scale[name][part].reshape(-1)
    beta = beta[part].reshape(-1) if isinstance(beta, Tensor) else beta
    for lane in range(len(theta)):
        theta_N, u_N = theta[lane, part].view(-1), gradient.tensor[lane].reshape(-1)
        home_N = (home[lane, part] if home.dim() == theta.dim() else home[part]).reshape(-1)
        state = state_of(coordinates, name, lane, part)
        for begin in range(0, len(theta_N), _AT_A_TIME):
            some = slice(begin, begin + _AT_A_TIME)
            moved_N, after = coordinate_step(
                rule.coordinates,
                GateState(*(tensor[some] for tensor in state)),
                theta_N[some],
                u_N[some],
                home_N[some],
                float(rates.alpha),
                beta[some] if isinstance(beta, Tensor) else beta,
                scale[some] if isinstance(scale, Tensor) else scale,
                nats_B[lane],
            )
            theta_N[some] = moved_N
            for old, new in zip(state, after, strict=True):
                old[some] = new


def naive_coordinate_steps(
    rule: Rule, own: Params, allowed: Mapping[str, bool], theta: Params, u: Params, home: Params, nats: Tensor
) -> Params:
    """The reference of one lane's step, of whole ``allowed`` tensors; the states in ``own`` are written over."""
    assert rule.coordinates is not None
    moved = {}
    for name, rates in rule.rates.items():
        if not allowed[name]:
            continue
        beta, state = rule.beta[name], state_of(own, name, 0)
        scale = 1.0 if rule.scale is None else rule.scale[name].reshape(-1)
        moved_N, after = coordinate_step(
            rule.coordinates,
            state,
            theta[name].reshape(-1),
            u[name].reshape(-1),
            home[name].reshape(-1),
            float(rates.alpha),
            beta.reshape(-1) if isinstance(beta, Tensor) else beta,
            scale,
            nats,
        )
        for old, new in zip(state, after, strict=True):
            old.copy_(new)
        moved[name] = moved_N.view_as(theta[name])
    return moved


@dataclass(frozen=True)
class CoordinateMeta:
    """The LSTM meta-learner where ``memory.phi.Meta`` stands otherwise: phi are its gates, started at the tuned rms."""

    statistics: Statistics
    static: Params
    rate: float
    pull: float
    epsilon: float
    hidden: int = 4

    @property
    def names(self) -> list[str]:
        """The dynamic tensors."""
        return list(self.statistics.rms)

    def initial(self) -> Params:
        """Gates that leave the rule as it is; the LSTM's own weights are drawn by a fixed seed."""
        some = next(iter(self.statistics.rms.values()))
        gates = initial_coordinates(self.hidden, torch.Generator().manual_seed(0))
        return {name: tensor.to(some) for name, tensor in gates.items()}

    def rule(self, phi: Params, label: str = "meta") -> Rule:
        """The rule with these gates."""
        made = uniform_rule(label, tuple(self.names), self.rate, self.pull, self.statistics, self.epsilon)
        return replace(made, coordinates=phi)


def _logit(share: Tensor | float, like: Tensor) -> Tensor:
    return torch.logit(torch.as_tensor(share, dtype=like.dtype, device=like.device))
