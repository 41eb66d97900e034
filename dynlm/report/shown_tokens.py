"""A whole text's tokens as they are shown: an index into a table of texts for each token.

The same cells as ``cells.cells_of`` makes, for hundreds of thousands of tokens at once: what a surface looks like is
worked out once for each different one, and only runs of tokens that are no whole characters go through ``cells_of``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.score_file import Scores
from dynlm.report.token_cells import counted_cells, visible

JOINED = 0
"""The index of a token that is shown with the one before it: they only make a character together."""


@dataclass(frozen=True)
class ShownTokens:
    """``which`` is an index into ``texts`` for each token; ``ends_line`` are the indices of texts that end a line."""

    which: np.ndarray
    texts: list[str]
    ends_line: list[int]


def shown_tokens(scores: Scores) -> ShownTokens:
    """The text of every token; a cell never reaches over the border of two articles."""
    index: dict[tuple[str, bool], int] = {("", False): JOINED}
    of_surface: dict[bytes, int] = {}
    for surface in dict.fromkeys(scores.surface):
        try:
            # An empty token is left to the runs too: it may stand within a character.
            text = surface.decode() or None
        except UnicodeDecodeError:
            text = None
        of_surface[surface] = -1 if text is None else index.setdefault((visible(text), text.endswith("\n")), len(index))
    which = np.fromiter((of_surface[surface] for surface in scores.surface), dtype=np.int64, count=len(scores))
    for first, end in _runs(which < 0, scores.starts):
        row = first
        for cell, tokens in counted_cells((scores.surface[place], 0.0, 0.0) for place in range(first, end)):
            which[row] = index.setdefault((cell.text, cell.ends_line), len(index))
            which[row + 1 : row + tokens] = JOINED
            row += tokens
    ends_line = [place for (_, ends), place in index.items() if ends]
    return ShownTokens(which, [text for text, _ in index], ends_line)


def _runs(wanted_N: np.ndarray, starts: np.ndarray) -> list[tuple[int, int]]:
    """First row and end of each run of wanted rows, parted where an article begins."""
    rows = np.flatnonzero(wanted_N)
    if not len(rows):
        return []
    new = np.diff(rows, prepend=rows[0] - 2) > 1
    new |= np.isin(rows, starts)
    places = np.flatnonzero(new)
    lasts = np.append(places[1:], len(rows)) - 1
    return [(int(rows[first]), int(rows[last]) + 1) for first, last in zip(places, lasts, strict=True)]
