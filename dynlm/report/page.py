"""The report: one self-contained HTML page on which a click on the curve shows the words there.

The page holds every token's losses as the score files' own float32, so it shows exactly what the files hold. Columns
are split into byte planes (all first bytes, all second bytes, ...), which gzip compresses a quarter better, and encoded
in base64. Legend: N tokens.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from dynlm.errors import UserError
from dynlm.evaluation.compare import Comparison, compare
from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.evaluation.tables import HEADINGS, figures_of, notes_of
from dynlm.report.curve_data import (
    RESET_SHARE,
    MemoryRecord,
    PositionCurve,
    memory_records,
    overlapping_positions,
    position_curve,
    position_note,
)
from dynlm.report.fewshot_results import FewShot, Table, load_fewshot
from dynlm.report.headline import cautions, headline, lead
from dynlm.report.html import render_page, source, write_page
from dynlm.report.palette import DASHES
from dynlm.report.passages import PASSAGE, article_passages
from dynlm.report.scale import STEPS, limit_of
from dynlm.report.score_set import ScoreSet
from dynlm.report.token_cells import token_texts
from dynlm.report.words import Words, extremes, find_words
from dynlm.runtime.text import printable

_WINDOWS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_WORDS = 25
_BEGINS_WORD, _REPEATED = 1, 2
_LINE = 1.8 / 240
"""Width of a line in a chart of losses, as a share of its height."""


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
    records = memory_records(scores.variants)
    data, columns = _page_data(scores, records, scores.window(window))
    comparison = compare(scores.variants, resamples=resamples)
    licence, library = source("assets/uPlot.LICENSE"), source("assets/uPlot.iife.min.js")
    return render_page(
        "report",
        scripts=[f"/*\n{licence}\n*/\n{library}", source("templates/charts.js"), source("templates/report.js")],
        style=source("assets/uPlot.min.css") + "\n",
        title=_title(scores.text.protocol),
        headline=headline(comparison),
        lead=lead(comparison),
        cautions=cautions(comparison),
        scores=scores,
        levels=levels_table(comparison),
        notes=notes_of(comparison),
        position_note=position_note(len(scores.text.articles)),
        near=data["position"]["near"],
        position_table=_position_table(data["position"], scores.labels),
        constants=rates_table(scores),
        records=records,
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


def rates_table(scores: ScoreSet) -> Table | None:
    """Return the learning rate and decay of each tensor for all variants that have some; None where none has."""
    found: dict[str, dict[str, list[str]]] = {}
    for label, variant in zip(scores.labels, scores.variants, strict=True):
        rule = variant.protocol.get("rule")
        rates = rule.get("rates") if isinstance(rule, dict) else None
        for tensor, entry in rates.items() if isinstance(rates, dict) else ():
            # Entries of another form are left out.
            values = [entry.get(key) for key in ("lr", "decay")] if isinstance(entry, dict) else [None]
            if all(isinstance(value, (int, float)) for value in values):
                found.setdefault(label, {})[str(tensor)] = [f"{value:.3g}" for value in values]
    if not found:
        return None
    rows = []
    for tensor in dict.fromkeys(name for rates in found.values() for name in rates):
        rows.append([printable(tensor), *(cell for rates in found.values() for cell in rates.get(tensor, ["-", "-"]))])
    columns = ["tensor", *(f"{label}, {what}" for label in found for what in ("lr", "decay"))]
    return Table("Learning rate, and decay toward the static weights, of each tensor", columns, rows)


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


def _page_data(scores: ScoreSet, records: Sequence[MemoryRecord], window: int) -> tuple[dict[str, Any], str]:
    """Return what the page's script needs: an object for JSON, and the packed columns of the tokens."""
    text, tokens = scores.text, len(scores.text)
    shown, words = token_texts(text.surface, text.starts), find_words(text)
    flags_N = np.zeros(tokens, dtype=np.uint8)
    flags_N[words.starts_G] |= _BEGINS_WORD
    flags_N[words.repeated_N] |= _REPEATED
    index_N = shown.index_N.astype(np.uint16 if len(shown.texts) <= 2**16 else np.uint32)
    columns: list[np.ndarray] = [index_N, flags_N, *(each.nats.astype(np.float32) for each in scores.variants)]
    nats = [each.nats.astype(np.float64) for each in scores.variants]
    data = {
        "tokens": tokens,
        "variants": scores.labels,
        "styles": [{"colour": style.colour, "dashes": DASHES[style.dash]} for style in scores.styles],
        "lower": scores.baseline,
        "higher": min(scores.others, key=lambda index: float(nats[index].sum())),
        "starts": text.starts.tolist(),
        "articles": [_article(text, index) for index in range(len(text.articles))],
        "passage": PASSAGE,
        "windows": sorted({*(each for each in _WINDOWS if each <= tokens), window}),
        "window": window,
        "limits": [[limit_of(lower - higher) for higher in nats] for lower in nats],
        "steps": STEPS,
        "texts": shown.texts,
        "lineEnds": shown.line_ends,
        "widths": [column.dtype.itemsize for column in columns],
        "words": _words(words, scores),
        "position": _position(scores),
        "memory": [{name: _rounded(value) for name, value in vars(each).items()} for each in records],
    }
    return data, _pack(columns)


def _article(text: Scores, index: int) -> dict[str, Any]:
    article, first = int(text.articles[index]), int(text.position[text.starts[index]])
    passages = [[passage.rows(text).start, passage.length] for passage in article_passages(text, article)]
    return {"number": article + 1, "title": text.title(article), "first": first, "passages": passages}


def _words(words: Words, scores: ScoreSet) -> list[dict[str, Any]]:
    """Return the words that gained or lost most between any two variants, with every variant's nats."""
    sums, counts = [words.sums(each.nats) for each in scores.variants], words.counts()
    changes = (lower - higher for lower, higher in itertools.combinations(sums, 2))
    changed = itertools.chain.from_iterable(order for change in changes for order in extremes(change, _WORDS))
    return [
        {"text": words.texts[word], "count": int(counts[word]), "nats": [float(each[word]) for each in sums]}
        for word in dict.fromkeys(changed)
    ]


def _position(scores: ScoreSet) -> dict[str, Any]:
    def band(curve: PositionCurve) -> dict[str, Any]:
        return {name: _rounded(getattr(curve, name)) for name in ("mean", "low", "high")}

    losses, baseline = [position_curve(each) for each in scores.variants], scores.variants[scores.baseline]
    near = overlapping_positions(losses, _LINE)
    return {
        "tokens": _rounded(losses[0].position),
        "articles": losses[0].articles.tolist(),
        "loss": [band(curve) for curve in losses],
        "gain": [band(position_curve(each, baseline)) for each in scores.variants],
        "near": [
            {"worse": worse, "better": better, **band(position_curve(scores.variants[better], scores.variants[worse]))}
            for better, worse in near
        ],
    }


def _rounded(value: Any) -> Any:
    """Return an array as a list to seven significant digits, None for what is not finite; other values unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    return [float(f"{number:.7g}") if math.isfinite(number) else None for number in value.tolist()]


def _pack(columns: Sequence[np.ndarray]) -> str:
    planes = []
    for column in columns:
        little_endian = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<")))
        planes.append(little_endian.view(np.uint8).reshape(len(column), column.dtype.itemsize).T.tobytes())
    # Without a date, the same numbers give the same bytes.
    return base64.b64encode(gzip.compress(b"".join(planes), compresslevel=6, mtime=0)).decode("ascii")
