"""What happens between two articles, where memory runs on: the anchor moves toward the weights, then they toward it.

    anchor <- anchor + slow_decay * (theta_0 - anchor) + slow_rate * slow_limits * (theta - anchor)
    theta  <- theta + reset * (anchor - theta)

Without slow weights the anchor is theta_0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dynlm.adapt.gates import SegmentStats
from dynlm.adapt.rules.base import Slot
from dynlm.adapt.rules.online_rate import shifted
from dynlm.types import Params


@dataclass(frozen=True)
class Boundary:
    """The shares by which each tensor and its anchor move between two articles; none of them: they stay."""

    reset: Mapping[str, float | Tensor] = field(default_factory=dict)
    """Each tensor's share of the way to the anchor that its weights go: 0 keeps them, 1 forgets."""
    slow_rate: Mapping[str, float | Tensor] = field(default_factory=dict)
    """The share of the weights' distance from the anchor that the anchor takes in; any: there are slow weights."""
    slow_limits: Params | None = None
    """Factors of each weight's slow rate; None: 1."""
    slow_step: float = 0.0
    """Step of the slow rate while reading (``online_rate``), which starts at ``slow_rate``; 0: it stays."""
    slow_decay: Mapping[str, float | Tensor] = field(default_factory=dict)
    """The share of its way back to theta_0 that the anchor goes first."""

    @property
    def slots(self) -> dict[str, Slot]:
        """``anchor`` (slow weights), and ``moved`` of ``online_rate``."""
        slow = {"anchor": Slot(fill=None)} if self.slow_rate else {}
        return slow | ({"moved": Slot()} if self.slow_step else {})

    @property
    def returns(self) -> bool:
        """Whether weights or their anchor go back toward theta_0. A reset to slow weights does not."""
        back = any(share and not self.slow_rate.get(name) for name, share in self.reset.items())
        return back or any(self.slow_decay.values())

    def constants(self) -> dict[str, Any]:
        """Return the constants by the names that fingerprints have them under."""
        return {"boundary_reset" if name == "reset" else name: value for name, value in vars(self).items()}

    def slow_share(self, name: str, rate: float | Tensor) -> float | Tensor:
        """Return each weight's share of its distance from the anchor that the anchor takes in, at a slow rate."""
        return rate * (1.0 if self.slow_limits is None else self.slow_limits[name])

    def slow_rate_at(self, name: str, stats: SegmentStats | None) -> float | Tensor:
        """Return a tensor's slow rate in the lane of ``stats``, shifted where reading finds it."""
        rate = self.slow_rate.get(name, 0.0)
        return rate if stats is None or stats.slow_shift is None else shifted(rate, stats.slow_shift.shift_B[0])

    def next_anchor(
        self, name: str, theta: Tensor, anchor: Tensor, theta_0: Tensor, stats: SegmentStats | None = None
    ) -> Tensor:
        """Return the anchor after an article that ended with the weights ``theta``, of one lane (``stats`` too)."""
        decayed = anchor + self.slow_decay.get(name, 0.0) * (theta_0 - anchor)
        return decayed + self.slow_share(name, self.slow_rate_at(name, stats)) * (theta - anchor)

    def carry_over_(
        self, name: str, theta: Tensor, slots: Params, theta_0: Tensor, stats: SegmentStats | None = None
    ) -> None:
        """Move the anchor toward the weights, then the weights toward the anchor, of one lane (``stats`` too)."""
        anchor = theta_0
        if "moved" in slots:
            slots["moved"].copy_(self.slow_share(name, 1.0) * (theta - slots["anchor"]))
        if "anchor" in slots:
            anchor = slots["anchor"].copy_(self.next_anchor(name, theta, slots["anchor"], theta_0, stats))
        if share := float(self.reset.get(name, 0.0)):
            theta.copy_(anchor) if share >= 1 else theta.lerp_(anchor, share)
            if "decay_sensitivity" in slots:
                slots["decay_sensitivity"].mul_(1 - share)
