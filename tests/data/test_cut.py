"""Long texts are cut without losing a character, into pieces of bounded size, where a reader would cut them."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.data.articles import load_articles
from dynlm.data.cut import cut_articles, cut_text, size_in_words
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.source import Article

TEXTS = st.lists(
    st.sampled_from(
        ["word ", "\n", "\n\n", "# Title\n", "## Part\n", " = Title = \n", "End.\n", "字" * 30, "x" * 50, " "]
    )
    | st.text(max_size=5)
).map("".join)


@given(TEXTS, st.integers(1, 40))
def test_nothing_is_lost_and_no_piece_is_too_long(text: str, words: int) -> None:
    pieces = cut_text(text, words)
    assert "".join(pieces) == text
    assert all(size_in_words(piece) <= words for piece in pieces)
    if not any(a[-1:].strip() and b[:1].strip() for a, b in pairwise(pieces)):  # No word is cut.
        assert all(size_in_words(a) + size_in_words(b) > words for a, b in pairwise(pieces)), "neighbours fit together"


@pytest.mark.parametrize(
    ("text", "words", "pieces"),
    [
        ("# A\n\none two\n\n# B\n\nthree\n", 5, ["# A\n\none two\n\n", "# B\n\nthree\n"]),
        (" = A = \n\n one two \n\n = = S = = \n three \n", 8, [" = A = \n\n one two \n\n", " = = S = = \n three \n"]),
        (
            "Title\n=====\none two three\n\nNext\n====\nfour\n",
            6,
            ["Title\n=====\none two three\n\n", "Next\n====\nfour\n"],
        ),
        ("one two\nthree\r\n\r\nfour five\n", 3, ["one two\nthree\r\n\r\n", "four five\n"]),
        ("one two\nthree four\n", 3, ["one two\n", "three four\n"]),
        ("One two. Three four? Five", 3, ["One two. ", "Three four? Five"]),
        ("one two three", 2, ["one two ", "three"]),
        ("no heading#\n#hash\none two\n", 100, ["no heading#\n#hash\none two\n"]),
        ("", 5, [""]),
    ],
)
def test_it_is_cut_where_a_reader_would(text: str, words: int, pieces: list[str]) -> None:
    assert cut_text(text, words) == pieces


def test_a_section_that_is_too_long_is_cut_by_its_parts() -> None:
    text = "# A\n\n" + "".join(f"## S{n}\n\n{'word ' * 6}\n\n" for n in range(4)) + "# B\n\nend\n"
    pieces = cut_text(text, 16)
    assert [piece[:5] for piece in pieces] == ["# A\n\n", "## S1", "## S3"]
    assert "".join(pieces) == text


def test_text_without_spaces_has_a_size_too() -> None:
    assert size_in_words("字" * 400) == 100 and size_in_words("one two") == 2
    assert max(map(size_in_words, cut_text("字" * 4000, 50))) <= 50


@pytest.mark.parametrize("text", ["\n" + " " * 10**6 + "x", "x" * 10**6, "a-" * 500_000, ("y " * 50_000 + "\n") * 4])
def test_any_text_is_cut_in_time_linear_in_its_length(text: str) -> None:
    begin = time.process_time()
    assert "".join(cut_text(text, 100)) == text
    assert time.process_time() - begin < 10


def test_pieces_are_titled_by_their_article_and_blank_ones_left_out() -> None:
    articles = [Article("A", "one two three four", "a:1"), Article("B", "one", "b:1"), Article("C", " \n" * 90, "c:1")]
    cut = [*cut_articles(articles, 2)]
    assert [(each.title, each.text, each.where) for each in cut] == [
        ("A, part 1", "one two ", "a:1"),
        ("A, part 2", "three four", "a:1"),
        ("B", "one", "b:1"),
    ]


def test_the_option_cuts_every_split_of_any_source(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.txt").write_text("one two three.\n\nfour five six.\n" * 3)
    corpus = CorpusOptions(path=str(tmp_path), cut_words=3, meta_every=2)
    assert [len(load_articles(corpus, split)) for split in ("train", "meta", "valid")] == [3, 3, 6]
    assert len(load_articles(CorpusOptions(path=str(tmp_path)), "valid")) == 1


def test_a_piece_has_a_word() -> None:
    with pytest.raises(ValueError, match="words is 0"):
        cut_text("one", 0)
