"""The words that gained, pair by pair, as a page and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dynlm.evaluation.tables import gain_cell
from dynlm.report.word_classes import ClassGain, class_gains
from dynlm.report.words import WordGain, find_words, most_changed
from dynlm.runtime.text import markdown
from dynlm.study.results import Done, Results
from dynlm.study.tables import table

_WORDS = 15
_DIVISIONS = {
    "mention": "By mention: did the word come before in its article?",
    "kind": "By kind of word: names (a capital, and never without one in this text), numbers, others",
    "frequency": "By frequency: the word's rank among all of this text's words",
    "position": "By the token's position in its article",
}


def words_of_pairs(
    results: Results, pairs: list[tuple[str, str]], resamples: int, seed: int
) -> tuple[str, list[dict[str, Any]]]:
    """(the page, the same fit for JSON) of the pairs' words, each variant under its better reset policy."""
    parts = [
        "# Which words gained\n",
        "Sums of nats over each class of tokens, divided once by its tokens; the interval is a paired bootstrap's over "
        f"articles ({resamples:,} resamples, seed {seed}). Each variant is read under the reset policy that suits it "
        "better. A piece of a word counts with its word.\n",
    ]
    content = []
    for lower, higher in pairs:
        low, high = results.best(lower), results.best(higher)
        gains = class_gains(low.scores, high.scores, resamples, seed)
        gained, lost = most_changed(find_words(low.scores), low.scores, high.scores, _WORDS)
        parts += _page_of(low, high, gains, gained, lost)
        content.append(
            {
                "lower": low.reading.label,
                "higher": high.reading.label,
                "classes": [asdict(each) for each in gains],
                "gained": [{**asdict(word), "gain": word.gain} for word in gained],
                "lost": [{**asdict(word), "gain": word.gain} for word in lost],
            }
        )
    return "\n".join(parts), content


def _page_of(low: Done, high: Done, gains: list[ClassGain], gained: list[WordGain], lost: list[WordGain]) -> list[str]:
    parts = [f"## {markdown(low.reading.label)} \N{RIGHTWARDS ARROW} {markdown(high.reading.label)}\n"]
    saved = low.nats - high.nats
    for division, heading in _DIVISIONS.items():
        rows = [
            [
                markdown(each.name),
                f"{each.words:,}",
                f"{each.tokens:,}",
                f"{each.lower / each.tokens:.4f}",
                f"{each.higher / each.tokens:.4f}",
                gain_cell(each.gain),
                f"{100 * each.saved / saved:.1f} %" if saved else "-",
            ]
            for each in gains
            if each.division == division
        ]
        headings = ["class", "words", "tokens", "nats/token before", "after", "gain [95 %]", "share of the gain"]
        parts += [f"{heading}\n", table(headings, rows)]
    for heading, words in (("gained most", gained), ("lost most", lost)):
        if words:
            rows = [
                [markdown(word.text), f"{word.count:,}", f"{word.gain:+.1f}", f"{word.gain / word.count:+.3f}"]
                for word in words
            ]
            headings = ["word", "times", "nats in all", "nats each time"]
            parts += [f"Words that {heading}\n", table(headings, rows)]
    return parts
