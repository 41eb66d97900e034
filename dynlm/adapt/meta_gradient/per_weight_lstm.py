"""Meta-gradients of the per-weight LSTM rule: truncated backpropagation through a window, on a sample of the weights.

Legend: B lanes, N sampled weights of a tensor.

To first order u_t is a constant, so the derivative of the losses by the gates is that of sum_t <u_t, theta_t>, and
weights do not interact in it: the recorded gradients of some weights can be processed again for these alone, with a
graph. A sum over a sample, times how many weights each of it stands for, estimates the whole without bias. What a
window does to later ones is left out: that is the truncation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.rules.lstm_gates import GateState
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule, per_weight_step
from dynlm.data.stream import Segment
from dynlm.types import Params


class Windows(MetaGradient):
    """Learns the gates ``params`` from windows of the gradients of up to ``sample`` weights of each tensor.

    A window begins with the first segment after ``gradients`` were taken.
    """

    def __init__(self, meta: LearnedLSTMRule, params: Params, sample: int, generator: torch.Generator):
        self.params, self._meta, self._sample, self._generator = params, meta, sample, generator
        self._index: dict[str, Tensor] = {}
        self._start: dict[str, tuple[Tensor, GateState]] = {}
        self._gradients: list[Params] = []
        self._nats: list[Tensor] = []
        self._fresh: list[np.ndarray] = []
        """Whether each segment was read from theta_0, in each lane."""

    def begin_segment(self, dynamic_model: DynamicModel, memory: Memory, segment: Segment) -> None:
        if not self._gradients:
            self._begin_window(memory)
        self._gradients.append({name: torch.zeros_like(theta_BN) for name, (theta_BN, _) in self._start.items()})
        self._fresh.append(segment.starts_B & (dynamic_model.reset == "article"))

    def _begin_window(self, memory: Memory) -> None:
        for name, tensor in memory.params.items():
            lanes, count = len(tensor), tensor[0].numel()
            index_N = torch.arange(count)
            if self._sample < count:
                index_N = torch.randint(count, (self._sample,), generator=self._generator).sort().values
            self._index[name] = index_N = index_N.to(tensor.device)
            sampled = {kind: memory.rule.slots[kind][name].flatten(1, tensor.dim() - 1)[:, index_N] for kind in "hcif"}
            self._start[name] = tensor.reshape(lanes, count)[:, index_N], GateState(**sampled)

    @torch.no_grad()
    def __call__(self, event: StepEvent) -> None:
        name, u, index_N = event.gradient.name, event.gradient.tensor, self._index[event.gradient.name]
        rows, width = len(self._meta.static[name]), self._meta.static[name][0].numel()
        begin, end, _ = event.gradient.part.indices(rows)
        bounds = torch.tensor([begin * width, end * width], device=u.device)
        first, last = torch.searchsorted(index_N, bounds).tolist()
        local = index_N[first:last] - begin * width
        self._gradients[-1][name][event.lanes, first:last] = u.reshape(len(u), -1)[:, local]

    def end_segment(self, nats_BT: Tensor, segment: Segment, restored_B: np.ndarray) -> None:
        mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT)
        nats_B = (nats_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
        self._nats.append(nats_B.nan_to_num())
        self._fresh[-1] = self._fresh[-1] | restored_B

    def gradients(self) -> Params:
        """Estimate the gradients of the window from the sample, and end it."""
        gates = {name: tensor.detach().clone().requires_grad_() for name, tensor in self.params.items()}
        rule = self._meta.rule(gates)
        total = torch.zeros((), dtype=torch.float64)
        for name, index_N in self._index.items():
            home_N = self._meta.static[name].reshape(-1)[index_N]
            constants = rule.weight_constants(name).select(index_N)
            represented = self._meta.static[name].numel() / len(index_N)
            theta_BN, states = self._start[name]
            for lane in range(len(theta_BN)):
                theta_N, state = theta_BN[lane], GateState(*(of_all[lane] for of_all in states))
                for u, nats_B, fresh_B in zip(self._gradients, self._nats, self._fresh, strict=True):
                    if fresh_B[lane]:
                        theta_N = home_N
                        state = GateState(*map(torch.zeros_like, state))._replace(f=torch.ones_like(state.f))
                    u_N = u[name][lane]
                    total = total + represented * (u_N * theta_N).sum().double().cpu()
                    weights = (theta_N, u_N, home_N)
                    theta_N, state = per_weight_step(gates, state, weights, constants, nats_B[lane])
        self._gradients, self._nats, self._fresh = [], [], []
        if not total.requires_grad:  # A window of one segment has no step before its last gradient.
            return {name: torch.zeros_like(gate) for name, gate in gates.items()}
        return dict(zip(gates, torch.autograd.grad(total, [*gates.values()], materialize_grads=True), strict=True))

    def update(self, dynamic_model: DynamicModel, memory: Memory) -> DynamicModel:
        return dataclasses.replace(dynamic_model, rule=self._meta.rule(self.params))

    def state_dict(self) -> Params:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        self._generator.set_state(tensors["generator"])
