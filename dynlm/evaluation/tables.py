"""A comparison as a table: plain text for the terminal, Markdown for a page."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from dynlm.evaluation.overlap import overlap_notes
from dynlm.runtime.text import markdown, printable

if TYPE_CHECKING:
    from dynlm.evaluation.compare import Comparison, Gain, VariantFigures

WIDTH = 100
HEADINGS = ("variant", "nats/token", "ppl/token", "ppl/word", "bits/byte", "gain, nats/token [95 %]")


def text_table(comparison: Comparison) -> str:
    """The comparison in at most 100 columns; a long label goes on in the next line."""
    rows = [(variant.label, *figures_of(variant)) for variant in comparison.variants]
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    lines = []
    for row in (HEADINGS, *rows):
        label = textwrap.wrap(row[0], widths[0]) or [""]
        cells = [label[0].ljust(widths[0])] + [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
        lines.extend(label[1:])
        if row is HEADINGS:
            lines.append("  ".join("-" * width for width in widths))
    notes = [textwrap.fill(note, WIDTH) for note in notes_of(comparison)]
    return "\n".join([*lines, "", *notes]) + "\n"


def markdown_table(comparison: Comparison) -> str:
    """The comparison as a Markdown table, the baseline's label in italics."""
    lines = [
        "| " + " | ".join(HEADINGS) + " |",
        "| --- | " + " | ".join(["---:"] * (len(HEADINGS) - 1)) + " |",
    ]
    for index, variant in enumerate(comparison.variants):
        label = markdown(variant.label)
        label = f"*{label}*" if index == comparison.baseline and len(comparison.variants) > 1 else label
        lines.append("| " + " | ".join((label, *figures_of(variant))) + " |")
    notes = [markdown(note) for note in notes_of(comparison)]
    return "\n".join([*lines, "", "  \n".join(notes)]) + "\n"


def figures_of(variant: VariantFigures) -> tuple[str, ...]:
    """One variant's row without its label, as every table prints it."""
    return (
        f"{variant.nats_per_token:.4f}",
        _perplexity(variant.perplexity_per_token),
        _perplexity(variant.perplexity_per_word),
        "-" if variant.bits_per_byte is None else f"{variant.bits_per_byte:.4f}",
        gain_cell(variant.gain),
    )


def _perplexity(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if value < 1e7 else f"{value:.1e}"


def gain_cell(gain: Gain | None) -> str:
    """A gain with its interval, as far as there is one."""
    if gain is None:
        return "-"
    if gain.low is None or gain.high is None:
        return f"{gain.nats:+.4f}"
    return f"{gain.nats:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def notes_of(comparison: Comparison) -> list[str]:
    """The protocol in words: what was read, what the gain is, and how each variant read."""
    count = len(comparison.articles)
    split = f"{printable(str(comparison.split))}, " if comparison.split else ""
    notes = [
        f"Text: {split}{count} article{'s' * (count != 1)} ({_ranges(comparison.articles)}), "
        f"{comparison.tokens:,} tokens, {comparison.words:,} words with ends of line, {comparison.bytes:,} bytes."
    ]
    if len(comparison.variants) > 1:
        base = comparison.variants[comparison.baseline].label
        interval = (
            f"; paired bootstrap over articles, {comparison.resamples:,} resamples, seed {comparison.seed}"
            if any(variant.gain and variant.gain.low is not None for variant in comparison.variants)
            else "; no interval: it takes two articles"
        )
        notes.append(f"Gain: nats per token below {base}{interval}.")
    readings: dict[str, list[str]] = {}
    for variant in comparison.variants:
        readings.setdefault(_reading(variant.protocol), []).append(variant.label)
    for reading, variants in readings.items():
        if reading:
            notes.append(reading if len(readings) == 1 else f"{', '.join(variants)}: {reading}")
    for variant in comparison.variants:
        notes += [f"{variant.label}: {note}." for note in overlap_notes(variant.overlap)]
    titles = {article["index"]: article["title"] for article in comparison.articles}
    for variant in comparison.variants:
        if met := guard_note(variant.protocol, titles):
            notes.append(f"{variant.label}: {met}")
    return notes


def guard_note(protocol: dict[str, Any], titles: dict[int, str]) -> str:
    """What a variant's guard met, in words; empty where it met nothing."""
    guard = protocol.get("guard")
    if not isinstance(guard, dict):
        return ""
    refused, first = guard.get("refused") or {}, guard.get("first") or {}

    def where(kind: str) -> str:
        place = first.get(kind)
        if place is None:
            return ""
        title = printable(titles.get(place["article"], ""))
        return f", first in article {place['article'] + 1} {title!r}, segment {place['segment'] + 1}"

    met = [f"{count:,} updates of {printable(name)} not taken{where(name)}" for name, count in refused.items()]
    if restored := guard.get("restored"):
        met.append(f"{restored:,} times back to the static weights{where('memory')}")
    if rescored := guard.get("rescored_tokens"):
        met.append(f"{rescored:,} tokens scored by level 1, since the memory gave them no probability")
    return f"the guard found {'; '.join(met)}. No token is lost." if met else ""


def _reading(protocol: dict[str, Any]) -> str:
    facts = [printable(f"{key} {protocol[key]}") for key in ("reset", "segment") if protocol.get(key) is not None]
    statement = printable(str(protocol.get("statement") or ""))
    return " ".join(part for part in (", ".join(facts).capitalize() + "." if facts else "", statement) if part)


def _ranges(articles: list[dict[str, Any]]) -> str:
    """Articles counted from 1, as ``31-60, 62``."""
    ranges: list[list[int]] = []
    for number in (article["index"] + 1 for article in articles):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    shown = [f"{low}-{high}" if high > low else str(low) for low, high in ranges]
    return ", ".join(shown if len(shown) <= 6 else [*shown[:5], "...", shown[-1]])
