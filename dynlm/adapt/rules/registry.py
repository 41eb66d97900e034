"""The kinds of update rules: how each is built from its constants, and what it needs before it reads.

A kind is registered by ``register_rule``, in this package or, through the entry-point group ``dynlm.rules``, in any
other: adding one edits no file of dynlm. ``memory.rule`` names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dynlm.runtime.registry import Registry

if TYPE_CHECKING:
    from dynlm.adapt.options import MemoryOptions
    from dynlm.adapt.rules.base import Rule, Statistics

Builder = Callable[[tuple[str, ...], Mapping[str, Any], "Statistics | None"], "Rule"]
_Builder = TypeVar("_Builder", bound=Builder)


class Search(NamedTuple):
    """Where the search for a constant starts, and the factor of its steps."""

    start: float
    factor: float


@dataclass(frozen=True)
class RuleKind:
    """A kind of rule.

    ``build`` is called with the dynamic tensors, the constants (all options that are the rule's own) and, where the
    kind ``needs_statistics``, the statistics R of training gradients. ``searched`` are the constants that ``tune``
    finds; a rule without is not tuned. A ``learned`` kind has parameters that ``metatrain`` learns, starting from the
    tuned rule ``g.base``, in place of constants and ``build``; what it needs depends on the options of g.
    """

    name: str
    options: type[MemoryOptions]
    build: Builder | None
    searched: Mapping[str, Search] = field(default_factory=dict)
    needs_statistics: bool = False
    learned: bool = False

    def constants(self, options: MemoryOptions) -> dict[str, Any]:
        """Return the rule's own options: those to be searched for, None where they are not given, and the others."""
        from dynlm.adapt.options import MemoryOptions, StepOptions

        base = StepOptions if issubclass(self.options, StepOptions) else MemoryOptions
        shared = {item.name for item in fields(base)} - self.searched.keys()
        return {item.name: getattr(options, item.name) for item in fields(self.options) if item.name not in shared}


RULES: Registry[RuleKind] = Registry("memory.rule", "dynlm.adapt.rules.kinds", "dynlm.rules")


def register_rule(
    name: str,
    options: type[MemoryOptions],
    searched: Mapping[str, Search] | None = None,
    **requirements: Any,
) -> Callable[[_Builder], _Builder]:
    """Register a kind of rule; decorates its ``build``. ``requirements`` are further fields of ``RuleKind``."""

    def register(build: _Builder) -> _Builder:
        RULES.register(name)(RuleKind(name, options, build, searched or {}, **requirements))
        return build

    return register


def tuned_rules() -> list[str]:
    """Return the names of the rules whose constants ``tune`` finds, those with the fewest first."""
    return sorted((name for name in RULES.names() if RULES[name].searched), key=lambda name: len(RULES[name].searched))
