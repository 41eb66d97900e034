"""What rules share that hold the updates of one matrix outside the weights, and take the others' steps by another rule.

Legend: B lanes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dynlm.adapt.rules.base import Rule
from dynlm.adapt.rules.elementwise import ElementwiseRule


@dataclass(frozen=True)
class HoldingRule(Rule):
    """``rule``, but that the updates of the matrix ``matrix`` are held in the lanes' state."""

    rule: ElementwiseRule
    matrix: str

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.rule.name

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.rule.tensors

    @property
    def level(self) -> int:
        return self.rule.level

    def describe(self) -> dict[str, dict[str, float]]:
        return self.rule.describe()

    def decays(self) -> Mapping[str, Tensor | float]:
        return self.rule.decays()

    def start_articles(self, lanes: Any, starts_B: Tensor, fresh: bool, like: Tensor) -> Any:
        """Return ``lanes``: ``reset_lanes_`` has dropped what fresh weights have not."""
        return lanes

    def restore_lanes(self, lanes: Any, restored_B: Tensor, like: Tensor) -> Any:
        return lanes
