"""The heat map in a terminal: colours where the terminal has them, plus and minus signs where it has none."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from dynlm.report.heatmap import HeatMapData, load_heatmap
from dynlm.report.passages import Request
from dynlm.report.scale import Step, steps
from dynlm.report.token_cells import Cell, lay_out

_MAX_COLUMNS = 100
_FAINT, _BOLD = Style(dim=True), Style(bold=True)


def print_heatmap(paths: Sequence[Path], request: Request = (None, None, None), console: Console | None = None) -> None:
    """Print two score files' heat map; arguments and errors are those of ``heatmap.heatmap_run``."""
    console = console or Console(highlight=False)
    console.print(heatmap_text(load_heatmap(paths, request), console), soft_wrap=True)


def heatmap_text(data: HeatMapData, console: Console) -> Group:
    """Return the passages as text for ``console``, as wide as it is, at most 100 columns.

    A token's background shows its gain; where the console has no colours, one to three plus or minus signs after the
    token do. Words that occurred before in the article are underlined.
    """
    coloured, columns = console.color_system is not None, min(_MAX_COLUMNS, console.width)
    lines = [Text(data.title, _BOLD), *_legend(data, coloured)]
    for passage in data.passages:
        lines += [Text(), Text(passage.heading, _BOLD), Text(data.caption(passage), _FAINT)]
        cells = passage.cells
        if not coloured:
            cells = [replace(cell, text=cell.text + _signs(data.step(cell))) for cell in cells]
        lines += _passage(data, cells, columns, coloured)
    return Group(*lines)


def _legend(data: HeatMapData, coloured: bool) -> list[Text]:
    if not coloured:
        more = f"- to ---: more. Three: about {data.end} or more."
        return [Text(f"+ to +++: {data.higher} loses fewer nats on the token. {more}")]
    bar = Text(f"{data.higher} worse by {data.end} ")
    for step in steps():
        bar.append(" a", _style(step))
    bar.append(f" better by {data.end}")
    return [bar, Text("Underlined: the word occurred before in this article.", _FAINT)]


def _passage(data: HeatMapData, cells: Sequence[Cell], columns: int, coloured: bool) -> Iterator[Text]:
    for placed_cells in lay_out(cells, columns):
        line, column = Text(no_wrap=True), 0
        for placed in placed_cells:
            line.append(" " * (placed.column - column))
            style = _style(data.step(placed.cell)) if coloured else Style()
            line.append(placed.text, style + Style(underline=placed.cell.repeated))
            column = placed.column + placed.width
        yield line


def _signs(step: Step) -> str:
    return ("+" if step.index > 0 else "-") * step.thickness


def _style(step: Step) -> Style:
    if not step.index:
        return Style()
    # COLORFGBG ends in 7 or 15 in a terminal with a light background; most are dark.
    is_light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    background, letters = step.light if is_light else step.dark
    return Style(color=letters, bgcolor=background)
