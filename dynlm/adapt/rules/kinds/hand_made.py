"""Rules whose constants are given or tuned: none (level 1), sgd, sgd+decay and rms (Krause et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.registry import Search, register_rule

if TYPE_CHECKING:
    from dynlm.adapt.rules.elementwise import ElementwiseRule
    from dynlm.adapt.rules.statistics import Statistics


@register_rule("none", MemoryOptions)
def none(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
    """Return the rule that changes nothing."""
    from dynlm.adapt.rules.elementwise import LEVEL_1

    return LEVEL_1


@register_rule("sgd", MemoryOptions, {"lr": Search(0.3, 1.6)})
def sgd(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
    """Return gradient descent with one learning rate."""
    from dynlm.adapt.rules.elementwise import uniform_rule

    return uniform_rule("sgd", tensors, constants["lr"])


@register_rule("sgd+decay", MemoryOptions, {"lr": Search(0.3, 1.6), "decay": Search(1e-3, 3.0)})
def sgd_decay(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
    """Return gradient descent with decay toward the static parameters."""
    from dynlm.adapt.rules.elementwise import uniform_rule

    return uniform_rule("sgd+decay", tensors, constants["lr"], constants["decay"])


@register_rule(
    "rms",
    MemoryOptions,
    {"lr": Search(1.5e-3, 1.6), "decay": Search(2e-3, 3.0), "epsilon": Search(1e-3, 4.0)},
    needs_statistics=True,
)
def rms(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
    """Return dynamic evaluation with gradients divided by their training statistics (Krause et al. 2018)."""
    from dynlm.adapt.rules.elementwise import uniform_rule

    assert statistics is not None
    return uniform_rule("rms", tensors, constants["lr"], constants["decay"], (statistics, constants["epsilon"]))
