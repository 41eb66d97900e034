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

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dynlm.adapt.rules.base import Rule, Slot, StepEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates, uniform_rule
from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.adapt.rules.lstm_gates import GateState, gates_read, initial_gates, log_and_sign
from dynlm.adapt.rules.statistics import Statistics
from dynlm.types import Params

_STEPS = 10.0
_LARGEST = 3.0
_AT_ONCE = 1 << 15


def initial_coordinates(hidden: int, generator: torch.Generator) -> Params:
    """Return parameters of the gates that leave the rule as it is."""
    gates = initial_gates(hidden, 0.5, generator)
    for name in ("gates.i.weight", "gates.i.bias", "gates.f.weight", "gates.f.bias"):
        gates[name] = torch.zeros_like(gates[name])
    return gates


@dataclass(frozen=True)
class WeightConstants:
    """The constants of N weights: their learning rate, decay and preconditioner."""

    lr: float
    beta: Tensor | float
    precondition: Tensor | float

    def __getitem__(self, some: slice | Tensor) -> WeightConstants:
        beta = self.beta[some] if isinstance(self.beta, Tensor) else self.beta
        precondition = self.precondition[some] if isinstance(self.precondition, Tensor) else self.precondition
        return WeightConstants(self.lr, beta, precondition)


@dataclass(frozen=True)
class PerWeightLSTMRule(Rule):
    """The rule ``base`` with the gates ``gates`` over every weight's learning rate and decay."""

    base: ElementwiseRule
    gates: Params

    @property
    def name(self) -> str:  # type: ignore[override]
        """The base rule's."""
        return self.base.name

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        """The dynamic tensors that it moves."""
        return self.base.tensors

    @property
    def slots(self) -> Mapping[str, Slot]:  # type: ignore[override]
        """The LSTM's h and c, the last i and f."""
        width = len(self.gates["gates.bias"]) // 4
        return {"h": Slot(width=width), "c": Slot(width=width), "i": Slot(), "f": Slot(fill=1.0)}

    @property
    def level(self) -> int:
        """The base rule's."""
        return self.base.level

    @property
    def rates(self) -> Mapping[str, Rates]:
        """The base rule's."""
        return self.base.rates

    def describe(self) -> dict[str, dict[str, float]]:
        """Return the base rule's learning rates and decays."""
        return self.base.describe()

    def decays(self) -> Mapping[str, Tensor | float]:
        """Return the base rule's."""
        return self.base.beta

    def of(self, names: Iterable[str]) -> PerWeightLSTMRule:
        """Return the same rule where only the tensors of ``names`` move."""
        return PerWeightLSTMRule(self.base.of(names), self.gates)

    def standing_still(self) -> PerWeightLSTMRule:
        """Return the same rule with rates and decays of zero."""
        return PerWeightLSTMRule(self.base.standing_still(), self.gates)

    def weight_constants(self, name: str, part: slice = slice(None)) -> WeightConstants:
        """Return the constants of a part of a tensor, its weights in one row."""
        beta, precondition = self.base.beta[name], self.base.precondition
        return WeightConstants(
            float(self.base.rates[name].lr),
            beta[part].reshape(-1) if isinstance(beta, Tensor) else beta,
            1.0 if precondition is None else precondition[name][part].reshape(-1),
        )

    def update_norms(self, event: StepEvent) -> Tensor:
        """Return those of the base rule's step."""
        return self.base.update_norms(event)

    def update_norm_bound(self, event: StepEvent) -> float:
        """Return that of the base rule's step."""
        return self.base.update_norm_bound(event)

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
                moved_N, after = per_weight_step(
                    self.gates,
                    GateState(*(tensor[some] for tensor in state)),
                    (theta_N[some], u_N[some], anchor_N[some]),
                    constants[some],
                    event.nats_B[lane],
                )
                theta_N[some] = moved_N
                for old, new in zip(state, after, strict=True):
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
    u_N, nats_N = u_N.detach(), nats.detach().to(theta_N).expand(len(theta_N))
    away_N = ((theta_N - anchor_N) / max(_STEPS * constants.lr, 1e-12)).clamp(-_LARGEST, _LARGEST)
    features_N4 = torch.cat([log_and_sign(constants.precondition * u_N), log_and_sign(nats_N)], -1)
    read_i_N, read_f_N, h_NH, c_NH = gates_read(gates, state, features_N4, away_N)
    i_N = torch.sigmoid(_logit(constants.lr, theta_N) + read_i_N.clamp(-_LARGEST, _LARGEST))
    # As 1 - f, which is small.
    decay_N = torch.sigmoid(_logit(constants.beta, theta_N) - read_f_N.clamp(-_LARGEST, _LARGEST))
    moved_N = gradient_step(theta_N, u_N, i_N, constants.precondition, anchor_N, decay_N)
    return moved_N, GateState(h_NH, c_NH, i_N, 1 - decay_N)


@dataclass(frozen=True)
class LearnedLSTMRule:
    """The LSTM meta-learner: phi holds the gates of a ``PerWeightLSTMRule``, which starts at the tuned rms rule."""

    statistics: Statistics
    static: Params
    lr: float
    decay: float
    epsilon: float
    hidden: int = 4

    @property
    def names(self) -> list[str]:
        """The dynamic tensors."""
        return list(self.statistics.rms)

    def initial(self) -> Params:
        """Return gates that leave the rule as it is; the LSTM's own weights are drawn by a fixed seed."""
        some = next(iter(self.statistics.rms.values()))
        gates = initial_coordinates(self.hidden, torch.Generator().manual_seed(0))
        return {name: tensor.to(some) for name, tensor in gates.items()}

    def rule(self, phi: Params, label: str = "meta") -> PerWeightLSTMRule:
        """Return the rule with these gates."""
        made = uniform_rule(label, self.names, self.lr, self.decay, (self.statistics, self.epsilon))
        return PerWeightLSTMRule(made, phi)


def _logit(share: Tensor | float, like: Tensor) -> Tensor:
    return torch.logit(torch.as_tensor(share, dtype=like.dtype, device=like.device))
