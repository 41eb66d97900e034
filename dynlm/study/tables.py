"""The figures of a study, and the words that gained, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from typing import Any

from dynlm.evaluation.compare import reading_of
from dynlm.evaluation.tables import figures_of, gain_cell, markdown_rows
from dynlm.report.words import class_gains, find_words, most_changed
from dynlm.runtime.cost import Cost
from dynlm.runtime.text import csv_field, markdown
from dynlm.study.results import Done, Results
from dynlm.study.steps import Budget
from dynlm.study.variants import Reading, slug

_FIGURES = ("nats", "nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")
_WORDS = 15
_DIVISIONS = {
    "mention": "By mention: did the word come before in its article?",
    "kind": "By kind of word: names (a capital, and never without one in this text), numbers, others",
    "frequency": "By frequency: the word's rank among all of this text's words",
    "position": "By the token's position in its article",
}


def _table(rows: list[list[str]], left: int = 1) -> str:
    return "\n".join(markdown_rows(rows, left)) + "\n"


def figures_table(results: Results) -> str:
    """Return one line for each reading, with its context, its gain over each baseline, and what it took."""
    names = reading_names(results)
    rows = [["variant", "reset", "order", *map(markdown, names), "nats/token", "ppl/token", "ppl/word", "bits/byte"]]
    rows[0] += [f"gain over {markdown(over.name)} [95 %]" for over in results.rows[0].over]
    rows[0] += ["seconds", "tokens/s", "peak MB"]
    for row in results.rows:
        reading, chosen = row.done.reading, reading_of(row.done.scores.protocol)
        cells = [markdown(reading.variant.name), reading.reset or "-", reading.order or "-"]
        cells += [markdown(str(chosen.get(name, "-"))) for name in names]
        gains = [gain_cell(over.gain) for over in row.over]
        rows.append([*cells, *figures_of(row.figures)[:-1], *gains, *_cost_cells(row.done)])
    return _table(rows, left=3)


def reading_names(results: Results) -> list[str]:
    """Return the names of the model's options of reading that are set (not 0) in any row, such as context, stride."""
    names: dict[str, None] = {}
    for row in results.rows:
        names |= {name: None for name, value in reading_of(row.done.scores.protocol).items() if value}
    return [*names]


def _cost_cells(done: Done) -> list[str]:
    if (cost := done.cost) is None:
        return ["-"] * 3
    speed = f"{len(done.scores) / cost.seconds:,.0f}" if cost.seconds else "-"
    peak = "not measured" if cost.peak_memory is None else f"{cost.peak_memory / 1e6:,.0f}"
    return [f"{cost.seconds:,.1f}", speed, peak]


def budget_table(results: Results) -> str:
    """Return a line for each variant and reset policy: what was read to find its rates, g and so on."""
    budgets = {}
    for row in results.rows:
        reading, steps = row.done.reading, [each.budget for each in row.done.prepared]
        budgets[reading.variant.name, reading.reset or "-"] = Budget(
            sum(each.settings for each in steps),
            max((each.tokens for each in steps), default=0),
            sum(each.learned_on for each in steps),
        )
    rows = [["variant", "reset", "settings tried", "tokens each", "tokens learned on"]]
    for (name, reset), budget in budgets.items():
        rows.append([markdown(name), reset, *(f"{number:,}" if number else "-" for number in vars(budget).values())])
    return _table(rows, left=2)


