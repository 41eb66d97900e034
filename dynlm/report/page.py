"""The report: one HTML file where a place on the curve leads to the words there.

Made from score files alone. The page loads nothing, and its policy lets it run only the scripts that are in it, known
by their hashes. Every token, title and label goes in as text: by Jinja's escaping, or as JSON that the page's script
only ever sets as text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from dynlm.errors import UserError
from dynlm.evaluation.compare import baseline_of, check_same_text, compare, unique_labels
from dynlm.evaluation.overlap import tuned_notes
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.evaluation.tables import HEADINGS, figures_of, notes_of
from dynlm.report import curve_data as series
from dynlm.report.csp import source_hash
from dynlm.report.fewshot_results import FewShot, Table, read_fewshot
from dynlm.report.memory_stats import FLUSHED, Recorded, rates_table, recorded
from dynlm.report.page_data import page_data
from dynlm.report.scale import steps
from dynlm.runtime.files import atomic_write
from dynlm.runtime.text import printable

_TEMPLATES = Path(__file__).parent / "templates"
_ASSETS = Path(__file__).parent / "assets"


def report_run(
    paths: Sequence[Path], out: Path, fewshot: Sequence[Path] = (), window: int | None = None, resamples: int = 2000
) -> Path:
    """Write the report of score files, and of folders of few-shot results, to the file ``out``. Returns ``out``.

    ``window`` (tokens) is the smoothing chosen at first, ``resamples`` those of the intervals' bootstrap.
    Raises UserError for fewer than two score files, unreadable ones, files of different texts, a window that does not
    fit, or results that cannot be read; nothing is written then.
    """
    scores = [read_scores(path) for path in paths]
    page = report_page(scores, [read_fewshot(folder) for folder in fewshot], window, resamples)
    with atomic_write(out) as aside:
        aside.write_text(page, encoding="utf-8", newline="\n")
    return Path(out)


def report_page(
    scores_list: Sequence[Scores], fewshot: Sequence[FewShot] = (), window: int | None = None, resamples: int = 2000
) -> str:
    """The page as text. The same scores give the same text. Raises UserError as ``report_run`` does."""
    if len(scores_list) < 2:
        raise UserError(
            f"a report compares at least two score files, and there {'is one' if scores_list else 'are none'}",
            do="score the same articles with another rule",
        )
    check_same_text(scores_list)
    if window is not None and not 1 <= window <= len(scores_list[0]):
        raise UserError(f"the window is {window}", do=f"choose from 1 to the text's {len(scores_list[0])} tokens")
    comparison = compare(scores_list, resamples=resamples)
    data, columns = page_data(scores_list, window)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = _asset(_ASSETS / "uPlot.min.css") + "\n" + environment.get_template("report.css").render(steps=steps())
    scripts = [
        f"/*\n{_asset(_ASSETS / 'uPlot.LICENSE')}\n*/\n{_asset(_ASSETS / 'uPlot.iife.min.js')}",
        *(_asset(_TEMPLATES / name) for name in ("charts.js", "report.js")),
    ]
    records = recorded(scores_list)
    rates = rates_as_table(scores_list)
    return environment.get_template("report.html.j2").render(
        title=_title(scores_list),
        subtitle=_subtitle(scores_list),
        policy=_policy(style, scripts),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        headings=HEADINGS,
        rows=[(variant.label, *figures_of(variant)) for variant in comparison.variants],
        baseline=comparison.baseline,
        notes=notes_of(comparison),
        steps=steps(),
        position_note=_position_note(scores_list[0]),
        position_table=_position_table(scores_list),
        rates=rates,
        records=records,
        records_note=_records_note(records, unique_labels(scores_list)),
        fewshot=fewshot,
        made_by=_made_by(scores_list),
        data=Markup(jinja2.utils.htmlsafe_json_dumps(data, separators=(",", ":"))),
        columns=columns,
    )


def _asset(path: Path) -> str:
    return path.read_text(encoding="utf-8").replace("\r\n", "\n")


def _policy(style: str, scripts: Sequence[str]) -> str:
    """Only these scripts and this style, pictures that are in the page, and nothing from anywhere."""
    hashes = " ".join(map(source_hash, scripts))
    return (
        f"default-src 'none'; script-src {hashes}; style-src {source_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _title(scores_list: Sequence[Scores]) -> str:
    protocol = scores_list[0].protocol
    text = " ".join(_without_folders(str(protocol[key])) for key in ("corpus", "split") if protocol.get(key))
    return f"What reading with a memory gains{': ' + text if text else ''}"


def _without_folders(name: str) -> str:
    """A corpus's name; of one that was read from a path, the last part: a page may be passed on."""
    name = printable(name)
    return name.rstrip("/\\").replace("\\", "/").rpartition("/")[2] if name[:1] in "/.~" or ":\\" in name else name


