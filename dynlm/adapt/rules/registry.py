"""The kinds of update rules: how each is built from its constants, and what it needs before it reads.

A kind is registered by ``register_rule``, in this package or, through the entry-point group ``dynlm.rules``, in any
other: adding one edits no file of dynlm. ``memory.rule`` names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from dynlm.runtime.registry import Registry
from dynlm.runtime.validation import LARGEST

if TYPE_CHECKING:
    from dynlm.adapt.options import MemoryOptions
    from dynlm.adapt.rules.base import Rule, Statistics

Builder = Callable[[tuple[str, ...], Mapping[str, Any], "Statistics | None"], "Rule"]
_Builder = TypeVar("_Builder", bound=Builder)


class Search(NamedTuple):
    """Where the search for a constant starts, the factor of its steps, and the bounds that it does not leave.

    A step beyond a bound goes to the bound. A search that starts at 0 stays there. A rule's bounds are those of its
    option (``RuleKind.searches``).
    """

    start: float
    factor: float
    low: float = 0.0
    high: float = LARGEST


class StatisticsKind(NamedTuple):
    """Which training gradients R is the root mean square of; a run keeps R of several kinds side by side.

    The default is those of single segments, as rules learn from them; a run has one such R, whose segments are as long
    as they were where it was computed. With a ``segment`` it is those of the mean loss of ``lanes`` sequences of so
    many tokens.
    """

    lanes: int = 1
    segment: int | None = None

    @property
    def name(self) -> str:
        """The name of its file, without the suffix."""
        return "statistics" if self.segment is None else f"statistics-{self.lanes}x{self.segment}"

    def __str__(self) -> str:
        """Return what it is called in messages."""
        of = "" if self.segment is None else f" of batches of {self.lanes} x {self.segment} tokens"
        return f"gradient statistics R{of}"

    @classmethod
    def named(cls, name: str) -> StatisticsKind | None:
        """Return the kind whose file is called ``name``; None where that is no such file."""
        if name == cls().name:
            return cls()
        found = re.fullmatch(r"statistics-([1-9]\d{0,5})x([1-9]\d{0,5})", name, re.ASCII)
        return found and cls(int(found[1]), int(found[2]))


SEGMENTS = StatisticsKind()
"""R of single segments."""


@dataclass(frozen=True)
class RuleKind:
    """A kind of rule.

    ``build`` is called with the dynamic tensors, the constants (all options that are the rule's own) and, where the
    kind needs ``statistics``, R: the root mean square of training gradients of single segments, or of batches (of
    ``memory.segment`` tokens and as many sequences as its option ``statistics_lanes`` says). ``searched`` are the
    constants that ``tune`` finds; a rule without is not tuned. A ``learned`` kind has parameters that ``metatrain``
    learns, starting from the tuned rule ``g.base``, in place of constants and ``build``; what it needs depends on the
    options of g.
    """

    name: str
    options: type[MemoryOptions]
    build: Builder | None
    searched: Mapping[str, Search] = field(default_factory=dict)
    statistics: Literal["segments", "batches"] | None = None
    learned: bool = False

    def statistics_for(self, options: MemoryOptions) -> StatisticsKind | None:
        """Return the statistics that the rule needs with ``options``; None where it needs none."""
        if self.statistics != "batches":
            return SEGMENTS if self.statistics else None
        return StatisticsKind(vars(options)["statistics_lanes"], options.segment)

    def searches(self) -> dict[str, Search]:
        """Return what is searched, within the bounds of the options that it sets."""
        bounds = {item.name: item.metadata.get("bounds", ()) for item in fields(self.options)}
        return {name: Search(each.start, each.factor, *bounds[name]) for name, each in self.searched.items()}

    def constants(self, options: MemoryOptions) -> dict[str, Any]:
        """Return the rule's own options: those to be searched for, None where they are not given, and the others.

        A learned kind has none: nothing is found with its options, which take the place of g's when it reads.
        """
        from dynlm.adapt.options import MemoryOptions, StepOptions

        if self.learned:
            return {}
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
