"""Tokens as cells: nothing is lost, nothing invisible, nothing too wide."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.report.token_cells import Cell, cells_of, lay_out, visible


def texts(*surfaces: bytes) -> list[str]:
    return [cell.text for cell in cells_of((surface, 1.0, 0.5) for surface in surfaces)]


def test_tokens_that_together_make_a_character_are_one_cell_with_summed_nats():
    cells = cells_of([(b" a", 1.0, 2.0), (b"\xe6", 3.0, 1.0), (b"\xbc", 0.5, 0.25), (b"\xa2", 0.25, 0.5), (b"b", 1, 1)])
    assert [cell.text for cell in cells] == [" a", "漢", "b"]
    assert (cells[1].lower, cells[1].higher, cells[1].gain) == (3.75, 1.75, 2.0)


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
        ([b" \n"], [" \u21b5"]),
    ],
)
def test_what_cannot_be_seen_is_escaped(surfaces, shown):
    assert texts(*surfaces) == shown


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=6), st.floats(0, 9), st.floats(0, 9)), max_size=30))
def test_all_nats_are_kept_and_all_text_is_printable(tokens):
    cells = cells_of(tokens)
    assert sum(cell.lower for cell in cells) == pytest.approx(sum(lower for _, lower, _ in tokens))
    assert sum(cell.higher for cell in cells) == pytest.approx(sum(higher for _, _, higher in tokens))
    assert all(cell.text and cell.text.isprintable() for cell in cells)


@settings(max_examples=40, deadline=None)
@given(st.text(), st.integers(1, 4))
def test_any_split_of_a_text_into_bytes_shows_the_whole_text(text, size):
    data = text.encode()
    cells = cells_of((data[place : place + size], 1.0, 1.0) for place in range(0, len(data), size))
    if size == 1:  # Then no token holds parts of two characters.
        assert "".join(cell.text for cell in cells).replace("\u25cc", "") == "".join(
            visible(letter) for letter in text
        ).replace("\u25cc", "")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet=" abcdefgh\u6f22", min_size=1, max_size=12), max_size=40), st.integers(4, 30))
def test_lines_keep_to_the_columns_and_drop_nothing_but_spaces(words, columns):
    lines = lay_out([Cell(word, 1.0, 1.0) for word in words], columns)
    for line in lines:
        ends = 0
        for piece in line:
            assert piece.column >= ends
            ends = piece.column + piece.width
        assert ends <= columns
    shown = "".join(piece.text for line in lines for piece in line)
    assert shown.replace(" ", "") == "".join(words).replace(" ", "")


def test_wraps_between_words_and_after_an_end_of_line():
    cells = cells_of((surface, 1.0, 1.0) for surface in (b"one", b" tw", b"o", b" three", b"\n", b" four"))
    lines = ["".join(piece.text for piece in line) for line in lay_out(cells, 8)]
    assert lines == ["onetwo", "three\u21b5", "four"]
