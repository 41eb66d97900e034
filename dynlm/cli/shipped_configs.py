"""The configs that ship with dynlm, by name: ``--config demo`` works wherever dynlm is installed."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from dynlm.errors import UserError


def shipped_configs() -> dict[str, Path]:
    """Every shipped config's file by its name: its path within ``configs/`` without ``.yaml``, sorted."""
    package = Path(__file__).resolve().parents[1]
    # A wheel holds them in the package; in a checkout they lie beside it.
    folder = next((place for place in (package / "configs", package.parent / "configs") if place.is_dir()), None)
    if folder is None:
        return {}
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def config_path(name: str) -> str:
    """The config file that ``name`` stands for: a file of that path, else the shipped config of that name.

    Raises UserError, with the nearest name, where there is neither.
    """
    if os.path.exists(name) and not os.path.isdir(name):
        return name
    shipped = shipped_configs()
    if name in shipped:
        return str(shipped[name])
    plain = name.removeprefix("configs/").removesuffix(".yaml")
    near = [each for each in shipped if each == plain or each.rpartition("/")[2] == plain]
    near = near or difflib.get_close_matches(plain, shipped, n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    raise UserError(
        f"there is no config file of this name{meant}", name, f"name a file, or one of {', '.join(shipped)}"
    )
