"""Meta-gradients of the LSTM meta-learner: truncated backpropagation through a window, on a sample of the weights.

Legend: B lanes, N sampled coordinates of a tensor.

To first order u_t is a constant, so the derivative of the losses by the gates is that of sum_t <u_t, theta_t>, and
coordinates do not meet in it: whatever window of gradients was recorded of some coordinates can be read again for these
alone, with a graph. A sum over a sample, times how many coordinates each of it stands for, estimates the whole without
bias. What a window does to later ones is left out: that is the truncation.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.reader import StepEvent
from dynlm.adapt.rules.lstm_gates import GateState
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta, coordinate_step
from dynlm.adapt.state import Memory
from dynlm.models.lstm.model import Params


class CoordinateWindow:
    """An observer of a window that begins with ``memory``, of up to ``sample`` coordinates of each tensor.

    ``after_segment`` is called with what each segment told; then ``gradients`` are taken, once.
    """

    def __init__(self, meta: CoordinateMeta, memory: Memory, sample: int, generator: torch.Generator):
        self.meta, self.lanes = meta, len(next(iter(memory.weights.values())))
        self.places: dict[str, Tensor] = {}
        self.start: dict[str, tuple[Tensor, GateState]] = {}
        for name, tensor in memory.weights.items():
            count = tensor[0].numel()
            if sample >= count:
                places_N = torch.arange(count)
            else:
                places_N = torch.randint(count, (sample,), generator=generator).sort().values
            self.places[name] = places_N = places_N.to(tensor.device)
            held = [memory.coordinates[f"{name}/{kind}"] for kind in "hcif"]
            h, c = (each.reshape(self.lanes, count, -1)[:, places_N] for each in held[:2])
            i, f = (each.reshape(self.lanes, count)[:, places_N] for each in held[2:])
            self.start[name] = tensor.reshape(self.lanes, count)[:, places_N], GateState(h, c, i, f)
        self.recorded: list[dict[str, Tensor]] = []
        self.told: list[tuple[Tensor, np.ndarray]] = []
        self._reading = self._blank()

    def _blank(self) -> dict[str, Tensor]:
        return {name: torch.zeros_like(theta_BN) for name, (theta_BN, _) in self.start.items()}

    @torch.no_grad()
    def __call__(self, shown: StepEvent) -> None:
        """Note what of a gradient is of sampled coordinates."""
        name, u = shown.gradient.name, shown.gradient.tensor
        rows, width = len(self.meta.static[name]), self.meta.static[name][0].numel()
        begin, end, _ = shown.gradient.part.indices(rows)
        places_N = self.places[name]
        first, last = torch.searchsorted(places_N, torch.tensor([begin * width, end * width], device=u.device)).tolist()
        local = places_N[first:last] - begin * width
        self._reading[name][shown.lanes, first:last] = u.reshape(len(u), -1)[:, local]

    def after_segment(self, nats_B: Tensor, afresh_B: np.ndarray) -> None:
        """A segment cost each lane ``nats_B`` on average; where ``afresh_B`` its memory was a fresh one before it."""
        self.recorded.append(self._reading)
        self.told.append((nats_B, afresh_B))
        self._reading = self._blank()

    def gradients(self, phi: Params) -> Params:
        """The derivative of the window's sum of mean nats by the gates, estimated from the sample."""
        leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in phi.items()}
        rule = self.meta.rule(leaves)
        total = torch.zeros((), dtype=torch.float64)
        for name, places_N in self.places.items():
            home_N = self.meta.static[name].reshape(-1)[places_N]
            beta, scale = rule.beta[name], 1.0 if rule.scale is None else rule.scale[name].reshape(-1)[places_N]
            beta = beta.reshape(-1)[places_N] if isinstance(beta, Tensor) else beta
            each = self.meta.static[name].numel() / len(places_N)
            for lane in range(self.lanes):
                theta_BN, states = self.start[name]
                theta_N, state = theta_BN[lane], GateState(*(of_all[lane] for of_all in states))
                for u, (nats_B, afresh_B) in zip(self.recorded, self.told, strict=True):
                    if afresh_B[lane]:
                        theta_N = home_N
                        state = GateState(*map(torch.zeros_like, state))._replace(f=torch.ones_like(state.f))
                    u_N, alpha = u[name][lane], float(rule.rates[name].alpha)
                    total = total + each * (u_N * theta_N).sum().double().cpu()
                    theta_N, state = coordinate_step(
                        leaves, state, theta_N, u_N, home_N, alpha, beta, scale, nats_B[lane]
                    )
        if not total.requires_grad:  # Nothing was stepped before the last gradient.
            return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        return {
            name: torch.zeros_like(leaf) if gradient is None else gradient
            for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
        }
