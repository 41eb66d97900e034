"""The figures of a study over seeds, as a table and for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynlm.evaluation.export import Table
from dynlm.evaluation.tables import gain_cell
from dynlm.study.results import GainOverSeeds, SeedRow, Spread
from dynlm.study.tables import named
from dynlm.study.variants import gain_key

STATEMENT = (
    "Means and ranges (lowest to highest) are over seeds of training: of the base model, and of g and gates that are "
    "learned on it. The articles are the same, and every gain is within one base model: over the baseline on it, "
    "under its better reset policy there. They say how much a figure depends on the training. The interval is that of "
    "the first seeds, a bootstrap over articles with these models: it says how much a gain depends on the choice of "
    "articles. Neither covers what the other does."
)


def seed_figures(rows: Sequence[SeedRow]) -> Table:
    """Return one row for each reading: its seeds, the spread of its loss, and that of each gain with its interval."""
    names = [gain.name for gain in rows[0].gains]
    own = any(row.own is not None for row in rows)
    columns = ["variant", "reset", "order", "base models", "meta seeds", "nats/token: mean (range)"]
    for name in [*names, *(["its own baseline"] if own else [])]:
        columns += [f"gain over {name}: mean (range)", "first seeds [95 %]"]
    lines = []
    for row in rows:
        cells = [row.reading.variant.name, row.reading.reset or "-", row.reading.order or "-"]
        cells += [str(row.bases), "-" if row.meta_seeds is None else str(row.meta_seeds)]
        cells.append(_spread_cell(row.nats, "{:.4f}"))
        for gain in [*row.gains, *([row.own] if own else [])]:
            over = f" over {gain.name}" if gain is not None and gain is row.own else ""
            spread = "-" if gain is None or gain.spread is None else _spread_cell(gain.spread, "{:+.4f}") + over
            cells += [spread, gain_cell(gain.first if gain is not None else None)]
        lines.append(cells)
    return Table(columns, lines, "Variants over seeds of training", left=3, records=_records(rows))


def _records(rows: Sequence[SeedRow]) -> list[dict[str, Any]]:
    records = []
    for row in rows:
        record = named(row.reading) | {"base_models": row.bases, "meta_seeds": row.meta_seeds}
        record |= {f"nats_per_token_{name}": value for name, value in row.nats._asdict().items()}
        for gain in row.gains:
            record |= _gain_fields(gain_key(gain.name), gain)
        if any(each.own is not None for each in rows):
            record |= {"own_baseline": row.own and row.own.name} | _gain_fields("gain_over_own", row.own)
        records.append(record)
    return records


def seed_dict(rows: Sequence[SeedRow]) -> dict[str, Any]:
    """Return the same ready for JSON, with the figures of each pair of seeds."""
    return {
        "statement": STATEMENT,
        "rows": [
            {
                **named(row.reading),
                "base_models": row.bases,
                "meta_seeds": row.meta_seeds,
                "nats_per_token": row.nats._asdict(),
                "gains": [_gain_dict(gain) for gain in row.gains],
                "own_gain": row.own and _gain_dict(row.own),
                "cells": [cell._asdict() for cell in row.cells],
            }
            for row in rows
        ],
    }


def _spread_cell(spread: Spread, form: str) -> str:
    mean, lowest, highest = (form.format(value) for value in spread)
    return f"{mean} ({lowest} to {highest})"


def _gain_fields(key: str, gain: GainOverSeeds | None) -> dict[str, Any]:
    spread = gain.spread if gain is not None else None
    first = vars(gain.first) if gain is not None and gain.first is not None else {}
    fields = {f"{key}_{name}": getattr(spread, name, None) for name in Spread._fields}
    return fields | {
        f"{key}_first{end}": first.get(name) for end, name in (("", "nats"), ("_low", "low"), ("_high", "high"))
    }


def _gain_dict(gain: GainOverSeeds) -> dict[str, Any]:
    spread = dict.fromkeys(Spread._fields) if gain.spread is None else gain.spread._asdict()
    return {"over": gain.name, **spread, "first": gain.first and vars(gain.first)}
