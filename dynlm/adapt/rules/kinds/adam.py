"""adam (Kingma & Ba 2015), whose learning rate is given or tuned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.registry import Search, register_rule
from dynlm.runtime.validation import bounded

if TYPE_CHECKING:
    from dynlm.adapt.rules.base import Statistics
    from dynlm.adapt.rules.elementwise import ElementwiseRule


@dataclass
class AdamOptions(MemoryOptions):
    """The memory, with Adam's constants."""

    COMMON = "rule reset segment lanes lr decay targets lora_rank cache no_regret"

    lr: float | None = bounded(None)
    """Learning rate; unset: the tuned one of the run."""
    decay: float = bounded(0.0, 0, 1)
    """Share of its way back to the static parameters that each weight goes in a step."""
    beta1: float = bounded(0.9, 0, 0.9999)
    """Decay of the mean of gradients."""
    beta2: float = bounded(0.99, 0, 0.9999)
    """Decay of the mean of squared gradients."""


@register_rule("adam", AdamOptions, {"lr": Search(3e-4, 1.8)})
def build(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
    """Return the rule; it needs no statistics."""
    from dynlm.adapt.rules.moments import Moments
    from dynlm.adapt.rules.uniform import uniform_rule  # Options are read without torch.

    moments = Moments(constants["beta1"], constants["beta2"])
    return uniform_rule("adam", tensors, constants["lr"], constants["decay"], moments=moments)
