"""Config files: those that ship with dynlm, by name, and the options that a file holds."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dynlm.errors import UserError
from dynlm.runtime.renamed import rename_sections
from dynlm.runtime.text import did_you_mean
from dynlm.runtime.validation import (
    check_mapping,
    check_sections,
    check_types,
    options_of,
    sections_of,
    shortened,
    types_of,
)

_Whole = TypeVar("_Whole")
_SELECTING = ("rule", "kind", "source")
"""Options that select the class of their section."""


def shipped_configs() -> dict[str, Path]:
    """Return every shipped config's file by its name: its path within ``configs/`` without ``.yaml``, sorted."""
    package = Path(__file__).resolve().parents[1]
    # A wheel holds them in the package; in a checkout they lie beside it.
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            files = sorted(folder.rglob("*.yaml"))
            return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {}


def config_path(name: str) -> str:
    """Return the config file that ``name`` stands for: a file of that path, else the shipped config of that name.

    Raises UserError, with the nearest name, if there is neither.
    """
    if os.path.exists(name) and not os.path.isdir(name):
        return name
    shipped = shipped_configs()
    if name in shipped:
        return str(shipped[name])
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    near = [each for each in shipped if plain in (each, each.rpartition("/")[2])]
    hint = did_you_mean(near[0] if near else plain, shipped)
    raise UserError(f"there is no config file of this name{hint}", name, f"name a file, or one of {', '.join(shipped)}")


Files = list[tuple[str, dict[str, Any]]]
"""Config files as (path, content), each standing over those before it."""


def read_config(path: str | Path, kind: type) -> Files:
    """Return the files that a config file consists of: its ``base``, if it names one, and itself.

    ``kind`` is the dataclass of sections; one with a field ``base`` allows one. Raises UserError, naming the file, for
    sections that do not exist.
    """
    content, below = _read(path, kind)
    return [*([(str(below), _read(below, kind)[0])] if below else []), (str(path), content)]


def _read(path: str | Path, kind: type) -> tuple[dict[str, Any], Path | None]:
    """Return the sections that a file holds, and the path of its base."""
    from dynlm.runtime.parsing import read_yaml

    content, base = read_yaml(path), None
    content = {} if content is None else content
    if isinstance(content, dict) and "base" in types_of(kind):
        base = content.pop("base", None)
    if not isinstance(base, str | None):
        raise UserError(f"base is {shortened(base)}", path, "write the name of a file")
    with _naming(path):
        content = check_sections(sections_of(kind), content)
        # An empty section is null in YAML.
        content = {name: {} if values is None else check_mapping(name, values) for name, values in content.items()}
    return rename_sections(content), None if base is None else Path(path).parent / base


class Layers:
    """Values of all sections of ``kind``: those of a run under those of config files.

    A section may be a plug-in's, which its values, or ``words`` of the command line, select. Of the run's values those
    that it does not have are left out; Raises UserError, naming the file, for those of a file.
    """

    def __init__(self, kind: type, files: Files, run: Mapping[str, Any], words: Mapping[str, Mapping[str, str]]):
        self.kind, self.files = kind, files
        self.kinds = sections_of(kind)
        self.ignored: dict[str, list[str]] = {}
        """The ``words`` that the class of a section leaves out."""
        self.values: dict[str, dict[str, Any]] = {}
        for name, section in self.kinds.items():
            given: dict[str, Any] = {}
            for _, content in files:
                given |= content.get(name, {})
            below = run.get(name, {})
            chosen = self.kinds[name] = section.select({**below, **given, **words.get(name, {})})
            self.ignored[name] = [*(words.get(name, {}).keys() - chosen.own_values(words.get(name, {})))]
            for path, content in files:
                with _naming(path):
                    check_types(chosen, chosen.own_values(content.get(name, {})))
            own = types_of(chosen)
            self.values[name] = {option: value for option, value in below.items() if option in own} | given

    def build(self, options: Mapping[str, Mapping[str, Any]]) -> Any:
        """Return ``kind`` with ``options`` over these values. Raises UserError, naming the file that is wrong."""
        values = {name: {**self.values[name], **options.get(name, {})} for name in self.values}
        try:
            return options_of(self.kind, values)
        except UserError:
            for path, content in self.files:
                alone = {}
                for name, given in content.items():
                    selected = {option: values[name][option] for option in _SELECTING if option in values[name]}
                    alone[name] = selected | given
                with _naming(path):
                    options_of(self.kind, alone)
            raise


@contextlib.contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Name the file in a UserError that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), path) from error


def load_options(path: str | Path, kind: type[_Whole]) -> _Whole:
    """Return the options of a config file, with defaults for what it leaves out. Raises UserError."""
    options: _Whole = Layers(kind, read_config(path, kind), {}, {}).build({})
    return options
