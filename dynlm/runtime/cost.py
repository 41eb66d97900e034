"""Seconds and peak memory of a piece of work, which may be done in several sittings.

On a GPU the peak is that of its tensors (``torch.cuda.max_memory_allocated``). On a CPU it is the largest resident set
of the process (VmHWM), libraries, weights and whatever else it holds included; Linux lets a process start it anew. The
high-water mark that every system has (``ru_maxrss``) is of the whole life of a process, and says nothing about one of
several pieces of work: where the mark cannot be reset, memory is not measured.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

_PROCESS = Path("/proc/self")
_RESET_PEAK = "5"  # proc_pid_clear_refs(5)


class Cost(NamedTuple):
    """Seconds of work, and bytes at its peak; None where they were not measured."""

    seconds: float = 0.0
    peak_memory: int | None = None

    def and_then(self, other: Cost) -> Cost:
        """Return the cost of this work and of what followed it in another sitting: the sum, and the higher peak."""
        return Cost(self.seconds + other.seconds, _highest(self, other))

    def beside(self, other: Cost) -> Cost:
        """Return the cost of this work and of what another process did meanwhile: those of the one with more."""
        return Cost(max(self.seconds, other.seconds), _highest(self, other))

    @classmethod
    def of(cls, content: Any) -> Cost | None:
        """Return the cost that a file has as JSON; None for anything else."""
        match content:
            case {"seconds": float() | int() as seconds, "peak_memory": int() | None as peak} if seconds >= 0:
                return cls(float(seconds), peak)
        return None


class CostMeter:
    """Measures work on a device from now on; ``before`` is the cost of earlier sittings."""

    def __init__(self, device: torch.device | str) -> None:
        self._device = torch.device(device)
        self._seconds = 0.0
        self._measures = reset_peak_memory(self._device)
        self.before: Cost | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._seconds += time.perf_counter() - begin

    def cost(self) -> Cost:
        """Return the cost so far, when the device has done all that it was given."""
        if self._device.type == "cuda":
            with self.running():
                torch.cuda.synchronize(self._device)
        now = Cost(self._seconds, peak_memory(self._device) if self._measures else None)
        return now if self.before is None else self.before.and_then(now)


def reset_peak_memory(device: torch.device) -> bool:
    """Start the peak of ``peak_memory`` anew; return whether that is possible here."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    # Memory that earlier work freed, and the C library kept.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROCESS / "clear_refs").write_text(_RESET_PEAK)
    except OSError:
        return False
    return True


def peak_memory(device: torch.device) -> int | None:
    """Return the bytes at the peak since ``reset_peak_memory``; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return None if found is None else 1024 * int(found[1])


def _highest(one: Cost, other: Cost) -> int | None:
    if one.peak_memory is None or other.peak_memory is None:
        return None
    return max(one.peak_memory, other.peak_memory)
