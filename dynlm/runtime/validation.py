"""Options as documented dataclasses, and the checks of their values, wherever these come from.

A section of options is a subclass of ``Section``. A field's type names its choices (``Literal``), ``bounded`` its
bounds. YAML files, command lines and Python build sections alike; every refusal names the option and what to write.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.renamed import original_options, rename_sections
from dynlm.runtime.text import did_you_mean

LARGEST = 10**12
"""Upper bound of every number among the options; most have a smaller one of their own."""
LARGEST_LANES = 10_000
LARGEST_SEGMENT = 100_000
LARGEST_SEED = 2**32 - 1
LARGEST_WIDTH = 65_536

_Whole = TypeVar("_Whole")
_Section = TypeVar("_Section", bound="Section")


@dataclass
class Section:
    """Base class of the sections of options; ``SECTION`` is the name in YAML files and on the command line.

    Raises UserError, naming the option as SECTION.NAME, where a value is out of bounds, not finite, none of its
    ``Literal`` choices, or text that UTF-8 cannot encode.
    """

    SECTION = ""
    COMMON = ""
    """Names of the options that ``--help`` shows; empty: all. ``--help all`` shows every one."""
    READING = "*"
    """Names of the options that commands take for a run that is made; *: all. The others are as it was made with."""

    def __post_init__(self) -> None:
        choices = _choices_of(type(self))  # type: ignore[arg-type]  # a class is hashable
        for field in dataclasses.fields(self):
            value, option = getattr(self, field.name), f"{self.SECTION}.{field.name}"
            _check_choices(option, value, choices[field.name])
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, int | float):
                    within(option, item, *field.metadata.get("bounds", ()))
                elif isinstance(item, str) and not is_utf8(item):
                    raise UserError(f"{option} is {shortened(item)}", do="write text that UTF-8 can encode")

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> type[Section]:
        """Return the class for ``values``: a subclass where one of them selects a plug-in with its own options."""
        return cls

    @classmethod
    def selected_by(cls, option: str) -> str | None:
        """Return what selects a class of this section that has ``option``, for messages; None where nothing does."""
        return None

    @classmethod
    def own_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values``, those of a file, without those that only other classes of the section use."""
        return dict(values)

    def replace(self: _Section, **changes: Any) -> _Section:
        """Return the section with ``changes``; where they select another class, with the values that it has, too.

        What is unset here (None) then takes the other class's default.
        """
        kind = type(self).select({**vars(self), **changes})
        kept = {item.name: getattr(self, item.name) for item in dataclasses.fields(kind) if hasattr(self, item.name)}
        if kind is not type(self):
            kept = {name: value for name, value in kept.items() if value is not None}
        replaced: _Section = kind(**{**kept, **changes})  # type: ignore[assignment]
        return replaced

    def with_options(self: _Section, changes: Mapping[str, Any], others: Iterable[str] = ()) -> _Section:
        """Return what ``replace`` does for ``changes`` that a user gave.

        Raises UserError, naming the option, for one that is unknown or has the wrong type; ``others`` are names that
        the message offers beside the section's own.
        """
        kind = type(self).select({**vars(self), **changes})
        known = {item.name for item in dataclasses.fields(kind)}
        if unknown := [name for name in changes if name not in known]:
            offered = sorted({*known, *others})
            what = f"{self.SECTION} has no option {unknown[0]!r}{did_you_mean(unknown[0], offered)}"
            raise UserError(what, do=f"choose among {', '.join(offered)}")
        check_types(kind, changes)
        return self.replace(**changes)


def bounded(
    default: Any, low: float = 0, high: float = LARGEST, affects_result: bool = True, omit_default: bool = False
) -> Any:
    """Return a dataclass field whose numbers must lie in [low, high]; None, where the type allows it, is not checked.

    ``affects_result=False`` marks an option that changes how a result is computed but not the result: work that was
    interrupted can be resumed with another value of it. ``omit_default=True`` leaves an option that earlier versions
    lack out of fingerprints where it has its default, so that their work is found again.
    """
    metadata = {"bounds": (low, high), "affects_result": affects_result, "omit_default": omit_default}
    return dataclasses.field(default=default, metadata=metadata)


def fingerprint_options(*sections: Section) -> dict[str, Any]:
    """Return the options that affect a result, by their full names (``memory.segment``), old ones if they changed."""
    options: dict[str, Any] = {}
    for section in sections:
        affecting = [item.name for item in dataclasses.fields(section) if item.metadata.get("affects_result", True)]
        values = earlier_options(type(section), {name: getattr(section, name) for name in affecting})
        values = original_options(section.SECTION, values)
        options |= {f"{section.SECTION}.{name}": value for name, value in values.items()}
    return options


