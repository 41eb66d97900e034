"""Curves over a text: the difference in instant perplexity article by article, and loss against position."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

from dynlm.errors import UserError
from dynlm.evaluation.compare import baseline_of, check_same_text, unique_labels
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.report import curve_data as series
from dynlm.report.drawing import COLOURS, FAINT, GRID, INK, drawing, line_style, save_figure, short, warn_of_missing
from dynlm.report.memory_curves import plot_memory
from dynlm.report.memory_stats import recorded

_POINTS = 1500
_ROTATED_AT_MOST = 12
_KEY_ENTRIES = 8
_LETTER_ROWS = 3
_TITLE_LETTERS = 26


def plot_run(
    paths: Sequence[Path], out: Path, window: int | None = None, pairs: list[tuple[str, str]] | None = None
) -> list[Path]:
    """Draw the score files' curves into the folder ``out``: difference.{png,svg} and position.{png,svg}.

    Where a score file records what its memory did, memory.{png,svg} too.
    ``window`` (tokens) defaults to a hundredth of the text; ``pairs`` of arm labels, lower level first, to the
    baseline against each other arm. With one file there is no difference to draw. Returns what was written.
    Raises UserError for unreadable files, files of different texts, an unknown arm or a window that does not fit.
    """
    if not paths:
        raise UserError("nothing to draw", do="name at least one score file")
    scores = [read_scores(path) for path in paths]
    written = []
    if len(scores) > 1 or pairs:
        window = series.default_window(len(scores[0])) if window is None else window
        written += plot_difference(scores, pairs or default_pairs(scores), window, Path(out) / "difference")
    written += plot_position(scores, Path(out) / "position")
    written += plot_memory(scores, Path(out) / "memory") if recorded(scores) else []
    warn_of_missing(_texts(scores), "install one, or make the page of dynlm report, which needs none")
    return written


def default_pairs(scores_list: Sequence[Scores]) -> list[tuple[str, str]]:
    """The baseline's label with each other arm's."""
    labels, base = unique_labels(scores_list), baseline_of(scores_list)
    return [(labels[base], label) for index, label in enumerate(labels) if index != base]


def plot_difference(
    scores_list: Sequence[Scores], pairs: Sequence[tuple[str, str]], window: int, path: Path
) -> list[Path]:
    """Draw perplexity(lower) - perplexity(higher) along the text, one line for each pair of arm labels.

    Perplexity is that of the mean loss in a centred ``window`` of tokens; ``path`` is a stem for .png and .svg.
    Raises UserError for an unknown label, a window that does not fit, or arms that read different texts.
    """
    check_same_text(scores_list)
    first, labels = scores_list[0], unique_labels(scores_list)
    if not 1 <= window <= len(first):
        raise UserError(f"the window is {window}", do=f"choose from 1 to the text's {len(first)} tokens")
    couples = [(_named(scores_list, labels, low), _named(scores_list, labels, high)) for low, high in pairs]
    lowers = {low for low, _ in pairs}
    lower_name = next(iter(lowers)) if len(lowers) == 1 else "lower level"
    higher_name = pairs[0][1] if len(pairs) == 1 else "higher level"
    # An arm keeps its colour over all pictures; of a single pair the line is blue, as better is everywhere.
    colours = [
        labels.index(high) if len(pairs) > 1 and len(lowers) == 1 else index for index, (_, high) in enumerate(pairs)
    ]
    shown = np.unique(np.linspace(0, len(first) - 1, min(len(first), _POINTS)).round().astype(int))
    with drawing(_texts(scores_list)):
        figure = Figure(figsize=(9.0, 3.9))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.08, 0.1, 0.9, 0.86))
        for index, (lower, higher) in enumerate(couples):
            line = series.perplexity_difference(lower, higher, window)[shown]
            label = pairs[index][1] if len(lowers) == 1 else f"{pairs[index][0]} \N{MINUS SIGN} {pairs[index][1]}"
            axes.plot(shown + 1, line, linewidth=1.3, zorder=3, label=f" {label}", **line_style(colours[index]))
            if len(couples) == 1:
                axes.fill_between(shown + 1, line, 0, where=line >= 0, color=COLOURS[0], alpha=0.16, linewidth=0)
                axes.fill_between(shown + 1, line, 0, where=line <= 0, color=COLOURS[1], alpha=0.22, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=2)
        axes.set_xlim(1, max(2, len(first)))
        axes.set_xlabel("tokens read")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set_ylabel(
            f"perplexity({short(lower_name)}) \N{MINUS SIGN} perplexity({short(higher_name)}),\nper token",
            ma="center",
        )
        axes.yaxis.grid(True, color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
        below = 34.0
        if len(couples) > 1:
            below = _legend_below(axes, len(couples), below)
        top = _mark_articles(figure, axes, first)
        if len(first.articles) > _ROTATED_AT_MOST:
            _key_of_articles(axes, *couples[0], short(pairs[0][1]), below)
        better = higher_name if len(pairs) == 1 else "the higher level"
        subtitle = f"Above zero {short(better)} predicts better. "
        subtitle += f"Perplexity of the mean loss over {window:,} tokens; letters are articles."
        _headings(axes, "Difference in instant perplexity over successive articles", subtitle, top)
        return save_figure(figure, path)


def plot_position(scores_list: Sequence[Scores], path: Path) -> list[Path]:
    """Draw the loss against the position in the article, and each arm's gain over the baseline below it.

    Lines are means over articles, each counted alike, with a 95 % normal band. ``path`` is a stem for .png and .svg.
    Raises UserError for arms that read different texts.
    """
    check_same_text(scores_list)
    labels, base = unique_labels(scores_list), baseline_of(scores_list)
    first, several = scores_list[0], len(scores_list) > 1
    with drawing(_texts(scores_list)):
        figure = Figure(figsize=(9.0, 6.2 if several else 3.6))
        FigureCanvasAgg(figure)
        panels = figure.subplots(2 if several else 1, 1, sharex=True, squeeze=False, gridspec_kw={"hspace": 0.1})[:, 0]
        for index, arm in enumerate(scores_list):
            _band(panels[0], series.position_loss(arm), f" {labels[index]}", index)
            if several and index != base:
                _band(panels[1], series.position_gain(scores_list[base], arm), "", index)
        panels[0].set_ylabel("nats per token")
        if several:
            panels[1].axhline(0, color=INK, linewidth=0.8)
            panels[1].set_ylabel(f"nats per token below\n{short(labels[base], 40)}", ma="center")
        axes = panels[-1]
        for panel in panels:
            panel.set_xscale("log")
            panel.yaxis.grid(True, color=GRID, linewidth=0.5)
            panel.margins(x=0.01)
        axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("position in the article, tokens")
        if several:
            _legend_below(axes, len(scores_list), 34.0, panels[0])
        count = len(first.articles)
        subtitle = (
            f"Mean over {count} articles, each counted alike; band: 95 %, normal. Shown as far as half of them reach."
            if count > 1
            else "One article, so there is no band."
        )
        _headings(panels[0], "Loss against the position in the article", subtitle, 0.0)
        return save_figure(figure, path)


def article_letters(index: int) -> str:
    """A, B, ... Z, AA, AB, ... for 0, 1, ...: the articles' names on the top axis."""
    letters = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        letters = string.ascii_uppercase[rest] + letters
    return letters


