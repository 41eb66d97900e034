"""The report: one self-contained HTML page on which a click on the curve shows the words there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from dynlm.errors import UserError
from dynlm.evaluation.compare import Comparison, compare
from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.evaluation.tables import HEADINGS, figures_of, notes_of
from dynlm.report.curve_data import position_note
from dynlm.report.fewshot_results import FewShot, Table, load_fewshot
from dynlm.report.html import render_page, source, write_page
from dynlm.report.memory_stats import RESET_SHARE, constants_table, memory_records
from dynlm.report.page_data import page_data
from dynlm.report.score_set import ScoreSet
from dynlm.runtime.text import printable


def report_run(
    paths: Sequence[Path], out: Path, fewshot: Sequence[Path] = (), window: int | None = None, resamples: int = 2000
) -> Path:
    """Write the report of score files, and of folders of few-shot results, to the file ``out``. Return ``out``.

    ``window`` (tokens) is the initial smoothing, ``resamples`` the size of the intervals' bootstrap.
    Raises UserError for fewer than two score files, unreadable ones, files of different texts, a window that does not
    fit, or few-shot results that cannot be read; nothing is written then.
    """
    results = [load_fewshot(folder) for folder in fewshot]
    return write_page(out, report_page([read_scores(path) for path in paths], results, window, resamples))


def report_page(
    variants: Sequence[Scores], fewshot: Sequence[FewShot] = (), window: int | None = None, resamples: int = 2000
) -> str:
    """Return the page as text. The same scores give the same text. Raises UserError as ``report_run`` does."""
    if len(variants) < 2:
        what = f"a report compares at least two score files, and there {'is one' if variants else 'are none'}"
        raise UserError(what, do="score the same articles with another rule")
    scores = ScoreSet(variants)
    data, columns = page_data(scores, window)
    comparison = compare(scores.variants, resamples=resamples)
    licence, library = source("assets/uPlot.LICENSE"), source("assets/uPlot.iife.min.js")
    return render_page(
        "report",
        scripts=[f"/*\n{licence}\n*/\n{library}", source("templates/charts.js"), source("templates/report.js")],
        style=source("assets/uPlot.min.css") + "\n",
        title=_title(scores.text.protocol),
        scores=scores,
        levels=levels_table(comparison),
        notes=notes_of(comparison),
        position_note=position_note(len(scores.text.articles)),
        position_table=_position_table(data["position"], scores.labels),
        constants=constants_table(scores),
        records=memory_records(scores),
        reset_share=f"{100 * RESET_SHARE:.0f} %",
        fewshot=fewshot,
        sources=[_source(label, each.protocol) for label, each in zip(scores.labels, variants, strict=True)],
        data=Markup(jinja2.utils.htmlsafe_json_dumps(data, separators=(",", ":"))),
        columns=columns,
    )


def levels_table(comparison: Comparison) -> Table:
    """Return the table of ``dynlm compare``, to the same digits."""
    rows = [[variant.label, *figures_of(variant)] for variant in comparison.variants]
    rows[comparison.baseline][0] += " (baseline)"
    return Table("Loss of each variant, and gain over the baseline", list(HEADINGS), rows)


def _title(protocol: dict[str, Any]) -> str:
    """Return the page's title, with only the last part of a corpus's path, since the page may be passed on."""
    corpus, split = (printable(str(protocol.get(key) or "")) for key in ("corpus", "split"))
    if corpus[:1] in "/.~" or ":\\" in corpus:
        corpus = corpus.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return "Gains from dynamic weights" + (f": {corpus} {split}".rstrip() if corpus or split else "")


def _source(label: str, protocol: dict[str, Any]) -> str:
    facts = [str(protocol[key]) for key in ("run", "model", "date") if protocol.get(key)] + tuned_notes(protocol)
    return printable(f"{label}: {', '.join(facts)}") if facts else label


def _position_table(position: dict[str, Any], labels: Sequence[str]) -> Table:
    def cell(curve: dict[str, list[float | None]], row: int) -> str:
        mean, low, high = (curve[name][row] for name in ("mean", "low", "high"))
        return f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")

    rows = [
        [f"{tokens:,.0f}", str(position["articles"][row]), *(cell(curve, row) for curve in position["loss"])]
        for row, tokens in enumerate(position["tokens"])
    ]
    return Table("Nats per token [95 %]", ["position", "articles", *labels], rows)
