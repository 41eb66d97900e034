"""Memory statistics of score files that hold them and of those that do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.report.memory_stats import constants_table, memory_records
from dynlm.report.score_set import ScoreSet
from tests.synthetic_scores import synthetic_scores


def test_constants_of_all_variants_are_in_one_table():
    plain, rms, meta = synthetic_scores(1, ("level 1", "rms", "meta"), tokens=50)
    rms.protocol["rule"] = {"name": "rms", "rates": {"a": {"lr": 0.1, "decay": 0.2}, "b": {"lr": 1, "decay": 0}}}
    meta.protocol["rule"] = {"name": "meta", "rates": {"b": {"lr": 0.5, "decay": 0.25}, "odd": "no constants"}}
    table = constants_table(ScoreSet([plain, rms, meta]))
    assert table.columns == ["tensor", "rms, lr", "rms, decay", "meta, lr", "meta, decay"]
    assert table.rows == [["a", "0.1", "0.2", "-", "-"], ["b", "1", "0", "0.5", "0.25"]]
    assert constants_table(ScoreSet([plain])) is None


@pytest.mark.parametrize("rule", [None, "rms", {"name": "rms"}, {"name": "rms", "rates": [1]}])
def test_protocols_without_constants_are_skipped(rule):
    (scores,) = synthetic_scores(1, ("level 1",), tokens=50)
    scores.protocol["rule"] = rule
    assert constants_table(ScoreSet([scores])) is None


def test_distance_is_averaged_and_resets_are_counted_by_segment():
    plain, learned = synthetic_scores(4, tokens=2000)
    reset_share = np.zeros(int(learned.segment.max()) + 1)
    reset_share[[0, 7, 9]] = (1, 0.5, 0.4)
    distance = np.linspace(0, 1, len(learned))
    (record,) = memory_records(
        ScoreSet([plain, replace(learned, reset_share=reset_share[learned.segment], distance=distance)])
    )
    assert (record.variant, record.resets) == (1, 2)
    assert len(record.row) == len(record.distance) == len(record.reset) <= 1200
    assert record.distance == pytest.approx(record.row / (len(learned) - 1), abs=1e-3)
    assert record.reset.max() == 1
    assert memory_records(ScoreSet([plain, learned])) == []
    (record,) = memory_records(ScoreSet([replace(learned, distance=distance)]))
    assert record.reset is None and record.resets is None
