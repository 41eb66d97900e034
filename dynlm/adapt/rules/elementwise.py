"""Element-wise gradient steps with a pull toward an anchor: sgd, rms, Adam and the learned rule are of this form.

    theta_{t+1} = theta_t + beta * (anchor - theta_t) - lr * precondition * u_t,    beta = min(decay * decay_shape, 1)

u_t is the gradient of the mean nats of segment t, or what momentum or Adam's moments make of it; the anchor is theta_0,
or slow weights (method: Krause et al. 2018, arXiv 1709.07432). Precondition and decay_shape are 1 for sgd and Adam; for
rms they are 1 / (R + epsilon) and R / (mean over tensors of mean(R)), R the root mean square of training gradients. The
learned rule has factors for both. ``gradient_step`` is the step as a formula, differentiable;
``ElementwiseRule.step_`` is the same in two passes, in place.

Legend: B lanes, K dynamic tensors, R rows of a part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.gates import Gates, GateScales, SegmentStats
from dynlm.adapt.rules.base import Rule, SegmentEvent, Slot, StepEvent
from dynlm.adapt.rules.boundary import Boundary
from dynlm.adapt.rules.gradient_step import descend_, gradient_step, largest_norm
from dynlm.adapt.rules.moments import SLOTS, Moments
from dynlm.adapt.rules.online_rate import decay_sensitivity_
from dynlm.runtime.tree import expand_lanes
from dynlm.types import Params

_CONSTANTS = (
    "name rates precondition decay_shape gates boundary_reset slow_rate slow_limits slow_step decay_step slow_decay "
    "momentum moments replay_rate source beta clamps largest_beta largest_precondition"
).split()
"""In the order that fingerprints have them in."""
_COMPUTED = "precondition decay_shape slow_limits gates beta clamps largest_beta largest_precondition".split()
_ROUNDING = 1.001  # A bound by products of norms stays one when rounded.


class Rates(NamedTuple):
    """One tensor's learning rate, and its decay toward the anchor.

    Numbers, or 0-dimensional tensors where a meta-gradient is taken by autograd.
    """

    lr: float | Tensor
    decay: float | Tensor


@dataclass(frozen=True)
class ElementwiseRule(Rule):
    """A gradient step with constants for each tensor of ``rates``; none of them is level 1, which learns nothing.

    ``gates`` scale learning rates and decays from segment to segment; with ``decay_step`` all decays move while reading
    (``online_rate``). ``boundary`` is what happens between articles. With ``momentum`` the step is by a running sum of
    gradients, with ``moments`` by Adam's update. With ``replay_rate`` it learns again from earlier segments.
    ``source``: what the tensors of constants were computed from, which fingerprints take instead: their rounding
    depends on the processor and the number of threads.
    """

    name: str
    rates: Mapping[str, Rates] = field(default_factory=dict)
    precondition: Params | None = None
    decay_shape: Params | None = None
    gates: Gates | None = None
    boundary: Boundary = field(default_factory=Boundary)
    decay_step: float = 0.0
    momentum: float = 0.0
    moments: Moments | None = None
    replay_rate: float = 0.0
    source: Any = None
    beta: Mapping[str, Tensor | float] = field(init=False)
    """Each weight's decay, at most 1."""
    clamps: Mapping[str, bool] = field(init=False)
    """Whether some weight of a tensor has a decay that would exceed 1."""
    largest_beta: Mapping[str, Tensor] = field(init=False)
    largest_precondition: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        beta: dict[str, Tensor | float] = {}
        for name, rates in self.rates.items():
            decay = rates.decay if self.decay_shape is None else self.decay_shape[name] * rates.decay
            beta[name] = decay.clamp(max=1) if isinstance(decay, Tensor) else min(decay, 1.0)
        precondition = dict.fromkeys(beta, 1.0) if self.precondition is None else self.precondition
        derived = {
            "beta": beta,
            "clamps": {name: bool((b >= 1).any()) if isinstance(b, Tensor) else b >= 1 for name, b in beta.items()},
            "largest_beta": {name: torch.as_tensor(b).detach().amax() for name, b in beta.items()},
            "largest_precondition": {n: torch.as_tensor(precondition[n]).detach().abs().amax() for n in beta},
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(self.rates)

    @property
    def slots(self) -> dict[str, Slot]:  # type: ignore[override]
        """Those of the boundary, ``decay_sensitivity`` (of ``online_rate``), ``velocity`` (momentum), the moments."""
        slots = self.boundary.slots | ({"decay_sensitivity": Slot()} if self.decay_step else {})
        return {**slots, **({"velocity": Slot()} if self.momentum else {}), **(SLOTS if self.moments else {})}

    @property
    def boundary_reset(self) -> Mapping[str, Tensor | float]:  # type: ignore[override]
        return self.boundary.reset

    @property
    def measures_gradient(self) -> bool:  # type: ignore[override]
        return self.gates is not None and self.gates.measures_gradient

    @property
    def level(self) -> int:
        if not self.learns:
            return 1
        return 3 if self.boundary.returns or any(rates.decay for rates in self.rates.values()) else 2

    def of(self, names: Iterable[str]) -> ElementwiseRule:
        """Return the same rule where only the tensors of ``names`` move."""
        kept = [name for name in self.rates if name in set(names)]
        gates = self.gates
        if gates is not None:
            rows = [list(self.rates).index(name) for name in kept]
            gates = replace(gates, lr_KJ=gates.lr_KJ[rows], decay_KJ=gates.decay_KJ[rows])
        return replace(self, rates={name: self.rates[name] for name in kept}, gates=gates)

    def without_carry_over(self) -> ElementwiseRule:
        return replace(self, boundary=replace(self.boundary, slow_step=0.0)) if self.boundary.slow_step else self

    def standing_still(self) -> ElementwiseRule:
        return replace(self, rates=dict.fromkeys(self.rates, Rates(0.0, 0.0)))

    def constants(self) -> Any:
        values = {**super().constants(), **self.boundary.constants()}
        left_out = () if self.source is None else _COMPUTED
        return {name: values[name] for name in _CONSTANTS if name not in left_out}

    def decays(self) -> Mapping[str, Tensor | float]:
        return self.beta

    def describe(self) -> dict[str, dict[str, float]]:
        return {name: {k: float(v) for k, v in rates._asdict().items()} for name, rates in self.rates.items()}

    def init_lanes(self, lanes: int, like: Tensor) -> SegmentStats | None:
        has = self.moments is not None, bool(self.boundary.slow_step), bool(self.decay_step)
        return None if self.gates is None and not any(has) else SegmentStats.initial(lanes, like, *has)

    def start_articles(self, lanes: Any, starts_B: Tensor, fresh: bool, like: Tensor) -> Any:
        return lanes if lanes is None else lanes.start_articles(starts_B, fresh)

    def carry_over_(self, name: str, theta: Tensor, slots: Params, theta_0: Tensor, lanes: Any = None) -> None:
        """Do what the boundary does, and stop the running gradient."""
        self.boundary.carry_over_(name, theta, slots, theta_0, lanes)
        if "velocity" in slots:
            slots["velocity"].zero_()

    def start_segment(self, lanes: Any, headings_B: Tensor) -> Any:
        return lanes if lanes is None else lanes.complete_headings(headings_B)

    def end_segment(self, lanes: Any, nats_B: Tensor) -> Any:
        return lanes if lanes is None else lanes.end_segment(nats_B, self.boundary.slow_step, self.decay_step)

    def restore_lanes(self, lanes: Any, restored_B: Tensor, like: Tensor) -> Any:
        """Count Adam's steps anew; what the text is like stays known."""
        return lanes if lanes is None else lanes.restart_steps(restored_B)

    def segment_scales(self, event: SegmentEvent) -> GateScales | None:
        if self.gates is None and not self.decay_step and event.replay_B is None:
            return None
        if self.gates is None:
            ones_BK = event.nats_B.new_ones(len(event.nats_B), len(self.rates))
            scales = GateScales(ones_BK[:, :0], ones_BK, ones_BK)
        else:
            scales = self.gates.scales(self.gates.features_of(event))
        shift_B = event.lane_state.decay_shift.shift_B if self.decay_step else None
        return scales._replace(decay_shift_B=shift_B, replay_B=event.replay_B)

    def prepare_(self, event: StepEvent) -> StepEvent:
        """Add the gradient to the running one, which is the update then; or make the update of Adam."""
        if self.moments is not None:
            u, steps_B = event.gradient.tensor, event.lane_state.steps_B
            return event._replace(update=self.moments.update(event.slots, u, steps_B, event.scratch))
        if "velocity" not in event.slots:
            return event
        # Rows of an embedding that did not occur go on moving: their gradients are zero, not their velocity.
        velocity = event.slots["velocity"].mul_(self.momentum).add_(event.gradient.tensor)
        return event._replace(update=event.scratch.take("update", tuple(velocity.shape), velocity).copy_(velocity))

    def reject_(self, event: StepEvent, allowed_B: Tensor) -> None:
        """Stop the running gradient of rejected lanes."""
        if "velocity" in event.slots:
            event.slots["velocity"].masked_fill_(~expand_lanes(allowed_B, event.theta), 0)

    def update_norms(self, event: StepEvent) -> Tensor:
        """Return |lr * precondition * u| of each lane (B,), NaN where the decay beside it is not finite."""
        name, step = event.name, event.update
        if self.precondition is not None:
            out = event.scratch.take("preconditioned", tuple(step.shape), step)
            step = torch.mul(step, self.precondition[name][event.gradient.part], out=out)
        norm_B = torch.linalg.vector_norm(step.flatten(1), dim=1) * self.rates[name].lr
        decay = self.largest_beta[name]
        if event.scales is not None:
            lr_B, decay_B = event.scales.of_tensor(self.tensors.index(name))
            norm_B, decay = norm_B * lr_B, decay * decay_B
        return norm_B + 0 * decay

    def update_norm_bound(self, event: StepEvent) -> float:
        """Bound the norms by those of the small matrices whose product the gradient is; NaN for what is not finite."""
        name = event.name
        products = event.gradient.norm_factors if event.update is event.gradient.tensor else ()
        norm = 0.0
        for factor, *tensors in products or ((1.0, event.update),):
            norm += factor * math.prod(largest_norm(tensor) for tensor in tensors)
        norm = norm * float(self.rates[name].lr) * _ROUNDING
        norm = norm * float(self.largest_precondition[name]) + 0 * float(self.largest_beta[name])
        if event.scales is None:
            return norm
        lr_B, decay_B = event.scales.of_tensor(self.tensors.index(name))
        return norm * float(lr_B.amax()) + 0 * float(decay_B.amax())

    def step(self, weights: Params, gradients: Params, anchor: Params, scales: GateScales | None = None) -> Params:
        """Return the next weights of one lane by the formula; differentiable, ``weights`` stay as they are."""
        moved: Params = {}
        for index, (name, rates) in enumerate(self.rates.items()):
            lr, beta = rates.lr, self.beta[name]
            if scales is not None:
                lr_B, decay_B = scales.of_tensor(index)
                lr, beta = lr * lr_B[0], torch.clamp(beta * decay_B[0], max=1)
            precondition = 1.0 if self.precondition is None else self.precondition[name]
            moved[name] = gradient_step(weights[name], gradients[name], lr, precondition, anchor[name], beta)
        return moved

    @torch.no_grad()
    def step_(self, event: StepEvent) -> None:
        """Take ``gradient_step`` in place, in two passes or in one by the native kernel.

        With scales the update is scaled in place. A segment that was scored before has no decay.
        """
        theta, update, anchor, part = event.theta, event.update, event.anchor, event.gradient.part
        lr = float(self.rates[event.name].lr)
        precondition = None if self.precondition is None else self.precondition[event.name][part]
        if event.is_replayed:
            lr_B, _ = event.scales.of_tensor(self.tensors.index(event.name))
            descend_(theta, update.mul_(expand_lanes(lr_B, theta)), event.rows_BT, lr, precondition)
            return
        if "moved" in event.slots:
            event.lane_state.slow_shift.add_slope_(event.gradient.tensor, event.slots["moved"])
        if "decay_sensitivity" in event.slots:
            event.lane_state.decay_shift.add_slope_(event.gradient.tensor, event.slots["decay_sensitivity"])
        beta = self.beta[event.name]
        beta = beta[part] if isinstance(beta, Tensor) else beta
        if self.moments is not None:
            self.moments.take_(event.slots, event.scratch)
            if precondition is not None:  # Factors of 1 change no bit of the update; in the step they might.
                update.mul_(precondition)
                precondition = None
        if event.scales is not None:
            lr_B, decay_B = event.scales.of_tensor(self.tensors.index(event.name))
            if self.gates is not None:  # Of a decay that moves alone, all are 1.
                update.mul_(expand_lanes(lr_B, theta))
            if self.decay_step or (self.gates is not None and self.gates.scales_decay):
                # A tensor of this size allocated for each segment would fragment the heap.
                out = event.scratch.take("decays", tuple(theta.shape), theta)
                beta = torch.mul(expand_lanes(decay_B, theta).expand_as(theta), beta, out=out).clamp_(max=1)
        if "decay_sensitivity" in event.slots:
            decay_sensitivity_(event.slots["decay_sensitivity"], theta, anchor, beta, event.scratch)
        per_lane = isinstance(beta, Tensor) and beta.dim() == theta.dim()
        if event.native is not None and event.rows_BT is None and not event.has_own_anchor and not per_lane:
            event.native.step_(theta, anchor, update, beta, precondition, lr)
            return
        if isinstance(beta, Tensor) or beta:
            theta.lerp_(anchor.expand_as(theta), beta)
        descend_(theta, update, event.rows_BT, lr, precondition)


LEVEL_1 = ElementwiseRule("none")
