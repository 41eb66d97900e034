"""Words of a text that was read as tokens: where each begins, whether it came before, what it gained or lost.

A word begins where a token's ``words`` says so, or with its article, and goes on to the next beginning.
Letters in names of arrays: N tokens, G words in reading order, W different words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.score_file import Scores
from dynlm.report.token_cells import visible

_LONGEST = 48


@dataclass(frozen=True)
class Words:
    """The words of one text, the same for every arm that read it."""

    starts: np.ndarray
    """Row of each word's first token (G, int64)."""
    which: np.ndarray
    """Index into ``texts`` of each word (G)."""
    texts: list[str]
    """Each different word once, as it is shown: spaces around it left out, nothing invisible in it, cut where long."""
    repeated: np.ndarray
    """Whether the word, whatever its case, came before in its article (G, bool); never for bare punctuation."""
    named: np.ndarray
    """Whether there is a letter or a digit in the word: it is no bare punctuation (G, bool)."""

    def repeated_tokens(self, tokens: int) -> np.ndarray:
        """Whether each of the text's ``tokens`` belongs to a word that came before in its article (N, bool)."""
        return np.repeat(self.repeated, np.diff(np.append(self.starts, tokens)))

    def counts(self) -> np.ndarray:
        """How often each different word occurs (W)."""
        return np.bincount(self.which, minlength=len(self.texts))

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Sum of the tokens' values over all occurrences of each different word (W, float64)."""
        of_each = np.add.reduceat(values_N.astype(np.float64), self.starts)
        return np.bincount(self.which, weights=of_each, minlength=len(self.texts))


@dataclass(frozen=True)
class WordGain:
    """One word over the whole text: how often it occurs, and both levels' nats summed over all its occurrences."""

    text: str
    count: int
    lower: float
    higher: float

    @property
    def gain(self) -> float:
        """Nats that the higher level saves on the word, over the whole text."""
        return self.lower - self.higher


def words_of(scores: Scores) -> Words:
    """Find the words of the text that ``scores`` is of."""
    begins_N = np.asarray(scores.words) > 0
    begins_N[scores.starts[:-1]] = True
    starts = np.flatnonzero(begins_N)
    ends = np.append(starts[1:], len(scores)).tolist()
    article_G = np.asarray(scores.article)[starts].tolist()
    index: dict[bytes, int] = {}
    keys: list[str] = []
    which, repeated = np.zeros(len(starts), dtype=np.int64), np.zeros(len(starts), dtype=bool)
    seen: set[str] = set()
    for place, (first, end) in enumerate(zip(starts.tolist(), ends, strict=True)):
        if place and article_G[place] != article_G[place - 1]:
            seen = set()
        surface = b"".join(scores.surface[first:end]).strip(b" ")
        word = index.setdefault(surface, len(index))
        if word == len(keys):
            keys.append(surface.decode("utf-8", "backslashreplace").casefold())
        key = keys[word]
        which[place], repeated[place] = word, key in seen
        seen.add(key)
    named = np.array([any(letter.isalnum() for letter in key) for key in keys], dtype=bool)
    texts = [_cut(visible(surface.decode("utf-8", "backslashreplace"))) for surface in index]
    return Words(starts, which, texts, repeated & named[which], named[which])


def most_changed(words: Words, lower: Scores, higher: Scores, count: int) -> tuple[list[WordGain], list[WordGain]]:
    """The ``count`` words that gained most over the whole text and the ``count`` that lost most, largest first."""
    lower_W, higher_W, counts_W = words.sums(lower.nats), words.sums(higher.nats), words.counts()
    gained, lost = (
        [
            WordGain(words.texts[word], int(counts_W[word]), float(lower_W[word]), float(higher_W[word]))
            for word in order
        ]
        for order in extremes(lower_W - higher_W, count)
    )
    return gained, lost


def extremes(gains_W: np.ndarray, count: int) -> tuple[Sequence[int], Sequence[int]]:
    """Indices of the ``count`` largest gains above zero and of the ``count`` largest losses, largest first."""
    order = np.argsort(-gains_W, kind="stable")
    gained = [int(word) for word in order[:count] if gains_W[word] > 0]
    return gained, [int(word) for word in order[::-1][:count] if gains_W[word] < 0]


def _cut(text: str) -> str:
    """Writing without spaces has words as long as sentences."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
