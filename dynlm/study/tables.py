"""A study's figures as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from dynlm.evaluation.results import Gain
from dynlm.evaluation.tables import figures_of, gain_cell
from dynlm.runtime.text import csv_field, markdown
from dynlm.study.results import Results, Row
from dynlm.study.steps import Budget
from dynlm.study.variants import Reading, plain

_FIGURES = ("nats", "nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A Markdown table that is one in a terminal too: columns aligned, the first ``words`` to the left."""
    widths = [max(len(row[column]) for row in (headings, *rows)) for column in range(len(headings))]
    aligned = [str.ljust if column < words else str.rjust for column in range(len(headings))]

    def line(cells: Sequence[str]) -> str:
        placed = [put(cell, width) for put, cell, width in zip(aligned, cells, widths, strict=True)]
        return f"| {' | '.join(placed)} |"

    rule = ["-" * width if column < words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(headings), line(rule), *map(line, rows)]) + "\n"


def figures_table(results: Results) -> str:
    """One line for each reading, with its gain over each baseline."""
    baselines = [over.baseline.reading.variant.name for over in results.rows[0].over]
    headings = ["variant", "reset", "order", "nats/token", "ppl/token", "ppl/word", "bits/byte"]
    headings += [f"gain over {markdown(name)} [95 %]" for name in baselines]
    rows = []
    for row in results.rows:
        reading = row.done.reading
        rows.append(
            [
                markdown(reading.variant.name),
                reading.reset or "-",
                reading.order or "-",
                *figures_of(row.figures)[:-1],
                *(gain_cell(over.gain) for over in row.over),
            ]
        )
    return table(headings, rows, words=3)


def budget_table(results: Results) -> str:
    """What was read to find each variant's rates, g and whatever else it needs."""
    rows = []
    for variant, reset, budget in _budgets(results):
        told = f"{budget.settings:,}", f"{budget.tokens:,}", f"{budget.learned_on:,}"
        rows.append([markdown(variant), reset, *("-" if number == "0" else number for number in told)])
    return table(["variant", "reset", "settings tried", "tokens each", "tokens learned on"], rows, words=2)


def _budgets(results: Results) -> list[tuple[str, str, Budget]]:
    """(variant, reset policy, what was read in all its steps), each once."""
    found = {}
    for row in results.rows:
        reading, prepared = row.done.reading, row.done.prepared
        found[reading.variant.name, reading.reset or "-"] = Budget(
            sum(each.budget.settings for each in prepared),
            max((each.budget.tokens for each in prepared), default=0),
            sum(each.budget.learned_on for each in prepared),
        )
    return [(variant, reset, budget) for (variant, reset), budget in found.items()]


def as_csv(results: Results) -> str:
    """The figures as comma-separated values, unrounded; an empty field where there is none.

    Names are fields that no spreadsheet takes for a formula.
    """
    written = io.StringIO()
    records = [
        {name: csv_field(value) if isinstance(value, str) else value for name, value in _record(results, row).items()}
        for row in results.rows
    ]
    writer = csv.DictWriter(written, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return written.getvalue()


def as_dict(results: Results) -> dict[str, Any]:
    """Everything, fit for JSON."""
    text = results.text
    return {
        "text": {
            "corpus": text.corpus,
            "split": text.split,
            "articles": text.articles,
            "tokens": text.tokens,
            "words": text.words,
            "bytes": text.bytes,
        },
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
    record: dict[str, Any] = {**_named(row.done.reading)}
    record |= {"tokens": results.text.tokens, "words": results.text.words, "bytes": results.text.bytes}
    record |= {name: getattr(row.figures, name) for name in _FIGURES}
    for over in row.over:
        gain, name = over.gain or Gain(0.0, None, None), plain(over.baseline.reading.variant.name).replace("-", "_")
        record[f"gain_over_{name}"] = gain.nats if over.gain else None
        record[f"gain_over_{name}_low"], record[f"gain_over_{name}_high"] = gain.low, gain.high
    return record


def _named(reading: Reading) -> dict[str, Any]:
    return {"variant": reading.variant.name, "reset": reading.reset, "order": reading.order}
