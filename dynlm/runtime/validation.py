"""Options as documented dataclasses, and the checks of their values, wherever these come from.

A section of options is a subclass of ``Section``. A field's type names its choices (``Literal``), ``bounded`` its
bounds. YAML files, command lines and Python build sections alike; every refusal names the option and what to write.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.renamed import original_options, rename_options, rename_sections

LARGEST = 10**12
"""Upper bound of every number among the options; most have a smaller one of their own."""
LARGEST_LANES = 10_000
LARGEST_SEGMENT = 100_000
LARGEST_SEED = 2**32 - 1
LARGEST_WIDTH = 65_536

_Kind = TypeVar("_Kind")
_Section = TypeVar("_Section", bound="Section")


@dataclass
class Section:
    """Base class of the sections of options; ``SECTION`` is the name in YAML files and on the command line.

    Raises UserError, naming the option, where a value is out of bounds, not finite or none of its choices.
    """

    SECTION = ""
    COMMON = ""
    """Names of the options that ``--help`` shows; empty: all. ``--help all`` shows every one."""

    def __post_init__(self) -> None:
        check_values(self.SECTION, self)

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> type[Section]:
        """Return the class for ``values``: a subclass where one of them selects a plug-in with its own options."""
        return cls

    def replace(self: _Section, **changes: Any) -> _Section:
        """Return the section with ``changes``; where they select another class, with the values that it has, too."""
        kind = type(self).select({**vars(self), **changes})
        kept = {item.name: getattr(self, item.name) for item in dataclasses.fields(kind) if hasattr(self, item.name)}
        replaced: _Section = kind(**{**kept, **changes})  # type: ignore[assignment]
        return replaced


def bounded(default: Any, low: float = 0, high: float = LARGEST, affects_result: bool = True) -> Any:
    """Return a dataclass field whose numbers must lie in [low, high]; None, where the type allows it, is not checked.

    ``affects_result=False`` marks an option that changes how a result is computed but not the result: work that was
    interrupted can be resumed with another value of it.
    """
    metadata = {"bounds": (low, high), "affects_result": affects_result}
    return dataclasses.field(default=default, metadata=metadata)


def check_values(section: str, options: object) -> None:
    """Raise UserError where a field of the dataclass ``options`` is out of bounds, not finite, none of its ``Literal``
    choices, or text that UTF-8 cannot encode. The message names the option as SECTION.NAME.
    """
    for name, (bounds, choices, optional) in _constraints(type(options)).items():  # type: ignore[arg-type]
        value, option = getattr(options, name), f"{section}.{name}"
        for item in value if isinstance(value, list) else [value]:
            if choices and not (optional and item is None):
                one_of(option, item, choices)
            elif isinstance(item, int | float):
                within(option, item, *bounds)
            elif isinstance(item, str) and not is_utf8(item):
                raise UserError(f"{option} is {shortened(item)}", do="write text that UTF-8 can encode")


@functools.cache
def _constraints(kind: type) -> dict[str, tuple[tuple[float, float], tuple[Any, ...], bool]]:
    """(bounds, choices, whether None is allowed) of each field of a dataclass."""
    hints = get_type_hints(kind)
    return {
        item.name: (
            item.metadata.get("bounds", (0, LARGEST)),
            tuple(_choices(hints[item.name])),
            type(None) in get_args(hints[item.name]),
        )
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]  # a class of dataclass instances
    }


def _choices(hint: Any) -> Iterator[Any]:
    for argument in get_args(hint):
        if get_origin(hint) is Literal:
            yield argument
        else:
            yield from _choices(argument)


def fingerprint_options(*sections: Section) -> dict[str, Any]:
    """Return the options that affect a result, by their full names (``memory.segment``), old ones if they changed."""
    options: dict[str, Any] = {}
    for section in sections:
        affecting = [item.name for item in dataclasses.fields(section) if item.metadata.get("affects_result", True)]
        values = original_options(section.SECTION, {name: getattr(section, name) for name in affecting})
        options |= {f"{section.SECTION}.{name}": value for name, value in values.items()}
    return options


def one_of(option: str, value: object, choices: tuple[Any, ...]) -> None:
    """Raise UserError unless the value of ``option`` is one of ``choices``."""
    if value not in choices:
        raise UserError(f"{option} is {shortened(value)}", do=f"choose one of {', '.join(map(str, choices))}")


def within(option: str, value: float, low: float = 0, high: float = LARGEST) -> None:
    """Raise UserError unless the value of ``option`` is in [low, high]. NaN and infinities never are."""
    if not low <= value <= min(high, LARGEST):
        bounds = f"at least {low:g}" if high >= LARGEST and value < low else f"from {low:g} to {high:g}"
        raise UserError(f"{option} is {shortened(value)}", do=f"choose a value {bounds}")


def is_utf8(text: str) -> bool:
    """Return whether ``text`` can be encoded as UTF-8: it has no lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def plain_name(option: str, value: str) -> None:
    """Raise UserError unless the value of ``option`` is a plain file name, which cannot lead to another folder."""
    if not value or value.startswith(".") or not value.isprintable() or set(value) & set("/\\:"):
        raise UserError(f"{option} is {value!r}", do="choose a plain name without slashes")


