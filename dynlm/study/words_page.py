"""The words that gained, pair by pair, as a page and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dynlm.evaluation.tables import gain_cell
from dynlm.report.words import ClassGain, WordGain, class_gains, find_words, most_changed
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
    """Return (the page, the same ready for JSON) of the pairs' words, each variant under its better reset policy."""
    parts = [
        "# Which words gained\n",
        "Sums of nats over each class of tokens, divided once by its tokens; the interval is of a paired bootstrap "
        f"over articles ({resamples:,} resamples, seed {seed}). Each variant is read under its better reset "
        "policy. A piece of a word counts with its word.\n",
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
        rows = [["class", "words", "tokens", "nats/token before", "after", "gain [95 %]", "share of the gain"]]
        for each in gains:
            if each.division == division:
                per_token = [f"{nats / each.tokens:.4f}" for nats in (each.lower, each.higher)]
                share = f"{100 * each.saved / saved:.1f} %" if saved else "-"
                counts = [f"{each.words:,}", f"{each.tokens:,}"]
                rows.append([markdown(each.name), *counts, *per_token, gain_cell(each.gain), share])
        parts += [f"{heading}\n", table(rows)]
    for heading, words in (("gained most", gained), ("lost most", lost)):
        rows = [["word", "times", "nats in all", "nats each time"]]
        for word in words:
            rows.append([markdown(word.text), f"{word.count:,}", f"{word.gain:+.1f}", f"{word.gain / word.count:+.3f}"])
        parts += [f"Words that {heading}\n", table(rows)] if words else []
    return parts
