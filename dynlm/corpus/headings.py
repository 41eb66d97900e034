"""Headings in tokens: where a text says that something new begins."""

from __future__ import annotations

import re

import numpy as np

# A line of WikiText's ` = Title = ` or ` = = Section = = `, or of Markdown's `## Section`.
_HEADING = re.compile(rb"^(?: (=(?: =)*) \S.*? \1 *|#{1,6} \S.*)$", re.MULTILINE)


def headings_starting(text: str, lengths: np.ndarray) -> np.ndarray:
    """The tokens of ``text`` (tokens of ``lengths`` bytes) in which a heading's line begins, ascending (int64)."""
    begins = np.array([found.start() for found in _HEADING.finditer(text.encode())], dtype=np.int64)
    return np.unique(np.searchsorted(np.cumsum(lengths, dtype=np.int64), begins, side="right"))
