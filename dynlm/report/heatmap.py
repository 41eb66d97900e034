"""A passage's tokens, blue where the higher level loses less, red where it loses more: page, figure and terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style
from rich.text import Text

from dynlm.evaluation.overlap import overlap_notes, overlaps
from dynlm.evaluation.score_file import Scores
from dynlm.report.drawing import FAINT, INK, drawing, monospace, save_figure, warn_of_missing
from dynlm.report.html import render_frame, render_page, write_page
from dynlm.report.passages import Passage, Request, reason, select_passages
from dynlm.report.scale import LINES, UNDERLINE, Step, all_steps, colour_map, limit_of, step_of
from dynlm.report.score_set import ScoreSet
from dynlm.report.token_cells import Cell, short, token_cells, wrap_cells
from dynlm.report.words import find_words
from dynlm.runtime.text import printable

_MAX_TERMINAL_COLUMNS = 100
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
    why: str
    """Why it is shown; empty where it was asked for."""
    caption: str
    cells: list[Cell]


class HeatMap:
    """Passages token by token; displays itself in a notebook and, by ``rich``, in a terminal.

    ``passages`` are by default the middle and the opening of the article with the largest gain.
    Raises UserError where the scores are of different texts.
    """

    def __init__(self, lower: Scores, higher: Scores, passages: Sequence[Passage] | None = None):
        self.lower, self.higher = labels = ScoreSet([lower, higher]).labels
        repeated_N = find_words(lower).repeated_N
        self.passages: list[HeatMapPassage] = []
        for passage in select_passages(lower, higher) if passages is None else passages:
            rows, article = passage.rows(lower), lower.rows(passage.article)
            last, count = passage.start + passage.length - 1, article.stop - article.start
            means = [f"{each.nats[rows].mean(dtype=np.float64):.3f}" for each in (lower, higher)]
            losses = f"Nats per token here: {self.lower} {means[0]}, {self.higher} {means[1]}"
            self.passages.append(
                HeatMapPassage(
                    heading=f"Article {passage.article + 1}: {lower.title(passage.article)}",
                    why=reason(lower, higher, passage),
                    caption=f"Tokens {passage.start:,} to {last:,} of {count:,}. {losses}",
                    cells=token_cells(lower.surface[rows], lower.nats[rows], higher.nats[rows], repeated_N[rows]),
                )
            )
        self.limit = limit_of(np.array([cell.gain for passage in self.passages for cell in passage.cells]))
        """End of the colour scale, in nats."""
        notes = (_notes(label, each) for label, each in zip(labels, (lower, higher), strict=True))
        self.notes = [note for of_level in notes for note in of_level]
        """How each level read the text."""

    @classmethod
    def load(cls, lower: Path, higher: Path, request: Request = (None, None, None)) -> HeatMap:
        """Load two score files. Raises UserError for unreadable ones, and a requested passage outside of the text."""
        low, high = ScoreSet.load([lower, higher]).variants
        return cls(low, high, select_passages(low, high, request))

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

    def texts(self) -> list[str]:
        """Return everything of the scores that the figure draws."""
        cells = (cell.text for passage in self.passages for cell in passage.cells)
        return [self.lower, self.higher, *(passage.heading for passage in self.passages), *cells]

    def page(self) -> str:
        """Return a self-contained page that runs no script and loads nothing."""
        return render_page("heatmap", data=self)

    def save(self, stem: Path) -> list[Path]:
        """Write ``stem``.png, .svg and .html. Returns what was written."""
        page = write_page(Path(stem).with_name(f"{Path(stem).name}.html"), self.page())
        return [*_draw(self, Path(stem)), page]

    def _repr_html_(self) -> str:
        return render_frame(self.page(), "heat map", 640)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the passages as text, as wide as ``console``, at most 100 columns.

        A token's background shows its gain; where the console has no colours, one to three plus or minus signs after
        the token do. Words that occurred before in the article are underlined.
        """
        coloured = console.color_system is not None and not console.no_color
        columns = min(_MAX_TERMINAL_COLUMNS, console.width)
        yield Text(self.title, "bold")
        if coloured:
            key = [(" a", _style(step)) for step in all_steps()]
            yield Text.assemble(f"{self.higher} worse by {self.end} ", *key, f" better by {self.end}")
        else:
            more = f"- to ---: more. Three: about {self.end} or more."
            yield Text(f"+ to +++: {self.higher} loses fewer nats on the token. {more}")
        if console.color_system is not None:
            yield Text(UNDERLINE, "dim")
        for passage in self.passages:
            yield from (Text(), Text(passage.heading, "bold"))
            yield from (Text(line, "dim") for line in (passage.why, passage.caption) if line)
            cells, styles = [], []
            for cell in passage.cells:
                step, underline = self.step(cell), Style(underline=cell.repeated)
                sign = "" if coloured else ("+" if step.index > 0 else "-") * step.thickness
                cells.append(replace(cell, text=cell.text + sign))
                styles.append(_style(step) + underline if coloured else underline)
            yield from wrap_cells(cells, columns, styles)


