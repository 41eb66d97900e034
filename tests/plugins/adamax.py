"""Adamax (Kingma & Ba 2015, section 7.1) as an update rule: one file, registered from outside the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.base import Rule, Slot, Statistics, StepEvent
from dynlm.adapt.rules.registry import Search, register_rule
from dynlm.runtime.tree import expand_lanes
from dynlm.runtime.validation import bounded


@dataclass
class AdamaxOptions(MemoryOptions):
    """The memory's options and Adamax's own."""

    lr: float | None = bounded(None)
    """Learning rate; unset: the run's tuned one."""
    beta1: float = bounded(0.9, 0, 0.9999)
    """Decay of the mean of gradients."""
    beta2: float = bounded(0.99, 0, 0.9999)
    """Decay of the largest gradient so far."""


@dataclass(frozen=True)
class Adamax(Rule):
    """theta <- theta - lr * m / v, with m corrected for its start at zero and v the decayed largest |u| so far."""

    tensors: tuple[str, ...]
    lr: float
    beta1: float
    beta2: float
    name = "adamax"
    slots = {"m": Slot(), "v": Slot()}

    def init_lanes(self, lanes: int, like: Tensor) -> Tensor:
        return like.new_zeros(lanes)  # steps taken

    def end_segment(self, steps_B: Tensor, nats_B: Tensor) -> Tensor:
        return steps_B + 1

    def step_(self, event: StepEvent) -> None:
        m, v, u = event.slots["m"], event.slots["v"], event.update
        m.lerp_(u, 1 - self.beta1)
        v.copy_(torch.maximum(v * self.beta2, u.abs() + 1e-8))
        steps = expand_lanes(event.lane_state + 1, u)
        event.theta.sub_(self.lr * m / (1 - self.beta1**steps) / v)


@register_rule("adamax", AdamaxOptions, {"lr": Search(1e-3, 2.0)})
def adamax(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> Adamax:
    return Adamax(tensors, **constants)
