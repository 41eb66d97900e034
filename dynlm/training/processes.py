"""The processes that a verb runs in: one, or several under ``accelerate launch`` or torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

# The others wait while the first process tunes; a process that dies ends the others' waiting at once.
_PATIENCE = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """Which of ``world`` processes this one is, and the device that it computes on."""

    rank: int
    world: int
    device: torch.device

    @classmethod
    def start(cls, cpu: bool) -> Processes:
        """Join the other processes, where there are any; ``cpu`` stays on the CPU even where there is a GPU."""
        launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
        state = PartialState(cpu=cpu, **({"timeout": _PATIENCE} if launched else {}))
        # safetensors knows no numbered CPU.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(state.process_index, state.num_processes, device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The first process runs the block before the others, which find what it left."""
        if self.world == 1:
            yield
            return
        if not self.first:
            torch.distributed.barrier()
        yield
        if self.first:
            torch.distributed.barrier()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors."""
        if self.world > 1:
            tensor = tensor.clone()
            torch.distributed.all_reduce(tensor)
        return tensor

    def of_all(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values
