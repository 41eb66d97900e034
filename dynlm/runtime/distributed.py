"""The processes that a verb runs in: one, or several under ``accelerate launch`` or torchrun.

A process that dies closes its connections, and the others' next word to it fails at once. One that hangs does not: in
``in_step``, where all do the same things at the same time, those who wait longer than a patience give up; elsewhere
they may wait for hours, since the first process may tune.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.launcher import several_launched

_WHILE_ONE_WORKS = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """Which of ``world`` processes this one is, and the device that it computes on; ``group`` they sum by."""

    rank: int
    world: int
    device: torch.device
    group: Any = None

    @classmethod
    def start(cls, cpu: bool) -> Processes:
        """Join the other processes, where there are any; ``cpu`` stays on the CPU even where there is a GPU.

        Raises UserError where the environment has a launcher's variables in part.
        """
        launched = several_launched()
        state = PartialState(cpu=cpu, **({"timeout": _WHILE_ONE_WORKS} if launched else {}))
        # safetensors knows no numbered CPU.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The first process runs the block before the others, which find what it left."""
        if not self.is_main:
            self.wait_for_everyone()
        yield
        if self.is_main:
            self.wait_for_everyone()

    @contextlib.contextmanager
    def in_step(self, patience: float) -> Iterator[Processes]:
        """The same processes, whose sums fail where one of them is more than ``patience`` seconds behind."""
        if self.world == 1:
            yield self
            return
        group = torch.distributed.new_group(timeout=timedelta(seconds=patience))
        try:
            yield dataclasses.replace(self, group=group)
        finally:
            torch.distributed.destroy_process_group(group)

    def wait_for_everyone(self) -> None:
        """Until all have come here, however long that takes."""
        if self.world > 1:
            with self._talking():
                torch.distributed.barrier()

    def reduce(self, tensor: Tensor) -> Tensor:
        """The sum of all processes' tensors."""
        if self.world > 1:
            tensor = tensor.clone()
            with self._talking():
                torch.distributed.all_reduce(tensor, group=self.group)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return bool(self.reduce(torch.tensor(int(here), device=self.device))) if self.world > 1 else here

    def gather_object(self, value: Any) -> list[Any]:
        """Every process's value, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with self._talking():
            torch.distributed.all_gather_object(values, value)
        return values

    def gather_lanes(self, own: Tensor) -> Tensor:
        """A tensor of every lane, in the order of ``Stream``, from each process's (lanes, ...); in the first process.

        All have as many lanes; the others get their own back.
        """
        if self.world == 1:
            return own
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)] if self.is_main else None
        with self._talking():
            torch.distributed.gather(own, parts, dst=0, group=self.group)
        return own if parts is None else torch.stack(parts, 1).flatten(0, 1)

    def local_lanes(self, every: Tensor) -> Tensor:
        """This process's lanes of a tensor of all."""
        return every[self.rank :: self.world]

    @contextlib.contextmanager
    def _talking(self) -> Iterator[None]:
        """Raise UserError where the others cannot be talked to: torch tells that by plain RuntimeErrors."""
        try:
            yield
        except RuntimeError as error:
            raise UserError(
                f"process {self.rank} of {self.world} lost the others: one has died or hangs ({error})",
                do="start the same command again; it goes on from the newest checkpoint",
            ) from error
