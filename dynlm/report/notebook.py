"""The parts of the report as objects that display themselves in Jupyter; figures can be saved.

from dynlm.evaluation.score_file import read_scores
from dynlm.report.notebook import HeatMap
HeatMap(read_scores("runs/demo/scores/none.parquet"), read_scores("runs/demo/scores/rms.parquet"))
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from markupsafe import escape

from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.tables import notes_of, text_table
from dynlm.report.curves import TITLES, plot_difference, plot_memory, plot_position
from dynlm.report.fewshot_results import FewShot, Table
from dynlm.report.heatmap import HeatMap as HeatMap
from dynlm.report.html import render_frame, render_table, write_page
from dynlm.report.page import levels_table, rates_table, report_page
from dynlm.report.score_set import Pairs, ScoreSet
from dynlm.report.words import find_words, most_changed


@dataclass(frozen=True)
class _Figure:
    """A figure of score files, displayed as an image: in one, the SVG's names cannot clash with another figure's."""

    scores: Sequence[Scores]
    _draw: ClassVar[Callable[[ScoreSet, Path], list[Path]]]
    _title: ClassVar[str]

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png, .svg and .pdf; return the paths. Raises UserError as the function that draws it."""
        return type(self)._draw(ScoreSet(self.scores), Path(stem))

    def _repr_html_(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            _, svg, _ = self.save(Path(folder) / "figure")
            address = f"data:image/svg+xml;base64,{base64.b64encode(svg.read_bytes()).decode('ascii')}"
        return f'<img src="{address}" alt="{escape(self._title)}" style="max-width: 100%">'


class PositionCurves(_Figure):
    """Loss against the position in the article, with bands."""

    _draw, _title = plot_position, TITLES["position"]


class MemoryCurves(_Figure):
    """Distance from the static weights and resets along the text, of the variants whose score files record them."""

    _draw, _title = plot_memory, TITLES["memory"]


@dataclass(frozen=True)
class DifferenceCurve(_Figure):
    """The difference in instant perplexity along the text; ``pairs`` and ``window`` as in ``curves.plot_run``."""

    pairs: Pairs | None = None
    window: int | None = None
    _title = TITLES["difference"]

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png, .svg and .pdf; return the paths. Raises UserError as ``curves.plot_difference``."""
        return plot_difference(ScoreSet(self.scores), Path(stem), self.window, self.pairs)


@dataclass(frozen=True)
class Levels:
    """The table of levels and baselines, with intervals and the protocol in words."""

    scores: Sequence[Scores]

    def _repr_html_(self) -> str:
        comparison = compare(self.scores)
        return render_table(replace(levels_table(comparison), note=" ".join(notes_of(comparison))))

    def __str__(self) -> str:
        return text_table(compare(self.scores))


@dataclass(frozen=True)
class MemoryRates:
    """Learning rate and decay of each tensor, of the variants whose score files have them."""

    scores: Sequence[Scores]

    def _repr_html_(self) -> str:
        table = rates_table(ScoreSet(self.scores))
        return render_table(table) if table else "<p>These score files hold no learning rates.</p>"


@dataclass(frozen=True)
class WordChanges:
    """The ``count`` words that gained most over the whole text, and those that lost most."""

    lower: Scores
    higher: Scores
    count: int = 20

    def _repr_html_(self) -> str:
        lower, higher = ScoreSet([self.lower, self.higher]).labels
        columns = ["word", "times", f"{lower}, nats each", f"{higher}, nats each", "gain, nats"]
        tables = []
        changed = most_changed(find_words(self.lower), self.lower, self.higher, self.count)
        for what, words in changed.items():
            rows = []
            for word in words:
                means = [f"{nats / word.count:.3f}" for nats in (word.lower, word.higher)]
                rows.append([word.text, f"{word.count:,}", *means, f"{word.gain:+,.1f}"])
            tables.append(render_table(Table(f"Words on which {higher} {what} most over {lower}", columns, rows)))
        return "".join(tables)


@dataclass(frozen=True)
class Report:
    """The whole report; in a notebook it works as it does in a browser."""

    scores: Sequence[Scores]
    fewshot: Sequence[FewShot] = ()
    window: int | None = None

    def page(self) -> str:
        """Return the page. Raises UserError as ``page.report_page``."""
        return report_page(self.scores, self.fewshot, self.window)

    def save(self, path: Path) -> Path:
        """Write the page. Returns ``path``. Raises UserError as ``page``, or where it cannot be written."""
        return write_page(path, self.page())

    def _repr_html_(self) -> str:
        return render_frame(self.page(), "report", 900, sandbox="allow-scripts")
