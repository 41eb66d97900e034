"""Words of a tokenised text: where each begins, whether it is repeated, what it gained or lost.

A word begins where a token's ``words`` is above 0, or with its article, and extends to the next beginning.
Legend: N tokens, G words in reading order, W different words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.score_file import Scores
from dynlm.report.token_cells import visible

_MAX_LETTERS = 48
"""Words are cut to this length: text without spaces has words as long as sentences."""


@dataclass(frozen=True)
class Words:
    """The words of one text, the same for every variant."""

    starts_G: np.ndarray
    """Row of each word's first token (int64)."""
    lengths_G: np.ndarray
    """Tokens of each word."""
    index_G: np.ndarray
    """Index into ``texts`` of each word."""
    texts: list[str]
    """Each different word as it is displayed: without spaces around it, non-printable characters escaped, cut."""
    repeated_G: np.ndarray
    """Whether the word, in any case, occurred before in its article; never for punctuation (bool)."""
    named_G: np.ndarray
    """Whether the word has a letter or a digit: it is not punctuation (bool)."""

    @property
    def repeated_N(self) -> np.ndarray:
        """Whether each token belongs to a repeated word (bool)."""
        return np.repeat(self.repeated_G, self.lengths_G)

    def counts(self) -> np.ndarray:
        """Return how often each different word occurs (W)."""
        return np.bincount(self.index_G, minlength=len(self.texts))

    def sums(self, values_N: np.ndarray) -> np.ndarray:
        """Sum the tokens' values over all occurrences of each different word (W, float64)."""
        sums_G = np.add.reduceat(values_N.astype(np.float64), self.starts_G)
        return np.bincount(self.index_G, weights=sums_G, minlength=len(self.texts))


@dataclass(frozen=True)
class WordGain:
    """One word over the whole text: how often it occurs, and both levels' nats summed over its occurrences."""

    text: str
    count: int
    lower: float
    higher: float

    @property
    def gain(self) -> float:
        """Nats that the higher level saves on the word, over the whole text."""
        return self.lower - self.higher


def find_words(scores: Scores) -> Words:
    """Find the words of the text that ``scores`` is of."""
    begins_N = np.asarray(scores.words) > 0
    begins_N[scores.starts[:-1]] = True
    starts_G = np.flatnonzero(begins_N)
    lengths_G = np.diff(starts_G, append=len(scores))
    first_of_article = set(scores.starts.tolist())
    index: dict[bytes, int] = {}
    keys: list[str] = []
    index_G, repeated_G = np.zeros(len(starts_G), dtype=np.int64), np.zeros(len(starts_G), dtype=bool)
    previous: set[str] = set()
    for word, (first, length) in enumerate(zip(starts_G.tolist(), lengths_G.tolist(), strict=True)):
        if first in first_of_article:
            previous = set()
        surface = b"".join(scores.surface[first : first + length]).strip(b" ")
        index_G[word] = index.setdefault(surface, len(index))
        if len(index) > len(keys):
            keys.append(surface.decode("utf-8", "backslashreplace").casefold())
        key = keys[index_G[word]]
        repeated_G[word] = key in previous
        previous.add(key)
    named_W = np.array([any(letter.isalnum() for letter in key) for key in keys], dtype=bool)
    texts = [visible(surface.decode("utf-8", "backslashreplace")) for surface in index]
    texts = [
        text if len(text) <= _MAX_LETTERS else text[: _MAX_LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}" for text in texts
    ]
    return Words(starts_G, lengths_G, index_G, texts, repeated_G & named_W[index_G], named_W[index_G])


def most_changed(words: Words, lower: Scores, higher: Scores, count: int) -> tuple[list[WordGain], list[WordGain]]:
    """Return the ``count`` words that gained most over the whole text and the ``count`` that lost most, sorted."""
    lower_W, higher_W, counts_W = words.sums(lower.nats), words.sums(higher.nats), words.counts()

    def gain_of(word: int) -> WordGain:
        return WordGain(words.texts[word], int(counts_W[word]), float(lower_W[word]), float(higher_W[word]))

    gained, lost = extremes(lower_W - higher_W, count)
    return [gain_of(word) for word in gained], [gain_of(word) for word in lost]


def extremes(gains_W: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Return the indices of the ``count`` largest gains above zero and of the ``count`` largest losses, sorted."""
    order = np.argsort(-gains_W, kind="stable")
    gained, lost = order[:count], order[::-1][:count]
    return gained[gains_W[gained] > 0].tolist(), lost[gains_W[lost] < 0].tolist()
