"""Words in tokens: where ``str.split`` and the literature find them, so that scores can be divided by words."""

from __future__ import annotations

import re

import numpy as np

_ASCII_SPACE = np.array([chr(byte).isspace() and byte < 0x80 for byte in range(256)])
_WIDE_SPACE = re.compile(b"|".join(chr(n).encode() for n in range(0x80, 0x3001) if chr(n).isspace()))


def words_starting(text: str, lengths: np.ndarray) -> np.ndarray:
    """How many words start in each token of ``text`` (tokens of ``lengths`` bytes); an end of line counts as one.

    Words are runs without white space, as ``str.split`` finds them: the sum over a text is the literature's count
    of words with end of line.
    """
    data = text.encode()
    space = _ASCII_SPACE[np.frombuffer(data, dtype=np.uint8)]
    if len(data) > len(text):
        for found in _WIDE_SPACE.finditer(data):
            space[found.start() : found.end()] = True
    starts = ~space
    starts[1:] &= space[:-1]
    starts |= np.frombuffer(data, dtype=np.uint8) == ord("\n")
    before = np.zeros(len(data) + 1, dtype=np.int32 if len(data) < 2**31 else np.int64)
    np.cumsum(starts, out=before[1:])
    ends = np.cumsum(lengths, dtype=np.int64)
    return (before[ends] - before[ends - lengths]).astype(np.int16)
