"""Headings in tokens: where a text has said that something new begins."""

from __future__ import annotations

import re

import numpy as np

# A whole line of WikiText's ` = Title = ` or ` = = Section = = `, its end of line included, or the beginning of a line
# of Markdown's `## Section`, which what follows cannot change.
_HEADING = re.compile(rb"^(?: (=(?: =)*) \S.*? \1 *\r?\n|#{1,6} [^\s])", re.MULTILINE)


def headings_completed(text: str, lengths: np.ndarray) -> np.ndarray:
    """The tokens of ``text`` (tokens of ``lengths`` bytes) that complete what tells a heading, ascending (int64).

    No flag depends on what stands after its token: a line of WikiText is a heading only once its end was read, and is
    none before.
    """
    last = np.array([found.end() - 1 for found in _HEADING.finditer(text.encode())], dtype=np.int64)
    return np.unique(np.searchsorted(np.cumsum(lengths, dtype=np.int64), last, side="right"))
