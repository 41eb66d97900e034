"""Passages: the default ones, requested ones, and those outside the text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.report.passages import PASSAGE, Passage, article_gains, article_passages, reason, select_passages
from tests.synthetic_scores import synthetic_scores


def test_default_passages_are_the_middle_and_the_opening_of_the_largest_gain():
    lower, higher = synthetic_scores(articles=6, tokens=900, first_article=30)
    middle, opening = select_passages(lower, higher)
    rows = lower.rows(opening.article)
    assert opening.article == middle.article == 30 + int(np.argmax(article_gains(lower, higher)))
    assert (opening.start, opening.length, middle.length) == (0, PASSAGE, PASSAGE)
    assert abs(middle.start + PASSAGE / 2 - (rows.stop - rows.start) / 2) < 20
    gain = article_gains(lower, higher).max()
    why = (
        f"The middle of the article with the largest gain ({gain:+,.0f} nats in all), of which {middle.start:,} tokens"
    )
    assert reason(lower, higher, middle) == f"{why} were read before."
    assert (
        reason(lower, higher, opening)
        == f"The opening of the article with the largest gain ({gain:+,.0f} nats in all)."
    )
    assert reason(lower, higher, replace(middle, start=middle.start + 1)) == ""
    one = synthetic_scores(articles=1, tokens=60)
    assert reason(*one, select_passages(*one)[0]).startswith("All of the article (")


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 300), length=st.integers(1, 120))
def test_passages_of_an_article_of_any_length_do_not_overlap(tokens, length):
    scores = synthetic_scores(articles=2, tokens=tokens, seed=tokens % 7, first_article=30)[0]
    for article in scores.articles.tolist():
        passages = article_passages(scores, article, length)
        end = 0
        for passage in passages:
            assert passage.article == article and 1 <= passage.length <= length
            assert passage.start >= end
            end = passage.start + passage.length
            assert set(scores.article[passage.rows(scores)].tolist()) == {article}
        rows = scores.rows(article)
        assert end <= rows.stop - rows.start


@pytest.mark.parametrize(
    "request_, expected",
    [
        ((None, None, 20), Passage(1, 0, 20)),
        ((None, 7, None), Passage(1, 7, 180)),
        ((1, None, None), Passage(0, 0, 180)),
        ((3, None, 5), Passage(2, 0, 5)),
    ],
)
def test_omitted_values_are_those_of_the_article_with_the_largest_gain(request_, expected):
    lower, higher = synthetic_scores(articles=3, tokens=500)
    nats = lower.nats.copy()
    nats[lower.rows(1)] /= 2
    assert select_passages(lower, replace(higher, nats=nats), request_) == [expected]


def test_an_omitted_length_ends_with_the_article():
    lower, higher = synthetic_scores(articles=3, tokens=500)
    count = int(np.diff(lower.starts)[2])
    assert select_passages(lower, higher, (3, count - 7, None)) == [Passage(2, count - 7, 7)]


def test_passages_outside_the_text_are_rejected_with_the_valid_range():
    lower, higher = synthetic_scores(articles=3, tokens=60, first_article=30)
    last = int(lower.position[lower.rows(31)][-1])
    assert select_passages(lower, higher, (32, 5, 10)) == [Passage(31, 5, 10)]
    assert select_passages(lower, higher, (32, last, 1)) == [Passage(31, last, 1)]
    for wrong in ((32, last, 2), (32, -1, 5), (32, 0, 0), (32, last + 1, 1)):
        with pytest.raises(UserError, match=f"0 to {last}"):
            select_passages(lower, higher, wrong)
    for article in (0, 30, 34):
        with pytest.raises(UserError, match="31 to 33"):
            select_passages(lower, higher, (article, 0, 5))


def test_very_long_passages_are_rejected():
    lower, higher = synthetic_scores(articles=1, tokens=12_000, seed=1)
    assert len(lower) > 10_001
    with pytest.raises(UserError, match="too many for a heat map"):
        select_passages(lower, higher, (1, 0, 10_001))
