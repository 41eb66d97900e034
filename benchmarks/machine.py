"""What the machine does at best (matrix products, copies), and the timing that all benchmarks share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Measured on all of torch's threads."""

    threads: int
    product_rate: float
    """Operations a second of a large float32 matrix product, two for each multiplication with its addition."""
    copy_rate: float
    """Bytes a second, read and written together, of a large copy: what the memory gives, past all caches."""

    def __str__(self) -> str:
        return (
            f"{self.threads} threads: {self.product_rate / 1e9:.1f} GFLOP/s of a large float32 matrix product, "
            f"{self.copy_rate / 1e9:.1f} GB/s of a large copy"
        )


def measure_machine(seconds: float = 3.0, size: int = 2048, copied_bytes: int = 1 << 28) -> Machine:
    """Each rate is of the median of many tries, as the times that are set beside it are."""
    a, b, out = (torch.rand(size, size) for _ in range(3))
    source, target = (torch.rand(copied_bytes // 4) for _ in range(2))
    product = median_time(lambda: torch.mm(a, b, out=out), seconds / 2)
    copy = median_time(lambda: target.copy_(source), seconds / 2)
    return Machine(torch.get_num_threads(), 2 * size**3 / product, 2 * copied_bytes / copy)


def median_time(call: Callable[[], object], seconds: float) -> float:
    """The median time of a call in seconds, after ten to warm up."""
    for _ in range(10):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def side_by_side(calls: dict[str, Callable[[], object]], seconds: float, burst: int = 8) -> dict[str, float]:
    """The median time of each call; bursts of one kind after another, so that a slow spell slows all of them.

    The first two calls of a burst are not counted: they find the caches as the other calls left them.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[next(iter(calls))]) < 3 * burst:
        for name, call in calls.items():
            call()
            call()
            for _ in range(burst):
                begun = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - begun)
    return {name: statistics.median(of_call) for name, of_call in times.items()}
