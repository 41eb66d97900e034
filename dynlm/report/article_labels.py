"""Labels of articles above curves along a text, and the list of those that gained most below them."""

from __future__ import annotations

import string

import numpy as np
from matplotlib.axes import Axes

from dynlm.evaluation.score_file import Scores
from dynlm.report.drawing import FAINT, annotate, size_in_points
from dynlm.report.passages import article_gains
from dynlm.report.token_cells import short

MAX_TITLED = 12
"""Articles that are labelled by their titles; more are labelled by letters."""
_LETTER_ROWS = 3
_LISTED_GAINS = 8


def article_letters(index: int) -> str:
    """Return the label of an article: A to Z, then AA, AB, ..."""
    before = article_letters(index // 26 - 1) if index >= 26 else ""
    return before + string.ascii_uppercase[index % 26]


def spread(positions: np.ndarray, gap: float, limit: float) -> np.ndarray:
    """Return sorted ``positions``, shifted to be at least ``gap`` apart with the last within ``limit``."""
    steps = gap * np.arange(len(positions))
    return np.minimum(np.maximum.accumulate(positions - steps), limit - steps[-1]) + steps


def label_articles(axes: Axes, scores: Scores) -> float:
    """Draw the articles' borders and label them above the axes. Return the labels' height in points."""
    starts, (width, _) = scores.starts, size_in_points(axes)
    for border in starts[1:-1]:
        axes.axvline(border + 0.5, color="#bbbbbb", linewidth=0.6, zorder=1)
    centres = (starts[:-1] + starts[1:]) / 2 / starts[-1] * width
    if len(centres) > MAX_TITLED:
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


def list_largest_gains(axes: Axes, lower: Scores, higher: Scores, name: str, below: float) -> None:
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
