"""Word counts and headings of tokens, computed from the text that the tokens stand for."""

from __future__ import annotations

import re

import numpy as np

_ASCII_SPACE = np.array([chr(byte).isspace() and byte < 0x80 for byte in range(256)])
_WIDE_SPACE = re.compile(b"|".join(chr(n).encode() for n in range(0x80, 0x3001) if chr(n).isspace()))
# A whole line of WikiText, ` = Title = ` or ` = = Section = = `, with its end of line; or the beginning of a line of
# Markdown, `## Section`.
_HEADING = re.compile(rb"^(?: (=(?: =)*) \S.*? \1 *\r?\n|#{1,6} [^\s])", re.MULTILINE)


def count_word_starts(text: bytes, lengths_N: np.ndarray) -> np.ndarray:
    """Return how many words start in each token of ``text`` (int16); tokens are ``lengths_N`` bytes long.

    A word is a run without white space, as for ``str.split``, and each end of line counts as one more: the sum over a
    text is the word count of the literature.
    """
    bytes_ = np.frombuffer(text, dtype=np.uint8)
    space = _ASCII_SPACE[bytes_]
    if not text.isascii():
        for found in _WIDE_SPACE.finditer(text):
            space[found.start() : found.end()] = True
    starts = ~space
    starts[1:] &= space[:-1]
    starts |= bytes_ == ord("\n")
    before = np.zeros(len(text) + 1, dtype=np.int32 if len(text) < 2**31 else np.int64)
    np.cumsum(starts, out=before[1:])
    ends = np.cumsum(lengths_N, dtype=np.int64)
    return (before[ends] - before[ends - lengths_N]).astype(np.int16)


def find_headings(text: bytes, lengths_N: np.ndarray) -> np.ndarray:
    """Return the tokens that complete a heading's line, ascending (int64); tokens are ``lengths_N`` bytes long.

    The result is causal: whether a token is returned does not depend on the text after it. A line of WikiText is
    therefore a heading only at its end.
    """
    last = np.array([found.end() - 1 for found in _HEADING.finditer(text)], dtype=np.int64)
    return np.unique(np.searchsorted(np.cumsum(lengths_N, dtype=np.int64), last, side="right"))
