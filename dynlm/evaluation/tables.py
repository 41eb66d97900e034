"""Tables in plain text and in Markdown, and a comparison as either."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from dynlm.data.article_range import format_ranges
from dynlm.evaluation.overlap import overlap_notes
from dynlm.evaluation.results import Comparison, Gain, VariantFigures
from dynlm.runtime.text import markdown, printable

WIDTH = 100
HEADINGS = ("variant", "nats/token", "ppl/token", "ppl/word", "bits/byte", "gain, nats/token [95 %]")


def align(rows: Sequence[Sequence[str]], left: int = 1) -> list[list[str]]:
    """Pad the cells of each column to one width; the first ``left`` columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        [
            cell.ljust(width) if n < left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for row in rows
    ]


def text_rows(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the rows of a table in plain text, one line each."""
    return ["  ".join(cells).rstrip() for cells in align(rows, left)]


def markdown_rows(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the lines of a Markdown table, aligned in a terminal too; the first row holds the headings."""
    headings, *cells = align(rows, left)
    rule = ["-" * len(cell) if n < left else "-" * (len(cell) - 1) + ":" for n, cell in enumerate(headings)]
    return [f"| {' | '.join(row)} |" for row in (headings, rule, *cells)]


def text_table(comparison: Comparison) -> str:
    """Return a comparison in at most 100 columns; a long label continues on the next line."""
    figures = [figures_of(each) for each in comparison.variants]
    room = WIDTH - sum(2 + max(map(len, column)) for column in zip(HEADINGS[1:], *figures, strict=True))
    blank = ("",) * len(HEADINGS[1:])
    rows: list[tuple[str, ...]] = [HEADINGS, ("",) * len(HEADINGS)]
    for each, cells in zip(comparison.variants, figures, strict=True):
        label, *more = textwrap.wrap(each.label, room) or [""]
        rows += [(label, *cells), *((line, *blank) for line in more)]
    lines = text_rows(rows)
    lines[1] = "  ".join("-" * len(cell) for cell in align(rows)[0])
    return "\n".join([*lines, "", *(textwrap.fill(note, WIDTH) for note in notes_of(comparison))]) + "\n"


def markdown_table(comparison: Comparison) -> str:
    """Return a comparison as a Markdown table, the baseline's label in italics."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    for index, each in enumerate(comparison.variants):
        label = markdown(each.label)
        is_base = index == comparison.baseline and len(comparison.variants) > 1
        rows.append((f"*{label}*" if is_base else label, *figures_of(each)))
    notes = "  \n".join(markdown(note) for note in notes_of(comparison))
    return "\n".join([*markdown_rows(rows), "", notes]) + "\n"


def figures_of(variant: VariantFigures) -> tuple[str, ...]:
    """Return one variant's row without its label, as every table prints it."""
    return (
        f"{variant.nats_per_token:.4f}",
        _perplexity(variant.perplexity_per_token),
        _perplexity(variant.perplexity_per_word),
        "-" if variant.bits_per_byte is None else f"{variant.bits_per_byte:.4f}",
        gain_cell(variant.gain),
    )


def _perplexity(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 1e7 else f"{value:.1e}"


def gain_cell(gain: Gain | None) -> str:
    """Return a gain with its interval, where there is one."""
    if gain is None:
        return "-"
    if gain.low is None or gain.high is None:
        return f"{gain.nats:+.4f}"
    return f"{gain.nats:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def notes_of(comparison: Comparison) -> list[str]:
    """Describe the text, the gain, and each variant's protocol, overlap with tuning articles and rejected updates."""
    count = len(comparison.articles)
    split = f"{printable(str(comparison.split))}, " if comparison.split else ""
    notes = [
        f"Text: {split}{count} article{'s' * (count != 1)} ({_ranges(comparison.articles)}), "
        f"{comparison.tokens:,} tokens, {comparison.words:,} words with ends of line, {comparison.bytes:,} bytes."
    ]
    if len(comparison.variants) > 1:
        interval = "; no interval: it takes two articles"
        if any(each.gain and each.gain.low is not None for each in comparison.variants):
            interval = f"; paired bootstrap over articles, {comparison.resamples:,} resamples, seed {comparison.seed}"
        notes.append(f"Gain: nats per token below {comparison.variants[comparison.baseline].label}{interval}.")
    readings: dict[str, list[str]] = {}
    for each in comparison.variants:
        readings.setdefault(_reading(each.protocol), []).append(each.label)
    for reading, labels in readings.items():
        if reading:
            notes.append(reading if len(readings) == 1 else f"{', '.join(labels)}: {reading}")
    for each in comparison.variants:
        notes += [f"{each.label}: {note}." for note in overlap_notes(each.overlap)]
    titles = {article["index"]: article["title"] for article in comparison.articles}
    for each in comparison.variants:
        if note := update_filter_note(each.protocol, titles):
            notes.append(f"{each.label}: {note}")
    return notes


def update_filter_note(protocol: dict[str, Any], titles: dict[int, str]) -> str:
    """Describe what a variant's update filter rejected; empty where it rejected nothing."""
    counts = protocol.get("update_filter")
    if not isinstance(counts, dict):
        return ""
    first = counts.get("first") or {}

    def where(kind: str) -> str:
        if (at := first.get(kind)) is None:
            return ""
        title = printable(titles.get(at["article"], ""))
        return f", first in article {at['article'] + 1} {title!r}, segment {at['segment'] + 1}"

    refused = counts.get("refused") or {}
    events = [f"{count:,} updates of {printable(name)} rejected{where(name)}" for name, count in refused.items()]
    if restored := counts.get("restored"):
        events.append(f"{restored:,} times reset to the static weights{where('memory')}")
    if rescored := counts.get("rescored_tokens"):
        events.append(f"{rescored:,} tokens scored by level 1, to which the dynamic weights gave no probability")
    return f"update filter: {'; '.join(events)}. No token is lost." if events else ""


def _reading(protocol: dict[str, Any]) -> str:
    facts = [printable(f"{key} {protocol[key]}") for key in ("reset", "segment") if protocol.get(key) is not None]
    statement = printable(str(protocol.get("statement") or ""))
    return " ".join(part for part in (", ".join(facts).capitalize() + "." if facts else "", statement) if part)


def _ranges(articles: list[dict[str, Any]]) -> str:
    """Return articles counted from 1, as ``31-60, 62``; many ranges are shortened."""
    shown = format_ranges(article["index"] + 1 for article in articles).split(",")
    return ", ".join(shown if len(shown) <= 6 else [*shown[:5], "...", shown[-1]])
