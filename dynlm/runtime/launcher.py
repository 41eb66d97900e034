"""The environment variables that launchers (``accelerate launch``, torchrun) set for the processes that they start."""

from __future__ import annotations

import os

from dynlm.errors import UserError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def is_multi_process() -> bool:
    """Return whether a launcher started several processes. Raises UserError if its variables are malformed."""
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    marks = [name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in given]
    if not marks or given == {"WORLD_SIZE": "1"}:
        return False
    do = "start it by `accelerate launch` or torchrun, or unset them"
    if missing := [name for name in _VARIABLES if name not in given]:
        raise UserError(f"the environment has {marks[0]}, but not {', '.join(missing)}", do=do)
    for name in _VARIABLES:
        if name != "MASTER_ADDR" and (not given[name].isdecimal() or len(given[name]) > 9):
            raise UserError(f"{name} in the environment is {given[name]!r}, which is no number", do=do)
    if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        raise UserError(f"RANK in the environment is {given['RANK']} of WORLD_SIZE {given['WORLD_SIZE']}", do=do)
    return int(given["WORLD_SIZE"]) > 1


def is_main_process() -> bool:
    """Return whether this is the only process, or the first one of a launch."""
    return os.environ.get("RANK", "0") == "0"
