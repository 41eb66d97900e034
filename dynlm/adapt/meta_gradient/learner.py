"""What an outer loop learns while a rule reads: parameters, and the gradients of the losses by them.

``MetaGradient`` is the interface. ``forward.Sensitivities`` learns phi of the rule g, ``per_weight_lstm.Windows`` the
per-weight LSTM rule, and ``StaticGradients`` theta_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.rules.base import StepEvent
from dynlm.data.stream import Segment
from dynlm.types import Params


class MetaGradient:
    """Parameters that are learned, and an observer of the update steps that computes their gradients.

    For each segment the outer loop calls ``begin_segment``, lets ``__call__`` observe the steps, and calls
    ``end_segment``. After a window of segments it takes ``gradients``, moves ``params`` in place and calls ``update``.
    """

    params: Params

    def begin_segment(self, dynamic_model: DynamicModel, memory: Memory, segment: Segment) -> None:
        """Prepare for a segment that ``memory`` is about to read."""

    def __call__(self, event: StepEvent) -> None:
        """Observe one update step."""

    def end_segment(self, nats_BT: Tensor, segment: Segment, restored_B: np.ndarray) -> None:
        """Finish a segment with these losses; in lanes of ``restored_B`` the weights were reset to theta_0."""

    def gradients(self) -> Params:
        """Return the gradients of the sum over lanes and segments of mean nats since the last call."""
        raise NotImplementedError

    def update(self, dynamic_model: DynamicModel, memory: Memory) -> DynamicModel:
        """Return the model that ``params``, which have moved or were loaded, make of ``dynamic_model``."""
        return dynamic_model

    def log_fields(self) -> dict[str, Any]:
        """Return what the log says of ``params`` after each window."""
        return {}

    def state_dict(self) -> Params:
        """Return what a checkpoint between two windows needs beside ``params``; names as ``checkpoints.LANES`` says."""
        return {}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Load what ``state_dict`` returned; other tensors are ignored."""


class StaticGradients(MetaGradient):
    """Gradients of theta_0: to first order the sum of dL / d theta_t, since d theta_t / d theta_0 is 1 under any rule.

    ``update`` shifts the lanes' weights by what theta_0 moved by.
    """

    def __init__(self, static: Params):
        self.params, self._before = static, Params()
        self._summed = {name: torch.zeros_like(tensor) for name, tensor in static.items()}

    @torch.no_grad()
    def __call__(self, event: StepEvent) -> None:
        summed = self._summed[event.gradient.name][event.gradient.part]
        for u in event.gradient.tensor:
            summed.add_(u)

    def gradients(self) -> Params:
        found, self._before = self._summed, {name: tensor.clone() for name, tensor in self.params.items()}
        self._summed = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        return found

    @torch.no_grad()
    def update(self, dynamic_model: DynamicModel, memory: Memory) -> DynamicModel:
        anchors = memory.rule.slots.get("anchor", {})
        for name, before in self._before.items():
            shift = self.params[name] - before
            for tensors in (memory.params, anchors):
                if name in tensors:
                    tensors[name].add_(shift)
        self._before = {}
        return dynamic_model