def _subtitle(scores_list: Sequence[Scores]) -> str:
    labels, base = unique_labels(scores_list), baseline_of(scores_list)
    others = ", ".join(label for index, label in enumerate(labels) if index != base)
    articles = len(scores_list[0].articles)
    return (
        f"{articles} article{'s' * (articles != 1)}, read by {labels[base]} and by {others}. "
        "A curve shows where one gains on the other; a click on it shows the words there, "
        "each coloured by what the memory saved on it."
    )


def _made_by(scores_list: Sequence[Scores]) -> str:
    parts = []
    for label, arm in zip(unique_labels(scores_list), scores_list, strict=True):
        facts = [str(arm.protocol[key]) for key in ("run", "model", "date") if arm.protocol.get(key)]
        facts += tuned_notes(arm.protocol)
        parts.append(printable(f"{label}: {', '.join(facts)}") if facts else label)
    return f"Made by dynlm. {'; '.join(parts)}."


def _position_note(scores: Scores) -> str:
    count = len(scores.articles)
    if count == 1:
        return "One article, so there is no band."
    return f"Mean over {count} articles, each counted alike; band: 95 %, normal. Shown as far as half of them reach."


def _position_table(scores_list: Sequence[Scores]) -> Table:
    curves = [series.position_loss(arm) for arm in scores_list]
    labels = unique_labels(scores_list)

    def cell(curve: series.PositionCurve, row: int) -> str:
        band = f" [{curve.low[row]:.3f}, {curve.high[row]:.3f}]" if curve.low[row] == curve.low[row] else ""
        return f"{curve.mean[row]:.3f}{band}"

    rows = [
        [f"{curves[0].position[row]:,.0f}", str(int(curves[0].articles[row])), *(cell(curve, row) for curve in curves)]
        for row in range(len(curves[0].position))
    ]
    return Table("Nats per token [95 %]", ["position", "articles", *labels], rows)


def rates_as_table(scores_list: Sequence[Scores]) -> Table | None:
    """Learning rates and pull-backs as a table of texts; None where no arm has any."""
    table = rates_table(scores_list)
    if table is None:
        return None
    columns = ["tensor", *(f"{arm}, {what}" for arm in table.arms for what in ("rate", "pull-back"))]
    rows = [
        [
            name,
            *(
                text
                for pair in pairs
                for text in (("-", "-") if pair is None else (f"{pair[0]:.3g}", f"{pair[1]:.3g}"))
            ),
        ]
        for name, pairs in table.rows
    ]
    return Table("Learning rate and pull-back toward the static weights, of each tensor", columns, rows)


def _records_note(records: Sequence[Recorded], labels: Sequence[str]) -> str:
    counts = [f"{labels[one.arm]} {one.flushes:,}" for one in records if one.flushes is not None]
    note = "Distance: that of the weights that scored a token from the static ones, relative to the latter's norm."
    if counts:
        note += f" Segments that began with a flush (at least {FLUSHED:.0%} of the way back): {', '.join(counts)}."
    return note


def show(path: Path) -> bool:
    """Open a page in the user's browser; whether one could be found."""
    import webbrowser

    return webbrowser.open(path.resolve().as_uri())


def default_place(paths: Sequence[Path]) -> Path:
    """Where a report goes unless told otherwise: ``report.html`` in the first run's figures."""
    return paths[0].parent.parent / "figures" / "report.html"
