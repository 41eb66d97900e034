"""The heat map in a terminal: colours where the terminal has them, plus and minus signs where it has none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from dynlm.evaluation.compare import unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.report.heatmap import Asked, Passage, pair_and_passages, rows_of
from dynlm.report.scale import STEPS, Step, limit_of, step_of, steps
from dynlm.report.token_cells import Cell, counted_cells, lay_out
from dynlm.report.words import words_of

_WIDEST = 100
_FAINT = Style(dim=True)


def print_heatmap(paths: Sequence[Path], asked: Asked = (None, None, None), console: Console | None = None) -> None:
    """Print two score files' heat map; ``paths`` and ``asked`` are those of ``heatmap.heatmap_run``.

    Raises UserError for other than two files, unreadable ones, different texts, or a passage outside of the text.
    """
    lower, higher, passages = pair_and_passages(paths, asked)
    console = console or Console(highlight=False)
    console.print(heatmap_text(lower, higher, passages, console), soft_wrap=True)


def heatmap_text(lower: Scores, higher: Scores, passages: Sequence[Passage], console: Console) -> Group:
    """The passages as text for ``console``, as wide as it is, at most 100 columns.

    A token's background tells its gain; where the console has no colours, one to three plus or minus signs after the
    token do. Underlined: words that came before in the article.
    """
    came_N = words_of(lower).repeated_tokens(len(lower))
    shown = [(passage, _cells(lower, higher, passage, came_N)) for passage in passages]
    limit = limit_of(np.array([cell.gain for _, cells in shown for cell in cells]))
    coloured, columns = console.color_system is not None, min(_WIDEST, console.width)
    labels = unique_labels([lower, higher])
    lines = [Text(f"Where {labels[1]} predicts better than {labels[0]}, token by token", Style(bold=True))]
    lines += _legend(labels, limit, coloured)
    for passage, cells in shown:
        here = rows_of(lower, passage)
        means = [float(arm.nats[here].mean(dtype=np.float64)) for arm in (lower, higher)]
        lines += [
            Text(),
            Text(f"Article {passage.article + 1}: {lower.title(passage.article)}", Style(bold=True)),
            Text(
                f"Tokens {passage.start:,} to {passage.start + passage.length - 1:,}. Nats per token here: "
                f"{labels[0]} {means[0]:.3f}, {labels[1]} {means[1]:.3f}",
                _FAINT,
            ),
            *_passage(cells, limit, columns, coloured),
        ]
    return Group(*lines)


def _cells(lower: Scores, higher: Scores, passage: Passage, came_N: np.ndarray) -> list[Cell]:
    here = rows_of(lower, passage)
    tokens = zip(lower.surface[here], lower.nats[here].tolist(), higher.nats[here].tolist(), strict=True)
    cells, row = [], here.start
    for cell, count in counted_cells(tokens):
        cells.append(replace(cell, came=bool(came_N[row])))
        row += count
    return cells


def _legend(labels: Sequence[str], limit: float, coloured: bool) -> list[Text]:
    if not coloured:
        note = f"+ to +++: {labels[1]} loses fewer nats on the token. - to ---: more. Three: {limit:g} nats or nearly."
        return [Text(note)]
    bar = Text(f"{labels[1]} worse by {limit:g} nats ")
    for step in steps():
        bar.append(" a", _style(step, False))
    bar.append(f" better by {limit:g} nats")
    return [bar, Text("Underlined: the word came before in this article.", _FAINT)]


def _passage(cells: Sequence[Cell], limit: float, columns: int, coloured: bool) -> list[Text]:
    if not coloured:
        cells = [replace(cell, text=cell.text + _signs(cell, limit)) for cell in cells]
    lines = []
    for placed in lay_out(cells, columns):
        line, column = Text(no_wrap=True), 0
        for piece in placed:
            line.append(" " * (piece.column - column))
            step = steps()[step_of(piece.cell.gain, limit) + STEPS]
            line.append(piece.text, _style(step, piece.cell.came) if coloured else Style(underline=piece.cell.came))
            column = piece.column + piece.width
        lines.append(line)
    return lines


def _signs(cell: Cell, limit: float) -> str:
    step = steps()[step_of(cell.gain, limit) + STEPS]
    return ("+" if step.index > 0 else "-") * step.underline


def _style(step: Step, underline: bool) -> Style:
    if not step.index:
        return Style(underline=underline)
    background, letters = step.light if _light_terminal() else step.dark
    return Style(color=letters, bgcolor=background, underline=underline)


def _light_terminal() -> bool:
    """Whether the terminal says that its background is light (COLORFGBG); most are dark."""
    return os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
