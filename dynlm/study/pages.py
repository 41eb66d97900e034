"""The pages of a study's folder: README.md, tables, words and pictures."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.tables import gain_cell, notes_of
from dynlm.report.curves import plot_run
from dynlm.runtime.files import atomic_write
from dynlm.runtime.parsing import write_json
from dynlm.runtime.text import markdown, markdown_code, printable
from dynlm.study.options import StudyOptions
from dynlm.study.results import Results, shown
from dynlm.study.tables import as_csv, as_dict, budget_table, figures_table
from dynlm.study.variants import pairs_of
from dynlm.study.words_page import words_of_pairs

_TITLES = {
    "difference": "Difference in instant perplexity over successive articles",
    "position": "Loss against the position in the article",
    "memory": "What the memory did",
}


def write_pages(folder: Path, results: Results, options: StudyOptions, card: dict[str, Any]) -> list[Path]:
    """Write all pages into ``folder`` and return them; ``card`` is the base model's.

    Figures and README.md are written before pictures are drawn, so that they exist where drawing fails.
    """
    study = options.study
    texts = {"table.md": figures_table(results), "table.csv": as_csv(results)}
    contents: dict[str, Any] = {"table.json": {**as_dict(results), "model": card["fingerprint"]}}
    if pairs := pairs_of(study):
        texts["words.md"], contents["words.json"] = words_of_pairs(results, pairs, study.resamples, study.seed)
    for name, text in texts.items():
        _write(folder / name, text)
    for name, content in contents.items():
        write_json(folder / name, content)
    _write(folder / "README.md", _readme(folder, results, options, card, []))
    pictures = plot_run([each.scores.path for each in shown(results, study) if each.scores.path is not None], folder)
    _write(folder / "README.md", _readme(folder, results, options, card, pictures))
    return [*(folder / name for name in ("README.md", *texts, *contents)), *pictures]


def verdict(results: Results) -> str:
    """Return the best reading in the study's first order, and what the intervals of its gains say."""
    best = min((row for row in results.rows if row.done.reading.is_in(results.order)), key=lambda row: row.done.nats)
    parts = [f"Lowest loss: {best.done.reading.label}, {best.figures.nats_per_token:.4f} nats per token"]
    for over in best.over:
        if over.gain is not None:
            low, high = over.gain.low, over.gain.high
            if low is None or high is None:
                interval = "too few articles for an interval"
            else:
                side = "above" if low > 0 else "below" if high < 0 else ""
                interval = f"the interval is {side} zero" if side else "the interval holds zero"
            parts.append(f"{gain_cell(over.gain)} over {over.baseline.reading.label} ({interval})")
    return "; ".join(parts) + "."


def _readme(folder: Path, results: Results, options: StudyOptions, card: dict[str, Any], pictures: list[Path]) -> str:
    study, text = options.study, results.text
    command = f"dynlm study --config {shlex.quote(str(folder / 'config.yaml'))}"
    found = "found before each was read" if study.tune else "taken from the run: nothing was tuned on this text"
    model = f"base model {markdown_code(card['fingerprint'])}, {card['parameters']:,} parameters, the same for all"
    parts = [
        f"# Study {markdown_code(f'{folder.parent.name}/{folder.name}')}\n",
        f"{time.strftime('%Y-%m-%d')} · {markdown(str(text.corpus))} · {model} · {markdown_code(command)}\n",
        f"{markdown(verdict(results))}\n",
        figures_table(results),
        f"{markdown(notes_of(text)[0])}  ",
        _about_gains(results),
        "A variant without an order has the same losses in any; one without a reset policy has static weights. The "
        f"better policy of each variant, and the lowest of the {len(results.rows)} readings, were chosen on these very "
        "articles: the intervals do not account for that choice.\n",
        "## The protocol\n",
        *_statements(results),
        f"- Rates, g and whatever else a variant needs were {found}, for each reset policy separately.",
        *_tuned_on(results),
        "",
        "## What finding each variant read\n",
        "Every search reads the same tokens and stops by the same rule. A variant that starts from another's rates "
        "counts what those read too. Gradient statistics are collected once for all variants "
        f"({options.tune.statistics_tokens:,} tokens).\n",
        budget_table(results),
    ]
    if pictures:
        order = f"articles {results.order}"
        parts.append(f"## Pictures\n\nEach variant under the reset policy that is better for it, {order}.\n")
    shown_here = [path for path in pictures if path.suffix == ".png"]
    parts += [f"![{_TITLES.get(path.stem, path.stem)}]({path.name})\n" for path in shown_here]
    if pairs_of(study):
        parts.append("Which words gained: [words.md](words.md).\n")
    parts.append("Every token's loss is in `scores/`; `dynlm report` and `dynlm compare` read this folder.")
    return "\n".join(parts) + "\n"


def _about_gains(results: Results) -> str:
    labels: dict[str, dict[str, None]] = {}
    for row in results.rows:
        for over in row.over:
            reading = over.baseline.reading
            labels.setdefault(reading.variant.name, {})[reading.label] = None
    if not labels:
        return ""
    baselines = [
        markdown(name) if [*own] == [name] else f"{markdown(name)} ({markdown(' or '.join(own))})"
        for name, own in labels.items()
    ]
    return (
        f"Gains: nats per token below {', '.join(baselines)}, under the baseline's better reset policy and in the same "
        f"order; paired bootstrap over articles, {results.text.resamples:,} resamples, seed {results.text.seed}.  "
    )


def _statements(results: Results) -> list[str]:
    """Return each distinct statement of a protocol once, with the readings it describes."""
    labels: dict[str, list[str]] = {}
    for row in results.rows:
        statement = printable(str(row.done.scores.protocol.get("statement", "")))
        labels.setdefault(statement, []).append(row.done.reading.label)
    return [f"- {markdown('; '.join(own) + f': {statement}.')}" for statement, own in labels.items()]


def _tuned_on(results: Results) -> list[str]:
    notes = {
        f"- {markdown(f'{note[:1].upper()}{note[1:]}')}."
        for row in results.rows
        if row.done.prepared
        for note in tuned_notes(row.done.scores.protocol, with_corpus=True)
    }
    return sorted(notes)


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as staged:
        staged.write_text(text, encoding="utf-8")
