"""Registries of classes with ``Options`` of their own: learners and task sources.

A parser that does not know the kind yet reads the options of all kinds (``merged_options``), of which those of the
chosen kind are kept (``options_of``).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.registry import Registry
from dynlm.runtime.validation import Section


class OptionsRegistry(Registry[Any]):
    """Classes by the value of the option ``key`` of ``section``, which selects one."""

    renamed: Mapping[str, str] = {}
    """Former names of kinds."""
    ignored: Collection[str] = ()
    """Options that kinds without them ignore with a warning; they refuse others."""

    def __init__(self, section: str, key: str, package: str, group: str):
        super().__init__(f"{section}.{key}", package, group)
        self.section, self.key = section, key

    def register_kind(self, kind: str, **defaults: Any) -> Callable[[Any], Any]:
        """Return a class decorator that registers the class as ``kind``; ``defaults`` replace those of its options."""

        def decorate(cls: Any) -> Any:
            fields = {item.name: item for item in dataclasses.fields(cls.Options)}
            replaced = [
                (name, fields[name].type, dataclasses.field(default=value, metadata=fields[name].metadata))
                for name, value in {self.key: kind, **defaults}.items()
            ]
            namespace = {"__module__": cls.__module__}
            cls.Options = dataclasses.make_dataclass("Options", replaced, bases=(cls.Options,), namespace=namespace)
            return self.register(kind)(cls)

        return decorate

    def create(self, options: Any, *arguments: Any) -> Any:
        """Return an instance of the class that ``options`` belong to."""
        return self[getattr(options, self.key)](options, *arguments)

    def merged_options(self, default: str) -> type[Section]:
        """Return a section with the options of all kinds; ``default`` is the default kind.

        An option whose default depends on the kind has the default None. The documentation of an option, which
        ``--help`` shows, tells which kinds have it.
        """
        hints: dict[str, Any] = {}
        docs: dict[str, str] = {self.key: f"One of {', '.join(self.names())}."}
        defaults: dict[str, dict[str, Any]] = {}
        for kind in self.names():
            options = self[kind].Options
            docs = _attribute_docs(options) | docs
            for name, hint in get_type_hints(options).items():
                if name in (own := _defaults(options)) and name != self.key:
                    hints[name] = _union(hints.get(name, hint), hint)
                    defaults.setdefault(name, {})[kind] = own[name]
        made: list[Any] = [(self.key, str, dataclasses.field(default=default))]
        for name, by_kind in defaults.items():
            first, *others = by_kind.values()
            if all(other == first for other in others):
                value = functools.partial(copy.copy, first)
                made.append((name, hints[name], dataclasses.field(default_factory=value)))
            else:
                made.append((name, hints[name] | None, None))
                docs[name] += f" Unset: {', '.join(f'{kind} {value}' for kind, value in by_kind.items())}."
            if without := [kind for kind in self.names() if kind not in by_kind]:
                only = len(without) > len(by_kind)
                docs[name] += f" Only of {', '.join(by_kind)}." if only else f" Not of {', '.join(without)}."
        namespace = {"SECTION": self.section, "COMMON": self[default].Options.COMMON}
        merged = dataclasses.make_dataclass(f"All_{self.section}", made, bases=(Section,), namespace=namespace)
        arguments = "\n".join(f"    {name}: {docs[name]}" for name, *_ in made)
        merged.__doc__ = f"Options of the {self.section}.\n\nArgs:\n{arguments}"  # jsonargparse reads this format.
        return merged

    def options_of(self, merged: Any, refuse_unused: bool = True) -> Any:
        """Return the chosen kind's options from ``merged_options``; None stands for the kind's default.

        Raises UserError for an unknown kind, for values that the kind refuses and, with ``refuse_unused``, for options
        that the kind does not have and that are not at their default.
        """
        values = {name: value for name, value in vars(merged).items() if value is not None}
        option, kind = f"{self.section}.{self.key}", values[self.key]
        if kind in self.renamed:
            warn_once(f"{option} {kind!r} is now called {self.renamed[kind]!r}")
            values[self.key] = kind = self.renamed[kind]
        options = self[kind].Options
        unused = values.keys() - _defaults(options) if refuse_unused else ()
        defaults = [_defaults(self[name].Options) for name in self.names()] if unused else []
        for name in unused:
            if values[name] != next(each[name] for each in defaults if name in each):
                what = f"{self.section}.{name} is set, but {option} {kind!r} does not use it"
                if name not in self.ignored:
                    raise UserError(what, do="leave it out")
                warn_once(what)
        return options(**{name: value for name, value in values.items() if name in _defaults(options)})


def _defaults(options: type) -> dict[str, Any]:
    return {
        item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for item in dataclasses.fields(options)
    }


def _union(one: Any, other: Any) -> Any:
    """Return the type of values of either type; choices of both are choices of one ``Literal``."""
    if get_origin(one) is get_origin(other) is Literal:
        return Literal[tuple(dict.fromkeys(get_args(one) + get_args(other)))]  # type: ignore[valid-type]
    return Union[one, other]  # noqa: UP007 - values, not annotations


def _attribute_docs(cls: type) -> dict[str, str]:
    """Return the strings below the fields of a dataclass and of its bases, by field."""
    import docstring_parser  # of jsonargparse[signatures]

    params = [item for base in reversed(cls.__mro__[:-1]) for item in docstring_parser.parse_from_object(base).params]
    return {item.arg_name: " ".join((item.description or "").split()) for item in params}


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning, the first time."""
    print(f"dynlm: warning: {message}", file=sys.stderr)
