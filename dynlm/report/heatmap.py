"""A passage's tokens, blue where the higher level loses less, red where it loses more: a picture and a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dynlm.errors import UserError
from dynlm.evaluation.compare import check_same_text, unique_labels
from dynlm.evaluation.overlap import overlap_notes, overlaps
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.report.csp import source_hash
from dynlm.report.curve_data import PASSAGE, Passage, default_passages, most_gained
from dynlm.report.drawing import FAINT, INK, drawable, drawing, monospace, save_figure, short, warn_of_missing
from dynlm.report.scale import STEPS, colour_map, limit_of, step_of, steps
from dynlm.report.token_cells import Cell, Placed, cells_of, lay_out
from dynlm.runtime.files import atomic_write
from dynlm.runtime.text import printable

__all__ = ["Passage", "heatmap_figure", "heatmap_html", "heatmap_page", "heatmap_run", "passage_of", "rows_of"]

Asked = tuple[int | None, int | None, int | None]
"""The passage that is asked for: article (from 1), position of its first token (from 0), tokens. None is left open."""

_LONGEST = 10_000
_WIDTH, _COLUMNS = 648.0, 104
_ADVANCE = 0.602
"""A character's width in DejaVu Sans Mono, in ems."""


@dataclass(frozen=True)
class _Lettering:
    """Fonts of a token grid, the width of a column and the letters' size, in points."""

    family: list[str]
    letter: float = _WIDTH / _COLUMNS
    size: float = _WIDTH / _COLUMNS / _ADVANCE


@dataclass(frozen=True)
class _Shown:
    """A passage ready to be shown."""

    title: str
    where: str
    figures: str
    cells: list[Cell]


def heatmap_run(paths: Sequence[Path], out: Path, asked: Asked = (None, None, None)) -> list[Path]:
    """Draw two score files' heat map into the folder ``out``: heatmap.png, .svg and .html.

    ``paths`` are the lower level's file and the higher one's. Where all of ``asked`` is left open, what is shown is the
    opening and the middle of the article with the largest gain. Returns what was written.
    Raises UserError for other than two files, unreadable ones, different texts, or a passage outside of the text.
    """
    lower, higher, passages = pair_and_passages(paths, asked)
    page = heatmap_page(lower, higher, passages, Path(out) / "heatmap.html")
    written = heatmap_figure(lower, higher, passages, Path(out) / "heatmap")
    labels = unique_labels([lower, higher])
    texts = _texts([_shown(lower, higher, passage, labels) for passage in passages], labels)
    warn_of_missing(texts, f"install one, or look at {page}")
    return [*written, page]


def pair_and_passages(paths: Sequence[Path], asked: Asked) -> tuple[Scores, Scores, list[Passage]]:
    """The lower level's scores, the higher one's and the passages to show, of ``heatmap_run``'s arguments."""
    if len(paths) != 2:
        raise UserError(f"a heat map takes two score files, not {len(paths)}", do="name the lower level's file first")
    lower, higher = (read_scores(path) for path in paths)
    check_same_text([lower, higher])
    if asked == (None, None, None):
        return lower, higher, default_passages(lower, higher)
    article, start, length = asked
    article = most_gained(lower, higher) + 1 if article is None else article
    return lower, higher, [passage_of(lower, article, start, length)]


def passage_of(scores: Scores, article: int, start: int | None = None, length: int | None = None) -> Passage:
    """The passage of ``length`` tokens from position ``start`` (from 0) of ``article`` (from 1).

    Unset, ``start`` is the first token that was read, and ``length`` that of a passage, or the rest of the article.
    Raises UserError, telling the range there is, where it is not wholly in the text.
    """
    if article - 1 not in scores.articles:
        numbers = scores.articles + 1
        raise UserError(
            f"article {article} was not read", scores.path, f"choose from {numbers.min()} to {numbers.max()}"
        )
    positions = scores.position[scores.rows(article - 1)]
    first, last = int(positions[0]), int(positions[-1])
    start = first if start is None else start
    length = max(1, min(PASSAGE, last + 1 - start)) if length is None else length
    if length < 1 or start < first or start + length - 1 > last:
        raise UserError(
            f"article {article} has no {length} tokens from {start}",
            scores.path,
            f"its tokens are {first} to {last}, counted from 0",
        )
    if length > _LONGEST:
        raise UserError(f"{length} tokens are too many for a heat map", do=f"choose at most {_LONGEST}")
    return Passage(article - 1, start, length)