def as_csv(results: Results) -> str:
    """Return the figures as comma-separated values, unrounded; an empty field where there is none.

    Names are escaped so that no spreadsheet takes them for a formula.
    """
    records, names = [], reading_names(results)
    for row in results.rows:
        cost, chosen = row.done.cost, reading_of(row.done.scores.protocol)
        record = _named(row.done.reading) | {name: getattr(results.text, name) for name in ("tokens", "words", "bytes")}
        record |= {name: getattr(row.figures, name) for name in _FIGURES}
        for over in row.over:
            key = f"gain_over_{slug(over.name).replace('-', '_')}"
            gain = vars(over.gain) if over.gain else {}
            record |= {key: gain.get("nats"), f"{key}_low": gain.get("low"), f"{key}_high": gain.get("high")}
        record |= {csv_field(name): chosen.get(name) for name in names}
        record |= cost._asdict() if cost else dict.fromkeys(Cost._fields)
        records.append({k: csv_field(value) if isinstance(value, str) else value for k, value in record.items()})
    written = io.StringIO()
    writer = csv.DictWriter(written, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return written.getvalue()


def as_dict(results: Results) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    text = results.text
    return {
        "text": {name: getattr(text, name) for name in ("corpus", "split", "articles", "tokens", "words", "bytes")},
        "resamples": text.resamples,
        "seed": text.seed,
        "readings": [
            {
                **_named(row.done.reading),
                **{name: getattr(row.figures, name) for name in _FIGURES},
                "gains": [
                    {
                        "over": over.baseline and _named(over.baseline.reading),
                        **(vars(over.gain) if over.gain else {"nats": None}),
                    }
                    for over in row.over
                ],
                "reading": reading_of(row.done.scores.protocol),
                "cost": row.done.cost and row.done.cost._asdict(),
                "found": [{"slot": each.slot, **vars(each.budget)} for each in row.done.prepared],
                "file": str(row.done.scores.path),
            }
            for row in results.rows
        ],
    }


def _named(reading: Reading) -> dict[str, Any]:
    return {"variant": reading.variant.name, "reset": reading.reset, "order": reading.order}


def words_of_pairs(results: Results, pairs: list[tuple[str, str]]) -> tuple[str, list[dict[str, Any]]]:
    """Return (the page, the same ready for JSON) of the pairs' words, each variant under its better reset policy."""
    resamples, seed = results.text.resamples, results.text.seed
    parts = [
        "# Which words gained\n",
        "Sums of nats over each class of tokens, divided once by its tokens; the interval is of a paired bootstrap "
        f"over articles ({resamples:,} resamples, seed {seed}). Each variant is read under its better reset "
        "policy. A piece of a word counts with its word.\n",
    ]
    content = []
    for low, high in ((results.best(lower), results.best(higher)) for lower, higher in pairs):
        gains = class_gains(low.scores, high.scores, resamples, seed)
        changed = most_changed(find_words(low.scores), low.scores, high.scores, _WORDS)
        entry: dict[str, Any] = {"lower": low.reading.label, "higher": high.reading.label}
        entry["classes"] = [asdict(each) for each in gains]
        parts.append(f"## {markdown(low.reading.label)} \N{RIGHTWARDS ARROW} {markdown(high.reading.label)}\n")
        saved = low.nats - high.nats
        for division, heading in _DIVISIONS.items():
            rows = [["class", "words", "tokens", "nats/token before", "after", "gain [95 %]", "share of the gain"]]
            for each in (each for each in gains if each.division == division):
                per_token = [f"{nats / each.tokens:.4f}" for nats in (each.lower, each.higher)]
                share = f"{100 * each.saved / saved:.1f} %" if saved else "-"
                counts = [f"{each.words:,}", f"{each.tokens:,}"]
                rows.append([markdown(each.name), *counts, *per_token, gain_cell(each.gain), share])
            parts += [f"{heading}\n", _table(rows)]
        for what, words in changed.items():
            entry[what] = [{**asdict(word), "gain": word.gain} for word in words]
            rows = [["word", "times", "nats in all", "nats each time"]]
            for word in words:
                gain = [f"{word.gain:+.1f}", f"{word.gain / word.count:+.3f}"]
                rows.append([markdown(word.text), f"{word.count:,}", *gain])
            parts += [f"Words that {what} most\n", _table(rows)] if words else []
        content.append(entry)
    return "\n".join(parts), content
