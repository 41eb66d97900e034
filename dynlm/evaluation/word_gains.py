"""Words of a text that was read: how often each occurred, and what it cost with the memory and without.

Legend: N tokens, G words in reading order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dynlm.adapt.reading_record import ReadingRecord, Words, WordSum, add_words, most_changed
from dynlm.evaluation.text_result import TextResult
from dynlm.runtime.text import printable

_LETTERS = 40
"""Words are cut to this length: text without spaces has words as long as sentences."""


def word_sums(result: TextResult) -> dict[str, WordSum]:
    """Return the sums of each word of a text that both models read; none where the static model did not."""
    if result.static is None or not len(result):
        return {}
    begins_N = result.words > 0
    begins_N[0] = True
    starts_G = np.flatnonzero(begins_N)
    static_G, own_G = (np.add.reduceat(nats_N.astype(np.float64), starts_G) for nats_N in (result.static, result.nats))
    sums: dict[str, WordSum] = {}
    ends = [*starts_G[1:].tolist(), len(result)]
    for first, end, static, own in zip(starts_G.tolist(), ends, static_G.tolist(), own_G.tolist(), strict=True):
        word = _core(b"".join(result.surface[first:end]).decode("utf-8", "replace"))
        if word:
            one = WordSum(1, static, own)
            sums[word] = sums[word].plus(one) if word in sums else one
    return sums


def record_of(results: Sequence[TextResult], titles: Sequence[str] = ()) -> ReadingRecord:
    """Return the record of texts, with all their words; without figures where the static model did not read them."""
    words: dict[str, WordSum] = {}
    both = [result for result in results if result.static_total is not None]
    for result in both:
        words = add_words(words, word_sums(result))
    static, own = (sum(sums) for sums in ((r.static_total or 0.0 for r in both), (r.total for r in both)))
    return ReadingRecord(sum(map(len, both)), static, own, tuple(titles), words)


def words_text(words: Words, chosen: Sequence[str]) -> str:
    """Return words on one line, each with how often it occurred, and its mean nats by the static model and then."""
    parts = []
    for word in chosen:
        times, static, own = words[word]
        often = f"{times:,} times, " if times > 1 else ""
        parts.append(f"{printable(word)} ({often}{static / max(1, times):.2f} -> {own / max(1, times):.2f})")
    return ", ".join(parts)


def changes_text(words: Words, count: int = 8) -> list[str]:
    """Return the lines that say which words the memory came to expect more, and less."""
    gained, lost = most_changed(words, count)
    lines = [f"expects more (nats a time, static -> memory): {words_text(words, gained)}"] if gained else []
    return lines + ([f"expects less: {words_text(words, lost)}"] if lost else [])


def _core(text: str) -> str:
    """Return a word without what surrounds its letters and digits; empty where it has none."""
    named = [index for index, letter in enumerate(text) if letter.isalnum()]
    return text[named[0] : named[-1] + 1][:_LETTERS] if named else ""