def rows_of(scores: Scores, passage: Passage) -> slice:
    """The rows of a passage that lies in the text."""
    start = scores.rows(passage.article).start
    first = start + passage.start - int(scores.position[start])
    return slice(first, first + passage.length)


def heatmap_figure(lower: Scores, higher: Scores, passages: Sequence[Passage], path: Path) -> list[Path]:
    """Draw ``passages`` one below the other; ``path`` is a stem for .png and .svg. Returns what was written."""
    labels = [short(label, 32) for label in unique_labels([lower, higher])]
    shown = [_shown(lower, higher, passage, labels) for passage in passages]
    limit = _limit(shown)
    texts = _texts(shown, labels)
    family = monospace(texts)
    lettering = _Lettering(family)
    pitch = 1.62 * lettering.size
    laid_out = [
        lay_out((replace(cell, text=drawable(cell.text, family)) for cell in one.cells), _COLUMNS) for one in shown
    ]
    height = 92 + sum(56 + pitch * len(lines) for lines in laid_out)
    with drawing(texts):
        figure = Figure(figsize=(_WIDTH / 72, height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(height, 0))
        axes.set_axis_off()
        title, explanation = _headline(labels)
        axes.text(0, 4, title, weight="bold", fontsize=12, va="top")
        axes.text(0, 25, explanation, fontsize=8.5, va="top", color=FAINT)
        _colour_bar(figure, height, limit, labels)
        y = 92.0
        for one, lines in zip(shown, laid_out, strict=True):
            axes.text(0, y, short(one.title, 80), fontsize=10, weight="bold", va="top")
            axes.text(0, y + 15, f"{one.where}. {one.figures}", fontsize=8.5, va="top", color=FAINT)
            y += 34
            for line in lines:
                for piece in line:
                    _draw_cell(axes, piece, y, lettering, limit)
                y += pitch
            y += 22
        return save_figure(figure, path)


def heatmap_page(lower: Scores, higher: Scores, passages: Sequence[Passage], path: Path) -> Path:
    """Write ``passages`` as one self-contained page that loads and runs nothing. Returns ``path``."""
    page = heatmap_html(lower, higher, passages)
    with atomic_write(path) as aside:
        aside.write_text(page, encoding="utf-8")
    return path


def heatmap_html(lower: Scores, higher: Scores, passages: Sequence[Passage]) -> str:
    """That page as text."""
    labels = unique_labels([lower, higher])
    shown = [_shown(lower, higher, passage, labels) for passage in passages]
    limit = _limit(shown)
    names = {step.index: step.name for step in steps()}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dynlm.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["source_hash"] = source_hash
    title, explanation = _headline(labels)
    return environment.get_template("heatmap.html.j2").render(
        title=title,
        explanation=explanation,
        lower=labels[0],
        higher=labels[1],
        limit=f"{limit:g} nat{'s' * (limit != 1)}",
        steps=steps(),
        passages=shown,
        class_of=lambda cell: names[step_of(cell.gain, limit)],
        statements=_statements(lower, higher, labels),
    )


def _shown(lower: Scores, higher: Scores, passage: Passage, labels: list[str]) -> _Shown:
    rows, here = lower.rows(passage.article), rows_of(lower, passage)
    tokens = zip(lower.surface[here], lower.nats[here].tolist(), higher.nats[here].tolist(), strict=True)
    means = [float(arm.nats[here].mean(dtype=np.float64)) for arm in (lower, higher)]
    return _Shown(
        title=f"Article {passage.article + 1}: {lower.title(passage.article)}",
        where=f"Tokens {passage.start:,} to {passage.start + passage.length - 1:,} of {rows.stop - rows.start:,}",
        figures=f"Nats per token here: {labels[0]} {means[0]:.3f}, {labels[1]} {means[1]:.3f}",
        cells=cells_of(tokens),
    )


def _texts(shown: Sequence[_Shown], labels: Sequence[str]) -> list[str]:
    """Everything of the scores that a picture draws."""
    return [*labels, *(text for one in shown for text in (one.title, *(cell.text for cell in one.cells)))]


def _limit(shown: Sequence[_Shown]) -> float:
    return limit_of(np.array([cell.gain for one in shown for cell in one.cells]))


def _headline(labels: list[str]) -> tuple[str, str]:
    title = f"Where {labels[1]} predicts better than {labels[0]}, token by token"
    explanation = (
        f"Blue, underlined: {labels[1]} loses fewer nats on the token. Red, dotted: it loses more. "
        "Each token was scored before it was learned from."
    )
    return title, explanation


def _statements(lower: Scores, higher: Scores, labels: list[str]) -> list[str]:
    facts = []
    for label, arm in zip(labels, (lower, higher), strict=True):
        parts = [
            f"{key} {arm.protocol[key]}" for key in ("split", "reset", "segment") if arm.protocol.get(key) is not None
        ]
        facts.append(printable(f"{label}: {', '.join(parts)}. {arm.protocol.get('statement') or ''}"))
        facts += [printable(f"{label}: {note}.") for note in overlap_notes(overlaps(arm.protocol))]
    return facts


def _colour_bar(figure: Figure, height: float, limit: float, labels: list[str]) -> None:
    left, width, top = 8.0, 210.0, 46.0
    bar = figure.add_axes((left / _WIDTH, 1 - (top + 11) / height, width / _WIDTH, 11 / height))
    bar.imshow(np.linspace(-1, 1, 256)[None], aspect="auto", cmap=colour_map(), extent=(-limit, limit, 0, 1))
    bar.set_yticks([])
    bar.set_xticks([-limit, -limit / 2, 0, limit / 2, limit])
    bar.set_xticklabels([f"{tick:+g}".replace("-", "\N{MINUS SIGN}") if tick else "0" for tick in bar.get_xticks()])
    bar.tick_params(labelsize=8, length=2)
    bar.spines[:].set_visible(True)
    meaning = f"nats({labels[0]}) \N{MINUS SIGN} nats({labels[1]}), per token"
    bar.annotate(
        meaning, (1, 0.5), (14, 0), xycoords="axes fraction", textcoords="offset points", va="center", color=INK
    )


def _draw_cell(axes: Axes, piece: Placed, y: float, lettering: _Lettering, limit: float) -> None:
    """One cell in the line at ``y``: its box, its letters, and an underline, solid for a gain and dotted for a loss."""
    x, width, size = piece.column * lettering.letter, piece.width * lettering.letter, lettering.size
    step = steps()[step_of(piece.cell.gain, limit) + STEPS]
    background, letters = step.light
    box = Rectangle((x, y), width, 1.36 * size, facecolor=background, edgecolor="white", linewidth=0.5)
    axes.add_patch(box)
    axes.text(x, y + 0.98 * size, piece.text, family=lettering.family, fontsize=size, color=letters, va="baseline")
    if step.underline:
        style = "solid" if step.index > 0 else (0, (1, 1.2))
        line = y + 1.2 * size
        axes.plot(
            [x + 0.8, x + width - 0.8],
            [line, line],
            color=letters,
            linewidth=0.45 * step.underline,
            linestyle=style,
            solid_capstyle="butt",
            dash_capstyle="butt",
        )
