"""Tokenised splits: exact surfaces, excerpts and selections, and equality of all ways to build one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.pieces import PieceTokenizer
from tests.data.test_token_store import ARTICLES, tokenizer  # noqa: F401 - a fixture


@pytest.fixture
def split(tokenizer: PieceTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TokenisedSplit:  # noqa: F811
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path))
    return tokenise(ARTICLES, tokenizer)


def end_of_line(split: TokenisedSplit, article: int) -> int:
    """Return the token of an article that has its first end of line."""
    return next(number for number, surface in enumerate(split.surfaces(article)) if b"\n" in surface)


def assert_equal(one: TokenisedSplit, other: TokenisedSplit) -> None:
    for name in ("ids_N", "lengths_N", "words_N", "headings", "text", "starts", "text_starts"):
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.start_token == other.start_token


def test_surfaces_join_to_the_text(split: TokenisedSplit, tokenizer: PieceTokenizer) -> None:  # noqa: F811
    for index, article in enumerate(ARTICLES):
        assert b"".join(split.surfaces(index)).decode() == article.text
        assert tokenizer.decode(split.article(index)) == article.text
    assert split.words_N.sum() == sum(len(a.text.split()) + a.text.count("\n") for a in ARTICLES)


def test_inputs_are_shifted_by_one_token(split: TokenisedSplit) -> None:
    assert split.inputs(1)[0] == split.start_token
    assert split.inputs(1)[1:].tolist() == split.article(1)[:-1].tolist()


def test_surfaces_depend_on_their_article_only(split: TokenisedSplit) -> None:
    lengths = np.full_like(split.lengths_N, -1)
    lengths[split.rows(1)] = split.lengths_N[split.rows(1)]
    assert dataclasses.replace(split, lengths_N=lengths).surfaces(1) == split.surfaces(1)


def test_headings_are_token_indices(split: TokenisedSplit) -> None:
    assert split.headings.tolist() == [end_of_line(split, 0), int(split.starts[1]) + end_of_line(split, 1)]


def test_a_split_in_memory_equals_the_cached_one(split: TokenisedSplit, tokenizer: PieceTokenizer) -> None:  # noqa: F811
    assert_equal(TokenisedSplit.from_texts([article.text for article in ARTICLES], tokenizer), split)
    assert_equal(split.take([split.rows(article) for article in range(3)], split.titles), split)
    assert len(TokenisedSplit.from_texts([""], tokenizer).ids_N) == 0


def test_take_selects_tokens_in_any_order(split: TokenisedSplit) -> None:
    rows = [split.rows(1)[[2, 2, 0]], np.concatenate([split.rows(0)[-1:], split.rows(2)[:2]])]
    part = split.take(rows, ["one", "other"])
    assert (part.articles, list(part.titles), part.starts.tolist()) == (2, ["one", "other"], [0, 3, 6])
    assert part.article(0).tolist() == split.ids_N[rows[0]].tolist()
    assert part.surfaces(0) == [split.surfaces(1)[index] for index in (2, 2, 0)]
    assert part.surfaces(1) == [split.surfaces(0)[-1], *split.surfaces(2)[:2]]
    assert part.words_N.tolist() == split.words_N[np.concatenate(rows)].tolist()


def test_an_excerpt_has_the_beginning_of_each_article(split: TokenisedSplit) -> None:
    part = split.excerpt(articles=2, tokens=8)
    for index in range(2):
        assert part.article(index).tolist() == split.article(index)[:8].tolist()
        assert part.surfaces(index) == split.surfaces(index)[:8]
    # Both articles begin with a heading.
    assert part.headings.tolist() == [end_of_line(split, 0), 8 + end_of_line(split, 1)]
    assert split.excerpt(articles=2, tokens=3).headings.tolist() == []
