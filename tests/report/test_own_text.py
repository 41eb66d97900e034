"""Texts that were read: their heat map, their curve, and the comparison of two readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import dynlm
from dynlm.errors import UserError
from dynlm.evaluation.text_result import TextResult
from dynlm.report.own_text import compare_readings, heat_map_of, score_pair, scores_of
from tests.tiny import Run

LINE = " the bafidela of the town was seen near a bafidela .\n"


def result_of(gains: list[float]) -> TextResult:
    """A text of words of one token each, on which a reading costs 5 nats less its gain, and the static model 5."""
    nats = np.array([5.0 - gain for gain in gains], np.float32)
    tokens = np.arange(len(gains), dtype=np.int32)
    return TextResult(tokens, [f" w{n}".encode() for n in tokens], np.ones_like(tokens), nats, 0, nats * 0 + 5)


def test_whole_texts_or_passages_are_shown() -> None:
    results = [result_of([1.0] * 400), result_of([]), result_of([2.0] * 400)]
    lower, higher = score_pair(results, ["one", "empty", "two"], {"variant": "rms"})
    assert (lower.variant, higher.variant, len(lower.articles)) == ("static", "rms", 2)
    whole, parts = heat_map_of(lower, higher), heat_map_of(lower, higher, 600)
    assert [len(passage.cells) for passage in whole.passages] == [400, 400]
    assert [passage.heading for passage in whole.passages] == ["Article 1: one", "Article 2: two"]
    assert {passage.heading for passage in parts.passages} == {"Article 2: two"}
    assert sum(len(passage.cells) for passage in parts.passages) < 400


def test_a_gain_has_an_interval_over_blocks_or_texts() -> None:
    rng = np.random.default_rng(0)
    plain, better = result_of([0.0] * 1050), result_of((0.5 + rng.normal(0, 0.2, 1050)).tolist())
    lower, higher = (scores_of([each], ["t"], {"variant": name}) for each, name in ((plain, "a"), (better, "b")))
    found = compare_readings(lower, higher, block=100)
    assert found.units == "10 blocks of 100 tokens"
    assert found.gain.nats == pytest.approx((plain.total - better.total) / 1050)
    assert 0.45 < found.gain.low < found.gain.nats < found.gain.high < 0.55
    assert compare_readings(higher, lower).gain.nats == pytest.approx(-found.gain.nats)
    same = compare_readings(lower, scores_of([result_of([0.25] * 1050)], ["t"], {"variant": "b"}))
    assert same.gain.low == pytest.approx(0.25) == same.gain.high
    assert compare_readings(lower, higher, block=200).gain.low is None  # of five blocks
    texts = [[result_of([gain] * 7) for gain in gains] for gains in ([0.0] * 12, [1.0] * 6 + [0.0] * 6)]
    several = compare_readings(*(scores_of(each, ["t"] * 12, {"variant": "a"}) for each in texts))
    assert several.units == "12 texts" and several.gain.nats == pytest.approx(0.5)
    assert 0.1 < several.gain.low < 0.5 < several.gain.high < 0.9


def test_two_readings_of_a_run_are_compared(tuned_run: Run, tmp_path: Path) -> None:
    plain, learned = (dynlm.load(tuned_run.folder, rule=rule).read(LINE * 60) for rule in ("none", "rms"))
    found = dynlm.compare(plain, learned)
    assert found.gain.nats == pytest.approx((plain.total - learned.total) / len(plain)) and found.gain.low > 0
    assert repr(found).startswith(f"ReadingComparison(level 1 {plain.nats_per_token:.4f}, rms ")
    assert f"gain +{found.gain.nats:.4f}, 95 % [+" in repr(found) and "blocks of 100 tokens" in repr(found)
    assert "<iframe" in found._repr_html_() and "rms predicts better than level 1" in found._repr_html_()
    for curve in (found.plot(), learned.plot(50)):
        written = curve.save(tmp_path / "curve")
        assert all(path.stat().st_size > 1000 for path in written) and "<img" in curve._repr_html_()
    assert "<iframe" in learned._repr_html_()
    with pytest.raises(UserError, match="they hold|differ"):
        dynlm.compare(plain, dynlm.load(tuned_run.folder, rule="none").read(LINE))
    few = dynlm.load(tuned_run.folder, rule="none").read("the town")
    assert "no interval" in repr(dynlm.compare([few], [few]))
