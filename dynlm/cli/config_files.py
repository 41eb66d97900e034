"""Config files: those that ship with dynlm, by name, and the options that a file holds."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.renamed import rename_sections
from dynlm.runtime.validation import check_types, options_of, sections_of, select_kind, shortened

if TYPE_CHECKING:
    from dynlm.train.config import Config


def shipped_configs() -> dict[str, Path]:
    """Return every shipped config's file by its name: its path within ``configs/`` without ``.yaml``, sorted."""
    package = Path(__file__).resolve().parents[1]
    # A wheel holds them in the package; in a checkout they lie beside it.
    folder = next((path for path in (package / "configs", package.parent / "configs") if path.is_dir()), None)
    if folder is None:
        return {}
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


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
    near = [each for each in shipped if each == plain or each.rpartition("/")[2] == plain]
    near = near or difflib.get_close_matches(plain, shipped, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
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

    content = read_yaml(path)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"not a config that dynlm can read: the whole is {shortened(content)}", path)
    base = content.pop("base", None) if "base" in get_type_hints(kind) else None
    if not isinstance(base, str | None):
        raise UserError(f"base is {shortened(base)}", path, "write the name of a file")
    for name, values in content.items():
        if name not in sections_of(kind):
            raise UserError(f"there is no section {shortened(name)}", path, "take it out")
        if not isinstance(values, dict | None):
            raise UserError(f"{name} is {shortened(values)}", path, "write options and their values")
    # An empty section is null in YAML.
    content = rename_sections({name: values or {} for name, values in content.items()})
    return content, None if base is None else Path(path).parent / base


class Layers:
    """Values of all sections of ``kind``: those of a run under those of config files.

    A section may be a plug-in's, which its values, or ``words`` of the command line, select. Of the run's values those
    that it does not have are left out; Raises UserError, naming the file, for those of a file.
    """

    def __init__(self, kind: type, files: Files, run: Mapping[str, Any], words: Mapping[str, Mapping[str, str]]):
        self.kind, self.files = kind, files
        self.kinds: dict[str, type] = {}
        self.values: dict[str, dict[str, Any]] = {}
        for name, section in sections_of(kind).items():
            given: dict[str, Any] = {}
            for _, content in files:
                given |= content.get(name, {})
            below = run.get(name, {})
            chosen: type = select_kind(section, {**below, **given, **words.get(name, {})})
            self.kinds[name] = chosen
            for path, content in files:
                with _naming(path):
                    check_types(chosen, content.get(name, {}), name)
            own = get_type_hints(chosen)
            self.values[name] = {**{option: value for option, value in below.items() if option in own}, **given}

    def build(self, options: Mapping[str, Mapping[str, Any]]) -> Any:
        """Return ``kind`` with ``options`` over these values. Raises UserError, naming the file that is wrong."""
        values = {name: {**self.values[name], **options.get(name, {})} for name in self.values}
        try:
            return options_of(self.kind, values)
        except UserError:
            for path, content in self.files:
                selected = {
                    name: {key: values[name][key] for key in _SELECTING & values[name].keys()} for name in content
                }
                with _naming(path):
                    options_of(self.kind, {name: {**selected[name], **section} for name, section in content.items()})
            raise


_SELECTING = {"rule", "kind"}
"""Options that select the class of their section."""


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Name the file in a UserError that the block raises."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), path) from error


def load_options(path: str | Path, kind: type) -> Any:
    """Return the options of a config file, with defaults for what it leaves out. Raises UserError."""
    return Layers(kind, read_config(path, kind), {}, {}).build({})


def load_config(path: str | Path) -> Config:
    """Return the options of a config file of a language model. Raises UserError."""
    from dynlm.train.config import Config

    config: Config = load_options(path, Config)
    return config
