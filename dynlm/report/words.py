"""Words of a tokenised text: where each begins, whether it is repeated, and the gains by word and by class of word.

A word begins where a token's ``words`` is above 0, or with its article, and extends to the next beginning. Classes are
derived from the scored text alone. Legend: N tokens, G words in reading order, W different words, A articles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.compare import Gain, bootstrap_counts, gain_of
from dynlm.evaluation.score_file import Scores
from dynlm.report.token_cells import short, visible

_MAX_LETTERS = 48
"""Words are cut to this length: text without spaces has words as long as sentences."""
UNKNOWN = "<unk>"
"""The token for a rare word in corpora that are split into words; it is never counted as repeated."""
_RANKS = (0, 10, 100, 1000)
_POSITIONS = (0, 100, 1000)


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
    texts = [short(visible(surface.decode("utf-8", "backslashreplace")), _MAX_LETTERS) for surface in index]
    return Words(starts_G, lengths_G, index_G, texts, repeated_G & named_W[index_G], named_W[index_G])


def most_changed(words: Words, lower: Scores, higher: Scores, count: int) -> dict[str, list[WordGain]]:
    """Return the ``count`` words that "gained" most over the whole text and the ``count`` that "lost" most, sorted."""
    lower_W, higher_W, counts_W = words.sums(lower.nats), words.sums(higher.nats), words.counts()
    return {
        what: [WordGain(words.texts[w], int(counts_W[w]), float(lower_W[w]), float(higher_W[w])) for w in order]
        for what, order in zip(("gained", "lost"), extremes(lower_W - higher_W, count), strict=True)
    }


def extremes(gains_W: np.ndarray, count: int) -> tuple[list[int], list[int]]:
    """Return the indices of the ``count`` largest gains above zero and of the ``count`` largest losses, sorted."""
    order = np.argsort(-gains_W, kind="stable")
    gained, lost = order[:count], order[::-1][:count]
    return gained[gains_W[gained] > 0].tolist(), lost[gains_W[lost] < 0].tolist()


@dataclass(frozen=True)
class ClassGain:
    """One class of a division: its words and tokens, both variants' sums of nats, and the gain as ``compare``'s."""

    division: str
    name: str
    words: int
    tokens: int
    lower: float
    higher: float
    gain: Gain

    @property
    def saved(self) -> float:
        """Nats that the higher level saves on the class."""
        return self.lower - self.higher


def class_gains(lower: Scores, higher: Scores, resamples: int = 2000, seed: int = 0) -> list[ClassGain]:
    """Return the gain from ``lower`` to ``higher`` of each class in each division; empty classes are left out.

    The classes of a division hold every token once, so their sums of nats add up to the variants' sums.
    """
    words = find_words(lower)
    lower_N, higher_N = lower.nats.astype(np.float64), higher.nats.astype(np.float64)
    drawn = bootstrap_counts(len(lower.articles), resamples, seed)
    return [
        ClassGain(
            division,
            name,
            words=int(in_N[words.starts_G].sum()),
            tokens=int(in_N.sum()),
            lower=float(lower_N[in_N].sum()),
            higher=float(higher_N[in_N].sum()),
            gain=gain_of(lower.sums((lower_N - higher_N) * in_N), lower.sums(in_N), drawn),
        )
        for division, name, in_N in _classes(lower, words)
        if in_N.any()
    ]


def _classes(scores: Scores, words: Words) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (division, class, whether each token is in it) of every division."""
    unknown_G = np.array([text == UNKNOWN for text in words.texts], dtype=bool)[words.index_G]
    counted_G = words.named_G & ~unknown_G
    mentions = {
        "first mention in its article": counted_G & ~words.repeated_G,
        "met before in its article": counted_G & words.repeated_G,
    }
    kind_G = _kinds(words)[words.index_G]
    kinds = {
        f"{kind}, {name}": (kind_G == kind) & in_G
        for kind in ("name", "number", "other word")
        for name, in_G in mentions.items()
    }
    counts_W = np.bincount(words.index_G[counted_G], minlength=len(words.texts))
    rank_W = np.argsort(np.argsort(-counts_W, kind="stable"))
    ranks = {
        f"ranks {first + 1:,} to {last:,}" if last else f"rarer than rank {first:,}": in_G & counted_G
        for first, last, in_G in _ranges(rank_W[words.index_G], _RANKS)
    }
    rest = {"punctuation and ends of line": ~words.named_G, UNKNOWN: unknown_G}
    for division, classes in {"mention": mentions, "kind": kinds, "frequency": ranks}.items():
        for name, in_G in {**classes, **rest}.items():
            yield division, name, np.repeat(in_G, words.lengths_G)
    for first, last, in_N in _ranges(np.asarray(scores.position), _POSITIONS):
        name = f"tokens {first + 1:,} to {last:,} of their article" if last else f"tokens from {first + 1:,} on"
        yield "position", name, in_N


def _ranges(values: np.ndarray, firsts: tuple[int, ...]) -> Iterator[tuple[int, int | None, np.ndarray]]:
    """Yield the first value of each range, the one after its last (None: no limit), and which ``values`` are in it."""
    for first, last in zip(firsts, (*firsts[1:], None), strict=True):
        yield first, last, (values >= first) & (values < last if last else True)


def _kinds(words: Words) -> np.ndarray:
    """Return the kind of each different word (W): "number" where it begins with a digit, "name", or "other word".

    A name has a capital and never occurs without one in this text, so ``The`` at a sentence's start is not one.
    """
    initials = [(text.casefold(), next((letter for letter in text if letter.isalnum()), "")) for text in words.texts]
    lower = {text for text, letter in initials if letter.islower()}
    return np.array(
        [
            "number" if letter.isdecimal() else "name" if letter.isupper() and text not in lower else "other word"
            for text, letter in initials
        ]
    )
