"""Words joined from tokens: what each gained, and whether it is repeated."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.evaluation.score_file import Scores
from dynlm.report.words import find_words, most_changed
from tests.synthetic_scores import synthetic_scores


def scores_of(tokens: list[tuple[bytes, int, int]], nats: list[float] | None = None) -> Scores:
    """Scores of tokens given as (surface, words that start in it, article)."""
    count = len(tokens)
    article = np.array([article for _, _, article in tokens], dtype=np.int32)
    return Scores(
        protocol={"variant": "a", "articles": [], "text": "t", "tokenizer": "k"},
        article=article,
        position=np.arange(count, dtype=np.int32),
        segment=np.zeros(count, dtype=np.int32),
        token=np.zeros(count, dtype=np.int32),
        words=np.array([words for _, words, _ in tokens], dtype=np.int16),
        nats=np.array(nats or [1.0] * count, dtype=np.float32),
        surface=[surface for surface, _, _ in tokens],
    )


TEXT = scores_of(
    [
        (b" har", 1, 0),
        (b"bour", 0, 0),
        (b" ,", 1, 0),
        (b" Har", 1, 0),
        (b"bour", 0, 0),
        (b" ,", 1, 0),
        (b"\n", 1, 0),
        (b" har", 1, 0),
        (b" har", 0, 1),
        (b"bour", 0, 1),
    ],
    [2, 1, 0.5, 1, 1, 0.5, 0.25, 4, 1, 2],
)


def test_pieces_make_words_and_an_article_begins_one():
    words = find_words(TEXT)
    assert words.starts_G.tolist() == [0, 2, 3, 5, 6, 7, 8]
    assert words.texts == ["harbour", ",", "Harbour", "\u21b5", "har"]
    assert words.index_G.tolist() == [0, 1, 2, 1, 3, 4, 0]
    assert words.counts().tolist() == [2, 2, 1, 1, 1]
    assert words.sums(TEXT.nats).tolist() == [6, 1, 2, 0.25, 4]


def test_words_repeat_in_their_article_in_any_case_and_punctuation_never_does():
    repeated = find_words(TEXT).repeated_N
    assert np.flatnonzero(repeated).tolist() == [3, 4]


def test_words_that_changed_most_come_first_with_both_sums():
    lower, higher = synthetic_scores(articles=5, tokens=600)
    words = find_words(lower)
    gained, lost = most_changed(words, lower, higher, 7)
    naive: dict[bytes, list[float]] = {}
    for surface, low, high in zip(lower.surface, lower.nats.tolist(), higher.nats.tolist(), strict=True):
        naive.setdefault(surface.strip(b" "), []).append(low - high)
    expected = sorted(((sum(each), len(each)) for each in naive.values()), reverse=True)
    assert [word.gain for word in gained] == pytest.approx([gain for gain, _ in expected[:7]])
    assert [word.count for word in gained] == [count for _, count in expected[:7]]
    assert all(word.gain < 0 for word in lost)
    assert [word.gain for word in lost] == sorted(word.gain for word in lost)
    assert most_changed(words, lower, lower, 7) == ([], [])


def test_words_are_displayed_without_control_characters():
    text = replace(TEXT, surface=[b" \xff\x00<i>", *TEXT.surface[1:]])
    assert find_words(text).texts[0] == r"\xff\x00<i>bour"
