"""Words are counted in the token that they start in; headings are found in WikiText and Markdown, causally."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.text_features import count_word_starts, find_headings

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
