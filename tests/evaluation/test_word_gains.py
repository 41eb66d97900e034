"""What words cost with a memory and without."""

from __future__ import annotations

import numpy as np
import pytest

from dynlm.adapt.reading_record import MOST_WORDS, ReadingRecord, WordSum, add_words, most_changed
from dynlm.errors import UserError
from dynlm.evaluation.text_result import TextResult
from dynlm.evaluation.word_gains import changes_text, record_of, word_sums


def result_of(static: bool = True) -> TextResult:
    """ "Rome", said Rome." in tokens; the second token continues the first one's word."""
    surface = [b'"', b"Ro", b"me", b'",', b" said", b" ", b"Rome", b".\n"]
    words = np.array([1, 0, 0, 0, 1, 1, 0, 1])
    own, other = np.array([1, 2, 3, 1, 4, 1, 1, 9], np.float32), np.array([1, 4, 5, 1, 3, 1, 3, 9], np.float32)
    return TextResult(np.arange(8), surface, words, own, static=other if static else None)


def test_words_have_the_sums_of_their_tokens() -> None:
    assert word_sums(result_of()) == {"Rome": WordSum(2, 15.0, 9.0), "said": WordSum(1, 3.0, 4.0)}
    assert word_sums(result_of(static=False)) == {}
    record = record_of([result_of(), result_of(static=False), result_of()], ["one", "two"])
    assert (record.tokens, record.static, record.nats, record.texts) == (16, 54.0, 44.0, ("one", "two"))
    assert changes_text(record.words) == [
        "expects more (nats a time, static -> memory): Rome (4 times, 7.50 -> 4.50)",
        "expects less: said (2 times, 3.00 -> 4.00)",
    ]
    assert record_of([result_of(static=False)]) == ReadingRecord()


def test_the_words_that_changed_most_are_first_and_kept() -> None:
    words = {f"w{n}": WordSum(1, float(n), 100.0) for n in range(50, 150)}
    gained, lost = most_changed(words, 3)
    assert (gained, lost) == (["w149", "w148", "w147"], ["w50", "w51", "w52"])
    assert add_words({"a": WordSum(1, 2.0, 1.0)}, {"a": WordSum(2, 1.0, 1.0)}) == {"a": WordSum(3, 3.0, 2.0)}
    assert [*add_words(words, {}, 2)] == ["w50", "w149"]
    many = ReadingRecord(words={f"w{n}": WordSum(1, float(n), 0.0) for n in range(MOST_WORDS + 9)})
    kept = many.plus(ReadingRecord(1, 2.0, 3.0, ("t",)))
    assert len(kept.words) == MOST_WORDS and "w8" not in kept.words and "w9" in kept.words
    assert (kept.tokens, kept.static, kept.nats, kept.texts) == (1, 2.0, 3.0, ("t",))


def test_a_record_is_restored_from_json_and_damage_is_named() -> None:
    record = record_of([result_of()], ["one"])
    assert ReadingRecord.from_dict(record.to_dict()) == record
    assert ReadingRecord.from_dict({}) == ReadingRecord()
    for damaged in ({"words": 1}, {**record.to_dict(), "words": {"a": [1]}}, {**record.to_dict(), "tokens": "x"}):
        with pytest.raises(UserError, match=r"me: a damaged record"):
            ReadingRecord.from_dict(damaged, "me")
