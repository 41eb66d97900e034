"""Config files: those that ship with dynlm, by name, and the options that a file holds."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from dynlm.errors import UserError
from dynlm.runtime.validation import checked_types, options_of, sections_of, shortened

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
"""Config files as (path, content), each standing on those before it."""


def read_config(path: str | Path, kind: type) -> Files:
    """Return the files that a config file consists of: its ``base``, if it names one, and itself.

    ``kind`` is the dataclass of sections; one with a field ``base`` allows one. Raises UserError, naming the file, for
    sections and options that do not exist and values of the wrong type.
    """
    content, below = _read(path, kind)
    return [*([(str(below), _read(below, kind)[0])] if below else []), (str(path), content)]


def _read(path: str | Path, kind: type) -> tuple[dict[str, Any], Path | None]:
    """Return the sections that a file holds, and the path of its base."""
    from dynlm.runtime.parsing import read_yaml

    content, sections = read_yaml(path), sections_of(kind)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"not a config that dynlm can read: the whole is {shortened(content)}", path)
    base = content.pop("base", None) if "base" in get_type_hints(kind) else None
    if not isinstance(base, str | None):
        raise UserError(f"base is {shortened(base)}", path, "write the name of a file")
    if unknown := [name for name in content if name not in sections]:
        raise UserError(f"there is no section {shortened(unknown[0])}", path, "take it out")
    # An empty section is null in YAML.
    content = {name: {} if values is None else values for name, values in content.items()}
    try:
        content = {name: dict(checked_types(sections[name], values, name)) for name, values in content.items()}
    except UserError as error:
        raise UserError(str(error), path) from error
    return content, None if base is None else Path(path).parent / base


def merge(files: Files, below: dict[str, Any]) -> dict[str, Any]:
    """Return the values of ``files``, option by option, over those ``below``."""
    values = dict(below)
    for _, content in files:
        values |= {name: {**values.get(name, {}), **section} for name, section in content.items()}
    return values


def build(kind: type, values: dict[str, Any], files: Files) -> Any:
    """Return ``kind`` with ``values``. Raises UserError, naming the file that is wrong by itself, if any."""
    try:
        return options_of(kind, values)
    except UserError:
        for path, content in files:
            try:
                options_of(kind, content)
            except UserError as error:
                raise UserError(str(error), path) from error
        raise


def load_options(path: str | Path, kind: type) -> Any:
    """Return the options of a config file, with defaults for what it leaves out. Raises UserError."""
    files = read_config(path, kind)
    return build(kind, merge(files, {}), files)


def load_config(path: str | Path) -> Config:
    """Return the options of a config file of a language model. Raises UserError."""
    from dynlm.train.config import Config

    config: Config = load_options(path, Config)
    return config
