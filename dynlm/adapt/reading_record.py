"""What a memory file records of a reading, for people: how the memory did beside the static model, and on which words.

Nothing is predicted from it. Words are those with a letter or a digit, without what surrounds it; only those with the
largest gains and losses are kept, so that sums over several sittings are of what was kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from dynlm.errors import UserError

MOST_WORDS, MOST_TEXTS = 200, 20


class WordSum(NamedTuple):
    """How often a word was read, and the nats that it cost in all, by the static model and with the memory."""

    times: int
    static: float
    nats: float

    @property
    def gain(self) -> float:
        """Nats that the memory saved on the word."""
        return self.static - self.nats

    def plus(self, other: WordSum) -> WordSum:
        """Return the sums over both."""
        return WordSum(self.times + other.times, self.static + other.static, self.nats + other.nats)


Words = Mapping[str, WordSum]


@dataclass(frozen=True)
class ReadingRecord:
    """Tokens that both models scored, their nats in all, the names of the texts read last, and words."""

    tokens: int = 0
    static: float = 0.0
    nats: float = 0.0
    texts: tuple[str, ...] = ()
    words: Words = field(default_factory=dict)

    def plus(self, other: ReadingRecord) -> ReadingRecord:
        """Return the record of both, ``other`` being read last."""
        texts = (*self.texts, *other.texts)[-MOST_TEXTS:]
        sums = self.tokens + other.tokens, self.static + other.static, self.nats + other.nats
        return ReadingRecord(*sums, texts, add_words(self.words, other.words, MOST_WORDS))

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {
            **asdict(self),
            "texts": list(self.texts),
            "words": {word: list(own) for word, own in self.words.items()},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: object = None) -> ReadingRecord:
        """Return the record that ``to_dict`` described; nothing gives an empty one.

        Raises UserError, naming ``where`` it is, for anything else.
        """
        if not content:
            return cls()
        try:
            sums_of = content["words"].items()
            words = {str(word): WordSum(int(n), float(static), float(own)) for word, (n, static, own) in sums_of}
            sums = int(content["tokens"]), float(content["static"]), float(content["nats"])
            return cls(*sums, tuple(map(str, content["texts"])), words)
        except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise UserError(f"a damaged record of a reading ({error!r})", where, "read the texts again") from error


def add_words(one: Words, other: Words, most: int | None = None) -> dict[str, WordSum]:
    """Return the sums of both; with ``most`` of so many words, those with the largest gains and losses."""
    sums = dict(one)
    for word, own in other.items():
        sums[word] = sums[word].plus(own) if word in sums else own
    if most is None or len(sums) <= most:
        return sums
    return dict(sorted(sums.items(), key=lambda item: (-abs(item[1].gain), item[0]))[:most])


def most_changed(words: Words, count: int) -> tuple[list[str], list[str]]:
    """Return the ``count`` words with the largest gains, and those with the largest losses, largest first."""
    order = sorted(words, key=lambda word: (-words[word].gain, word))
    gained, lost = order[:count], order[::-1][:count]
    return [word for word in gained if words[word].gain > 0], [word for word in lost if words[word].gain < 0]