def earlier_options(kind: type[Section], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``values`` of a section without the defaults of options that earlier versions lack (see ``bounded``)."""
    later = {item.name: item.default for item in dataclasses.fields(kind) if item.metadata.get("omit_default")}
    return {name: value for name, value in values.items() if name not in later or value != later[name]}


def one_of(option: str, value: object, choices: tuple[Any, ...]) -> None:
    """Raise UserError unless the value of ``option`` is one of ``choices``."""
    if value not in choices:
        known = ", ".join(str(choice) for choice in choices if choice is not None)
        raise UserError(f"{option} is {shortened(value)}", do=f"choose one of {known}")


def within(option: str, value: float, low: float = 0, high: float = LARGEST) -> None:
    """Raise UserError unless the value of ``option`` is in [low, high]. NaN and infinities never are."""
    if not low <= value <= min(high, LARGEST):
        bounds = f"at least {low:g}" if high >= LARGEST and value < low else f"from {low:g} to {high:g}"
        raise UserError(f"{option} is {shortened(value)}", do=f"choose a value {bounds}")


def number_in(
    content: Mapping[str, Any], name: str, where: object, low: float, high: float = sys.float_info.max
) -> float:
    """Return the number ``content[name]`` of a file. Raises UserError unless it is finite and in [low, high]."""
    value = content.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise UserError(f"its {name} is {shortened(value)}", where, "create it again")
    return value


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be encoded as UTF-8: it has no lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def plain_name(option: str, value: str) -> None:
    """Raise UserError unless the value of ``option`` is a plain file name, which cannot lead to another folder."""
    if not value or value.startswith(".") or not value.isprintable() or set(value) & set("/\\:"):
        raise UserError(f"{option} is {value!r}", do="choose a plain name without slashes")


def types_of(kind: type) -> Mapping[str, Any]:
    """Return the types of a dataclass's fields by name; the annotations, which are strings, are evaluated once."""
    return _evaluated(kind)


@functools.cache
def _evaluated(kind: type) -> Mapping[str, Any]:
    return MappingProxyType(get_type_hints(kind))


def sections_of(kind: type) -> dict[str, type[Section]]:
    """Return the sections of a dataclass of sections, by name: its fields that are dataclasses."""
    return {name: hint for name, hint in types_of(kind).items() if dataclasses.is_dataclass(hint)}  # type: ignore[misc]


def options_of(kind: type[_Whole], content: object) -> _Whole:
    """Return ``kind``, a dataclass of sections, with the values of a file. Raises UserError as ``section_of`` does."""
    sections = sections_of(kind)
    values = check_sections(sections, content)
    return kind(**{name: section_of(sections[name], values[name]) for name in values})


def check_sections(sections: Mapping[str, Any], content: object) -> Mapping[str, Any]:
    """Return ``content``, of a file. Raises UserError unless it is a mapping of some of ``sections``."""
    if not isinstance(content, Mapping):
        raise UserError(f"the whole is {shortened(content)}", do="write sections of options")
    for name in content:
        if name not in sections:
            raise UserError(f"there is no section {shortened(name)}", do="take it out")
    return content


def section_of(kind: type[_Section], values: object) -> _Section:
    """Return ``kind(**values)``, with the values of a file, or its subclass that a value selects for a plug-in.

    Raises UserError, naming the option, where one is unknown, has the wrong type, or is refused by the section.
    """
    options = rename_sections({kind.SECTION: check_mapping(kind.SECTION, values)})[kind.SECTION]
    chosen = kind.select(options)
    options = chosen.own_values(options)
    check_types(chosen, options)
    return chosen(**options)  # type: ignore[return-value]  # ``select`` gives a subclass


def check_mapping(section: str, values: object) -> Mapping[str, Any]:
    """Return ``values``, of a section in a file. Raises UserError unless they are options and their values."""
    if not isinstance(values, Mapping):
        raise UserError(f"{section} is {shortened(values)}", do="write options and their values")
    return values


def check_types(kind: type[Section], values: Mapping[str, Any]) -> None:
    """Raise UserError unless ``values``, of a section in a file, are options of ``kind`` with the right types."""
    choices, hints = _choices_of(kind), types_of(kind)  # type: ignore[arg-type]
    for name, value in values.items():
        if name not in hints:
            raise UserError(f"{kind.SECTION} has no option {shortened(name)}", do="take it out")
        option, hint = f"{kind.SECTION}.{name}", hints[name]
        _check_choices(option, value, choices[name])
        if not is_of(value, hint):
            raise UserError(f"{option} is {shortened(value)}", do=f"write {getattr(hint, '__name__', str(hint))}")


@functools.cache
def _choices_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """Return the choices of each field of a dataclass; none for a field without a ``Literal``."""
    return {name: _choices(hint) for name, hint in types_of(kind).items()}


def _choices(hint: Any) -> tuple[Any, ...]:
    """Return the choices of all ``Literal`` types in a type, with None where that is allowed too."""
    if get_origin(hint) is Literal:
        return get_args(hint)
    found = tuple(choice for part in get_args(hint) for choice in _choices(part))
    return (*found, None) if found and type(None) in get_args(hint) else found


def _check_choices(option: str, value: object, choices: tuple[Any, ...]) -> None:
    """Raise UserError unless ``value``, or each item of a list, is one of ``choices``, where there are any."""
    for item in value if isinstance(value, list) else [value]:
        if choices:
            one_of(option, item, choices)


def is_of(value: object, hint: Any) -> bool:
    """Return whether a value of a file can be an option of this type; an int may stand for a float."""
    kind, arguments = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return True
    if kind is Literal:
        return value in arguments
    if kind in (Union, UnionType):
        return any(is_of(value, each) for each in arguments)
    if kind is list:
        return isinstance(value, list) and all(is_of(item, arguments[0]) for item in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) < 2**1023
    return isinstance(value, kind)


def shortened(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, cut after ``limit`` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to convert integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[:limit]}..."
