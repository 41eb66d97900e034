"""Which words gain: the tokens of a text divided by what their words are, where they stand and how common they are.

Everything is told by the text that was read alone. Letters in names of arrays: N tokens, G words in reading order,
W different words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.compare import Gain, drawn_articles, gain_of
from dynlm.evaluation.score_file import Scores
from dynlm.report.words import Words, words_of

UNKNOWN = "<unk>"
"""What stands for a rare word in corpora that are cut in words; it is no word that can come again."""
_RANKS = (10, 100, 1000)
_POSITIONS = (100, 1000)


@dataclass(frozen=True)
class ClassGain:
    """One class of a division: how many words and tokens, both arms' sums of nats, and the gain of each token.

    The gain's 95 % interval is a paired bootstrap's over articles, as in ``evaluation.compare``.
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
        """Nats that the higher arm saves on the class."""
        return self.lower - self.higher


def class_gains(lower: Scores, higher: Scores, resamples: int = 2000, seed: int = 0) -> list[ClassGain]:
    """What the classes of each division gain from ``lower`` to ``higher``; a class without a token is left out.

    Each division's classes are all tokens, each once, so their sums of nats are the readings' sums.
    """
    words = words_of(lower)
    lower_N, higher_N = lower.nats.astype(np.float64), higher.nats.astype(np.float64)
    drawn = drawn_articles(len(lower.articles), resamples, seed)
    begins_N = np.zeros(len(lower), dtype=bool)
    begins_N[words.starts] = True
    gains = []
    for division, name, in_N in _classes(lower, words):
        if not in_N.any():
            continue
        saved_A, tokens_A = lower.sums((lower_N - higher_N) * in_N), lower.sums(in_N)
        gains.append(
            ClassGain(
                division,
                name,
                int((begins_N & in_N).sum()),
                int(in_N.sum()),
                float(lower_N[in_N].sum()),
                float(higher_N[in_N].sum()),
                gain_of(saved_A, tokens_A, drawn),
            )
        )
    return gains


def _classes(scores: Scores, words: Words) -> Iterator[tuple[str, str, np.ndarray]]:
    """(division, class, its tokens) of every division."""
    lengths_G = np.diff(np.append(words.starts, len(scores)))
    unknown_G = np.array([text == UNKNOWN for text in words.texts], dtype=bool)[words.which]
    counted_G = words.named & ~unknown_G
    kinds_G = _names(words)[words.which]
    bare = [("punctuation and ends of line", ~words.named), (UNKNOWN, unknown_G)]

    came = [("first mention in its article", ~words.repeated), ("met before in its article", words.repeated)]
    divisions: dict[str, list[tuple[str, np.ndarray]]] = {
        "mention": [*((name, counted_G & in_G) for name, in_G in came), *bare],
        "kind": [
            *(
                (f"{kind}, {name}", counted_G & of_kind_G & in_G)
                for kind, of_kind_G in (("name", kinds_G == 1), ("number", kinds_G == 2), ("other word", kinds_G == 0))
                for name, in_G in came
            ),
            *bare,
        ],
        "frequency": [*((name, counted_G & in_G) for name, in_G in _frequencies(words, counted_G)), *bare],
    }
    for division, classes in divisions.items():
        for name, in_G in classes:
            yield division, name, np.repeat(in_G, lengths_G)
    first = 0
    for last in (*_POSITIONS, None):
        name = f"tokens {first + 1:,} to {last:,} of their article" if last else f"tokens from {first + 1:,} on"
        in_N = np.asarray(scores.position) >= first
        yield "position", name, in_N & (scores.position < last) if last else in_N
        first = last or first


def _names(words: Words) -> np.ndarray:
    """Of each different word (W): 2 where it begins with a digit, 1 where it is a name, else 0.

    A name is written with a capital and never without one in this text: so ``The`` at a sentence's start is none.
    """
    opening = [next((letter for letter in text if letter.isalnum()), "") for text in words.texts]
    small = {text.casefold() for text, letter in zip(words.texts, opening, strict=True) if letter.islower()}
    return np.array(
        [
            2 if letter.isdecimal() else int(letter.isupper() and text.casefold() not in small)
            for text, letter in zip(words.texts, opening, strict=True)
        ]
    )


def _frequencies(words: Words, counted_G: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Classes of words (G) by their rank among the text's words, the most frequent first."""
    counts_W = np.bincount(words.which[counted_G], minlength=len(words.texts))
    rank_W = np.empty(len(counts_W), dtype=np.int64)
    rank_W[np.argsort(-counts_W, kind="stable")] = np.arange(len(counts_W))
    rank_G, first = rank_W[words.which], 0
    for last in (*_RANKS, None):
        name = f"ranks {first + 1:,} to {last:,}" if last else f"rarer than rank {first:,}"
        yield name, (rank_G >= first) & ((rank_G < last) if last else True)
        first = last or first
