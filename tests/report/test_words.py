"""Words joined from tokens, and classes of words: each token is in one class of a division, sums are divided once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores
from dynlm.report.words import class_gains, find_words, most_changed
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
    gained, lost = most_changed(words, lower, higher, 7).values()
    naive: dict[bytes, list[float]] = {}
    for surface, low, high in zip(lower.surface, lower.nats.tolist(), higher.nats.tolist(), strict=True):
        naive.setdefault(surface.strip(b" "), []).append(low - high)
    expected = sorted(((sum(each), len(each)) for each in naive.values()), reverse=True)
    assert [word.gain for word in gained] == pytest.approx([gain for gain, _ in expected[:7]])
    assert [word.count for word in gained] == [count for _, count in expected[:7]]
    assert all(word.gain < 0 for word in lost)
    assert [word.gain for word in lost] == sorted(word.gain for word in lost)
    assert most_changed(words, lower, lower, 7) == {"gained": [], "lost": []}


def test_words_are_displayed_without_control_characters():
    text = replace(TEXT, surface=[b" \xff\x00<i>", *TEXT.surface[1:]])
    assert find_words(text).texts[0] == r"\xff\x00<i>bour"


def scores_of_words(text: list[list[str]], nats: list[float]) -> Scores:
    """Articles of words, one token a word."""
    tokens = [(f" {word}".encode(), 1, index) for index, article in enumerate(text) for word in article]
    position = [position for article in text for position in range(len(article))]
    return replace(scores_of(tokens, nats), position=np.array(position, dtype=np.int32))


ARTICLES = [
    ["The", "port", "of", "Boulter", ".", "the", "port", "Boulter", "1914", "<unk>"],
    ["Boulter", "of", "The", "<unk>", "1914", "1914", ".", "of"],
]


def found(gains: list, division: str) -> dict[str, tuple[int, float]]:
    """Tokens and saved nats of each class of a division."""
    return {each.name: (each.tokens, each.saved) for each in gains if each.division == division}


def test_words_are_classified_by_mention_and_kind():
    lower = scores_of_words(ARTICLES, [4.0] * 18)
    saved = np.arange(18, dtype=np.float32) / 8
    gains = class_gains(lower, replace(lower, nats=lower.nats - saved), resamples=0)
    rows = {
        "name, first mention in its article": [3, 10],
        "name, met before in its article": [7],
        "number, first mention in its article": [8, 14],
        "number, met before in its article": [15],
        # A capital at a sentence's start makes no name.
        "other word, first mention in its article": [0, 1, 2, 11, 12],
        "other word, met before in its article": [5, 6, 17],
        "punctuation and ends of line": [4, 16],
        "<unk>": [9, 13],
    }
    expected = {name: (len(class_rows), float(saved[class_rows].sum())) for name, class_rows in rows.items()}
    assert found(gains, "kind") == expected
    mentions = found(gains, "mention")
    assert mentions["met before in its article"] == (5, float(saved[[7, 15, 5, 6, 17]].sum()))
    assert mentions["<unk>"] == expected["<unk>"]


def test_each_division_holds_every_token_once():
    lower, higher = synthetic_scores(articles=6, tokens=900)
    gains = class_gains(lower, higher, resamples=20)
    for division in ("mention", "kind", "frequency", "position"):
        classes = [each for each in gains if each.division == division]
        assert sum(each.tokens for each in classes) == len(lower)
        assert sum(each.words for each in classes) == int((np.asarray(lower.words) > 0).sum())
        assert sum(each.lower for each in classes) == pytest.approx(float(lower.nats.sum(dtype=np.float64)))
        assert sum(each.higher for each in classes) == pytest.approx(float(higher.nats.sum(dtype=np.float64)))


def test_common_words_are_those_of_the_text_and_positions_count_from_1():
    lower, higher = synthetic_scores(articles=6, tokens=900)
    gains = class_gains(lower, higher, resamples=0)
    surfaces = [surface.strip() for surface in lower.surface]
    counted = [surface for surface in surfaces if surface and surface != b"."]
    counts = sorted((counted.count(surface) for surface in set(counted)), reverse=True)
    frequencies = found(gains, "frequency")
    assert frequencies["ranks 1 to 10"][0] == sum(counts[:10])
    assert frequencies["ranks 11 to 100"][0] == sum(counts[10:100])
    positions = found(gains, "position")
    assert positions["tokens 1 to 100 of their article"][0] == int((lower.position < 100).sum())


def test_a_class_of_all_tokens_has_the_interval_of_compare():
    lower, higher = synthetic_scores(articles=6, tokens=80)
    clipped = [replace(each, position=np.minimum(each.position, 99)) for each in (lower, higher)]
    (position,) = [each for each in class_gains(*clipped, resamples=300, seed=3) if each.division == "position"]
    assert position.gain == compare([lower, higher], 0, 300, 3).variants[1].gain
