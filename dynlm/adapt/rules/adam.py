"""Adam as an update rule (Kingma & Ba 2015, arXiv 1412.6980), with a pull toward the static parameters.

    m <- beta1 m + (1 - beta1) u,   v <- beta2 v + (1 - beta2) u^2
    theta <- theta + decay (theta_0 - theta) - lr m' / (sqrt(v') + 1e-8)

u is the gradient of a segment's mean nats; m' and v' are corrected for their start at zero.

Legend: B lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dynlm.adapt.rules.base import Rule, Slot, StepEvent
from dynlm.runtime.tree import expand_lanes

_EPSILON = 1e-8
_SLOTS = {"mean": Slot(), "square": Slot()}


@dataclass(frozen=True)
class Adam(Rule):
    """Steps by a running mean of gradients over the root of a running mean of their squares."""

    tensors: tuple[str, ...]
    lr: float
    decay: float
    beta1: float
    beta2: float
    name = "adam"
    slots = _SLOTS

    @property
    def level(self) -> int:
        """2: nothing pulls the weights back; 3: the static parameters do."""
        return 3 if self.decay else 2

    def init_lanes(self, lanes: int, like: Tensor) -> Tensor:
        """Return how many steps were taken: none."""
        return like.new_zeros(lanes)

    def end_segment(self, steps_B: Tensor, nats_B: Tensor) -> Tensor:
        return steps_B + 1

    def step_(self, event: StepEvent) -> None:
        mean, square, u = event.slots["mean"], event.slots["square"], event.update
        steps = event.lane_state + 1
        mean.lerp_(u, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(u, u, value=1 - self.beta2)
        root = (square / expand_lanes(1 - self.beta2**steps, u)).sqrt_().add_(_EPSILON)
        if self.decay:
            event.theta.lerp_(event.anchor.expand_as(event.theta), self.decay)
        event.theta.sub_(root.reciprocal_().mul_(mean).mul_(expand_lanes(self.lr / (1 - self.beta1**steps), u)))

    def describe(self) -> dict[str, dict[str, float]]:
        """Return the learning rate and the decay, which all tensors share."""
        return {name: {"lr": self.lr, "decay": self.decay} for name in self.tensors}

    def decays(self) -> Mapping[str, Tensor | float]:
        return dict.fromkeys(self.tensors, self.decay)
