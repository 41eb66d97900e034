"""Registries of classes that own their options: learners and task sources.

A learner or task source declares its options as a subclass of ``Section`` and registers itself by decorator, or by an
entry point of another package. A command line that does not know the kind yet parses the options of all kinds
(``Registry.merged_options``) and then keeps those of the chosen kind (``Registry.options_of``).
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib
import pkgutil
import sys
from collections.abc import Collection, Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, Union, get_args, get_origin, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.validation import Section


def default_of(item: dataclasses.Field[Any]) -> Any:
    """Return the default of a dataclass field."""
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()


class _HasOptions(Protocol):
    options_type: ClassVar[type[Any]]


_Class = TypeVar("_Class", bound=_HasOptions)
_Options = TypeVar("_Options", bound=Section)


class Registry(Generic[_Class, _Options]):
    """Classes by the value of the option that chooses among them.

    ``base`` is the options class that all kinds extend; its field ``key`` has the name of the kind. Built-in classes
    are those that the modules of ``package`` register, others come from the entry-point ``group``.
    """

    renamed: Mapping[str, str] = {}
    """Former names of kinds."""
    ignored: Collection[str] = ()
    """Options that kinds without them ignore with a warning; they refuse others."""

    def __init__(self, base: type[_Options], key: str, package: str, group: str):
        self.base, self.key, self.package, self.group = base, key, package, group
        self._classes: dict[str, type[_Class]] = {}

    def register(self, cls: Any) -> Any:
        """Class decorator: register ``cls`` under the default of ``key`` in ``cls.options_type``."""
        self._classes[getattr(cls.options_type, self.key)] = cls
        return cls

    @functools.cached_property
    def classes(self) -> dict[str, type[_Class]]:
        """All registered classes by name. The first access imports the built-in modules and the entry points."""
        path = importlib.import_module(self.package).__path__
        for module in pkgutil.iter_modules(path, f"{self.package}."):
            importlib.import_module(module.name)
        for entry in entry_points(group=self.group):
            entry.load()
        return self._classes

    def create(self, options: _Options, *arguments: Any) -> Any:
        """Return an instance of the class that ``options`` belong to."""
        cls: Any = self.classes[getattr(options, self.key)]
        return cls(options, *arguments)

    def merged_options(self, default: str) -> type[_Options]:
        """Return a section with the fields of all kinds, ``default`` being the kind where none is given.

        A field whose default depends on the kind has the default None. Its documentation, which ``--help`` shows, names
        the kinds where not all have the field.
        """
        hints: dict[str, Any] = {}
        docs: dict[str, str] = {}
        defaults: dict[str, dict[str, Any]] = {}
        for kind, cls in self.classes.items():
            docs |= _attribute_docs(cls.options_type)
            own_hints = get_type_hints(cls.options_type)
            for item in dataclasses.fields(cls.options_type):
                hints[item.name] = _union(hints.get(item.name, own_hints[item.name]), own_hints[item.name])
                defaults.setdefault(item.name, {})[kind] = default_of(item)
        made: list[Any] = [(self.key, str, dataclasses.field(default=default))]
        docs[self.key] = f"One of {', '.join(self.classes)}."
        for name, by_kind in defaults.items():
            if name == self.key:
                continue
            first, *others = by_kind.values()
            if all(other == first for other in others):
                made.append((name, hints[name], dataclasses.field(default_factory=functools.partial(copy.copy, first))))
            else:
                made.append((name, hints[name] | None, None))
                docs[name] += f" Unset: {', '.join(f'{kind} {value}' for kind, value in by_kind.items())}."
            without = [kind for kind in self.classes if kind not in by_kind]
            if len(without) > len(by_kind):
                docs[name] += f" Only of {', '.join(by_kind)}."
            elif without:
                docs[name] += f" Not of {', '.join(without)}."
        section = {"SECTION": self.base.SECTION}
        merged = dataclasses.make_dataclass(f"Merged{self.base.__name__}", made, bases=(Section,), namespace=section)
        arguments = "\n".join(f"    {name}: {docs[name]}" for name, *_ in made)
        merged.__doc__ = f"{self.base.__doc__}\n\nArgs:\n{arguments}"  # The format in which jsonargparse reads it.
        return merged

    def options_of(self, merged: Any, refuse_unused: bool = True) -> _Options:
        """Return the chosen kind's options from ``merged_options``; None stands for the kind's default.

        Raises UserError for an unknown kind, for values that the kind refuses and, with ``refuse_unused``, for options
        that the kind does not have and that are not at their default.
        """
        values = {name: value for name, value in vars(merged).items() if value is not None}
        option, kind = f"{self.base.SECTION}.{self.key}", values[self.key]
        if kind in self.renamed:
            warn_once(f"{option} {kind!r} is now called {self.renamed[kind]!r}")
            values[self.key] = kind = self.renamed[kind]
        if kind not in self.classes:
            near = difflib.get_close_matches(kind, self.classes, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise UserError(f"{option} is {kind!r}{meant}", do=f"choose one of {', '.join(self.classes)}")
        own = {item.name for item in dataclasses.fields(self.classes[kind].options_type)}
        for name in values.keys() - own if refuse_unused else ():
            if values[name] != self._first_default(name):
                what = f"{self.base.SECTION}.{name} is set, but {option} {kind!r} does not use it"
                if name not in self.ignored:
                    raise UserError(what, do="leave it out")
                warn_once(what)
        return self.classes[kind].options_type(**{name: value for name, value in values.items() if name in own})

    def _first_default(self, name: str) -> Any:
        """Default of the first registered kind that has this option."""
        every = (item for cls in self.classes.values() for item in dataclasses.fields(cls.options_type))
        return next(default_of(item) for item in every if item.name == name)


def _union(one: Any, other: Any) -> Any:
    """Return the type of values of either type; choices of both are choices of one ``Literal``."""
    if get_origin(one) is get_origin(other) is Literal:
        return Literal[tuple(dict.fromkeys(get_args(one) + get_args(other)))]  # type: ignore[valid-type]
    return Union[one, other]  # noqa: UP007 - values, not annotations


def _attribute_docs(cls: type) -> dict[str, str]:
    """Return the strings below the fields of a dataclass and of its bases, by field."""
    import docstring_parser  # of jsonargparse[signatures]

    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        for item in docstring_parser.parse_from_object(base).params:
            docs[item.arg_name] = " ".join((item.description or "").split())
    return docs


@functools.cache
def warn_once(message: str) -> None:
    print(f"dynlm: warning: {message}", file=sys.stderr)
