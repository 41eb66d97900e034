"""Tables in plain text, a comparison as a table, and Markdown pages from Jinja templates."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynlm.data.article_range import format_ranges
from dynlm.evaluation.compare import Comparison, Gain, VariantFigures, reading_of, reading_text
from dynlm.evaluation.export import Table, align
from dynlm.evaluation.overlap import overlap_notes
from dynlm.runtime.text import markdown, markdown_code, printable

WIDTH = 100
FIGURES = ("nats", "nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte")
"""Fields of ``VariantFigures`` that are numbers."""
_GAIN = {"gain": "nats", "gain_low": "low", "gain_high": "high"}
HEADINGS = ("variant", "nats/token", "ppl/token", "ppl/word", "bits/byte", "gain, nats/token [95 %]")


def text_rows(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return the rows of a table in plain text, one line each."""
    return ["  ".join(cells).rstrip() for cells in align(rows, left)]


def render_markdown(template: Path, **values: Any) -> str:
    """Render a template; its filters ``markdown`` and ``code`` escape text, and make it a code span."""
    import jinja2  # Most commands render no page.

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"markdown": markdown, "code": markdown_code}
    return environment.get_template(template.name).render(values)


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


def comparison_table(comparison: Comparison) -> Table:
    """Return a comparison as a table, the baseline's label in italics."""
    rows = [(each.label, *figures_of(each)) for each in comparison.variants]
    text = {name: getattr(comparison, name) for name in ("tokens", "words", "bytes")}
    records = [
        {"variant": each.label, **text}
        | {name: getattr(each, name) for name in FIGURES}
        | {name: getattr(each.gain, field, None) for name, field in _GAIN.items()}
        for each in comparison.variants
    ]
    baseline = comparison.baseline if len(rows) > 1 else None
    title = "Nats per token and perplexity of the same text"
    return Table(HEADINGS, rows, title, notes_of(comparison), baseline=baseline, records=records)


def figures_of(variant: VariantFigures) -> tuple[str, ...]:
    """Return one variant's row without its label, as every table prints it."""
    perplexities = (variant.perplexity_per_token, variant.perplexity_per_word)
    shown = ["-" if value is None else f"{value:.1f}" if value < 1e7 else f"{value:.1e}" for value in perplexities]
    bits = "-" if variant.bits_per_byte is None else f"{variant.bits_per_byte:.4f}"
    return (f"{variant.nats_per_token:.4f}", *shown, bits, gain_cell(variant.gain))


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
    ranges = format_ranges(article["index"] + 1 for article in comparison.articles).split(",")
    ranges = ranges if len(ranges) <= 6 else [*ranges[:5], "...", ranges[-1]]
    notes = [
        f"Text: {split}{count} article{'s' * (count != 1)} ({', '.join(ranges)}), "
        f"{comparison.tokens:,} tokens, {comparison.words:,} words with ends of line, {comparison.bytes:,} bytes."
    ]
    if len(comparison.variants) > 1:
        interval = "; no interval: it takes two articles"
        if any(each.gain and each.gain.low is not None for each in comparison.variants):
            interval = f"; paired bootstrap over articles, {comparison.resamples:,} resamples, seed {comparison.seed}"
        notes.append(f"Gain: nats per token below {comparison.variants[comparison.baseline].label}{interval}.")
    base = comparison.variants[comparison.baseline]
    for each in comparison.variants:
        if reading_of(each.protocol) != reading_of(base.protocol):
            notes.append(f"{each.label} has another context than {base.label}: the gain includes what that gives.")
    readings: dict[str, list[str]] = {}
    for each in comparison.variants:
        given = {key: each.protocol[key] for key in ("reset", "segment") if each.protocol.get(key) is not None}
        given_texts = [*(f"{key} {value}" for key, value in given.items()), reading_text(each.protocol)]
        facts = ", ".join(text for text in given_texts if text).capitalize()
        reading = f"{facts}{'. ' if facts else ''}{each.protocol.get('statement') or ''}"
        readings.setdefault(printable(reading), []).append(each.label)
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
