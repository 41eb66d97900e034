"""The processes of a command: one, or several under ``accelerate launch`` or torchrun.

The connections of a process that dies close, and the next collective operation of the others fails at once. A process
that hangs is noticed only within ``in_step``, where all do the same things at the same time: there an operation that
takes longer than a time-out fails. Elsewhere the others may wait for hours, since the main process may be tuning.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.launcher import is_multi_process

_LONGEST_WAIT = timedelta(hours=12)


@dataclass(frozen=True)
class Processes:
    """This process's rank among ``world`` processes, its device, and the ``group`` of its collective operations."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    group: Any = None

    @classmethod
    def start(cls, cpu: bool) -> Processes:
        """Join other processes, if any; ``cpu`` uses no GPU. Raises UserError as ``is_multi_process`` does."""
        several = is_multi_process()
        if not several and (cpu or not torch.accelerator.is_available()):
            return cls()
        from accelerate import PartialState  # It takes long to import, and one process without a GPU needs none of it.

        state = PartialState(cpu=cpu, **({"timeout": _LONGEST_WAIT} if several else {}))
        # safetensors does not know numbered CPUs.
        device = torch.device("cpu") if state.device.type == "cpu" else state.device
        return cls(state.process_index, state.num_processes, device)

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process before the others, which find what it left."""
        if not self.is_main:
            self.wait_for_everyone()
        yield
        if self.is_main:
            self.wait_for_everyone()

    @contextlib.contextmanager
    def in_step(self, timeout: float) -> Iterator[Processes]:
        """Give the same processes with sums that fail where one of them is more than ``timeout`` seconds behind."""
        if self.world == 1:
            yield self
            return
        group = torch.distributed.new_group(timeout=timedelta(seconds=timeout))
        try:
            yield dataclasses.replace(self, group=group)
        finally:
            torch.distributed.destroy_process_group(group)

    def wait_for_everyone(self) -> None:
        """Block until all processes have come here, however long that takes."""
        self._run(torch.distributed.barrier)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum of all processes' tensors."""
        if self.world > 1:
            tensor = tensor.clone()
            self._run(torch.distributed.all_reduce, tensor, group=self.group)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether ``here`` is true in any process."""
        return bool(self.reduce(torch.tensor(int(here), device=self.device))) if self.world > 1 else here

    def gather_object(self, value: Any) -> list[Any]:
        """Return every process's value, by rank."""
        values: list[Any] = [value] * self.world
        self._run(torch.distributed.all_gather_object, values, value)
        return values

    def gather_lanes(self, own: Tensor) -> Tensor:
        """Return all processes' lanes, in the order of ``Stream``, in the main process; ``own`` (lanes, ...) elsewhere.

        All have as many lanes.
        """
        if self.world == 1:
            return own
        own = own.contiguous()
        parts = [torch.empty_like(own) for _ in range(self.world)] if self.is_main else None
        self._run(torch.distributed.gather, own, parts, dst=0, group=self.group)
        return own if parts is None else torch.stack(parts, 1).flatten(0, 1)

    def local_lanes(self, every: Tensor) -> Tensor:
        """Return this process's lanes of a tensor of all lanes."""
        return every[self.rank :: self.world]

    def _run(self, collective: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        """Run an operation of several processes. Raise UserError where it fails: torch raises plain RuntimeErrors."""
        if self.world == 1:
            return
        try:
            collective(*arguments, **options)
        except RuntimeError as error:
            raise UserError(
                f"process {self.rank} of {self.world} lost the others: one has died or hangs ({error})",
                do="start the same command again; it resumes from the newest checkpoint",
            ) from error
