"""What the memory did, read from score files that tell it and from those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.report.memory_stats import rates_table, recorded
from tests.readings import reading


def test_rates_of_every_arm_stand_side_by_side():
    plain, one, other = reading(1, ("level 1", "rms", "meta"), tokens=50)
    one.protocol["rule"] = {"name": "rms", "rates": {"a": {"lr": 0.1, "decay": 0.2}, "b": {"lr": 1, "decay": 0}}}
    other.protocol["rule"] = {"name": "meta", "rates": {"b": {"lr": 0.5, "decay": 0.25}, "odd": "no rates"}}
    table = rates_table([plain, one, other])
    assert table.arms == ["rms", "meta"]
    assert table.rows == [("a", [(0.1, 0.2), None]), ("b", [(1.0, 0.0), (0.5, 0.25)])]
    assert rates_table([plain]) is None


@pytest.mark.parametrize("rule", [None, "rms", {"name": "rms"}, {"name": "rms", "rates": [1]}])
def test_protocols_without_rates_are_passed_over(rule):
    (scores,) = reading(1, ("level 1",), tokens=50)
    scores.protocol["rule"] = rule
    assert rates_table([scores]) is None


def test_distance_is_averaged_and_flushes_are_counted_by_segment():
    plain, arm = reading(4, tokens=2000)
    segments = int(arm.segment.max()) + 1
    flush = np.zeros(segments)
    flush[[0, 7, 9]] = (1, 0.5, 0.4)
    distance = np.linspace(0, 1, len(arm))
    (one,) = recorded([plain, replace(arm, flush=flush[arm.segment], distance=distance)])
    assert (one.arm, one.flushes) == (1, 2)
    assert len(one.row) == len(one.distance) == len(one.flush) <= 1200
    assert one.distance == pytest.approx(one.row / (len(arm) - 1), abs=1e-3)
    assert one.flush.max() == 1
    assert recorded([plain, arm]) == []
    (one,) = recorded([replace(arm, distance=distance)])
    assert one.flush is None and one.flushes is None
