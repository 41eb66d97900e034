"""The learned rule, which starts at the tuned rms rule (``adapt.rules.learned``, ``adapt.rules.per_weight_lstm``)."""

from __future__ import annotations

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.registry import RULES, RuleKind

RULES.register("meta")(
    RuleKind("meta", MemoryOptions, None, {}, needs_statistics=True, learned=True, starts_from="rms")
)
