"""Tokenised splits: exact surfaces, excerpts and selections, and equality of all ways to build one.

Words are counted in the token that they start in; headings are found in WikiText and Markdown, causally.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit, count_word_starts, find_headings
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


SPACED = st.lists(st.sampled_from([*"ab\u4e2d \n\t\r\x1c\x85\xa0\u1680\u2003\u2028\u200b\u3000"])).map("".join)


def test_word_counts_of_known_tokens() -> None:
    text = "The cat\nsat  \n"
    lengths = np.array([3, 4, 1, 2, 1, 3])  # The| cat|\n|sa|t|  \n
    assert count_word_starts(text.encode(), lengths).tolist() == [1, 1, 1, 1, 0, 1]


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(SPACED, st.text(st.characters(exclude_categories=["Cs"]))), cuts=st.lists(st.integers(0, 40)))
def test_words_start_where_str_split_finds_them(text: str, cuts: list[int]) -> None:
    size = len(text.encode())
    lengths = np.diff([0, *sorted(min(cut, size) for cut in cuts), size])
    before = ["", *text]
    begins = [c == "\n" or (not c.isspace() and (b.isspace() or not b)) for b, c in zip(before, text, strict=False)]
    at_byte = np.cumsum([0, *(len(character.encode()) for character in text)])[:-1]
    ends = np.cumsum(lengths)
    expected = [0] * len(lengths)
    for start in at_byte[np.array(begins, dtype=bool)]:
        expected[int(np.searchsorted(ends, start, side="right"))] += 1
    assert count_word_starts(text.encode(), lengths).tolist() == expected


TEXT = " \n = Title = \n \n Plain = text = . \n = = Früh = = \n = = = Deeper = = = \n = no\n## Mark\n#tag\nend #\n"


def lines_found(text: str, width: int) -> list[str]:
    """Return the lines on which headings were found, with tokens of ``width`` bytes."""
    data = text.encode()
    lengths = np.full(-(-len(data) // width), width)
    lengths[-1] = len(data) - width * (len(lengths) - 1)
    found = []
    for token in find_headings(text.encode(), lengths):
        # The line that a byte of the token completes: the last one that has begun before the token's end.
        end = min((token + 1) * width, len(data)) - 1
        begins = data.rfind(b"\n", 0, end) + 1
        line = data[begins:].split(b"\n")[0].decode().strip()
        found.append(line if line.startswith(("=", "#")) else data[:begins].decode().splitlines()[-1].strip())
    return found


@pytest.mark.parametrize("width", [1, 3])
def test_finds_headings_and_no_other_lines(width: int) -> None:
    assert lines_found(TEXT, width) == ["= Title =", "= = Früh = =", "= = = Deeper = = =", "## Mark"]


def test_two_headings_in_one_token_count_once() -> None:
    text = "# a\n# b\n"
    assert find_headings(text.encode(), np.array([len(text)])).tolist() == [0]
    assert find_headings(b" = a", np.array([4])).tolist() == []
    assert find_headings(b"no heading here", np.array([15])).tolist() == []


def test_a_wikitext_heading_is_found_at_the_end_of_its_line() -> None:
    for text, found in ((" = a =", []), (" = a = \n", [7]), (" = a = \r\n", [8]), (" = a = b\n", [])):
        assert find_headings(text.encode(), np.ones(len(text), dtype=np.int64)).tolist() == found


PIECES = st.lists(st.sampled_from([" = ", " =", "= ", "\n", " \n", "a", "é", "# ", "##", " ", "\r"]), max_size=20).map(
    "".join
)


@given(PIECES, PIECES, PIECES, st.integers(1, 4))
def test_a_token_is_flagged_independently_of_later_text(before: str, one: str, other: str, width: int) -> None:
    def flags(text: str) -> list[int]:
        size = len(text.encode())
        lengths = np.full(-(-size // width), width)
        if size % width:
            lengths[-1] = size % width
        whole = len(before.encode()) // width
        return [token for token in find_headings(text.encode(), lengths).tolist() if token < whole]

    assert flags(before + one) == flags(before + other)
