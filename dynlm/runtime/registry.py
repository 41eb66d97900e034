"""Registries: objects found by name, built in or added by other packages."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable
from importlib.metadata import EntryPoints, entry_points
from typing import Generic, TypeVar

from dynlm.errors import UserError

_Item = TypeVar("_Item")
_AnyItem = TypeVar("_AnyItem")


class Registry(Generic[_Item]):
    """Objects of one kind by name; ``option`` names one, and may also have values that ``others`` describes.

    Built-in objects are registered by the modules of ``package``, with the decorator ``register``, and foreign ones by
    the same decorator or by an entry point of ``group``, whose name is the object's name::

        [project.entry-points."dynlm.sources"]
        my-corpus = "my_package:open_my_corpus"
    """

    def __init__(self, option: str, package: str, group: str, others: str = ""):
        self._option, self._package, self._group, self._others = option, package, group, others
        self._items: dict[str, _Item] = {}

    def register(self, *names: str) -> Callable[[_AnyItem], _AnyItem]:
        """Return a decorator that registers an object under each of ``names``."""

        def decorate(item: _AnyItem) -> _AnyItem:
            self._items.update(dict.fromkeys(names, item))  # type: ignore[arg-type]
            return item

        return decorate

    def names(self) -> list[str]:
        """Return all names, sorted."""
        self._import_package()
        return sorted({*self._items, *(point.name for point in self._entry_points())})

    def __getitem__(self, name: str) -> _Item:
        """Return the object of this name. Raises UserError, with the nearest name, if there is none or it fails."""
        self._import_package()
        if name not in self._items:
            points = [point for point in self._entry_points() if point.name == name]
            if not points:
                near = difflib.get_close_matches(name, self.names(), 1)
                do = f"did you mean {near[0]!r}? " if near else ""
                do += f"choose one of {', '.join(self.names())}{self._others}"
                raise UserError(f"{self._option} is {name!r}", do=do)
            try:
                item = points[0].load()
            except Exception as error:  # The code of another package may raise anything.
                what = f"{points[0].value} cannot be loaded ({type(error).__name__}: {error})"
                raise UserError(what, f"{self._option} {name}", "update or remove that package") from error
            self._items.setdefault(name, item)
        return self._items[name]

    @functools.cache  # noqa: B019 - registries live as long as the process
    def _entry_points(self) -> EntryPoints:
        # A scan reads a file of every installed package.
        return entry_points(group=self._group)

    @functools.cache  # noqa: B019 - registries live as long as the process
    def _import_package(self) -> None:
        package = importlib.import_module(self._package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self._package}.{module.name}")
