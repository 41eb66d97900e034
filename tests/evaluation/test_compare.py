"""Comparisons: known values, the interval's meaning, and texts that do not match."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.evaluation.compare import baseline_of, bootstrap_counts, compare, gain_of, unique_labels
from dynlm.evaluation.export import to_markdown
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.tables import comparison_table, text_table
from tests.synthetic_scores import synthetic_scores


def small(variant: str, nats: list[float], level: int = 1) -> Scores:
    """Six tokens in two articles: 4 words, 10 bytes."""
    protocol = {
        "variant": variant,
        "level": level,
        "rule": {"name": "none" if level == 1 else "rms"},
        "articles": [{"index": 4, "title": "E"}, {"index": 5, "title": "F"}],
        "text": "t",
        "tokenizer": "k",
    }
    article = np.array([4, 4, 4, 4, 5, 5], dtype=np.int32)
    position = np.array([0, 1, 2, 3, 0, 1], dtype=np.int32)
    words = np.array([1, 0, 1, 0, 1, 1], dtype=np.int16)
    surface = [b"a", b"bc", b" d", b"ef", b"gh", b"\n"]
    token = np.arange(6, dtype=np.int32)
    return Scores(protocol, article, position, position, token, words, np.array(nats, dtype=np.float32), surface)


def relabelled(scores: Scores, **protocol: object) -> Scores:
    return replace(scores, protocol={**scores.protocol, **protocol})


def test_known_figures():
    result = compare([small("level 1", [1, 2, 3, 2, 1, 3]), small("rms", [1, 2, 2, 1, 1, 2], level=2)])
    one, two = result.variants
    assert (result.tokens, result.words, result.bytes) == (6, 4, 10)
    assert (one.nats, two.nats) == (12, 9)
    assert one.nats_per_token == 2
    assert one.perplexity_per_token == pytest.approx(math.exp(2))
    assert one.perplexity_per_word == pytest.approx(math.exp(3))
    assert one.bits_per_byte == pytest.approx(12 / math.log(2) / 10)
    assert one.gain is None
    assert two.gain is not None and two.gain.nats == pytest.approx(0.5)
    # Both articles gain 0.5 nats per token, so every resample does.
    assert (two.gain.low, two.gain.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_interval_spans_what_resampled_articles_can_give():
    result = compare([small("level 1", [2] * 6), small("rms", [1, 1, 1, 1, 2, 2], level=2)], resamples=4000)
    gain = result.variants[1].gain
    # Drawn twice, article E gives 1 and F gives 0; both happen in a quarter of the draws.
    assert gain is not None and (gain.low, gain.high) == (0, 1)
    assert gain.nats == pytest.approx(4 / 6)


def test_figures_are_sums_divided_once_and_not_means_of_articles():
    result = compare([small("level 1", [4, 4, 4, 4, 1, 1])])
    assert result.variants[0].nats_per_token == pytest.approx(18 / 6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 5), shift=st.floats(-0.5, 0.5))
def test_a_constant_shift_is_the_gain_and_its_own_interval(seed, shift):
    base = synthetic_scores(articles=5, variants=("level 1",), seed=seed, tokens=50)[0]
    nats = (base.nats.astype(np.float64) - shift).astype(np.float32)
    other = replace(base, protocol={**base.protocol, "variant": "rms", "level": 2, "rule": {"name": "rms"}}, nats=nats)
    gain = compare([base, other], resamples=50).variants[1].gain
    assert gain is not None
    assert (gain.nats, gain.low, gain.high) == pytest.approx((shift, shift, shift), abs=1e-5)


def test_the_interval_contains_the_gain_and_the_same_seed_repeats_it():
    variants = synthetic_scores(articles=12, tokens=80)
    first, again, other = (compare(variants, seed=seed).variants[1].gain for seed in (0, 0, 1))
    assert first is not None and first.low is not None and first.high is not None
    assert first.low < first.nats < first.high
    assert first == again
    assert first != other


def test_one_article_has_no_interval():
    variants = synthetic_scores(articles=1, tokens=60)
    result = compare(variants)
    gain = result.variants[1].gain
    assert gain is not None and gain.low is None and gain.high is None
    assert "two articles" in text_table(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: relabelled(one, text="another"), "texts differ"),
        (lambda one: relabelled(one, tokenizer="another"), "tokenizers differ"),
        (lambda one: replace(one, token=one.token[::-1].copy()), "tokens differ from row 0"),
        (lambda one: replace(one, surface=[*one.surface[:-1], b"xyz"]), "length"),
        (lambda one: replace(one, article=one.article + 1), "articles differ"),
        (
            lambda one: replace(one, surface=one.surface[:-1], **{name: getattr(one, name)[:-1] for name in COLUMNS}),
            "6 and 5 tokens",
        ),
    ],
)
def test_readings_of_other_texts_are_refused_naming_both(change, message):
    other = change(small("rms", [1] * 6, level=2))
    with pytest.raises(UserError, match=message) as caught:
        compare([small("level 1", [1] * 6), other])
    assert "'level 1'" in str(caught.value) and "'rms'" in str(caught.value)


COLUMNS = ("article", "position", "segment", "token", "words", "nats")


def test_the_baseline_is_the_plain_level_1_variant_in_any_order():
    rms, plain = small("rms", [1] * 6, level=2), small("level 1", [1] * 6)
    cached = relabelled(plain, variant="level 1 + cache", cache={"share": 0.1})
    assert baseline_of([rms, cached, plain]) == 2
    assert baseline_of([rms, rms]) == 0
    # Files of others may tell one of the two.
    assert baseline_of([rms, relabelled(plain, rule=None)]) == 1
    assert baseline_of([rms, relabelled(plain, level=None)]) == 1
    assert baseline_of([rms, relabelled(plain, level=None, rule="none")]) == 1
    assert compare([rms, plain]).baseline == 1
    assert compare([rms, plain], baseline=0).variants[0].gain is None


def test_equal_labels_of_other_tuned_rates_are_told_apart_by_them():
    def with_rates(*pairs):
        rates = {f"tensor.{index}": {"lr": lr, "decay": decay} for index, (lr, decay) in enumerate(pairs)}
        return relabelled(small("rms", [1] * 6), rule={"name": "rms", "rates": rates})

    slow, fast = with_rates((0.1, 0.02), (0.1, 0.02)), with_rates((0.1, 0.5), (0.1, 0.5))
    assert unique_labels([slow, fast]) == ["rms, decay 0.02", "rms, decay 0.5"]
    # Rates of single tensors say nothing in a line, and files of others may hold anything.
    assert unique_labels([with_rates((0.1, 0.02), (0.3, 0.5)), with_rates((0.1, 0.02), (0.2, 0.5))]) == [
        "rms #1",
        "rms #2",
    ]
    for rates in (3, {}, {"tensor": 1}):
        damaged = relabelled(slow, rule={"name": "rms", "rates": rates})
        assert unique_labels([slow, damaged]) == ["rms, lr 0.1, decay 0.02", "rms"]


def test_equal_labels_are_made_unique():
    one = small("rms", [1] * 6)
    labels = unique_labels([one, relabelled(one, run="a"), relabelled(one, run="b"), relabelled(one, run="b")])
    assert labels == ["rms", "a: rms", "b: rms #1", "b: rms #2"]


def test_equal_labels_are_told_apart_by_the_options_that_differ():
    def with_memory(**memory):
        return relabelled(small("adam", [1] * 6), options={"memory": {"rule": "adam", "segment": 5, **memory}})

    full, low, lower = with_memory(lora_rank=0), with_memory(lora_rank=8, lr=0.1), with_memory(lora_rank=4, lr=0.1)
    assert unique_labels([low, lower]) == ["adam, lora_rank 8", "adam, lora_rank 4"]
    assert unique_labels([full, low, relabelled(full, options="damaged")])[1:] == [
        "adam, rule adam, segment 5, lora_rank 8, lr 0.1",
        "adam",
    ]
    assert unique_labels([full, with_memory(lora_rank=0, lora_factors="AB", lr=0.2)]) == ["adam", "adam, lr 0.2"]


def test_one_rule_under_two_reset_policies_is_labelled_by_them():
    stream, article = (relabelled(small("rms", [1] * 6), run="a", reset=reset) for reset in ("stream", "article"))
    assert unique_labels([stream, article]) == ["rms, stream", "rms, article"]
    again = relabelled(stream, run="b")
    assert unique_labels([stream, article, again]) == ["a: rms, stream", "rms, article", "b: rms, stream"]


def test_readings_with_other_contexts_are_told_apart_and_the_baseline_has_the_memorys() -> None:
    short, own = ({"context": context, "stride": 8, "refresh": 0} for context in (8, 16))
    one = small("level 1", [2] * 6)
    memory = relabelled(small("rms", [1] * 6, level=2), reading=own)
    scores = [relabelled(one, reading=short), memory, relabelled(one, reading=own)]
    assert unique_labels(scores) == ["level 1, context 8, stride 8", "rms", "level 1, context 16, stride 8"]
    assert baseline_of(scores) == 2 and baseline_of(scores[:2]) == 0
    lines = text_table(compare(scores)).replace("\n", " ")
    note = "has another context than level 1, context 16, stride 8"
    assert f"level 1, context 8, stride 8 {note}: the gain includes what that gives." in lines
    assert f"rms {note}" not in lines and "Context 16, stride 8" in lines
    refreshed = relabelled(one, reading={**own, "refresh": 4})
    assert unique_labels([scores[2], refreshed])[1] == "level 1, context 16, stride 8, refresh 4"


def test_the_table_fits_100_columns_and_states_the_protocol():
    variants = synthetic_scores(
        articles=4, variants=("level 1", "rms", "a label that is far too long for " * 3), tokens=80
    )
    variants[0] = relabelled(variants[0], statement="word " * 100)
    text = text_table(compare(variants))
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("far too long") >= 2
    unwrapped = " ".join(text.split())
    for fact in ("valid, 4 articles (1-4)", "ends of line", "eset stream, segment 20", "nothing is rescored"):
        assert fact in unwrapped
    lines = text.splitlines()
    assert lines[2].split()[:3] == ["level", "1", f"{compare(variants).variants[0].nats_per_token:.4f}"]


def test_markdown_is_one_table_whatever_the_labels_hold():
    variants = synthetic_scores(articles=2, variants=("level 1", "a|b <c>\nd"), tokens=60)
    lines = to_markdown(comparison_table(compare(variants))).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 4
    assert r"a\|b \<c\> d" in table[3]
    assert all(line.replace(r"\|", "").count("|") == 7 for line in table)


def test_the_dictionary_is_json_with_the_protocol():
    result = compare(synthetic_scores(articles=3, tokens=60, first_article=30)).to_dict()
    again = json.loads(json.dumps(result, allow_nan=False))
    assert [article["index"] for article in again["articles"]] == [30, 31, 32]
    assert again["split"] == "valid"
    assert again["variants"][1]["protocol"]["reset"] == "stream"
    assert again["variants"][0]["gain"] is None


def test_a_text_without_words_or_bytes_has_no_such_figures():
    one = small("level 1", [1] * 6)
    result = compare([replace(one, words=np.zeros(6, dtype=np.int16), surface=[b""] * 6)])
    assert result.variants[0].perplexity_per_word is None and result.variants[0].bits_per_byte is None
    assert "-" in text_table(result)


def test_nothing_to_compare_is_an_error():
    with pytest.raises(UserError, match="nothing to compare"):
        compare([])


ANY = st.text(st.characters(exclude_categories=()), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(variant=ANY, title=ANY, statement=ANY)
def test_names_are_escaped_in_terminal_and_markdown(variant: str, title: str, statement: str) -> None:
    named = relabelled(small("rms", [1, 2, 2, 1, 1, 2], level=2), variant=variant, statement=statement)
    result = compare([small("level 1", [1, 2, 3, 2, 1, 3]), named], resamples=10)
    for text in (text_table(result), to_markdown(comparison_table(result))):
        text.encode("utf-8")
        assert all(letter.isprintable() or letter in "\n\u200c\u200d" for letter in text)
    table = to_markdown(comparison_table(result)).split("\n\n")[0].splitlines()
    assert len(table) == 4
    # As many cells in each row, however many bars a name has: those of names are escaped.
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {7}


def test_the_interval_holds_the_middle_95_of_a_hundred_resamples():
    rng = np.random.default_rng(0)
    saved, tokens, drawn = rng.normal(size=40), np.full(40, 10), bootstrap_counts(40, 2000, 1)
    gain = gain_of(saved, tokens, drawn)
    resampled = (drawn @ saved) / (drawn @ tokens)
    assert np.mean(resampled < gain.low) == pytest.approx(0.025, abs=0.001)
    assert np.mean(resampled > gain.high) == pytest.approx(0.025, abs=0.001)


def test_the_interval_is_the_middle_95_percent_of_the_resamples():
    """Each resample draws one of 1,001 articles, which save 0 to 1,000 nats on one token each."""
    gain = gain_of(np.arange(1001.0), np.ones(1001), np.eye(1001))
    assert (gain.low, gain.high) == (pytest.approx(25.0), pytest.approx(975.0))
    assert gain.nats == pytest.approx(500.0)