def heatmap_run(lower: Path, higher: Path, out: Path, request: Request = (None, None, None)) -> list[Path]:
    """Draw two score files' heat map into ``out``: heatmap.png, .svg, .pdf and .html. Return what was written.

    Raises UserError as ``HeatMap.load`` does.
    """
    heat_map = HeatMap.load(lower, higher, request)
    written = heat_map.save(Path(out) / "heatmap")
    warn_of_missing(heat_map.texts(), f"install one, or open {written[-1]}")
    return written


def _notes(label: str, scores: Scores) -> list[str]:
    protocol = scores.protocol
    facts = [f"{key} {protocol[key]}" for key in ("split", "reset", "segment") if protocol.get(key) is not None]
    notes = [f"{', '.join(facts)}. {protocol.get('statement') or ''}"]
    notes += [f"{note}." for note in overlap_notes(overlaps(protocol))]
    return [printable(f"{label}: {note}") for note in notes]


def _style(step: Step) -> Style:
    if not step.index:
        return Style()
    # COLORFGBG ends in 7 or 15 in a terminal with a light background; most are dark.
    is_light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    background, letters = step.light if is_light else step.dark
    return Style(color=letters, bgcolor=background)


def _draw(heat_map: HeatMap, stem: Path) -> list[Path]:
    """Draw the passages below each other."""
    texts = heat_map.texts()
    family = monospace(texts)
    # The style of a cell's text is its index.
    wrapped = [wrap_cells(each.cells, _COLUMNS, map(str, range(len(each.cells)))) for each in heat_map.passages]
    height = 118 + sum(69 + _LINE_HEIGHT * len(lines) for lines in wrapped)
    higher = short(heat_map.higher)
    explanation = f"Blue: {higher} loses fewer nats on the token; red: it loses more. {UNDERLINE}\n{LINES}\n"
    explanation += "Each token was scored before the weights were updated on it."
    with drawing(texts):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        axes.text(0, 4, short(heat_map.title, 90), weight="bold", fontsize=12, va="top")
        axes.text(0, 25, explanation, fontsize=8.5, va="top", color=FAINT, linespacing=1.35)
        _draw_colour_bar(figure, height, heat_map)
        y = 118.0
        for passage, lines in zip(heat_map.passages, wrapped, strict=True):
            axes.text(0, y, short(passage.heading, 80), fontsize=10, weight="bold", va="top")
            for note in (passage.why, passage.caption):
                y += 13 if note else 0
                axes.text(0, y + 2, short(note, 120), fontsize=8.5, va="top", color=FAINT)
            y += 21
            for line in lines:
                for span in line.spans:
                    x = cell_len(line.plain[: span.start]) * _LETTER
                    cell = replace(passage.cells[int(str(span.style))], text=line.plain[span.start : span.end])
                    _draw_cell(axes, (x, y), cell, heat_map.step(cell), family)
                y += _LINE_HEIGHT
            y += 22
        return save_figure(figure, stem)


def _draw_colour_bar(figure: Figure, height: float, heat_map: HeatMap) -> None:
    left, width, top, limit = 8.0, 210.0, 72.0, heat_map.limit
    bar = figure.add_axes((left / _WIDTH, 1 - (top + 11) / height, width / _WIDTH, 11 / height))
    bar.imshow(np.linspace(-1, 1, 256)[None], aspect="auto", cmap=colour_map(), extent=(-limit, limit, 0, 1))
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    bar.set_xticks(ticks, [f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0" for tick in ticks])
    bar.set_yticks([])
    bar.tick_params(labelsize=8, length=2)
    bar.spines[:].set_visible(True)
    meaning = f"nats({short(heat_map.lower)}) \N{MINUS SIGN} nats({short(heat_map.higher)}), per token"
    bar.text(1 + 14 / width, 0.5, meaning, transform=bar.transAxes, va="center", color=INK)


def _draw_cell(axes: Axes, corner: tuple[float, float], cell: Cell, step: Step, family: list[str]) -> None:
    """Draw a cell on its colour, under a line that is solid for a gain and dotted for a loss."""
    (x, y), width, (background, letters) = corner, cell_len(cell.text) * _LETTER, step.light
    box = Rectangle(corner, width, 1.36 * _FONT_SIZE, facecolor=background, edgecolor="white", linewidth=0.5)
    axes.add_patch(box)
    axes.text(x, y + 0.98 * _FONT_SIZE, cell.text, family=family, fontsize=_FONT_SIZE, color=letters, va="baseline")
    if step.thickness:
        style: Any = "solid" if step.index > 0 else (0, (1, 1.2))
        line = {"color": letters, "linewidth": 0.5 * step.thickness, "linestyle": style}
        axes.hlines(y + 0.06 * _FONT_SIZE, x + 0.6, x + width - 0.6, **line)
    if cell.repeated:
        axes.hlines(y + 1.14 * _FONT_SIZE, x, x + width, color=letters, linewidth=0.6)
