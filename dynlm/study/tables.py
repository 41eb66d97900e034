"""The figures of a study as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from typing import Any

from dynlm.evaluation.tables import figures_of, gain_cell, markdown_rows
from dynlm.runtime.text import csv_field, markdown
from dynlm.study.results import Results, Row
from dynlm.study.steps import Budget
from dynlm.study.variants import Reading, slug

_FIGURES = ("nats", "nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")


def table(rows: list[list[str]], left: int = 1) -> str:
    """Return a Markdown table; the first row holds the headings, the first ``left`` columns are aligned to the left."""
    return "\n".join(markdown_rows(rows, left)) + "\n"


def figures_table(results: Results) -> str:
    """Return one line for each reading, with its gain over each baseline."""
    baselines = [over.baseline.reading.variant.name for over in results.rows[0].over]
    rows = [["variant", "reset", "order", "nats/token", "ppl/token", "ppl/word", "bits/byte"]]
    rows[0] += [f"gain over {markdown(name)} [95 %]" for name in baselines]
    for row in results.rows:
        reading = row.done.reading
        cells = [markdown(reading.variant.name), reading.reset or "-", reading.order or "-"]
        rows.append([*cells, *figures_of(row.figures)[:-1], *(gain_cell(over.gain) for over in row.over)])
    return table(rows, left=3)


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
    return table(rows, left=2)


def as_csv(results: Results) -> str:
    """Return the figures as comma-separated values, unrounded; an empty field where there is none.

    Names are escaped so that no spreadsheet takes them for a formula.
    """
    records = [_record(results, row) for row in results.rows]
    written = io.StringIO()
    writer = csv.DictWriter(written, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: csv_field(value) if isinstance(value, str) else value for k, value in record.items()})
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
                    {"over": _named(over.baseline.reading), **(vars(over.gain) if over.gain else {"nats": None})}
                    for over in row.over
                ],
                "found": [{"slot": each.slot, **vars(each.budget)} for each in row.done.prepared],
                "file": str(row.done.scores.path),
            }
            for row in results.rows
        ],
    }


def _record(results: Results, row: Row) -> dict[str, Any]:
    record = _named(row.done.reading)
    record |= {name: getattr(results.text, name) for name in ("tokens", "words", "bytes")}
    record |= {name: getattr(row.figures, name) for name in _FIGURES}
    for over in row.over:
        key = f"gain_over_{slug(over.baseline.reading.variant.name).replace('-', '_')}"
        gain = vars(over.gain) if over.gain else {}
        record |= {key: gain.get("nats"), f"{key}_low": gain.get("low"), f"{key}_high": gain.get("high")}
    return record


def _named(reading: Reading) -> dict[str, Any]:
    return {"variant": reading.variant.name, "reset": reading.reset, "order": reading.order}
