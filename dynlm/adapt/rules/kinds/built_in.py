"""none (level 1), sgd, sgd+decay and rms (Krause et al. 2018), whose constants are given or tuned, and the learned rule
meta, which starts at one that was tuned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dynlm.adapt.options import LearnedStepOptions, StepOptions
from dynlm.adapt.rules.registry import RULES, RuleKind, Search, register_rule

if TYPE_CHECKING:
    from dynlm.adapt.rules.base import Statistics
    from dynlm.adapt.rules.elementwise import ElementwiseRule

RMS = {"lr": Search(1.5e-3, 1.6), "decay": Search(2e-3, 3.0), "epsilon": Search(1e-3, 4.0)}
_SEARCHED = {
    "none": {},
    "sgd": {"lr": Search(0.3, 1.6)},
    "sgd+decay": {"lr": Search(0.3, 1.6), "decay": Search(1e-3, 3.0)},
    "rms": RMS,
}


def _register(name: str, searched: Mapping[str, Search]) -> None:
    @register_rule(name, StepOptions, searched, statistics="segments" if "epsilon" in searched else None)
    def build(tensors: tuple[str, ...], constants: Mapping[str, Any], statistics: Statistics | None) -> ElementwiseRule:
        from dynlm.adapt.rules.elementwise import LEVEL_1  # Options are read without torch.
        from dynlm.adapt.rules.uniform import uniform_rule

        if not searched:
            return LEVEL_1
        divisor = (statistics, constants["epsilon"]) if statistics is not None and "epsilon" in searched else None
        return uniform_rule(name, tensors, constants["lr"], constants.get("decay", 0.0), divisor)


for _name, _constants in _SEARCHED.items():
    _register(_name, _constants)
RULES.register("meta")(RuleKind("meta", LearnedStepOptions, None, learned=True))
