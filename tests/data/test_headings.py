"""Headings are found where WikiText and Markdown have them, whatever the tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.data.headings import headings_completed

TEXT = " \n = Title = \n \n Plain = text = . \n = = Früh = = \n = = = Deeper = = = \n = no\n## Mark\n#tag\nend #\n"


def lines_found(text: str, width: int) -> list[str]:
    """The lines on which headings were found, with tokens of ``width`` bytes."""
    data = text.encode()
    lengths = np.full(-(-len(data) // width), width)
    lengths[-1] = len(data) - width * (len(lengths) - 1)
    found = []
    for token in headings_completed(text, lengths):
        # The line that a byte of the token completes: the last one that has begun before the token's end.
        end = min((token + 1) * width, len(data)) - 1
        begins = data.rfind(b"\n", 0, end) + 1
        line = data[begins:].split(b"\n")[0].decode().strip()
        found.append(line if line.startswith(("=", "#")) else data[:begins].decode().splitlines()[-1].strip())
    return found


@pytest.mark.parametrize("width", [1, 3])
def test_lines_that_are_headings_are_found_and_no_others(width: int) -> None:
    assert lines_found(TEXT, width) == ["= Title =", "= = Früh = =", "= = = Deeper = = =", "## Mark"]


def test_two_headings_in_one_token_are_one_place() -> None:
    text = "# a\n# b\n"
    assert headings_completed(text, np.array([len(text)])).tolist() == [0]
    assert headings_completed(" = a", np.array([4])).tolist() == []
    assert headings_completed("no heading here", np.array([15])).tolist() == []


def test_a_line_of_wikitext_is_a_heading_only_once_it_has_ended() -> None:
    for text, found in ((" = a =", []), (" = a = \n", [7]), (" = a = \r\n", [8]), (" = a = b\n", [])):
        assert headings_completed(text, np.ones(len(text), dtype=np.int64)).tolist() == found


PIECES = st.lists(st.sampled_from([" = ", " =", "= ", "\n", " \n", "a", "é", "# ", "##", " ", "\r"]), max_size=20).map(
    "".join
)


@given(PIECES, PIECES, PIECES, st.integers(1, 4))
def test_no_flag_depends_on_what_stands_after_its_token(before: str, one: str, other: str, width: int) -> None:
    def flags(text: str) -> list[int]:
        size = len(text.encode())
        lengths = np.full(-(-size // width), width)
        if size % width:
            lengths[-1] = size % width
        whole = len(before.encode()) // width
        return [token for token in headings_completed(text, lengths).tolist() if token < whole]

    assert flags(before + one) == flags(before + other)
