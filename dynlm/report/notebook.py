"""The report's pieces as objects for a notebook: each shows itself in Jupyter, and pictures save themselves.

from dynlm.evaluation.score_file import read_scores
from dynlm.report.notebook import HeatMap
HeatMap(read_scores("runs/demo/scores/none.parquet"), read_scores("runs/demo/scores/rms.parquet"))
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import jinja2
from markupsafe import escape
from rich.console import Console, ConsoleOptions, RenderResult

from dynlm.evaluation.compare import check_same_text, compare, unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.tables import HEADINGS, figures_of, notes_of
from dynlm.report import curve_data as series
from dynlm.report.curve_data import Passage, default_passages
from dynlm.report.curves import default_pairs, plot_difference, plot_position
from dynlm.report.fewshot_results import FewShot, Table
from dynlm.report.heatmap import heatmap_figure, heatmap_html, heatmap_page
from dynlm.report.memory_curves import plot_memory
from dynlm.report.page import rates_as_table, report_page
from dynlm.report.terminal import heatmap_text
from dynlm.report.words import most_changed, words_of
from dynlm.runtime.files import atomic_write


class _Saves(Protocol):
    def save(self, stem: Path) -> list[Path]: ...


@dataclass(frozen=True)
class Levels:
    """The table of levels and baselines, with intervals and the protocol in words."""

    scores: Sequence[Scores]

    def _repr_html_(self) -> str:
        comparison = compare(self.scores)
        rows = [[variant.label, *figures_of(variant)] for variant in comparison.variants]
        return _table_html(Table("Levels and baselines", list(HEADINGS), rows, " ".join(notes_of(comparison))))

    def __str__(self) -> str:
        return compare(self.scores).to_text()


@dataclass(frozen=True)
class DifferenceCurve:
    """The difference in instant perplexity along the text; ``pairs`` and ``window`` as in ``curves.plot_run``."""

    scores: Sequence[Scores]
    pairs: Sequence[tuple[str, str]] | None = None
    window: int | None = None

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png and .svg. Returns what was written. Raises UserError as ``curves.plot_difference``."""
        window = series.default_window(len(self.scores[0])) if self.window is None else self.window
        return plot_difference(self.scores, self.pairs or default_pairs(self.scores), window, Path(stem))

    def _repr_html_(self) -> str:
        return _picture_html(self, "Difference in instant perplexity over successive articles")


@dataclass(frozen=True)
class PositionCurves:
    """Loss against the position in the article, with bands."""

    scores: Sequence[Scores]

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png and .svg. Returns what was written. Raises UserError for arms of different texts."""
        return plot_position(self.scores, Path(stem))

    def _repr_html_(self) -> str:
        return _picture_html(self, "Loss against the position in the article")


@dataclass(frozen=True)
class HeatMap:
    """Passages token by token; unset, the opening and the middle of the article with the largest gain."""

    lower: Scores
    higher: Scores
    passages: Sequence[Passage] | None = None

    def __post_init__(self) -> None:
        check_same_text([self.lower, self.higher])

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png, .svg and .html. Returns what was written."""
        stem = Path(stem)
        written = heatmap_figure(self.lower, self.higher, self._passages(), stem)
        page = heatmap_page(self.lower, self.higher, self._passages(), stem.with_name(stem.name + ".html"))
        return [*written, page]

    def _passages(self) -> Sequence[Passage]:
        return default_passages(self.lower, self.higher) if self.passages is None else self.passages

    def _repr_html_(self) -> str:
        return _framed(heatmap_html(self.lower, self.higher, self._passages()), "heat map", 640)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield heatmap_text(self.lower, self.higher, self._passages(), console)


@dataclass(frozen=True)
class WordChanges:
    """The ``count`` words that gained most over the whole text, and those that lost most."""

    lower: Scores
    higher: Scores
    count: int = 20

    def _repr_html_(self) -> str:
        check_same_text([self.lower, self.higher])
        labels = unique_labels([self.lower, self.higher])
        columns = ["word", "times", *(f"{label}, nats each" for label in labels), "gain, nats"]
        both = most_changed(words_of(self.lower), self.lower, self.higher, self.count)
        parts = []
        for words, what in zip(both, ("gained", "lost"), strict=True):
            rows = [
                [
                    word.text,
                    f"{word.count:,}",
                    f"{word.lower / word.count:.3f}",
                    f"{word.higher / word.count:.3f}",
                    f"{word.gain:+,.1f}",
                ]
                for word in words
            ]
            parts.append(_table_html(Table(f"Words on which {labels[1]} {what} most over {labels[0]}", columns, rows)))
        return "".join(parts)


@dataclass(frozen=True)
class MemoryRates:
    """Learning rate and pull-back of each tensor, of the arms whose score files tell them."""

    scores: Sequence[Scores]

    def _repr_html_(self) -> str:
        table = rates_as_table(self.scores)
        return _table_html(table) if table else "<p>These score files hold no rates.</p>"


@dataclass(frozen=True)
class MemoryCurves:
    """Distance from the static weights and flushes along the text, of the arms whose score files recorded them."""

    scores: Sequence[Scores]

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png and .svg. Returns what was written. Raises UserError where nothing was recorded."""
        return plot_memory(self.scores, Path(stem))

    def _repr_html_(self) -> str:
        return _picture_html(self, "Distance from the static weights, and flushes, along the text")


@dataclass(frozen=True)
class Report:
    """The whole report; in a notebook it works as it does in a browser."""

    scores: Sequence[Scores]
    fewshot: Sequence[FewShot] = ()
    window: int | None = None

    def save(self, path: Path) -> Path:
        """Write the page. Returns ``path``. Raises UserError as ``page.report_page``, or where it cannot be written."""
        page = report_page(self.scores, self.fewshot, self.window)
        with atomic_write(path) as aside:
            aside.write_text(page, encoding="utf-8", newline="\n")
        return Path(path)

    def _repr_html_(self) -> str:
        return _framed(report_page(self.scores, self.fewshot, self.window), "report", 900, scripts=True)


def _table_html(table: Table) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynlm.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    # The template's own name ends in .j2, so that what escapes is set for all and not by the name's ending.
    return str(environment.get_template("table.html.j2").module.figures_table(table))  # type: ignore[attr-defined]


def _picture_html(picture: _Saves, alt: str) -> str:
    """The picture as an image that holds its SVG whole: nothing in it can clash with another one's names."""
    with tempfile.TemporaryDirectory() as folder:
        svg = next(path for path in picture.save(Path(folder) / "picture") if path.suffix == ".svg").read_bytes()
    address = f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"
    return f'<img src="{address}" alt="{escape(alt)}" style="max-width: 100%">'


def _framed(page: str, title: str, height: int, scripts: bool = False) -> str:
    """A page within a page, which cannot reach out of its frame."""
    sandbox = "allow-scripts" if scripts else ""
    style = f"width: 100%; height: {height}px; border: 1px solid #8888"
    return f'<iframe title="{escape(title)}" sandbox="{sandbox}" srcdoc="{escape(page)}" style="{style}"></iframe>'
