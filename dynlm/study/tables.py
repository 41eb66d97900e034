"""The figures of a study as a table and for JSON, and the words that gained."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dynlm.evaluation.compare import reading_of
from dynlm.evaluation.export import Table, markdown_rows
from dynlm.evaluation.tables import FIGURES, figures_of, gain_cell
from dynlm.report.words import class_gains, find_words, most_changed
from dynlm.runtime.cost import Cost
from dynlm.runtime.text import markdown
from dynlm.study.budget import Budget
from dynlm.study.results import Done, GainOver, Results, Row
from dynlm.study.variants import Reading, gain_key

_BUDGET = {
    "settings": "settings tried",
    "tokens": "tuning tokens",
    "tokens_read": "tokens read",
    "learned_on": "tokens learned on",
    "parameters": "parameters learned",
    "seconds": "seconds of finding",
}
"""Headings of the fields of a ``Budget``."""
_WORDS = 15
_DIVISIONS = {
    "mention": "By mention: did the word come before in its article?",
    "kind": "By kind of word: names (a capital, and never without one in this text), numbers, others",
    "frequency": "By frequency: the word's rank among all of this text's words",
    "position": "By the token's position in its article",
}


def table(rows: list[list[str]]) -> str:
    """Return a Markdown table; the first row has the headings, the first column is aligned to the left."""
    return "\n".join(markdown_rows(rows)) + "\n"


def figures(results: Results) -> Table:
    """Return one row for each reading: its context, figures and gains, what finding it took, and what reading took."""
    names, own = reading_names(results), any(row.own is not None for row in results.rows)
    columns = ["variant", "reset", "order", *names, "nats/token", "ppl/token", "ppl/word", "bits/byte"]
    columns += [f"gain over {over.name} [95 %]" for over in results.rows[0].over]
    columns += ["gain over its own baseline [95 %]"] if own else []
    columns += [*_BUDGET.values(), "seconds", "tokens/s", "peak MB"]
    rows = []
    for row in results.rows:
        reading, chosen = row.done.reading, reading_of(row.done.scores.protocol)
        cells = [reading.variant.name, reading.reset or "-", reading.order or "-"]
        cells += [str(chosen.get(name, "-")) for name in names]
        gains = [gain_cell(over.gain) for over in row.over] + ([_own_cell(row)] if own else [])
        spent = [*_budget_cells(row.budget), *_cost_cells(row.done)]
        rows.append([*cells, *figures_of(row.figures)[:-1], *gains, *spent])
    return Table(columns, rows, f"Variants on {results.text.split}", left=3, records=_records(results))


def reading_names(results: Results) -> list[str]:
    """Return the names of the model's options of reading that are set (not 0) in any row, such as context, stride."""
    names: dict[str, None] = {}
    for row in results.rows:
        names |= {name: None for name, value in reading_of(row.done.scores.protocol).items() if value}
    return [*names]


def _own_cell(row: Row) -> str:
    """Return the gain over the variant's own baseline, which differs from row to row and is named."""
    if row.own is None or row.own.baseline is None:
        return "-"
    return f"{gain_cell(row.own.gain)} over {row.own.baseline.reading.label}"


def _cost_cells(done: Done) -> list[str]:
    if (cost := done.cost) is None:
        return ["-"] * 3
    speed = f"{len(done.scores) / cost.seconds:,.0f}" if cost.seconds else "-"
    peak = "not measured" if cost.peak_memory is None else f"{cost.peak_memory / 1e6:,.0f}"
    return [f"{cost.seconds:,.1f}", speed, peak]


def _budget_cells(budget: Budget) -> list[str]:
    values = [getattr(budget, name) for name in _BUDGET]
    return [f"{value:,.0f}" if value else "-" for value in values]


def _records(results: Results) -> list[dict[str, Any]]:
    records, names = [], reading_names(results)
    own = any(row.own is not None for row in results.rows)
    for row in results.rows:
        cost, chosen = row.done.cost, reading_of(row.done.scores.protocol)
        record = named(row.done.reading) | {name: getattr(results.text, name) for name in ("tokens", "words", "bytes")}
        record |= {name: getattr(row.figures, name) for name in FIGURES}
        for over in row.over:
            record |= _gain_fields(gain_key(over.name), over)
        if own:
            baseline = row.own.baseline if row.own is not None else None
            record |= {"own_baseline": baseline and baseline.reading.label} | _gain_fields("gain_over_own", row.own)
        record |= {f"finding_{name}": value for name, value in vars(row.budget).items()}
        record |= {name: chosen.get(name) for name in names}
        record |= cost._asdict() if cost else dict.fromkeys(Cost._fields)
        records.append(record)
    return records


def _gain_fields(key: str, over: GainOver | None) -> dict[str, Any]:
    gain = vars(over.gain) if over is not None and over.gain else {}
    return {key: gain.get("nats"), f"{key}_low": gain.get("low"), f"{key}_high": gain.get("high")}


def as_dict(results: Results) -> dict[str, Any]:
    """Return everything, ready for JSON."""
    text = results.text
    return {
        "text": {name: getattr(text, name) for name in ("corpus", "split", "articles", "tokens", "words", "bytes")},
        "resamples": text.resamples,
        "seed": text.seed,
        "readings": [
            {
                **named(row.done.reading),
                **{name: getattr(row.figures, name) for name in FIGURES},
                "gains": [_gain_dict(over) for over in row.over],
                "own_gain": row.own and _gain_dict(row.own),
                "reading": reading_of(row.done.scores.protocol),
                "cost": row.done.cost and row.done.cost._asdict(),
                "budget": vars(row.budget),
                "found": [{"slot": each.slot, **vars(each.budget)} for each in row.done.prepared],
                "file": str(row.done.scores.path),
            }
            for row in results.rows
        ],
    }


def _gain_dict(over: GainOver) -> dict[str, Any]:
    baseline = over.baseline and named(over.baseline.reading)
    return {"over": baseline, **(vars(over.gain) if over.gain else {"nats": None})}


def named(reading: Reading) -> dict[str, Any]:
    """Return what names a reading: variant, reset policy, order."""
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
            parts += [f"{heading}\n", table(rows)]
        for what, words in changed.items():
            entry[what] = [{**asdict(word), "gain": word.gain} for word in words]
            rows = [["word", "times", "nats in all", "nats each time"]]
            for word in words:
                gain = [f"{word.gain:+.1f}", f"{word.gain / word.count:+.3f}"]
                rows.append([markdown(word.text), f"{word.count:,}", *gain])
            parts += [f"Words that {what} most\n", table(rows)] if words else []
        content.append(entry)
    return "\n".join(parts), content
