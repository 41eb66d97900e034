"""A passage's tokens, blue where the higher level loses less, red where it loses more: data, figure and page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.cells import cell_len

from dynlm.errors import UserError
from dynlm.evaluation.overlap import overlap_notes, overlaps
from dynlm.evaluation.score_file import Scores
from dynlm.report.drawing import FAINT, INK, drawing, monospace, save_figure, short, warn_of_missing
from dynlm.report.html import render_page, write_page
from dynlm.report.passages import Passage, Request, select_passages
from dynlm.report.scale import Step, colour_map, limit_of, step_of
from dynlm.report.score_set import ScoreSet
from dynlm.report.token_cells import Cell, token_cells, wrap_cells
from dynlm.report.words import find_words
from dynlm.runtime.text import printable

_WIDTH, _COLUMNS = 648.0, 104
"""Width of the figure in points, and of a line in characters."""
_LETTER = _WIDTH / _COLUMNS
_FONT_SIZE = _LETTER / 0.602
"""In points: a character of DejaVu Sans Mono is 0.602 em wide."""
_LINE_HEIGHT = 1.62 * _FONT_SIZE


@dataclass(frozen=True)
class HeatMapPassage:
    """One passage: its article, its location with both levels' mean losses, and its tokens."""

    heading: str
    caption: str
    cells: list[Cell]


@dataclass(frozen=True)
class HeatMapData:
    """What the figure, the page and the terminal display: passages with both levels' losses on each token."""

    lower: str
    higher: str
    """Labels of the two levels."""
    limit: float
    """End of the colour scale, in nats."""
    passages: list[HeatMapPassage]
    notes: list[str]
    """How each level read the text."""

    @property
    def end(self) -> str:
        """The end of the colour scale with its unit."""
        return f"{self.limit:g} nat{'s' * (self.limit != 1)}"

    @property
    def title(self) -> str:
        """Heading of the whole heat map."""
        return f"Where {self.higher} predicts better than {self.lower}, token by token"

    def step(self, cell: Cell) -> Step:
        """Return the step of the colour scale of a cell."""
        return step_of(cell.gain, self.limit)


def heatmap_run(paths: Sequence[Path], out: Path, request: Request = (None, None, None)) -> list[Path]:
    """Draw two score files' heat map into the folder ``out``: heatmap.png, .svg and .html. Return what was written.

    ``paths`` are the lower level's file and the higher level's. By default the passages are the opening and the middle
    of the article with the largest gain.
    Raises UserError unless there are two readable files of one text, and for a passage outside of the text.
    """
    data = load_heatmap(paths, request)
    page = write_page(Path(out) / "heatmap.html", heatmap_page(data))
    written = heatmap_figure(data, Path(out) / "heatmap")
    warn_of_missing(_texts(data), f"install one, or open {page}")
    return [*written, page]


def load_heatmap(paths: Sequence[Path], request: Request = (None, None, None)) -> HeatMapData:
    """Load the data of ``heatmap_run``'s arguments. Raises UserError as it does."""
    if len(paths) != 2:
        raise UserError(f"a heat map needs two score files, not {len(paths)}", do="name the lower level's file first")
    lower, higher = ScoreSet.load(paths).variants
    return heatmap_data(lower, higher, select_passages(lower, higher, request))


def heatmap_data(lower: Scores, higher: Scores, passages: Sequence[Passage] | None = None) -> HeatMapData:
    """Return the data of ``passages``, by default those of ``select_passages``.

    Raises UserError where the scores are of different texts.
    """
    labels = ScoreSet([lower, higher]).labels
    repeated_N = find_words(lower).repeated_N
    shown = []
    for passage in select_passages(lower, higher) if passages is None else passages:
        rows, article = passage.rows(lower), lower.rows(passage.article)
        last, count = passage.start + passage.length - 1, article.stop - article.start
        means = [f"{each.nats[rows].mean(dtype=np.float64):.3f}" for each in (lower, higher)]
        losses = f"Nats per token here: {labels[0]} {means[0]}, {labels[1]} {means[1]}"
        shown.append(
            HeatMapPassage(
                heading=f"Article {passage.article + 1}: {lower.title(passage.article)}",
                caption=f"Tokens {passage.start:,} to {last:,} of {count:,}. {losses}",
                cells=token_cells(lower.surface[rows], lower.nats[rows], higher.nats[rows], repeated_N[rows]),
            )
        )
    limit = limit_of(np.array([cell.gain for passage in shown for cell in passage.cells]))
    notes = [note for label, scores in zip(labels, (lower, higher), strict=True) for note in _notes(label, scores)]
    return HeatMapData(labels[0], labels[1], limit, shown, notes)


