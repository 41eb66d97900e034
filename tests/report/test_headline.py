"""The sentence at the top of the report: right figures, and no gain claimed that the interval doubts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores
from dynlm.report.headline import _figures, cautions, headline, lead
from tests.synthetic_scores import synthetic_scores


def variants(gain: float, spread: float = 0.0, articles: int = 12) -> list[Scores]:
    """Level 1 at 3 nats a token, and rms that saves ``gain`` +- ``spread``, the sign alternating over the articles."""
    plain, rms = synthetic_scores(articles, tokens=80)
    base = np.full(len(plain), 3.0, dtype=np.float32)
    saved = gain + spread * np.where(plain.article % 2, 1, -1)
    return [replace(plain, nats=base), replace(rms, nats=(base - saved).astype(np.float32))]


def test_it_names_both_perplexities_per_word_and_the_articles():
    # In these texts a token is a word.
    found = compare(variants(0.5))
    assert headline(found) == "Memory (rms) cut perplexity per word from 20.1 to 12.2 on 12 articles"
    assert lead(found).startswith(f"Text: valid, {found.tokens:,} tokens. Gain of rms over level 1: +0.5000 [")
    assert headline(compare(variants(0.5, articles=1))).endswith("from 20.1 to 12.2 on 1 article")


def test_it_claims_no_gain_that_is_none_or_unclear():
    unclear = headline(compare(variants(0.05, 1.0)))
    assert unclear.startswith("No clear difference in perplexity per word on 12 articles: level 1 20.1, rms ")
    worse = headline(compare(variants(-0.5)))
    assert worse == "No memory lowered perplexity per word on 12 articles: level 1 20.1, rms 33.1"
    same = headline(compare(variants(0.0)))
    assert same == "No memory lowered perplexity per word on 12 articles: level 1 20.0855, rms 20.0855"


def test_the_best_of_several_is_named_and_a_baseline_that_is_no_level_1():
    plain, rms = variants(0.5)
    best = replace(rms, nats=rms.nats - np.float32(0.1), protocol={**rms.protocol, "variant": "meta"})
    assert headline(compare([plain, best, rms])).startswith("Memory (meta) cut")
    assert headline(compare([rms, best])) == "meta cut perplexity per word from 12.2 to 11.0 on 12 articles"


def test_texts_without_words_have_perplexities_per_token():
    no_words = [replace(each, words=np.zeros_like(each.words)) for each in variants(0.5)]
    assert "perplexity per token from 20.1 to 12.2" in headline(compare(no_words))


def test_articles_that_it_was_tuned_on_are_pointed_out():
    plain, rms = variants(0.5)
    record = {"what": "rates", "how": "tuned", "corpus": "synthetic", "split": "valid", "articles": "1-3"}
    tuned = replace(rms, protocol={**rms.protocol, "tuned_on": [record]})
    assert cautions(compare([plain, tuned])) == ["rms: 3 of 12 articles are among those its rates were tuned on."]
    assert cautions(compare([plain, rms])) == []


@pytest.mark.parametrize(
    ("pair", "shown"),
    [
        ((198.4, 107.2), ("198", "107")),
        ((107.2, 99.2), ("107.2", "99.2")),
        ((12345.6, 234.5), ("12,346", "234")),
        ((5.004, 4.996), ("5.004", "4.996")),
        ((5.01, 4.99), ("5.01", "4.99")),
        ((150.2, 150.4), ("150.2", "150.4")),
        ((3e8, 2.0), ("3.00e+08", "2.00e+00")),
    ],
)
def test_figures_have_the_digits_that_tell_them_apart(pair, shown):
    assert _figures(*pair) == shown
