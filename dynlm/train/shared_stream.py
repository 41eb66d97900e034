"""The articles of a split, again and again, in lanes that all processes share."""

from __future__ import annotations

from dynlm.data.stream import Stream
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config


def shared_stream(split: TokenisedSplit, lanes: int, option: str, config: Config, processes: Processes) -> Stream:
    """``option`` says how many ``lanes`` all processes have; raises UserError where they cannot be shared evenly."""
    if lanes % processes.world:
        raise UserError(f"{option} is {lanes}", do=f"choose a multiple of the {processes.world} processes")
    return Stream(
        split,
        lanes,
        config.memory.segment,
        range(split.articles),
        seed=config.run.seed,
        repeat=True,
        rank=processes.rank,
        world=processes.world,
    )
