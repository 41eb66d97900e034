"""Passages of articles: which ones a heat map shows, and the rows that they have in a score file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores

PASSAGE = 180
"""Default length of a passage, in tokens."""
_MAX_LENGTH = 10_000

Request = tuple[int | None, int | None, int | None]
"""A requested passage: article (from 1), position of its first token (from 0), tokens; None where not given."""


@dataclass(frozen=True)
class Passage:
    """``length`` tokens of one article: its index in the split and the first token's position, both from 0."""

    article: int
    start: int
    length: int

    def rows(self, scores: Scores) -> slice:
        """Return the passage's rows in ``scores``, which must hold it."""
        first = scores.rows(self.article).start
        first += self.start - int(scores.position[first])
        return slice(first, first + self.length)


def article_gains(lower: Scores, higher: Scores) -> np.ndarray:
    """Return the nats that ``higher`` saves over each article, in the order of the rows."""
    return lower.sums(lower.nats) - higher.sums(higher.nats)


def article_passages(scores: Scores, article: int, length: int = PASSAGE) -> list[Passage]:
    """Return the opening and the middle of the article with this index, or all of it where it is shorter."""
    rows = scores.rows(article)
    first, count = int(scores.position[rows.start]), rows.stop - rows.start
    if count <= length:
        return [Passage(article, first, count)]
    length = min(length, count // 2)
    middle = max(length, (count - length) // 2)
    # The second passage begins at the start of a word.
    word_starts = np.flatnonzero(scores.words[rows][length : middle + 1] > 0)
    if len(word_starts):
        middle = length + int(word_starts[-1])
    return [Passage(article, first, length), Passage(article, first + middle, length)]


def select_passages(lower: Scores, higher: Scores, request: Request = (None, None, None)) -> list[Passage]:
    """Return the requested passage; by default the middle and the opening of the article with the largest gain.

    Raises UserError, with the valid range, where the passage is not wholly in the text.
    """
    article, start, length = request
    largest_gain = int(lower.articles[np.argmax(article_gains(lower, higher))])
    if request == (None, None, None):
        return article_passages(lower, largest_gain)[::-1]
    article = largest_gain if article is None else article - 1
    if article not in lower.articles:
        low, high = lower.articles.min() + 1, lower.articles.max() + 1
        raise UserError(f"article {article + 1} is not in the score file", lower.path, f"choose from {low} to {high}")
    positions = lower.position[lower.rows(article)]
    first, last = int(positions[0]), int(positions[-1])
    start = first if start is None else start
    length = max(1, min(PASSAGE, last + 1 - start)) if length is None else length
    if length < 1 or start < first or start + length - 1 > last:
        what = f"article {article + 1} has no {length} tokens from {start}"
        raise UserError(what, lower.path, f"its tokens are {first} to {last}, counted from 0")
    if length > _MAX_LENGTH:
        raise UserError(f"{length} tokens are too many for a heat map", do=f"choose at most {_MAX_LENGTH}")
    return [Passage(article, start, length)]


def reason(lower: Scores, higher: Scores, passage: Passage) -> str:
    """Return why a passage is shown by default; empty for other passages."""
    gains = article_gains(lower, higher)
    best = int(np.argmax(gains))
    shown = article_passages(lower, int(lower.articles[best]))
    if passage not in shown:
        return ""
    part = "All" if len(shown) == 1 else "The opening" if passage == shown[0] else "The middle"
    which = "the article with the largest gain" if len(gains) > 1 else "the article"
    read = f", of which {passage.start:,} tokens were read before" if passage.start else ""
    return f"{part} of {which} ({gains[best]:+,.0f} nats in all){read}."
