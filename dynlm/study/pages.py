"""What a study leaves in its folder: README.md, the table, the words and the pictures."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.tables import gain_cell, notes_of
from dynlm.report.curves import TITLES, plot_run
from dynlm.runtime.files import atomic_write
from dynlm.runtime.parsing import write_json
from dynlm.runtime.text import markdown, markdown_code, printable
from dynlm.study.options import StudyOptions
from dynlm.study.results import Results, Row, shown
from dynlm.study.tables import as_csv, as_dict, budget_table, figures_table
from dynlm.study.variants import pairs_of
from dynlm.study.words_page import words_of_pairs


def write_pages(place: Path, results: Results, options: StudyOptions, card: dict[str, Any]) -> list[Path]:
    """Write everything into ``place``; ``card`` is the base model's. Returns what was written.

    Figures and README.md are there before pictures are drawn, so that a picture that cannot be leaves them.
    """
    asked = options.study
    content = {**as_dict(results), "model": card["fingerprint"]}
    write_json(place / "table.json", content)
    written = [
        _write(place / "table.md", figures_table(results)),
        _write(place / "table.csv", as_csv(results)),
        place / "table.json",
    ]
    if pairs := pairs_of(asked):
        page, words = words_of_pairs(results, pairs, asked.resamples, asked.seed)
        write_json(place / "words.json", words)
        written += [_write(place / "words.md", page), place / "words.json"]
    paths = [each.scores.path for each in shown(results, asked) if each.scores.path is not None]
    _write(place / "README.md", _readme(place, results, options, card, [], bool(pairs)))
    pictures = plot_run(paths, place)
    shown_there = [path for path in pictures if path.suffix == ".png"]
    readme = _write(place / "README.md", _readme(place, results, options, card, shown_there, bool(pairs)))
    return [readme, *written, *pictures]


def verdict(results: Results) -> str:
    """Which reading is best in the study's first order, and what its intervals say of it."""
    best = min((row for row in results.rows if row.done.reading.is_in(results.order)), key=lambda row: row.done.nats)
    parts = [f"Lowest loss: {best.done.reading.label}, {best.figures.nats_per_token:.4f} nats per token"]
    for over in best.over:
        if over.gain is not None:
            gain = f"{gain_cell(over.gain)} over {over.baseline.reading.label}"
            parts.append(f"{gain} ({_said(over.gain.low, over.gain.high)})")
    return "; ".join(parts) + "."


def _said(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "too few articles for an interval"
    if low > 0:
        return "the interval is above zero"
    return "the interval is below zero" if high < 0 else "the interval holds zero"


def _readme(
    place: Path, results: Results, options: StudyOptions, card: dict[str, Any], pictures: list[Path], words: bool
) -> str:
    asked, text = options.study, results.text
    command = f"dynlm study --config {shlex.quote(str(place / 'config.yaml'))}"
    found = "found before each was read" if asked.tune else "taken as the run held them: nothing was tuned on this text"
    order = f", articles {results.order}" if asked.orders else ""
    model = (
        f"base model {markdown_code(card['fingerprint'])}, {card['parameters']:,} parameters, shared by all variants"
    )
    parts = [
        f"# Study {markdown_code(f'{place.parent.name}/{place.name}')}\n",
        f"{time.strftime('%Y-%m-%d')} · {markdown(str(text.corpus))} · {model} · {markdown_code(command)}\n",
        f"{markdown(verdict(results))}\n",
        figures_table(results),
        f"{markdown(notes_of(text)[0])}  ",
        _about_gains(results),
        "A variant without an order loses the same in any; one without a reset policy has no weights that move. Which "
        f"policy suits a variant better, and which of the {len(results.rows)} readings is lowest, was chosen on these "
        "very articles: the intervals do not count that choice.\n",
        "## The protocol\n",
        *(f"- {markdown(statement)}" for statement in _statements(results.rows)),
        f"- Rates, g and whatever else a variant needs were {found}, under each reset policy on its own.",
        _tuned_on(results),
        "",
        "## What finding each variant read\n",
        "Every search reads the same tokens and stops by the same rule. A variant that starts from another's rates "
        "counts what those read too. Gradient statistics are gathered once for all variants"
        f" ({options.tune.statistics_tokens:,} tokens).\n",
        budget_table(results),
        *(["## Pictures\n", f"Each variant under the reset policy that suits it better{order}.\n"] if pictures else []),
        *(f"![{TITLES.get(path.stem, path.stem)}]({path.name})\n" for path in pictures),
    ]
    if words:
        parts.append("Which words gained: [words.md](words.md).\n")
    parts.append("Every token's loss is in `scores/`; `dynlm report` and `dynlm compare` read this folder.")
    return "\n".join(part for part in parts if part is not None) + "\n"


def _about_gains(results: Results) -> str:
    text, rows = results.text, results.rows
    if not rows[0].over:
        return ""
    others = {over.baseline.reading.variant.name: None for row in rows for over in row.over}
    told = []
    for name in others:
        labels = dict.fromkeys(
            over.baseline.reading.label
            for row in rows
            for over in row.over
            if over.baseline.reading.variant.name == name
        )
        told.append(f"{markdown(name)} ({markdown(' or '.join(labels))})" if [*labels] != [name] else markdown(name))
    return (
        f"Gains: nats per token below {', '.join(told)}, under the baseline's better reset policy and in the same "
        f"order; paired bootstrap over articles, {text.resamples:,} resamples, seed {text.seed}.  "
    )


def _statements(rows: list[Row]) -> list[str]:
    """How each variant reads, each way once, with the variants that read so."""
    variants: dict[str, list[str]] = {}
    for row in rows:
        variants.setdefault(printable(str(row.done.scores.protocol.get("statement", ""))), []).append(
            row.done.reading.label
        )
    return [f"{'; '.join(labels)}: {statement}." for statement, labels in variants.items()]


def _tuned_on(results: Results) -> str | None:
    tuned = {
        f"- {markdown(f'{note[:1].upper()}{note[1:]}')}."
        for row in results.rows
        if row.done.prepared
        for note in tuned_notes(row.done.scores.protocol, with_corpus=True)
    }
    return "\n".join(sorted(tuned)) or None


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return path
