"""Words are counted in the token that they start in, as the literature counts them."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.words import words_starting

SPACED = st.lists(st.sampled_from([*"ab\u4e2d \n\t\r\x1c\x85\xa0\u1680\u2003\u2028\u200b\u3000"])).map("".join)


def test_word_counts_of_known_tokens():
    text = "The cat\nsat  \n"
    lengths = np.array([3, 4, 1, 2, 1, 3])  # The| cat|\n|sa|t|  \n
    assert words_starting(text, lengths).tolist() == [1, 1, 1, 1, 0, 1]


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(SPACED, st.text(st.characters(exclude_categories=["Cs"]))), cuts=st.lists(st.integers(0, 40)))
def test_words_start_where_str_split_finds_them(text, cuts):
    size = len(text.encode())
    lengths = np.diff([0, *sorted(min(cut, size) for cut in cuts), size])
    before = ["", *text]
    begins = [c == "\n" or (not c.isspace() and (b.isspace() or not b)) for b, c in zip(before, text, strict=False)]
    at_byte = np.cumsum([0, *(len(character.encode()) for character in text)])[:-1]
    ends = np.cumsum(lengths)
    expected = [0] * len(lengths)
    for place in at_byte[np.array(begins, dtype=bool)]:
        expected[int(np.searchsorted(ends, place, side="right"))] += 1
    assert words_starting(text, lengths).tolist() == expected
