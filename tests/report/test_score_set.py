"""Scores of one text: pairs, baseline and smoothing window, and the errors of wrong choices."""

from __future__ import annotations

import pytest

from dynlm.errors import UserError
from dynlm.report.score_set import ScoreSet, default_window
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores


def test_default_pairs_are_the_baseline_with_each_other_variant():
    scores = ScoreSet(synthetic_scores(1, ("level 1", "rms", "meta"), tokens=50)[::-1])
    assert scores.labels == ["meta", "rms", "level 1"]
    assert scores.baseline == 2 and scores.others == [0, 1]
    assert scores.pairs() == [(2, 0), (2, 1)]
    assert scores.pairs([("rms", "meta"), ("level 1", "rms")]) == [(1, 0), (2, 1)]


def test_unknown_labels_and_unsuitable_windows_are_user_errors():
    scores = ScoreSet(synthetic_scores(1, tokens=50))
    with pytest.raises(UserError, match="'rsm'.*'level 1', 'rms'"):
        scores.pairs([("level 1", "rsm")])
    assert scores.window() == len(scores.text) and scores.window(7) == 7
    for window in (0, 10**6):
        with pytest.raises(UserError, match=f"window is {window}"):
            scores.window(window)


def test_only_files_of_one_text_are_loaded(tmp_path):
    with pytest.raises(UserError, match="no score file"):
        ScoreSet.load([])
    paths = write_files(tmp_path, [synthetic_scores(1, tokens=60)[0], synthetic_scores(1, tokens=90)[1]])
    with pytest.raises(UserError, match="cannot be compared"):
        ScoreSet.load(paths)


def test_default_window_grows_with_the_text():
    assert [default_window(tokens) for tokens in (7, 5_000, 20_000, 200_000, 10**8)] == [7, 100, 200, 2000, 5000]
