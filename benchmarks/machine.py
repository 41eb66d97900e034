"""Peak rates of the machine (matrix products, copies), and the timing that all benchmarks share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Machine:
    """Measured on all of torch's threads."""

    threads: int
    product_rate: float
    """Operations a second of a large float32 matrix product, two for each multiplication with its addition."""
    copy_rate: float
    """Bytes a second, read and written together, of a copy that is larger than all caches."""

    def __str__(self) -> str:
        return (
            f"{self.threads} threads: {self.product_rate / 1e9:.1f} GFLOP/s of a large float32 matrix product, "
            f"{self.copy_rate / 1e9:.1f} GB/s of a large copy"
        )


def measure_machine(seconds: float = 3.0, size: int = 2048, copied_bytes: int = 1 << 28) -> Machine:
    """Measure both rates as medians of many repetitions, like the times that they are compared with."""
    a, b, out = (torch.rand(size, size) for _ in range(3))
    source, target = (torch.rand(copied_bytes // 4) for _ in range(2))
    product = median_time(lambda: torch.mm(a, b, out=out), seconds / 2)
    copy = median_time(lambda: target.copy_(source), seconds / 2)
    return Machine(torch.get_num_threads(), 2 * size**3 / product, 2 * copied_bytes / copy)


def median_time(call: Callable[[], object], seconds: float) -> float:
    """Return the median time of a call in seconds, after ten warm-up calls."""
    for _ in range(10):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 10:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def side_by_side(calls: Mapping[str, Callable[[], object]], seconds: float, burst: int = 8) -> dict[str, float]:
    """Return the median time of each call, in bursts by turns, so that a slow phase affects all of them.

    The first two calls of a burst are not counted: the caches hold the data of the other calls.
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
