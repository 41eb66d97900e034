"""The numbers behind the curves, against naive references."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.report import curve_data as series
from tests.readings import reading


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0, 20), min_size=1, max_size=40), window=st.integers(1, 60))
def test_the_moving_mean_is_the_mean_of_the_window_around_each_token(values, window):
    smooth = series.moving_mean(np.array(values), window)
    assert len(smooth) == len(values)
    for centre, mean in enumerate(smooth):
        around = values[max(0, centre - (window - 1) // 2) : centre + window // 2 + 1]
        assert mean == pytest.approx(np.mean(around), abs=1e-9)


def test_a_window_shorter_than_a_token_is_refused():
    with pytest.raises(ValueError, match="window"):
        series.moving_mean(np.ones(3), 0)


def test_the_difference_is_positive_where_the_higher_level_is_better():
    lower = reading(articles=1, variants=("level 1",), tokens=200)[0]
    better = replace(lower, nats=(lower.nats * 0.9).astype(np.float32))
    assert (series.perplexity_difference(lower, better, 20) > 0).all()
    assert (series.perplexity_difference(better, lower, 20) < 0).all()
    alone = series.perplexity_difference(lower, better, 1)
    assert alone == pytest.approx(np.exp(lower.nats.astype(float)) - np.exp(better.nats.astype(float)), rel=1e-6)


def test_the_default_window_follows_the_text():
    assert [series.default_window(tokens) for tokens in (7, 5_000, 20_000, 200_000, 10**8)] == [
        7,
        100,
        200,
        2000,
        5000,
    ]


def test_position_means_count_each_article_alike():
    scores = reading(articles=9, tokens=120)[1]
    curve = series.position_loss(scores)
    assert (np.diff(curve.position) > 0).all()
    first_bin = [scores.nats[scores.rows(int(article))][:8].mean() for article in scores.articles]
    assert curve.mean[0] == pytest.approx(np.mean(first_bin), rel=1e-6)
    half = 1.96 * np.std(first_bin, ddof=1) / 3
    assert (curve.low[0], curve.high[0]) == pytest.approx((np.mean(first_bin) - half, np.mean(first_bin) + half))
    assert curve.articles[0] == 9 and curve.articles.min() >= 5


def test_one_article_has_a_curve_without_a_band():
    curve = series.position_loss(reading(articles=1, tokens=100)[0])
    assert np.isfinite(curve.mean).all() and np.isnan(curve.low).all()


def test_the_paired_gain_is_the_difference_of_the_means():
    lower, higher = reading(articles=6, tokens=300)
    gain = series.position_gain(lower, higher)
    difference = series.position_loss(lower).mean - series.position_loss(higher).mean
    assert gain.mean == pytest.approx(difference, abs=1e-6)
    # Noise that both arms share cancels.
    assert (gain.high - gain.low).sum() < (series.position_loss(lower).high - series.position_loss(lower).low).sum()


def test_default_passages_are_the_opening_and_the_middle_of_the_largest_gain():
    lower, higher = reading(articles=6, tokens=900, first_article=30)
    gains = series.article_gains(lower, higher)
    opening, middle = series.default_passages(lower, higher, length=100)
    rows = lower.rows(opening.article)
    count = rows.stop - rows.start
    assert opening.article == middle.article == 30 + int(np.argmax(gains))
    assert (opening.start, opening.length, middle.length) == (0, 100, 100)
    assert abs(middle.start + 50 - count / 2) < 20


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 300), length=st.integers(1, 120))
def test_default_passages_lie_within_any_article_and_do_not_overlap(tokens, length):
    lower, higher = reading(articles=1, tokens=tokens, seed=tokens % 7)
    passages = series.default_passages(lower, higher, length)
    for passage in passages:
        assert passage.start >= 0
        assert 1 <= passage.length <= length
        assert passage.start + passage.length <= len(lower)
    if len(passages) == 2:
        assert passages[0].start + passages[0].length <= passages[1].start


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-5, 5), min_size=1, max_size=60), bins=st.integers(1, 70))
def test_equal_stretches_keep_the_sum_and_the_largest(values, bins):
    array = np.array(values)
    row, mean = series.binned(array, bins)
    sizes = np.diff(np.unique(np.linspace(0, len(values), len(row) + 1).round()))
    assert len(row) == min(bins, len(values)) and (np.diff(row) > 0).all()
    assert (mean * sizes).sum() == pytest.approx(array.sum(), abs=1e-9)
    assert series.binned(array, bins, largest=True)[1].max() == array.max()


def test_every_article_has_its_passages():
    scores = reading(articles=4, variants=("level 1",), tokens=700, first_article=30)[0]
    for article in scores.articles.tolist():
        for passage in series.article_passages(scores, article):
            assert passage.article == article and 1 <= passage.length <= series.PASSAGE
