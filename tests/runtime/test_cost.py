"""Seconds and peak memory of pieces of work in one process."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from dynlm.runtime import cost
from dynlm.runtime.cost import Cost, CostMeter, peak_memory, reset_peak_memory

SIZE = 200 * 2**20


def resident() -> int:
    """Return the bytes of this process's resident set now."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return 1024 * int(line.split()[1])


def work(size: int) -> None:
    torch.zeros(size, dtype=torch.uint8).fill_(1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux resets the peak of a process")
def test_the_peak_is_that_of_the_work_and_not_of_work_before_it() -> None:
    if not reset_peak_memory(torch.device("cpu")):
        pytest.skip("this system does not let a process reset its peak")
    peaks, before = [], resident()
    for size in (SIZE, SIZE // 4, SIZE // 2):
        meter = CostMeter("cpu")
        with meter.running():
            work(size)
        peak = meter.cost().peak_memory
        assert peak is not None
        peaks.append((peak - before) / SIZE)
    assert peaks == [pytest.approx(1, abs=0.1), pytest.approx(0.25, abs=0.1), pytest.approx(0.5, abs=0.1)]


def test_only_the_time_of_running_blocks_is_counted() -> None:
    meter = CostMeter("cpu")
    for _ in range(2):
        with meter.running():
            time.sleep(0.02)
        time.sleep(0.5)
    assert 0.04 <= meter.cost().seconds < 0.5


def test_memory_is_not_measured_where_the_peak_cannot_be_reset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_PROCESS", tmp_path / "none")
    assert peak_memory(torch.device("cpu")) is None and not reset_peak_memory(torch.device("cpu"))
    assert CostMeter("cpu").cost().peak_memory is None
    # A peak that was not started anew is of other work, and is not given for this.
    monkeypatch.undo()
    monkeypatch.setattr(cost, "reset_peak_memory", lambda device: False)
    assert CostMeter("cpu").cost() == Cost(0.0, None)


def test_sittings_add_up_and_processes_work_side_by_side() -> None:
    one, two, unmeasured = Cost(3.0, 10), Cost(2.0, 20), Cost(1.0)
    assert one.and_then(two) == Cost(5.0, 20) and one.beside(two) == Cost(3.0, 20)
    assert two.and_then(unmeasured) == Cost(3.0) and unmeasured.beside(two) == Cost(2.0)
    meter = CostMeter("cpu")
    meter.before = Cost(7.0, 10**15)
    assert meter.cost() == Cost(7.0, 10**15)


@pytest.mark.parametrize(
    "content", [None, 3, {}, {"seconds": "1", "peak_memory": 1}, {"seconds": -1.0, "peak_memory": 2}, {"seconds": 1}]
)
def test_what_is_no_cost_in_a_file_is_none(content: object) -> None:
    assert Cost.of(content) is None
    assert Cost.of({"seconds": 1, "peak_memory": None}) == Cost(1.0)