def sections_of(kind: type) -> dict[str, type]:
    """Return the sections of a dataclass of sections, by name: its fields that are dataclasses."""
    return {name: hint for name, hint in get_type_hints(kind).items() if dataclasses.is_dataclass(hint)}  # type: ignore[misc]


def options_of(kind: type[_Kind], content: object) -> _Kind:
    """Return ``kind``, a dataclass of sections, with the values of a file. Raises UserError as ``section_of`` does."""
    sections = sections_of(kind)
    if not isinstance(content, Mapping):
        raise UserError(f"the whole is {shortened(content)}", do="write sections of options")
    if unknown := [name for name in content if name not in sections]:
        raise UserError(f"there is no section {shortened(unknown[0])}", do="take it out")
    content = rename_sections(content)
    return kind(**{name: section_of(sections[name], values, name) for name, values in content.items()})


def section_of(kind: type[_Kind], values: object, name: str | None = None) -> _Kind:
    """Return ``kind(**values)``, with the values of a file; ``name`` is the section's, by default ``kind.SECTION``.

    Where a value selects a plug-in, its subclass takes the place of ``kind``. Raises UserError, naming the option,
    where one is unknown, has the wrong type, or is refused by the section.
    """
    section = name or str(getattr(kind, "SECTION", kind.__name__))
    if isinstance(values, Mapping):
        values = rename_options(section, values)
        kind = select_kind(kind, values)
    check_types(kind, values, section)
    return kind(**values)  # type: ignore[arg-type]  # a mapping, or it is refused


def select_kind(kind: type[_Kind], values: Mapping[str, Any]) -> type[_Kind]:
    """Return the class of a section: the subclass of ``kind`` that ``values`` select, where one selects a plug-in."""
    return kind.select(values) if issubclass(kind, Section) else kind  # type: ignore[return-value]


def check_types(kind: type, values: object, section: str) -> None:
    """Raise UserError unless ``values``, of a section in a file, are options of ``kind`` with the right types."""
    if not isinstance(values, Mapping):
        raise UserError(f"{section} is {shortened(values)}", do="write options and their values")
    hints = get_type_hints(kind)
    for option, value in values.items():
        if option not in hints:
            raise UserError(f"{section} has no option {shortened(option)}", do="take it out")
        hint = hints[option]
        if choices := tuple(_choices(hint)):
            for item in value if isinstance(value, list) else [value]:
                if not (item is None and type(None) in get_args(hint)):
                    one_of(f"{section}.{option}", item, choices)
        if not is_of(value, hint):
            wanted = getattr(hint, "__name__", str(hint))
            raise UserError(f"{section}.{option} is {shortened(value)}", do=f"write {wanted}")


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
    if kind is dict:
        return isinstance(value, dict)
    if isinstance(value, bool):
        return kind is bool
    if kind is float and isinstance(value, int):
        return abs(value) < 2**1023
    return isinstance(value, kind) and (not isinstance(value, str) or is_utf8(value))


def shortened(value: object, limit: int = 60) -> str:
    """Return ``repr(value)``, cut after ``limit`` characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to convert integers of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= limit else f"{text[:limit]}..."
