"""Registries of classes with ``Options`` of their own: learners and task sources."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, ClassVar

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
            names = {"__module__": cls.__module__, "__doc__": f"Options of {self.key} {kind}."}
            cls.Options = dataclasses.make_dataclass("Options", replaced, bases=(cls.Options,), namespace=names)
            return self.register(kind)(cls)

        return decorate

    def __getitem__(self, name: str) -> Any:
        return super().__getitem__(self.renamed.get(name, name))


class KindOptions(Section):
    """Base class of the options of the kinds of ``REGISTRY``, whose key selects one."""

    REGISTRY: ClassVar[OptionsRegistry]

    @classmethod
    def select(cls, values: Mapping[str, Any]) -> type[KindOptions]:
        """Return the options of the kind that ``values`` name. Raises UserError for one that is not registered."""
        key = cls.REGISTRY.key
        chosen: type[KindOptions] = cls.REGISTRY[str(values.get(key, getattr(cls, key)))].Options
        return chosen

    @classmethod
    def unused(cls, values: Iterable[str]) -> list[str]:
        """Return the options among ``values`` that other kinds have and this kind does not."""
        kinds = [cls.REGISTRY[kind].Options for kind in cls.REGISTRY.names()]
        others = {item.name for kind in kinds for item in dataclasses.fields(kind)}
        return [name for name in values if name in others - {item.name for item in dataclasses.fields(cls)}]

    @classmethod
    def own_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``values`` by the kind's current name, without those of ``REGISTRY.ignored`` that it does not use.

        Raises UserError for others that it does not use.
        """
        registry, option, unused = cls.REGISTRY, f"{cls.SECTION}.{cls.REGISTRY.key}", cls.unused(values)
        kind = getattr(cls, registry.key)
        for name in unused:
            what = f"{cls.SECTION}.{name} is set, but {option} {kind!r} does not use it"
            if name not in registry.ignored:
                raise UserError(what, do="leave it out")
            warn_once(what)
        own = {name: value for name, value in values.items() if name not in unused}
        if (former := str(own.get(registry.key))) in registry.renamed:
            warn_once(f"{option} {former!r} is now called {kind!r}")
            own[registry.key] = kind
        return own


@functools.cache
def warn_once(message: str) -> None:
    """Print a warning, the first time."""
    print(f"dynlm: warning: {message}", file=sys.stderr)
