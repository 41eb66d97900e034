"""The pages of a study's folder: README.md, tables, words and pictures."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from dynlm.evaluation.compare import reading_of
from dynlm.evaluation.export import to_csv, to_latex, to_markdown
from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.tables import gain_cell, notes_of, render_markdown
from dynlm.report.curves import TITLES, plot_run
from dynlm.report.html import write_page
from dynlm.runtime.parsing import write_json
from dynlm.runtime.text import markdown, printable
from dynlm.study.options import StudyOptions
from dynlm.study.results import Results, shown
from dynlm.study.seed_tables import STATEMENT, seed_dict, seed_figures
from dynlm.study.tables import as_dict, figures, words_of_pairs
from dynlm.study.variants import pairs_of

_OF_SEEDS = ("seeds.md", "seeds.csv", "seeds.tex", "seeds.json")
_TEMPLATE = Path(__file__).parent / "templates" / "README.md.j2"


def write_pages(folder: Path, results: Results, options: StudyOptions, card: dict[str, Any]) -> list[Path]:
    """Write all pages into ``folder`` and return them; ``card`` is the base model's.

    Figures and README.md are written before pictures are drawn, so that they exist where drawing fails.
    """
    study = options.study
    table = figures(results)
    texts = {"table.md": to_markdown(table), "table.csv": to_csv(table), "table.tex": to_latex(table)}
    contents: dict[str, Any] = {"table.json": {**as_dict(results), "model": card["fingerprint"]}}
    if pairs := pairs_of(study):
        texts["words.md"], contents["words.json"] = words_of_pairs(results, pairs)
    for name, text in texts.items():
        write_page(folder / name, text)
    for name, content in contents.items():
        write_json(folder / name, content)
    for name in _OF_SEEDS:  # of an earlier study, perhaps with other seeds
        (folder / name).unlink(missing_ok=True)
    write_page(folder / "README.md", _readme(folder, results, options, card, []))
    pictures = plot_run([each.scores.path for each in shown(results, study) if each.scores.path is not None], folder)
    write_page(folder / "README.md", _readme(folder, results, options, card, pictures))
    return [*(folder / name for name in ("README.md", *texts, *contents)), *pictures]


def write_seeds(
    folder: Path, results: Results, options: StudyOptions, card: dict[str, Any], written: list[Path]
) -> list[Path]:
    """Write the tables over seeds beside the pages that are ``written``, and README.md with them; return the tables."""
    table, paths = seed_figures(results.over_seeds), [folder / name for name in _OF_SEEDS]
    for path, text in zip(paths, (to_markdown(table), to_csv(table), to_latex(table)), strict=False):
        write_page(path, text)
    write_json(paths[-1], seed_dict(results.over_seeds))
    pictures = [path for path in written if path.suffix in (".png", ".svg", ".pdf")]
    write_page(folder / "README.md", _readme(folder, results, options, card, pictures))
    return paths


def verdict(results: Results) -> str:
    """Return the best reading in the study's first order, and what the intervals of its gains say."""
    best = min((row for row in results.rows if row.done.reading.is_in(results.order)), key=lambda row: row.done.nats)
    parts = [f"Lowest loss: {best.done.reading.label}, {best.figures.nats_per_token:.4f} nats per token"]
    for over in best.gains:
        if over.gain is not None and over.baseline is not None:
            low, high = over.gain.low, over.gain.high
            if low is None or high is None:
                interval = "too few articles for an interval"
            else:
                side = "is above" if low > 0 else "is below" if high < 0 else "holds"
                interval = f"the interval {side} zero"
            parts.append(f"{gain_cell(over.gain)} over {over.baseline.reading.label} ({interval})")
    return "; ".join(parts) + "."


def _readme(folder: Path, results: Results, options: StudyOptions, card: dict[str, Any], pictures: list[Path]) -> str:
    baselines: dict[str, dict[str, None]] = {}
    statements: dict[str, list[str]] = {}
    tuned_on = set()
    for row in results.rows:
        protocol = row.done.scores.protocol
        statements.setdefault(printable(str(protocol.get("statement", ""))), []).append(row.done.reading.label)
        for over in row.over:
            if over.baseline is not None:
                baselines.setdefault(over.name, {})[over.baseline.reading.label] = None
        if row.done.prepared:
            tuned_on |= {note[:1].upper() + note[1:] for note in tuned_notes(protocol, with_corpus=True)}
    return render_markdown(
        _TEMPLATE,
        title=f"{folder.parent.name}/{folder.name}",
        date=time.strftime("%Y-%m-%d"),
        corpus=str(results.text.corpus),
        card=card,
        command=f"dynlm study --config {shlex.quote(str(folder / 'config.yaml'))}",
        verdict=verdict(results),
        figures=to_markdown(figures(results)),
        text_note=notes_of(results.text)[0],
        own=any(row.own is not None for row in results.rows),
        other_runs=_other_runs(results),
        baselines=[
            markdown(name) if [*labels] == [name] else f"{markdown(name)} ({markdown(' or '.join(labels))})"
            for name, labels in baselines.items()
        ],
        resamples=results.text.resamples,
        seed=results.text.seed,
        readings=len(results.rows),
        statements=statements,
        tune=options.study.tune,
        tuned_on=sorted(tuned_on),
        statistics_tokens=options.tune.statistics_tokens,
        over_seeds=to_markdown(seed_figures(results.over_seeds)) if results.over_seeds else "",
        seeds_statement=STATEMENT,
        pictures={path.name: TITLES.get(path.stem, path.stem) for path in pictures if path.suffix == ".png"},
        order=results.order,
        words=bool(pairs_of(options.study)),
        has_context=any(reading_of(row.done.scores.protocol) for row in results.rows),
    )


def _other_runs(results: Results) -> list[str]:
    """Return a sentence for each variant that reads with the weights of another run."""
    found = {
        row.done.reading.variant.name: row.done.scores.protocol for row in results.rows if row.done.reading.variant.run
    }
    return [
        f"{name}: static weights of another run, {protocol.get('run')}, model {protocol.get('model')}"
        for name, protocol in found.items()
    ]
