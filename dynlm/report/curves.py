"""Figures of curves: difference in instant perplexity, loss against position, and what the memory did."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores
from dynlm.report.curve_data import (
    RESET_SHARE,
    PositionCurve,
    memory_records,
    perplexity_difference,
    position_curve,
    position_note,
)
from dynlm.report.drawing import (
    COLOURS,
    FAINT,
    INK,
    THOUSANDS,
    add_headings,
    add_legend,
    annotate,
    drawing,
    line_style,
    new_figure,
    save_figure,
    size_in_points,
    warn_of_missing,
)
from dynlm.report.passages import article_gains
from dynlm.report.score_set import Pairs, ScoreSet
from dynlm.report.token_cells import short

TITLES = {
    "difference": "Difference in instant perplexity over successive articles",
    "position": "Loss against the position in the article",
    "memory": "Distance from the static weights, and resets, along the text",
}
"""Title of each figure, by the stem of its files."""
_POINTS = 1500
_MAX_TITLED = 12
"""Articles that are labelled by their titles; more are labelled by letters."""
_LETTER_ROWS = 3
_LISTED_GAINS = 8


def plot_run(paths: Sequence[Path], out: Path, window: int | None = None, pairs: Pairs | None = None) -> list[Path]:
    """Draw the score files' curves into the folder ``out``: difference.{png,svg} and position.{png,svg}.

    Where a score file has a record of its memory, memory.{png,svg} too. With one file there is no difference to draw.
    ``window`` (tokens) and ``pairs`` are those of ``plot_difference``. Returns what was written.
    Raises UserError for unreadable files, files of different texts, an unknown variant or a window that does not fit.
    """
    scores, out = ScoreSet.load(paths), Path(out)
    written = []
    if len(scores.variants) > 1 or pairs:
        written += plot_difference(scores, out / "difference", window, pairs)
    written += plot_position(scores, out / "position")
    if memory_records(scores.variants):
        written += plot_memory(scores, out / "memory")
    warn_of_missing(scores.shown_texts(), "install one, or make the page of dynlm report, which needs none")
    return written


def plot_difference(scores: ScoreSet, path: Path, window: int | None = None, pairs: Pairs | None = None) -> list[Path]:
    """Draw perplexity(lower) - perplexity(higher) along the text, one line for each pair of variants.

    Perplexity is that of the mean loss in a centred ``window`` of tokens, by default a hundredth of the text;
    ``pairs`` are by default the baseline with each other variant. ``path`` is a stem for .png and .svg.
    Raises UserError for an unknown label or a window that does not fit.
    """
    window, indices, text, labels = scores.window(window), scores.pairs(pairs), scores.text, scores.labels
    one_pair, one_lower = len(indices) == 1, len({lower for lower, _ in indices}) == 1
    lower_name = labels[indices[0][0]] if one_lower else "lower level"
    higher_name = labels[indices[0][1]] if one_pair else "higher level"
    rows = np.unique(np.linspace(0, len(text) - 1, min(len(text), _POINTS)).round().astype(int))
    with drawing(scores.shown_texts()):
        figure, (axes,) = new_figure(3.9)
        for number, (lower, higher) in enumerate(indices):
            line = perplexity_difference(scores.variants[lower], scores.variants[higher], window)[rows]
            # A variant has the same colour in all figures. A single line is blue, as better is everywhere.
            label = labels[higher] if one_lower else f"{labels[lower]} \N{MINUS SIGN} {labels[higher]}"
            style = line_style(higher if one_lower and not one_pair else number, label)
            axes.plot(rows + 1, line, linewidth=1.3, zorder=3, **style)
            if one_pair:
                axes.fill_between(rows + 1, line, 0, where=line >= 0, color=COLOURS[0], alpha=0.16, linewidth=0)
                axes.fill_between(rows + 1, line, 0, where=line <= 0, color=COLOURS[1], alpha=0.22, linewidth=0)
        axes.axhline(0, color=INK, linewidth=0.8, zorder=2)
        axes.set(xlim=(1, max(2, len(text))), xlabel="tokens read")
        difference = f"perplexity({short(lower_name)}) \N{MINUS SIGN} perplexity({short(higher_name)})"
        axes.set_ylabel(f"{difference},\nper token", ma="center")
        below = 34.0 if one_pair else add_legend(axes, axes)
        above = _label_articles(axes, text)
        if len(text.articles) > _MAX_TITLED:
            lower, higher = indices[0]
            _list_largest_gains(axes, scores.variants[lower], scores.variants[higher], short(labels[higher]), below)
        subtitle = f"Above zero {'' if one_pair else 'the '}{short(higher_name)} predicts better. "
        subtitle += f"Perplexity of the mean loss over {window:,} tokens; letters are articles."
        add_headings(axes, TITLES["difference"], subtitle, above)
        return save_figure(figure, path)


def plot_position(scores: ScoreSet, path: Path) -> list[Path]:
    """Draw the loss against the position in the article, and below it each variant's gain over the baseline.

    Lines are means over articles with equal weights, with a 95 % normal band. ``path`` is a stem for .png and .svg.
    """
    baseline, several = scores.variants[scores.baseline], len(scores.variants) > 1
    with drawing(scores.shown_texts()):
        figure, panels = new_figure(6.2 if several else 3.6, (1, 1) if several else (1,))
        for index, (label, variant) in enumerate(zip(scores.labels, scores.variants, strict=True)):
            _plot_band(panels[0], position_curve(variant), line_style(index, label))
            if index != scores.baseline:
                _plot_band(panels[1], position_curve(variant, baseline), line_style(index))
        panels[0].set_ylabel("nats per token")
        for panel in panels:
            panel.set_xscale("log")
            panel.margins(x=0.01)
        panels[-1].xaxis.set(major_locator=LogLocator(base=10, subs=(1, 2, 5)), major_formatter=THOUSANDS)
        panels[-1].xaxis.set(minor_locator=NullLocator(), minor_formatter=NullFormatter())
        panels[-1].set_xlabel("position in the article, tokens")
        if several:
            panels[1].axhline(0, color=INK, linewidth=0.8)
            panels[1].set_ylabel(f"nats per token below\n{short(scores.labels[scores.baseline], 40)}", ma="center")
            add_legend(panels[0], panels[1])
        add_headings(panels[0], TITLES["position"], position_note(len(scores.text.articles)))
        return save_figure(figure, path)


def plot_memory(scores: ScoreSet, path: Path) -> list[Path]:
    """Draw each variant's distance from theta_0 along the text, and below it where its weights were reset.

    ``path`` is a stem for .png and .svg. Returns what was written. Raises UserError where no memory was recorded.
    """
    records = memory_records(scores.variants)
    if not records:
        raise UserError("no score file has a record of its memory", do="score with --memory.track true")
    with drawing(scores.shown_texts()):
        figure, (above, below) = new_figure(3.6 + 0.22 * len(records), (3, 1))
        for index, record in enumerate(records):
            style = line_style(record.variant, scores.labels[record.variant])
            if record.distance is not None:
                above.plot(record.row + 1, record.distance, linewidth=1.2, **style)
            if record.reset is not None:
                rows = record.row[record.reset >= RESET_SHARE] + 1
                below.plot(rows, np.full(len(rows), index), linestyle="none", marker="|", color=style["color"])
        above.set_ylabel("distance from θ₀,\nrelative", ma="center")
        below.yaxis.grid(False)
        below.set_yticks(range(len(records)), [short(scores.labels[record.variant]) for record in records])
        below.set(xlim=(1, max(2, len(scores.text))), ylim=(len(records) - 0.4, -0.6))
        below.set(xlabel="tokens read", ylabel="resets")
        if above.lines:
            add_legend(above, below)
        moved = f"moved at least {100 * RESET_SHARE:.0f} % of the way back to the static weights"
        add_headings(above, TITLES["memory"], f"Marks: the weights were {moved}.")
        return save_figure(figure, path)


def article_letters(index: int) -> str:
    """Return the label of an article: A to Z, then AA, AB, ..."""
    before = article_letters(index // 26 - 1) if index >= 26 else ""
    return before + string.ascii_uppercase[index % 26]


def spread(positions: np.ndarray, gap: float, limit: float) -> np.ndarray:
    """Return sorted ``positions``, shifted to be at least ``gap`` apart with the last within ``limit``."""
    steps = gap * np.arange(len(positions))
    return np.minimum(np.maximum.accumulate(positions - steps), limit - steps[-1]) + steps


def _plot_band(axes: Axes, curve: PositionCurve, style: dict[str, Any]) -> None:
    axes.plot(curve.position, curve.mean, linewidth=1.5, **style)
    axes.fill_between(curve.position, curve.low, curve.high, color=style["color"], alpha=0.13, linewidth=0)


def _label_articles(axes: Axes, scores: Scores) -> float:
    """Draw the articles' borders and label them above the axes. Return the labels' height in points."""
    starts, (width, _) = scores.starts, size_in_points(axes)
    for border in starts[1:-1]:
        axes.axvline(border + 0.5, color="#bbbbbb", linewidth=0.6, zorder=1)
    centres = (starts[:-1] + starts[1:]) / 2 / starts[-1] * width
    if len(centres) > _MAX_TITLED:
        return _label_with_letters(axes, centres)
    labels = []
    for index, (article, x) in enumerate(zip(scores.articles.tolist(), centres, strict=True)):
        title = f"{article_letters(index)}  {short(scores.title(article), 26)}"
        labels.append(annotate(axes, title, (0, 1), (x, 5), fontsize=8, ha="center"))
    scale, spans = 72 / axes.figure.dpi, np.diff(starts) / starts[-1] * width
    if any(label.get_window_extent().width * scale > span - 4 for label, span in zip(labels, spans, strict=True)):
        for label, x in zip(labels, spread(centres, 15.0, width) - 3, strict=True):
            label.xyann = (x, 5)
            label.set(rotation=32, rotation_mode="anchor", ha="left", va="bottom")
    top = max(label.get_window_extent().y1 for label in labels)
    return float((top - axes.get_window_extent().y1) * scale)


def _label_with_letters(axes: Axes, centres: np.ndarray) -> float:
    """Write letters above the articles; one that would touch its neighbour moves up a row, or is left out."""
    ends, rows_used = [-np.inf] * _LETTER_ROWS, 1
    for index, x in enumerate(centres):
        letters = article_letters(index)
        half = 2.6 * len(letters)
        row = next((row for row in range(_LETTER_ROWS) if ends[row] + 2.5 <= x - half), None)
        if row is not None:
            annotate(axes, letters, (0, 1), (x, 4 + 9 * row), fontsize=7, ha="center")
            ends[row], rows_used = x + half, max(rows_used, row + 1)
    return 4.0 + 9.0 * rows_used


def _list_largest_gains(axes: Axes, lower: Scores, higher: Scores, name: str, below: float) -> None:
    """List the articles with the largest gain in two columns, ``below`` points under the axes."""
    gains, tokens = article_gains(lower, higher), np.diff(lower.starts)
    largest = sorted(np.argsort(-gains, kind="stable")[:_LISTED_GAINS].tolist())
    column_width, rows = size_in_points(axes)[0] / 2, -(-len(largest) // 2)
    heading = f"Largest total gains of {name}, with nats per token:"
    annotate(axes, heading, (0, 0), (0, -below), va="top", color=FAINT, fontsize=8)
    for index, article in enumerate(largest):
        column, row = divmod(index, rows)
        x, y = column_width * column, -below - 13 * (row + 1)
        title = short(lower.title(int(lower.articles[article])), 44)
        gain = f"{title}  ({gains[article] / tokens[article]:+.3f})"
        annotate(axes, article_letters(article), (0, 0), (x, y), va="top", weight="bold", fontsize=8)
        annotate(axes, gain, (0, 0), (x + 18, y), va="top", fontsize=8)