def _texts(scores_list: Sequence[Scores]) -> list[str]:
    """Everything of the scores that a picture draws: the arms' labels and the articles' titles."""
    first = scores_list[0]
    return [*unique_labels(scores_list), *(first.title(int(article)) for article in first.articles)]


def _named(scores_list: Sequence[Scores], labels: list[str], label: str) -> Scores:
    if label not in labels:
        raise UserError(f"no arm is called {label!r}", do=f"choose among {', '.join(map(repr, labels))}")
    return scores_list[labels.index(label)]


def _band(axes: Axes, curve: series.PositionCurve, label: str, index: int) -> None:
    style = line_style(index)
    axes.plot(curve.position, curve.mean, linewidth=1.5, label=label, **style)
    axes.fill_between(curve.position, curve.low, curve.high, color=str(style["color"]), alpha=0.13, linewidth=0)


def _legend_below(axes: Axes, entries: int, below: float, source: Axes | None = None) -> float:
    """Put the legend ``below`` points under the axes; how far down it reaches, in points."""
    columns = min(4, entries)
    handles, texts = (source or axes).get_legend_handles_labels()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    axes.legend(
        handles,
        [f" {short(text.strip(), 36)}" for text in texts],
        ncols=columns,
        loc="upper left",
        bbox_to_anchor=(0, -below / height),
        borderaxespad=0,
        borderpad=0,
        handlelength=3.4,
    )
    return below + 14.0 * -(-entries // columns) + 6


def _headings(axes: Axes, title: str, subtitle: str, top: float) -> None:
    """The title and a line of explanation, ``top`` points above the axes."""
    style: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(subtitle, (0, 1), (0, top + 8), color=FAINT, fontsize=8.5, **style)
    axes.annotate(title, (0, 1), (0, top + 22), weight="bold", fontsize=11, **style)


def _mark_articles(figure: Figure, axes: Axes, scores: Scores) -> float:
    """Draw the articles' borders and name them along the top; the labels' height above the axes, in points.

    Few articles get their titles beside the letters. A letter that would touch its neighbour moves up a row; where
    all rows are taken it is left out.
    """
    starts = scores.starts
    for border in starts[1:-1]:
        axes.axvline(border + 0.5, color="#bbbbbb", linewidth=0.6, zorder=1)
    width = axes.get_window_extent().width * 72 / figure.dpi
    centres = (starts[:-1] + starts[1:]) / 2 / starts[-1] * width
    names = [article_letters(index) for index in range(len(centres))]
    if len(centres) <= _ROTATED_AT_MOST:
        titles = [
            f"{name}  {short(scores.title(int(article)), _TITLE_LETTERS)}"
            for name, article in zip(names, scores.articles, strict=True)
        ]
        return _titles_above(figure, axes, titles, centres, np.diff(starts) / starts[-1] * width)
    taken, rows_used = [-np.inf] * _LETTER_ROWS, 1
    for name, x in zip(names, centres, strict=True):
        half = 2.6 * len(name)
        row = next((row for row in range(_LETTER_ROWS) if taken[row] + 2.5 <= x - half), None)
        if row is not None:
            axes.annotate(
                name,
                (0, 1),
                (x, 4 + 9 * row),
                xycoords="axes fraction",
                textcoords="offset points",
                annotation_clip=False,
                fontsize=7,
                ha="center",
            )
            taken[row] = x + half
            rows_used = max(rows_used, row + 1)
    return 4.0 + 9.0 * rows_used


def _titles_above(figure: Figure, axes: Axes, titles: list[str], centres: np.ndarray, spans: np.ndarray) -> float:
    """Write the titles over their articles, level where all of them fit and else sloping; their height in points."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    scale, width = 72 / figure.dpi, axes.get_window_extent().width * 72 / figure.dpi

    def write(places: np.ndarray, **style: Any) -> list[Annotation]:
        place: dict[str, Any] = {
            "xycoords": "axes fraction",
            "textcoords": "offset points",
            "annotation_clip": False,
            "fontsize": 8,
        }
        return [axes.annotate(title, (0, 1), (x, 5), **place, **style) for title, x in zip(titles, places, strict=True)]

    texts = write(centres, ha="center")
    if any(text.get_window_extent(renderer).width * scale > span - 4 for text, span in zip(texts, spans, strict=True)):
        for text in texts:
            text.remove()
        places = _spread(centres, 15.0, width) - 3
        texts = write(places, rotation=32, rotation_mode="anchor", va="bottom")
    highest = max(text.get_window_extent(renderer).y1 for text in texts)
    return float((highest - axes.get_window_extent().y1) * scale)


def _key_of_articles(axes: Axes, lower: Scores, higher: Scores, name: str, below: float) -> None:
    """Name the articles with the largest gain, in two columns ``below`` points under the axes."""
    gains = series.article_gains(lower, higher)
    largest = sorted(np.argsort(-gains, kind="stable")[:_KEY_ENTRIES].tolist())
    tokens = np.diff(lower.starts)
    width = axes.get_window_extent().width * 72 / axes.figure.dpi
    style: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset points",
        "annotation_clip": False,
        "fontsize": 8,
    }
    heading = f"Largest total gains of {name}, with nats per token:"
    axes.annotate(heading, (0, 0), (0, -below), va="top", color=FAINT, **style)
    rows = -(-len(largest) // 2)
    for place, article in enumerate(largest):
        x, y = width / 2 * (place // rows), -below - 13 * (place % rows + 1)
        title = short(lower.title(int(lower.articles[article])), 44)
        axes.annotate(article_letters(article), (0, 0), (x, y), va="top", weight="bold", **style)
        text = f"{title}  ({gains[article] / tokens[article]:+.3f})"
        axes.annotate(text, (0, 0), (x + 18, y), va="top", **style)


def _spread(wanted: np.ndarray, gap: float, limit: float) -> np.ndarray:
    """``wanted`` places, moved as little as a sweep each way needs for neighbours to be ``gap`` apart."""
    places = wanted.astype(float).copy()
    for index in range(1, len(places)):
        places[index] = max(places[index], places[index - 1] + gap)
    places[-1] = min(places[-1], limit)
    for index in range(len(places) - 2, -1, -1):
        places[index] = min(places[index], places[index + 1] - gap)
    return places
