"""What launchers (``accelerate launch``, torchrun) tell the processes that they start, by environment variables."""

from __future__ import annotations

import os

from dynlm.errors import UserError

_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def several_launched() -> bool:
    """Whether a launcher started several processes.

    Raises UserError where its variables are there in part, or are no numbers.
    """
    given = {name: os.environ[name] for name in _LAUNCHERS if os.environ.get(name)}
    if not {"RANK", "LOCAL_RANK", "WORLD_SIZE"} & set(given) or (given.get("WORLD_SIZE") == "1" and len(given) == 1):
        return False
    do = "start it by `accelerate launch` or torchrun, or unset them"
    if missing := [name for name in _LAUNCHERS if name not in given]:
        there = next(name for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE") if name in given)
        raise UserError(f"the environment has {there}, but not {', '.join(missing)}", do=do)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
        if not given[name].isdecimal() or len(given[name]) > 9:
            raise UserError(f"{name} in the environment is {given[name]!r}, which is no number", do=do)
    if int(given["RANK"]) >= int(given["WORLD_SIZE"]):
        raise UserError(f"RANK in the environment is {given['RANK']} of WORLD_SIZE {given['WORLD_SIZE']}", do=do)
    return int(given["WORLD_SIZE"]) > 1
