"""Adam (Kingma & Ba 2015) with bias correction as an update rule: one file, registered from outside the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.base import Rule, Slot, Statistics, StepEvent
from dynlm.adapt.rules.registry import Search, register_rule
from dynlm.runtime.tree import expand_lanes
from dynlm.runtime.validation import bounded


@dataclass
class AdamOptions(MemoryOptions):
    """The memory's options and Adam's own."""

    lr: float | None = bounded(None)
    """Learning rate; unset: the run's tuned one."""
    beta1: float = bounded(0.9, 0, 0.9999)
    """Decay of the mean of gradients."""
    beta2: float = bounded(0.99, 0, 0.9999)
    """Decay of the mean of squared gradients."""


@dataclass(frozen=True)
class Adam(Rule):
    """theta <- theta - lr * m / (sqrt(v) + 1e-8), with m and v corrected for their start at zero."""

    tensors: tuple[str, ...]
    lr: float
    beta1: float
    beta2: float
    name = "adam"
    slots = {"m": Slot(), "v": Slot()}

    def init_lanes(self, lanes: int, like: Tensor) -> Tensor:
        return like.new_zeros(lanes)  # steps taken

    def end_segment(self, steps_B: Tensor, nats_B: Tensor) -> Tensor:
        return steps_B + 1

    def step_(self, event: StepEvent) -> None:
        m, v, u = event.slots["m"], event.slots["v"], event.update
        m.lerp_(u, 1 - self.beta1)
        v.lerp_(u.square(), 1 - self.beta2)
        steps = expand_lanes(event.lane_state + 1, u)
        v_root = (v / (1 - self.beta2**steps)).sqrt()
        event.theta.sub_(self.lr * m / (1 - self.beta1**steps) / (v_root + 1e-8))


@register_rule("adam", AdamOptions, {"lr": Search(1e-3, 2.0)})
def adam(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> Adam:
    return Adam(tensors, **constants)
