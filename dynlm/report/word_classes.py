"""Gains by class of word: tokens divided by the kind, frequency and position of their words.

Classes are derived from the scored text alone. Legend: N tokens, G words in reading order, W different words,
A articles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.compare import Gain, bootstrap_counts, gain_of
from dynlm.evaluation.score_file import Scores
from dynlm.report.words import Words, find_words

UNKNOWN = "<unk>"
"""The token for a rare word in corpora that are split into words; it is never counted as repeated."""
_RANKS = (0, 10, 100, 1000)
_POSITIONS = (0, 100, 1000)


@dataclass(frozen=True)
class ClassGain:
    """One class of a division: its words and tokens, both variants' sums of nats, and the gain per token.

    The gain has a 95 % paired bootstrap interval over articles, as in ``evaluation.compare``.
    """

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
    initials = [next((letter for letter in text if letter.isalnum()), "") for text in words.texts]
    lower = {text.casefold() for text, letter in zip(words.texts, initials, strict=True) if letter.islower()}
    number_W = [letter.isdecimal() for letter in initials]
    name_W = [
        letter.isupper() and text.casefold() not in lower for text, letter in zip(words.texts, initials, strict=True)
    ]
    return np.select([np.array(number_W), np.array(name_W)], ["number", "name"], "other word")
