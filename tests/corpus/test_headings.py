"""Headings are found where WikiText and Markdown have them, whatever the tokens."""

from __future__ import annotations

import numpy as np
import pytest

from dynlm.corpus.headings import headings_starting

TEXT = " \n = Title = \n \n Plain = text = . \n = = Früh = = \n = = = Deeper = = = \n = no\n## Mark\n#tag\nend #\n"


def lines_found(text: str, width: int) -> list[str]:
    """The lines on which headings were found, with tokens of ``width`` bytes."""
    data = text.encode()
    lengths = np.full(-(-len(data) // width), width)
    lengths[-1] = len(data) - width * (len(lengths) - 1)
    found = []
    for token in headings_starting(text, lengths):
        begins = data.rfind(b"\n", 0, (token + 1) * width) + 1
        assert begins // width == token
        found.append(data[begins:].split(b"\n")[0].decode().strip())
    return found


@pytest.mark.parametrize("width", [1, 3])
def test_lines_that_are_headings_are_found_and_no_others(width: int) -> None:
    assert lines_found(TEXT, width) == ["= Title =", "= = Früh = =", "= = = Deeper = = =", "## Mark"]


def test_two_headings_in_one_token_are_one_place() -> None:
    text = "# a\n# b\n"
    assert headings_starting(text, np.array([len(text)])).tolist() == [0]
    assert headings_starting("no heading here", np.array([15])).tolist() == []