def heatmap_page(data: HeatMapData) -> str:
    """Return a self-contained page that runs no script and loads nothing."""
    return render_page("heatmap", data=data)


def heatmap_figure(data: HeatMapData, path: Path) -> list[Path]:
    """Draw the passages below each other; ``path`` is a stem for .png and .svg. Return what was written."""
    texts = _texts(data)
    family = monospace(texts)
    # The style of a cell's text is its index.
    wrapped = [wrap_cells(each.cells, _COLUMNS, map(str, range(len(each.cells)))) for each in data.passages]
    height = 92 + sum(56 + _LINE_HEIGHT * len(lines) for lines in wrapped)
    explanation = (
        f"Blue, solid line: {short(data.higher)} loses fewer nats on the token. Red, dotted line: it loses more. "
        "Each token was scored before the weights were updated on it."
    )
    with drawing(texts):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0, 4, short(data.title, 90), weight="bold", fontsize=12, va="top")
        axes.text(0, 25, explanation, fontsize=8.5, va="top", color=FAINT)
        _draw_colour_bar(figure, height, data)
        y = 92.0
        for passage, lines in zip(data.passages, wrapped, strict=True):
            axes.text(0, y, short(passage.heading, 80), fontsize=10, weight="bold", va="top")
            axes.text(0, y + 15, short(passage.caption, 120), fontsize=8.5, va="top", color=FAINT)
            y += 34
            for line in lines:
                for span in line.spans:
                    x = cell_len(line.plain[: span.start]) * _LETTER
                    step = data.step(passage.cells[int(str(span.style))])
                    _draw_cell(axes, (x, y), line.plain[span.start : span.end], step, family)
                y += _LINE_HEIGHT
            y += 22
        return save_figure(figure, path)


def _texts(data: HeatMapData) -> list[str]:
    """Return everything of the scores that the figure draws."""
    cells = (cell.text for passage in data.passages for cell in passage.cells)
    return [data.lower, data.higher, *(passage.heading for passage in data.passages), *cells]


def _notes(label: str, scores: Scores) -> list[str]:
    protocol = scores.protocol
    facts = [f"{key} {protocol[key]}" for key in ("split", "reset", "segment") if protocol.get(key) is not None]
    notes = [f"{', '.join(facts)}. {protocol.get('statement') or ''}"]
    notes += [f"{note}." for note in overlap_notes(overlaps(protocol))]
    return [printable(f"{label}: {note}") for note in notes]


def _draw_colour_bar(figure: Figure, height: float, data: HeatMapData) -> None:
    left, width, top, limit = 8.0, 210.0, 46.0, data.limit
    bar = figure.add_axes((left / _WIDTH, 1 - (top + 11) / height, width / _WIDTH, 11 / height))
    bar.imshow(np.linspace(-1, 1, 256)[None], aspect="auto", cmap=colour_map(), extent=(-limit, limit, 0, 1))
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar.set_xticks(ticks, [f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0" for tick in ticks])
    bar.set_yticks([])
    bar.tick_params(labelsize=8, length=2)
    bar.spines[:].set_visible(True)
    meaning = f"nats({short(data.lower)}) \N{MINUS SIGN} nats({short(data.higher)}), per token"
    bar.text(1 + 14 / width, 0.5, meaning, transform=bar.transAxes, va="center", color=INK)


def _draw_cell(axes: Axes, corner: tuple[float, float], text: str, step: Step, family: list[str]) -> None:
    """Draw a cell's text on its colour, above a line that is solid for a gain and dotted for a loss."""
    (x, y), width, (background, letters) = corner, cell_len(text) * _LETTER, step.light
    box = Rectangle(corner, width, 1.36 * _FONT_SIZE, facecolor=background, edgecolor="white", linewidth=0.5)
    axes.add_patch(box)
    axes.text(x, y + 0.98 * _FONT_SIZE, text, family=family, fontsize=_FONT_SIZE, color=letters, va="baseline")
    if step.thickness:
        style: Any = "solid" if step.index > 0 else (0, (1, 1.2))
        line = {"color": letters, "linewidth": 0.45 * step.thickness, "linestyle": style}
        axes.hlines(y + 1.2 * _FONT_SIZE, x + 0.8, x + width - 0.8, **line)
