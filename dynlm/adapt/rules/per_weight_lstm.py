"""The LSTM meta-learner as an update rule: a gate state for every weight (Ravi & Larochelle 2017), for comparison.

Legend: B lanes, N weights of a tensor or part, H width of the LSTM's state.

    theta_{t+1} = theta_t + (1 - f_t) (theta_0 - theta_t) - i_t * precondition * u_t
    i_t = sigmoid(logit lr + W_i [h_t, d_t, i_{t-1}] + b_i)
    f_t = sigmoid(logit (1 - beta) + W_f [h_t, d_t, f_{t-1}] + b_f)

h_t is the state of an LSTM that reads the preconditioned gradient and the segment's mean nats, both preprocessed as in
the paper; d_t is theta - theta_0 in units of ten steps, and f pulls toward theta_0 where the paper's pulls toward zero.
With W and b of zero this is the tuned rms rule. What W and b add to a logit is kept within 3 nats. One set of weights
serves all weights of any model.

It is slow: some thirty times what rms takes, and 2 H + 2 numbers of state for each weight of each lane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import Slot, StepEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates
from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.adapt.rules.learned import TunedStart
from dynlm.adapt.rules.lstm_gates import GateState, gates_read, initial_gates, log_and_sign
from dynlm.types import Params

_STEPS = 10.0
_LARGEST = 3.0
_AT_ONCE = 1 << 15


class WeightConstants(NamedTuple):
    """The constants of N weights: their learning rate, decay and preconditioner."""

    lr: float
    beta_N: Tensor
    precondition_N: Tensor

    def select(self, some: slice | Tensor) -> WeightConstants:
        """Return those of some weights."""
        return WeightConstants(self.lr, self.beta_N[some], self.precondition_N[some])


@dataclass(frozen=True)
class PerWeightLSTMRule(ElementwiseRule):
    """The rms rule, with the gates of ``lstm`` over every weight's learning rate and decay."""

    lstm: Params = field(default_factory=dict)

    @property
    def slots(self) -> dict[str, Slot]:  # type: ignore[override]
        """The LSTM's h and c, the last i and f."""
        width = len(self.lstm["gates.bias"]) // 4
        return {"h": Slot(width=width), "c": Slot(width=width), "i": Slot(), "f": Slot(fill=1.0)}

    def constants(self) -> Any:
        base = {name: value for name, value in super().constants().items() if name != "lstm"}
        return {"base": base, "gates": self.lstm}

    def weight_constants(self, name: str, part: slice = slice(None)) -> WeightConstants:
        """Return the constants of a part of a tensor, its weights in one row."""
        beta, precondition = torch.as_tensor(self.beta[name]), self.precondition
        assert precondition is not None
        return WeightConstants(float(self.rates[name].lr), beta[part].reshape(-1), precondition[name][part].reshape(-1))

    @torch.no_grad()
    def step_(self, event: StepEvent) -> None:
        """Take ``per_weight_step`` in place, some thousands of weights at a time."""
        constants = self.weight_constants(event.name, event.gradient.part)
        for lane in range(len(event.theta)):
            theta_N, u_N = event.theta[lane].view(-1), event.update[lane].reshape(-1)
            anchor_N = (event.anchor[lane] if event.has_own_anchor else event.anchor).reshape(-1)
            state = lane_state(event.slots, lane)
            for begin in range(0, len(theta_N), _AT_ONCE):
                some = slice(begin, begin + _AT_ONCE)
                weights, before = (theta_N[some], u_N[some], anchor_N[some]), GateState(*(each[some] for each in state))
                after = per_weight_step(self.lstm, before, weights, constants.select(some), event.nats_B[lane])
                for old, new in zip((theta_N, *state), (after[0], *after[1]), strict=True):
                    old[some] = new


def lane_state(slots: Params, lane: int) -> GateState:
    """Return a lane's gate state of some rows of a tensor, its weights in one row; views."""
    h, c, i, f = (slots[kind][lane] for kind in "hcif")
    width = h.shape[-1]
    return GateState(h.view(-1, width), c.view(-1, width), i.view(-1), f.view(-1))


def per_weight_step(
    gates: Params, state: GateState, weights: tuple[Tensor, Tensor, Tensor], constants: WeightConstants, nats: Tensor
) -> tuple[Tensor, GateState]:
    """Return (the next weights, the next state) as new tensors, differentiable by the gates.

    ``weights`` are theta_N, their gradients u_N and their anchor_N; u and nats are constants.
    """
    theta_N, u_N, anchor_N = weights
    lr, beta_N, precondition_N = constants
    u_N, nats_N = u_N.detach(), nats.detach().to(theta_N).expand(len(theta_N))
    away_N = ((theta_N - anchor_N) / max(_STEPS * lr, 1e-12)).clamp(-_LARGEST, _LARGEST)
    features_N4 = torch.cat([log_and_sign(precondition_N * u_N), log_and_sign(nats_N)], -1)
    read_i_N, read_f_N, h_NH, c_NH = gates_read(gates, state, features_N4, away_N)
    i_N = torch.sigmoid(torch.logit(theta_N.new_tensor(lr)) + read_i_N.clamp(-_LARGEST, _LARGEST))
    # As 1 - f, which is small.
    decay_N = torch.sigmoid(torch.logit(beta_N.to(theta_N)) - read_f_N.clamp(-_LARGEST, _LARGEST))
    moved_N = gradient_step(theta_N, u_N, i_N, precondition_N, anchor_N, decay_N)
    return moved_N, GateState(h_NH, c_NH, i_N, 1 - decay_N)


@dataclass(frozen=True)
class LearnedLSTMRule(TunedStart):
    """The LSTM meta-learner: phi holds the gates of a ``PerWeightLSTMRule``."""

    def initial(self) -> Params:
        """Return gates that leave the rule as it is; the LSTM's own weights are drawn by a fixed seed."""
        some = next(iter(self.statistics.rms.values()))
        gates = initial_gates(self.g.hidden, 0.5, torch.Generator().manual_seed(0))
        return {
            name: (torch.zeros_like(tensor) if name.startswith(("gates.i.", "gates.f.")) else tensor).to(some)
            for name, tensor in gates.items()
        }

    def rule(self, phi: Params, label: str = "meta") -> PerWeightLSTMRule:
        """Return the rule with these gates."""
        rates = dict.fromkeys(self.names, Rates(self.lr, self.decay))
        tables = self.statistics.precondition(self.epsilon), self.statistics.decay_shape()
        return PerWeightLSTMRule(label, rates, *tables, lstm=phi, source=(self.statistics.rms, self.epsilon))

    def readable(self, phi: Params) -> Mapping[str, object]:
        """Return each tensor's initial rates, for JSON and tables."""
        return {name: {"alpha": self.lr, "lambda": self.decay} for name in self.names}
