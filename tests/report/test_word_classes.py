"""Classes of words: every token is in one class of each division, and sums are divided once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores
from dynlm.report.word_classes import class_gains
from tests.synthetic_scores import synthetic_scores


def scores_of(text: list[list[str]], nats: list[float]) -> Scores:
    """Articles of words, one token a word."""
    words = [word for article in text for word in article]
    count = len(words)
    return Scores(
        protocol={"variant": "a", "articles": [], "text": "t", "tokenizer": "k"},
        article=np.repeat(np.arange(len(text), dtype=np.int32), [len(article) for article in text]),
        position=np.concatenate([np.arange(len(article), dtype=np.int32) for article in text]),
        segment=np.zeros(count, dtype=np.int32),
        token=np.zeros(count, dtype=np.int32),
        words=np.ones(count, dtype=np.int16),
        nats=np.array(nats, dtype=np.float32),
        surface=[f" {word}".encode() for word in words],
    )


TEXT = [
    ["The", "port", "of", "Boulter", ".", "the", "port", "Boulter", "1914", "<unk>"],
    ["Boulter", "of", "The", "<unk>", "1914", "1914", ".", "of"],
]


def found(gains: list, division: str) -> dict[str, tuple[int, float]]:
    """Tokens and saved nats of each class of a division."""
    return {each.name: (each.tokens, each.saved) for each in gains if each.division == division}


def test_words_are_classified_by_mention_and_kind():
    lower = scores_of(TEXT, [4.0] * 18)
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
