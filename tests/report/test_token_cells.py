"""Tokens as cells: nothing is lost, nothing invisible, nothing too wide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dynlm.report.token_cells import CONTINUED, Cell, TokenTexts, token_cells, token_texts, visible, wrap_cells
from tests.synthetic_scores import synthetic_scores

SURFACES = st.one_of(
    st.binary(max_size=3), st.sampled_from([b" a", b"\n", b"\xe6", b"\xbc", b"\xa2", b"\xbc\xa2", b"", "漢".encode()])
)


def cells_of(surfaces: Sequence[bytes]) -> list[Cell]:
    return token_cells(surfaces, np.ones(len(surfaces)), np.ones(len(surfaces)))


def displayed(texts: TokenTexts) -> list[tuple[str, bool]]:
    """Return the text of each cell, and whether it ends a line."""
    return [(texts.texts[index], index in texts.line_ends) for index in texts.index_N.tolist() if index != CONTINUED]


def test_tokens_that_make_a_character_together_are_one_cell_with_summed_nats():
    lower, higher = np.array([1, 3, 0.5, 0.25, 1]), np.array([2, 1, 0.25, 0.5, 1])
    repeated = np.array([False, True, False, False, True])
    cells = token_cells([b" a", b"\xe6", b"\xbc", b"\xa2", b"b"], lower, higher, repeated)
    assert [cell.text for cell in cells] == ["a", "漢", "b"]
    assert (cells[1].lower, cells[1].higher, cells[1].gain) == (3.75, 1.75, 2.0)
    assert [cell.repeated for cell in cells] == [False, True, True]


@pytest.mark.parametrize(
    ("surfaces", "shown"),
    [
        ([b"\xff"], [r"\xff"]),
        ([b"\xe6", b"x"], [r"\xe6", "x"]),
        ([b"\xe6", b"\xbc"], [r"\xe6", r"\xbc"]),
        ([b"\xe6", b"\xe6", b"\xbc", b"\xa2"], [r"\xe6", "漢"]),
        ([b"\xa2 next"], [r"\xa2 next"]),
        ([b"\xed\xa0\x80"], [r"\xed\xa0\x80"]),
        ([b"\x00"], [r"\x00"]),
        ([b"\x1b[31m"], [r"\x1b[31m"]),
        ([b"a\tb"], [r"a\x09b"]),
        (["\u202e".encode()], [r"\u202e"]),
        (["\u2066x\u2069".encode()], [r"\u2066x\u2069"]),
        (["\U000e0041".encode()], [r"\U000e0041"]),
        (["\xa0".encode()], [r"\xa0"]),
        (["\u0301".encode()], ["\u25cc\u0301"]),
        ([b""], ["\u2205"]),
        ([b" a", b" \n", b" b"], ["a", "\u21b5", "b"]),
    ],
)
def test_non_printable_characters_are_escaped(surfaces, shown):
    assert [cell.text for cell in cells_of(surfaces)] == shown


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=6), st.floats(0, 9), st.floats(0, 9)), max_size=30))
def test_sums_of_nats_are_kept_and_all_text_is_printable(tokens):
    surfaces, lower, higher = zip(*tokens, strict=True) if tokens else ((), (), ())
    cells = token_cells(surfaces, np.array(lower), np.array(higher))
    assert sum(cell.lower for cell in cells) == pytest.approx(sum(lower for _, lower, _ in tokens))
    assert sum(cell.higher for cell in cells) == pytest.approx(sum(higher for _, _, higher in tokens))
    assert all(cell.text and cell.text.isprintable() for cell in cells)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.integers(1, 4))
def test_a_text_split_into_bytes_is_displayed_whole(text, size):
    data = text.encode()
    cells = cells_of([data[start : start + size] for start in range(0, len(data), size)])
    if size == 1:  # Then no token holds parts of two characters.
        assert "".join(cell.text for cell in cells).replace("\u25cc", "") == "".join(
            visible(letter) for letter in text
        ).replace("\u25cc", "")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet=" abcdefgh\u6f22", min_size=1, max_size=12), max_size=40), st.integers(4, 30))
def test_lines_fit_the_columns_and_lose_only_spaces(words, columns):
    cells = cells_of([word.encode() for word in words])
    lines = wrap_cells(cells, columns, map(str, range(len(cells))))
    assert all(cell_len(line.plain.rstrip()) <= columns for line in lines)
    assert "".join(line.plain for line in lines).replace(" ", "") == "".join(words).replace(" ", "")
    # Every part has the style of its cell.
    parts = [""] * len(cells)
    for line in lines:
        for span in line.spans:
            parts[int(span.style)] += line.plain[span.start : span.end]
    assert [part.replace(" ", "") for part in parts] == [cell.text.replace(" ", "") for cell in cells]


def test_spaces_are_outside_of_cells_and_only_within_a_line():
    cells = cells_of([b" one", b" two", b"\n", b" three", b" ", b"  "])
    spaces = [("", "one"), (" ", "two"), ("", "\u21b5"), ("", "three"), ("", " "), ("", "  ")]
    assert [(cell.space, cell.text) for cell in cells] == spaces


def test_spaces_after_an_end_of_line_indent_the_next_line():
    cells = cells_of([b"Args:", b"\n   ", b" model", b":", b"\n\n", b" a", b" \n  ", b"  ", b"\n "])
    told = [(cell.space, cell.text, cell.ends_line) for cell in cells]
    assert told == [
        *(("", "Args:", False), ("", "\u21b5", True), ("    ", "model", False), ("", ":", False)),
        *(("", "\u21b5\u21b5", True), ("", "a", False), (" ", "\u21b5", True)),
        *(("  ", "  ", False), ("", "\u21b5", True)),
    ]
    lines = wrap_cells(cells, 12, [""] * len(cells))
    assert [line.plain.rstrip() for line in lines] == [
        *("Args:\u21b5", "    model:\u21b5\u21b5", "a \u21b5", "    \u21b5"),
    ]


def test_lines_wrap_between_words_and_after_an_end_of_line():
    cells = cells_of([b"one", b" tw", b"o", b" three", b"\n", b" four"])
    lines = wrap_cells(cells, 8, [""] * len(cells))
    assert [line.plain.rstrip() for line in lines] == ["one two", "three\u21b5", "four"]


@settings(max_examples=150, deadline=None)
@given(st.lists(SURFACES, min_size=1, max_size=30), st.integers(0, 30))
def test_cells_never_cross_the_border_of_two_articles(surfaces, border):
    whole = displayed(token_texts(surfaces, [0, border, len(surfaces)]))
    assert whole == displayed(token_texts(surfaces[:border])) + displayed(token_texts(surfaces[border:]))


def test_each_different_text_is_kept_once():
    (scores,) = synthetic_scores(articles=1, variants=("level 1",), tokens=60)
    shown = token_texts(scores.surface)
    assert len(shown.texts) == len(set(shown.texts)) == len(set(scores.surface)) + 1
    assert shown.texts[CONTINUED] == ""
