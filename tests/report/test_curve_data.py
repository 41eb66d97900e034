"""Curve data against simple references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.report.curve_data import (
    bin_equally,
    memory_records,
    moving_mean,
    overlapping,
    overlapping_positions,
    perplexity_difference,
    position_curve,
)
from tests.synthetic_scores import synthetic_scores


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0, 20), min_size=1, max_size=40), window=st.integers(1, 60))
def test_moving_mean_is_the_mean_of_the_window_around_each_token(values, window):
    smooth = moving_mean(np.array(values), window)
    assert len(smooth) == len(values)
    for centre, mean in enumerate(smooth):
        around = values[max(0, centre - (window - 1) // 2) : centre + window // 2 + 1]
        assert mean == pytest.approx(np.mean(around), abs=1e-9)


def test_difference_is_positive_where_the_higher_level_is_better():
    lower = synthetic_scores(articles=1, variants=("level 1",), tokens=200)[0]
    better = replace(lower, nats=(lower.nats * 0.9).astype(np.float32))
    assert (perplexity_difference(lower, better, 20) > 0).all()
    assert (perplexity_difference(better, lower, 20) < 0).all()
    unsmoothed = perplexity_difference(lower, better, 1)
    assert unsmoothed == pytest.approx(np.exp(lower.nats.astype(float)) - np.exp(better.nats.astype(float)), rel=1e-6)


def test_position_means_give_each_article_the_same_weight():
    scores = synthetic_scores(articles=9, tokens=120)[1]
    curve = position_curve(scores)
    assert (np.diff(curve.position) > 0).all()
    first_bin = [scores.nats[scores.rows(int(article))][:8].mean() for article in scores.articles]
    assert curve.mean[0] == pytest.approx(np.mean(first_bin), rel=1e-6)
    half = 1.96 * np.std(first_bin, ddof=1) / 3
    assert (curve.low[0], curve.high[0]) == pytest.approx((np.mean(first_bin) - half, np.mean(first_bin) + half))
    assert curve.articles[0] == 9 and curve.articles.min() >= 5


def test_one_article_has_a_curve_without_a_band():
    curve = position_curve(synthetic_scores(articles=1, tokens=100)[0])
    assert np.isfinite(curve.mean).all() and np.isnan(curve.low).all()


def test_paired_gain_is_the_difference_of_the_means():
    lower, higher = synthetic_scores(articles=6, tokens=300)
    gain, low, high = position_curve(higher, lower), position_curve(lower), position_curve(higher)
    assert gain.mean == pytest.approx(low.mean - high.mean, abs=1e-6)
    # Noise that both variants share cancels.
    assert (gain.high - gain.low).sum() < (low.high - low.low).sum()


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=60), bins=st.integers(1, 70))
def test_equal_bins_keep_the_sum_and_the_largest_value(values, bins):
    array = np.array(values)
    row, mean = bin_equally(array, bins)
    sizes = np.diff(np.unique(np.linspace(0, len(values), len(row) + 1).round()))
    assert len(row) == min(bins, len(values)) and (np.diff(row) > 0).all()
    assert (mean * sizes).sum() == pytest.approx(array.sum(), abs=1e-9)
    assert bin_equally(array, bins, largest=True)[1].max() == array.max()


def test_distance_is_averaged_and_resets_are_counted_by_segment():
    plain, learned = synthetic_scores(4, tokens=2000)
    reset_share = np.zeros(int(learned.segment.max()) + 1)
    reset_share[[0, 7, 9]] = (1, 0.5, 0.4)
    distance = np.linspace(0, 1, len(learned))
    recorded = replace(learned, reset_share=reset_share[learned.segment], distance=distance)
    (record,) = memory_records([plain, recorded])
    assert (record.variant, record.resets) == (1, 2)
    assert len(record.row) == len(record.distance) == len(record.reset) <= 1200
    assert record.distance == pytest.approx(record.row / (len(learned) - 1), abs=1e-3)
    assert record.reset.max() == 1
    assert memory_records([plain, learned]) == []
    (record,) = memory_records([replace(learned, distance=distance)])
    assert record.reset is None and record.resets is None


def test_curves_within_a_lines_width_are_paired():
    steps = np.linspace(0, 10, 200)
    curves = [steps, steps + 5, steps + 5.05, steps - 0.02]
    assert overlapping(curves, 0.1) == [(3, 0), (1, 2)]
    assert overlapping(curves, 0.03) == [(3, 0)]
    assert overlapping(curves, 0.01) == []
    apart = np.where(np.arange(200) < 60, 4.0, 0.0)  # at less than three of four points
    assert overlapping([steps, steps + apart], 0.1) == []
    assert len(overlapping([steps] * 6, 0.1)) == 3


def test_variants_that_hardly_differ_are_paired_by_position():
    plain, rms = synthetic_scores(6, tokens=400)
    same = replace(rms, nats=rms.nats + np.float32(1e-4))
    curves = [position_curve(each) for each in (plain, same, rms)]
    assert overlapping_positions(curves, 0.01) == [(2, 1)]
